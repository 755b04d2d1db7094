"""How the run of a script ended, and how that is passed from the process that ran it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from tilewright.errors import KernelError, UnsupportedFeatureError, raised_at, render
from tilewright.span import Span


class Status(str, Enum):
    """passed and failed as the script says; the others never came to that."""

    passed = "pass"
    failed = "fail"
    unsupported = "unsupported"
    no_program = "not a program"
    timeout = "timeout"


@dataclass
class KernelRun:
    """One golden run in a script."""

    kernel: str
    passed: bool
    validated: bool
    error: str | None = None
    compile_seconds: float | None = None
    run_seconds: float | None = None


@dataclass
class Trouble:
    """What ended a script before its time. unsupported: the script is right, we cannot do it."""

    text: str
    unsupported: bool = False
    reports: list[str] = field(default_factory=list)  # each mistake in full, as it was printed


@dataclass
class Report:
    """What a script's process tells about itself."""

    runs: list[KernelRun] = field(default_factory=list)
    trouble: Trouble | None = None

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> Report | None:
        """The report, None when the process did not live to write one."""
        try:
            stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        trouble = stored["trouble"]
        return Report(
            [KernelRun(**run) for run in stored["runs"]], Trouble(**trouble) if trouble else None
        )


@dataclass
class Outcome:
    """One script: what came of it and why, its runs, seconds, and where its output is kept."""

    script: str
    status: Status
    why: str = ""
    runs: list[KernelRun] = field(default_factory=list)
    seconds: float = 0.0
    exit_status: int | None = None
    log: str | None = None
    findings: list[str] = field(default_factory=list)

    @property
    def compile_seconds(self) -> float | None:
        return _sum([run.compile_seconds for run in self.runs])

    @property
    def run_seconds(self) -> float | None:
        return _sum([run.run_seconds for run in self.runs])

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "status": self.status.value,
            "compile_seconds": self.compile_seconds,
            "run_seconds": self.run_seconds,
        }


def _sum(seconds: list[float | None]) -> float | None:
    known = [s for s in seconds if s is not None]
    return sum(known) if known else None


def trouble_of(error: BaseException, script: str) -> Trouble:
    """An exception in one line, and whether it is our limit rather than the script's mistake."""
    if isinstance(error, KernelError):
        more = f" (and {len(error.also)} more)" if error.also else ""
        place = _place(error.span or raised_at(error, script))
        unsupported = any(isinstance(e, UnsupportedFeatureError) for e in (error, *error.also))
        reports = [render(e) for e in (error, *error.also)]
        return Trouble(f"{place}{error.message}{more}", unsupported, reports)
    text = " ".join(str(error).split())
    named = f"{type(error).__name__}: {text}".removesuffix(": ")
    return Trouble(_place(raised_at(error, script)) + named)


def _place(span: Span | None) -> str:
    return "" if span is None else f"{span.short}: "


def judge(report: Report | None, exit_status: int) -> tuple[Status, str]:
    """(status, why) of a script that ended by itself."""
    if report is None:
        how = f"signal {-exit_status}" if exit_status < 0 else f"exit status {exit_status}"
        return Status.failed, f"the process ended with {how} and without a report"
    if report.trouble is not None:
        status = Status.unsupported if report.trouble.unsupported else Status.failed
        return status, report.trouble.text
    wrong = [run for run in report.runs if not run.passed]
    if wrong:
        first = (wrong[0].error or "").partition("\n")[0]
        ignored = "" if exit_status else "; the script exits with 0 all the same"
        return Status.failed, f"{wrong[0].kernel}: {first}{ignored}"
    if exit_status:
        return Status.failed, f"exit status {exit_status}"
    if not report.runs:
        return Status.passed, "no golden run: the script's own exit status is all there is"
    if not all(run.validated for run in report.runs):
        return Status.passed, "nothing was compared: there is no golden"
    return Status.passed, ""
