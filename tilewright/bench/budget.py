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


def foretell(
    products: Callable[[int], object],
    rows: int,
    limit: float,
    clock: Clock = time.perf_counter,
) -> float:
    """About how many seconds `products(rows)` takes, at most.

    Few rows are tried first, and more as long as the estimate is above `limit` and the next trial is
    not: time in proportion to rows is an upper bound, as weights are read once for all of them.
    """
    some = 1
    while True:
        start = clock()
        products(some)
        took = clock() - start
        estimate = took * rows / some
        if some == rows or estimate <= limit or GROWTH * took > limit:
            return estimate
        some = min(GROWTH * some, rows)


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
