"""`tilewright cache`: what compiled code is kept on disk, and its removal."""

from __future__ import annotations

import typer

from tilewright.cli.console import size

cache = typer.Typer(no_args_is_help=True, help="Compiled code that is kept between runs.")


@cache.command()
def info() -> None:
    """Say where compiled code is kept, and how much."""
    print(summary())


@cache.command()
def clear() -> None:
    """Remove all of it; the next runs compile anew."""
    from tilewright.runtime.cache import DiskCache, Unusable, user_folder

    try:
        folder = user_folder()
        gone = DiskCache(folder).clear()
    except (Unusable, OSError) as reason:
        print(reason)
        raise typer.Exit(1) from None
    print(f"removed {_count(gone.entries)}, {size(gone.nbytes)}, from {folder}")


def summary() -> str:
    """The folder and what is in it, or why it is not used."""
    from tilewright import knobs
    from tilewright.runtime.cache import LIMIT, DiskCache, Unusable, user_folder

    try:
        folder = user_folder()
        usage = DiskCache(folder).usage()
    except (Unusable, OSError) as reason:
        return str(reason)
    off = "" if knobs.caching() else f"; switched off by {knobs.CACHE.name}"
    return f"{folder}: {_count(usage.entries)}, {size(usage.nbytes)} of {size(LIMIT)}{off}"


def _count(entries: int) -> str:
    return f"{entries} program{'' if entries == 1 else 's'}"
