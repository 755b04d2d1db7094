"""Python's garbage collector, told to wait while a program is compiled."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from tilewright.runtime.forks import compiling

_waiting = 0
_was_on = False


@contextmanager
def collector_waits() -> Iterator[None]:
    """No garbage collection inside; may be nested, in any thread.

    Syntax trees and IR are many small objects that live until the end: collecting frees none of them,
    and every pass over all objects of a process that has loaded Torch takes 50 to 100 ms.
    """
    global _waiting, _was_on
    with compiling:
        if not _waiting:
            _was_on = gc.isenabled()
            gc.disable()
        _waiting += 1
    try:
        yield
    finally:
        with compiling:
            _waiting -= 1
            if not _waiting and _was_on:
                gc.enable()
