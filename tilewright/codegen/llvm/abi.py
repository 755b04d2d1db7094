"""What the caller of compiled code and the code itself agree on. Needs no LLVM.

The worker is handed words of 8 bytes: the five below, then the arguments. What the threads of one launch
share is zeroed by the caller before every launch, one 64-byte cache line each:

    line 0   arrivals at the current barrier      line 2   abort: not zero once any thread gave up
    line 1   epoch: barriers passed so far        line 3+  counters of phases, one line each
"""

from __future__ import annotations

SHARED_ARENA, PRIVATE_ARENAS, SYNC, RECORD, PRIVATE_STRIDE, ARGUMENTS = range(6)
PHASES = 2  # sets of counters for parallel loops, one counter a thread, taken in turn
RECORD_WORDS = 32  # the failed check's number and what it saw

LINE = 64
ARRIVALS, EPOCH, ABORT, COUNTERS = 0, LINE, 2 * LINE, 3 * LINE


def shared_bytes(counters: int) -> int:
    """Size of a shared block with this many counters; align it to 64."""
    return COUNTERS + counters * LINE
