"""What a peer may cost: its time is foretold from a few rows, and its calls are counted against a budget.

A library without instructions for a product falls back to reference code that takes minutes where
others take milliseconds. A call cannot be stopped once it runs, so it must not begin.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tilewright.bench.measure import CALLS_A_ROUND, Clock

GROWTH = 4  # rows of one trial over those of the trial before
HOPELESS = 4  # times too long: no further trial will change that


def foretell(
    products: Callable[[int], object],
    rows: int,
    limit: float,
    clock: Clock = time.perf_counter,
) -> float:
    """About how many seconds `products(rows)` takes.

    One row is tried first; in proportion to rows that is an upper bound, as weights are read once for
    all of them. Where it is above `limit`, a few more rows show what a row adds.
    """

    def trial(some: int) -> float:
        start = clock()
        products(some)
        return clock() - start

    some, took = 1, trial(1)
    if took < limit:
        took = min(took, trial(1))  # the first one may have prepared something
    estimate = took * rows
    while estimate > limit and some < rows and took <= limit:
        more = min(GROWTH * some, rows)
        longer = trial(more)
        each = max(0.0, longer - took) / (more - some)
        some, took = more, longer
        estimate = took + each * (rows - some)
        if estimate > HOPELESS * limit:
            break
    return estimate


@dataclass(frozen=True)
class Budget:
    """Seconds for all calls of one peer in one row."""

    seconds: float

    def call(self, beforehand: int) -> float:
        """The longest call that leaves time for one round behind `beforehand` calls."""
        return self.seconds / (beforehand + CALLS_A_ROUND)

    def rounds(self, call: float, beforehand: int, rounds: int) -> int:
        """How many of `rounds` rounds there is time for, when one call takes `call` seconds."""
        left = self.seconds - beforehand * call
        return max(0, min(rounds, int(left / (CALLS_A_ROUND * call)) if call else rounds))

    def refusal(self, call: float) -> str:
        """Why a peer is not measured."""
        return f"a call takes about {call:.2g} s, too long for --peer-budget {self.seconds:g}"
