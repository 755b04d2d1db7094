"""Groups of K in one turn of a microkernel's loop."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.codegen.llvm.microkernel", "UNROLL"), (1, 2, 4, 8))
