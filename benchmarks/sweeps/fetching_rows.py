"""Rows from which on a product asks for the next panel block where blocks are narrow; a large number fetches nothing."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.blocking", "FETCHING_ROWS"), (1, 2, 3, 5, 1 << 20))
