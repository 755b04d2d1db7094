"""`python -m tilewright`: the same as the console script."""

from __future__ import annotations

from tilewright.cli.app import main

if __name__ == "__main__":
    main()
