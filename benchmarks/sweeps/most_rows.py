"""Rows of a register tile at most."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.blocking", "MOST_ROWS"), (2, 3, 4, 5, 6, 8))
