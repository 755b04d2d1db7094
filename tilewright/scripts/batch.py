"""From file names and globs to outcomes: read each script, run it in a process of its own, judge it."""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from tilewright import knobs
from tilewright.errors import ArgumentValueError, ParserSyntaxError, UndefinedVariableError
from tilewright.frontend.lint import Lint, lint
from tilewright.scripts.names import installed
from tilewright.scripts.outcome import Outcome, Report, Status, judge
from tilewright.scripts.worker import command

# How long one of several scripts may take; one alone may take as long as it likes.
PATIENCE = 600.0
# What Python itself would stumble over: no limit of ours.
PYTHONS_OWN = (ParserSyntaxError, UndefinedVariableError)
GRACE = 2.0  # seconds between asking a process to end and ending it


@dataclass(frozen=True)
class Settings:
    """How scripts are run; `environment` is where an option becomes a knob of the script's process."""

    arguments: tuple[str, ...] = ()
    backend: str | None = None
    check: bool = False  # every kernel call runs checked, whatever back end it asks for
    bounds: str | None = None  # what reading past the end of a tensor does
    seed: int | None = None
    timeout: float | None = None
    jobs: int = 1
    ours: bool = False
    anyway: bool = False  # run what the lint would keep from running
    logs: Path | None = None
    live: bool = False  # output goes where ours goes, not into a log

    def environment(self) -> dict[str, str]:
        """The variables of a script's process."""
        asked = {
            knobs.BACKEND.name: self.backend,
            knobs.BOUNDS.name: self.bounds,
            knobs.SEED.name: self.seed,
        }
        told = {name: str(value) for name, value in asked.items() if value is not None}
        if self.check:
            told[knobs.CHECK.name] = "1"
        # A crash in machine code leaves a traceback; output comes in the order it was written.
        told |= {"PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1"}
        if self.jobs > 1:  # scripts side by side share the cores
            share = max(1, (os.cpu_count() or 1) // self.jobs)
            told = {"OMP_NUM_THREADS": str(share), **os.environ, **told}
        return {**os.environ, **told}


def scripts_in(patterns: Sequence[str]) -> list[Path]:
    """The Python files that names, folders and globs stand for, each once, in order.

    ArgumentValueError for a name or glob that stands for nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        if Path(pattern).is_file():
            found.append(Path(pattern))
            continue
        inside = Path(pattern) / "**" / "*.py" if Path(pattern).is_dir() else Path(pattern)
        matches = sorted(Path(m) for m in glob.glob(str(inside), recursive=True))
        matches = [m for m in matches if m.is_file() and m.suffix == ".py"]
        if not matches:
            raise ArgumentValueError(
                f"there is no script {pattern}",
                help="name a file, a folder, or a glob in quotes: 'kernels/**/*.py'",
            )
        found += matches
    return list(dict.fromkeys(found))


def run_all(
    scripts: Sequence[Path],
    settings: Settings,
    read: Callable[[Path, Lint], None],
    ended: Callable[[Outcome], None],
) -> list[Outcome]:
    """Run scripts, `settings.jobs` at a time; outcomes in the order of `scripts`.

    All are read before the first one starts: read(script, lint) is called for each, and
    ended(outcome) when one is done.
    """
    outcomes: dict[Path, Outcome] = {}
    start: list[Path] = []
    texts: dict[Path, list[str]] = {}
    theirs = not settings.ours and installed("pypto") is not None  # whose rules are not ours
    for script in scripts:
        found = Lint() if theirs else lint(script)
        read(script, found)
        texts[script] = [str(finding.error) for finding in found.findings]
        held = None if settings.anyway else held_back(script, found)
        if held is None:
            start.append(script)
        else:
            held.findings = texts[script]
            outcomes[script] = held
            ended(held)
    running = _Processes()
    with ThreadPoolExecutor(settings.jobs) as pool:
        waiting = {pool.submit(_run, script, settings, running): script for script in start}
        try:
            for done in as_completed(waiting):
                script, outcome = waiting[done], done.result()
                outcome.findings = list(dict.fromkeys([*texts[script], *outcome.findings]))
                outcomes[script] = outcome
                ended(outcome)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            running.end()
            raise
    return [outcomes[script] for script in scripts]


def held_back(script: Path, found: Lint) -> Outcome | None:
    """The outcome of a script that need not be started, None when it should run."""
    if found.blocked:
        first = found.findings[0].error
        more = len(found.findings) - 1
        place = f"{first.span.short}: " if first.span else ""
        why = f"{place}{first.message}" + (f" (and {more} more)" if more else "")
        python = any(f.at_import and isinstance(f.error, PYTHONS_OWN) for f in found.findings)
        return Outcome(str(script), Status.failed if python else Status.unsupported, why)
    if not found.program:
        why = 'no `if __name__ == "__main__":` and no kernel is called'
        return Outcome(str(script), Status.no_program, why)
    return None


@dataclass
class _Processes:
    """The scripts that are running now, to be ended when we are."""

    now: set[subprocess.Popen[bytes]] = field(default_factory=set)
    stopped: bool = False

    @contextlib.contextmanager
    def running(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        self.now.add(process)
        try:
            yield
        finally:
            self.now.discard(process)

    def end(self) -> None:
        self.stopped = True
        for process in list(self.now):
            _end(process)


def _run(script: Path, settings: Settings, processes: _Processes) -> Outcome:
    if processes.stopped:
        return Outcome(str(script), Status.failed, "interrupted")
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tilewright-run-")))
        report_file = folder / "report.json"
        log = None if settings.live else _log_of(script, settings)
        sink = None if log is None else stack.enter_context(log.open("wb"))
        process = subprocess.Popen(
            command(script, list(settings.arguments), report_file, settings.ours),
            env=settings.environment(),
            stdin=None if settings.live else subprocess.DEVNULL,
            stdout=sink,
            stderr=None if sink is None else subprocess.STDOUT,
            start_new_session=not settings.live,  # live, Ctrl-C is the script's too
        )
        with processes.running(process):
            try:
                exit_status = process.wait(settings.timeout)
            except subprocess.TimeoutExpired:
                _end(process)
                exit_status = None
        report = Report.read(report_file)
    outcome = Outcome(
        str(script),
        Status.timeout,
        f"still running after {settings.timeout:g} s" if settings.timeout else "",
        runs=report.runs if report else [],
        seconds=time.perf_counter() - started,
        exit_status=exit_status,
        log=None if log is None else str(log),
    )
    if exit_status is not None:
        outcome.status, outcome.why = judge(report, exit_status)
        trouble = None if report is None else report.trouble
        outcome.findings = list(trouble.reports) if trouble else []
    return outcome


def _log_of(script: Path, settings: Settings) -> Path:
    """A file named after the script's path, so that equal names in two folders stay apart."""
    assert settings.logs is not None
    name = "-".join(part for part in script.with_suffix(".log").parts if part not in ("/", ".."))
    return settings.logs / name


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process and what it started to end, then make them."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == process.pid:  # it leads a group of its own
                os.killpg(process.pid, sign)
            else:
                process.send_signal(sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
            return
