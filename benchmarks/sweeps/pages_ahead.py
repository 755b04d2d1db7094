"""Pages ahead at which a tile of wide blocks asks for the first lines of a page, where it does not fetch them whole."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.codegen.llvm.microkernel", "PAGES_AHEAD"), (1, 2, 4, 8, 16))
