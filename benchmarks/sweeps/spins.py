"""Looks at a barrier before a thread gives its processor away."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.codegen.llvm.sync", "SPINS"), (20, 200, 2000, 20000))
