"""Sums on their way below which a tile takes neighbouring column blocks side by side."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.codegen.llvm.microkernel", "CHAINS"), (1, 4, 8, 12))
