"""Lines of the next panel blocks that a tile of narrow blocks asks for before it begins."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.codegen.llvm.microkernel", "OPENING"), (0, 4, 8, 16))
