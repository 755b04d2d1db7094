"""Living through a fork: one lock that is never held in a child, and whether this process is a child.

A forked child has the thread that forked and none of the others, but a copy of all memory: locks that other
threads held stay held for ever, and an OpenMP library waits for a team that is not there.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

# Held while something is read, compiled, loaded or packed. A fork waits for it, so that the child finds it
# free and what it guards whole. There is one, because a fork that takes several could meet a thread that
# takes them in another order.
compiling = threading.RLock()

PF_FORKNOEXEC = 0x40  # Linux: forked, and no program was started since
FLAGS_FIELD = 6  # of /proc/PID/stat, counted behind the name of the program

_born_in = os.getpid()
_is_copy = False


def is_copy() -> bool:
    """Whether this process is a fork of one that may have used a team of OpenMP threads."""
    return _is_copy or os.getpid() != _born_in  # a fork by foreign code does not run our hook


def forked_with_openmp(stat: Path = Path("/proc/self/stat")) -> bool:
    """Whether this process is a fork, and an OpenMP library was there before we could see the fork.

    A fork after this module was imported is seen as it happens; this is for the others. Whether the library
    came before the fork or after cannot be told, so that a library counts as used.
    """
    try:
        flags = int(stat.read_text().rpartition(")")[2].split()[FLAGS_FIELD])
    except (OSError, ValueError, IndexError):
        return False  # not Linux, or hidden
    return bool(flags & PF_FORKNOEXEC) and bool(loaded_openmp())


def loaded_openmp(maps: Path = Path("/proc/self/maps")) -> list[str]:
    """OpenMP libraries that this process has loaded, torch's own first; none on systems without
    `maps`.
    """
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6}
    found = sorted(p for p in paths if Path(p).name.startswith(("libgomp", "libiomp", "libomp")))
    return sorted(found, key=lambda p: "torch" not in p)


def _in_child() -> None:
    global _is_copy
    _is_copy = True
    compiling.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=compiling.acquire, after_in_parent=compiling.release, after_in_child=_in_child
    )
_is_copy = forked_with_openmp()
