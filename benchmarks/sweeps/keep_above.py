"""Instructions above which a sweep keeps a value instead of computing it again."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.codegen.llvm.strips", "KEEP_ABOVE"), (0, 4, 12, 40, 1000))
