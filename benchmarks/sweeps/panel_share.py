"""Share of the second-level cache that one task's panel may take."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.blocking", "PANEL_SHARE"), (0.125, 0.25, 0.5, 0.75, 1.0))
