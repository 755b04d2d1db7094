"""Where the verbs print, and the few formats that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

PIPE_WIDTH = 140  # in a pipe there is no terminal to ask; wide enough that no table is folded


def console(stderr: bool = False) -> Console:
    """A console on standard output or error, as wide as the terminal or PIPE_WIDTH."""
    plain = Console(highlight=False, stderr=stderr)
    wide = Console(highlight=False, stderr=stderr, width=PIPE_WIDTH)
    return plain if plain.is_terminal else wide


@contextmanager
def progress(unit: str = "bytes") -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error, gone when the work is done and absent in a pipe.

    Gives what moves it: called with what is being done, how much of it is done, and how much there is.
    """
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    errors = Console(stderr=True, highlight=False)
    amount = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield tell


def seconds(value: float) -> str:
    """A duration with a unit that suits it: `14.9 ms`, `1.20 s`."""
    if value < 1e-3:
        return f"{value * 1e6:.0f} us"
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.2f} s"


def size(nbytes: int) -> str:
    """A size in memory or on disk: `48 KiB`, `32 MiB`."""
    return f"{nbytes >> 20} MiB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KiB"
