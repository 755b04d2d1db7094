"""What a run gives back."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from tilewright.golden.report import OutputReport


@dataclass(frozen=True)
class Bench:
    """Wall times of the kernel in seconds: the validated call, then the warm ones."""

    first: float
    warm: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """Of the warm calls; the first call where there are none."""
        return statistics.median(self.warm) if self.warm else self.first


@dataclass(frozen=True)
class RunResult:
    """The outcome of `run` or `run_jit`.

    A mismatch, missing replay files and a bad pair of options are reported here; what the compiler
    or the kernel raises is raised. Without a golden nothing is compared and `outputs` is empty.

    error:    why it failed; None when it passed.
    work_dir: where inputs and golden were saved, None when they were not.
    seed:     what the inputs were drawn with, None where nothing says.
    bench:    times of the calls; its `first` is the call that was judged.
    """

    passed: bool
    error: str | None = None
    execution_time: float | None = None  # of all stages
    work_dir: Path | None = None
    outputs: tuple[OutputReport, ...] = ()
    seed: int | None = None
    compile_seconds: float | None = None
    golden_seconds: float | None = None
    bench: Bench | None = None

    def __str__(self) -> str:
        text = "PASS" if self.passed else f"FAIL: {self.error}"
        return text if self.execution_time is None else f"{text} ({self.execution_time:.2f}s)"
