"""Every environment variable that tilewright reads, with its default."""

from __future__ import annotations

import os


def verify() -> bool:
    """TILEWRIGHT_VERIFY: run the verifier between passes (default off; tests turn it on)."""
    return os.environ.get("TILEWRIGHT_VERIFY", "0") not in ("", "0")
