"""Timing several ways to do the same thing, in turns, so that noise meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Call = Callable[[], object]
Clock = Callable[[], float]

BURST = 0.1  # seconds that one way is timed for before the next has its turn
MOST_CALLS = 200  # in a burst: more of a call of microseconds says nothing new
LEAST_CALLS = 2
SETTLE = 0.01  # seconds of untimed calls before a warm burst, one call at least
CALLS_A_ROUND = 1 + LEAST_CALLS  # of a way that is slower than a burst


@dataclass(frozen=True)
class Timing:
    """Seconds of each timed call."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def percentile(self, share: float) -> float:
        """The sample below which `share` of them lie, between neighbours in proportion."""
        ordered = sorted(self.samples)
        at = share * (len(ordered) - 1)
        low = int(at)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def in_turns(
    ways: Mapping[str, Sequence[Call]],
    rounds: int,
    cold: bool,
    clock: Clock = time.perf_counter,
    fewer: Mapping[str, int] | None = None,
) -> dict[str, Timing]:
    """Time every way in each of `rounds` rounds; each round starts with the next way.

    fewer: in how many rounds, spread evenly, a slow way takes part.

    A way is one call, or several copies of it that work on data of their own and are called in
    rotation. A burst starts with untimed calls: the way before has left its own data in the caches,
    and threads have gone to sleep. Cold bursts need one for the threads only, as no call finds its
    copy in the caches. Raises ValueError for less than one round.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds; it takes 1 or more")
    samples: dict[str, list[float]] = {name: [] for name in ways}
    turn = dict.fromkeys(ways, 0)
    names = list(ways)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            some = (fewer or {}).get(name, rounds)
            if number * some // rounds == (number + 1) * some // rounds:
                continue
            copies = ways[name]

            def once(name: str = name, copies: Sequence[Call] = copies) -> float:
                call = copies[turn[name] % len(copies)]
                turn[name] += 1
                start = clock()
                call()
                return clock() - start

            settled = clock() + SETTLE
            once()
            while not cold and clock() < settled:
                once()
            until, count = clock() + BURST, 0
            while count < LEAST_CALLS or (clock() < until and count < MOST_CALLS):
                samples[name].append(once())
                count += 1
    return {name: Timing(tuple(found)) for name, found in samples.items()}
