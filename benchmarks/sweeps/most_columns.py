"""Columns that a widened column tile has at most."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.passes.widen_columns", "MOST_COLUMNS"), (64, 128, 256, 512, 1024))
