"""Share of the free second-level cache that the next panel is fetched into; 0 fetches nothing."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.passes.fetch_ahead", "FREE_SHARE"), (0.0, 0.25, 0.5, 0.75, 1.0))
