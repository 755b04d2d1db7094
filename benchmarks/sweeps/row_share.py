"""Share of the second-level cache that a chunk of rows takes with its results."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.blocking", "ROW_SHARE"), (0.05, 0.125, 0.25, 0.5, 1.0))
