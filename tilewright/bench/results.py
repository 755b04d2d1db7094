"""What a benchmark found: one row a kernel, size and thread count, as JSON and as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilewright.bench.measure import Timing

US = 1e6  # microseconds in a second


@dataclass(frozen=True)
class Result:
    """One way to run one problem.

    within: share of elements within tolerance by output. skipped: why there is nothing else here.
    """

    timing: Timing | None = None
    within: Mapping[str, float] = field(default_factory=dict)
    passed: bool = True
    skipped: str = ""

    def record(self, roofline_us: float) -> dict[str, Any]:
        """As JSON: times in us, share of the roofline, shares within tolerance."""
        if self.timing is None:
            return {"skipped": self.skipped}
        return {
            **times(self.timing),
            "roofline_share": roofline_us / (self.timing.median * US),
            "within_tolerance": dict(self.within),
        }


@dataclass(frozen=True)
class Row:
    """One kernel of ours on one problem, and the peers on the same.

    bound_by: what the roofline is made of. read: of as many bytes as the weights have, in turns with
    everybody else.
    """

    kernel: str
    preset: str
    tokens: int
    threads: int
    bound: bool
    cold: bool
    ours: Result
    peers: Mapping[str, Result]
    roofline_us: float
    bound_by: str
    read: Timing
    ops: int
    weight_bytes: int

    @property
    def seconds(self) -> float:
        assert self.ours.timing is not None
        return self.ours.timing.median

    @property
    def share(self) -> float:
        """Of the roofline."""
        return self.roofline_us / (self.seconds * US)

    @property
    def within(self) -> float:
        """Share of elements within tolerance, of the output where it is lowest."""
        return min(self.ours.within.values())

    def versus(self, peer: str) -> float | None:
        """How many times as long a peer takes; None where it was not measured."""
        found = self.peers.get(peer)
        if found is None or found.timing is None:
            return None
        return found.timing.median / self.seconds

    def record(self) -> dict[str, Any]:
        """As JSON."""
        assert self.ours.timing is not None
        named = ["torch_eager", "torch_compile", "torch_best"]
        named += [name for name in self.peers if name not in named]
        return {
            "kernel": self.kernel,
            "preset": self.preset,
            "tokens": self.tokens,
            "threads": self.threads,
            "bound": self.bound,
            "cold": self.cold,
            **times(self.ours.timing),
            "roofline_us": self.roofline_us,
            "roofline_share": self.share,
            "roofline_of": self.bound_by,
            "gops": self.ops / self.seconds / 1e9,
            "gbs": self.weight_bytes / self.seconds / 1e9,
            "read_us": self.read.median * US,
            **{f"vs_{name}": self.versus(name) for name in named},
            "within_tolerance": self.within,
            "passed": self.ours.passed,
            "peers": {name: peer.record(self.roofline_us) for name, peer in self.peers.items()},
        }


@dataclass(frozen=True)
class Report:
    """All rows of a run. machine: what it ran on, with the peaks of every thread count."""

    machine: Mapping[str, Any]
    rows: tuple[Row, ...]

    def record(self) -> dict[str, Any]:
        return {"machine": dict(self.machine), "rows": [row.record() for row in self.rows]}

    def write(self, path: Path) -> None:
        """The record as a JSON file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.record(), indent=1) + "\n", encoding="utf-8")


def times(timing: Timing) -> dict[str, Any]:
    """Microseconds, and how many calls they come from."""
    return {
        "median_us": timing.median * US,
        "p10_us": timing.percentile(0.1) * US,
        "p90_us": timing.percentile(0.9) * US,
        "calls": len(timing.samples),
    }
