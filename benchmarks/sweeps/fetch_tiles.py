"""Row tiles below which the next panel is not fetched ahead."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.passes.fetch_ahead", "MIN_TILES"), (2, 4, 8, 16, 1000))
