"""Where the verbs print, and the few formats that they share."""

from __future__ import annotations

from rich.console import Console

PIPE_WIDTH = 140  # in a pipe there is no terminal to ask; wide enough that no table is folded


def console(stderr: bool = False) -> Console:
    """A console on standard output or error, as wide as the terminal or PIPE_WIDTH."""
    plain = Console(highlight=False, stderr=stderr)
    wide = Console(highlight=False, stderr=stderr, width=PIPE_WIDTH)
    return plain if plain.is_terminal else wide


def seconds(value: float) -> str:
    """A duration with a unit that suits it: `14.9 ms`, `1.20 s`."""
    if value < 1e-3:
        return f"{value * 1e6:.0f} us"
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.2f} s"


def size(nbytes: int) -> str:
    """A cache size: `48 KiB`, `32 MiB`."""
    return f"{nbytes >> 20} MiB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KiB"
