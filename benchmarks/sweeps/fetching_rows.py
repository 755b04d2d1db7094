"""Rows from which on a product of narrow blocks asks for the next one; a large number fetches nothing."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.blocking", "FETCHING_ROWS"), (1, 2, 3, 5, 1 << 20))
