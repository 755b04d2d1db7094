"""What a script that is run by tilewright gets for `import pypto`."""

from __future__ import annotations

from tilewright import language

__all__ = ["language"]
