"""Groups of K that packing asks for ahead."""

from harness import Constant, main, unbound

if __name__ == "__main__":
    main(Constant("tilewright.codegen.llvm.pack", "AHEAD"), (1, 2, 4, 8, 16, 32), unbound)
