"""Lines of the next panel blocks that a tile asks for before it begins, where it does not fetch them whole."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.codegen.llvm.microkernel", "OPENING"), (0, 4, 8, 16))
