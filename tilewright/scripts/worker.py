"""The process that one script runs in: as `__main__`, with its own folder first on the path."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import tilewright
from tilewright import knobs
from tilewright.errors import CompilerBug, KernelError, without_our_frames
from tilewright.listeners import Listener, listen
from tilewright.scripts import names
from tilewright.scripts.outcome import KernelRun, Report, Trouble, trouble_of
from tilewright.scripts.translate import in_our_words

INTERRUPTED = 130  # what a shell says of a command that was stopped by Ctrl-C


def command(script: Path, arguments: list[str], report: Path, ours: bool) -> list[str]:
    """The command line of a worker. It finds this package wherever the caller found it."""
    root = str(Path(tilewright.__file__).parents[1])
    start = f"import sys; sys.path[0] = {root!r}; from {__name__} import main; main()"
    return [sys.executable, "-c", start, str(report), str(int(ours)), str(script), *arguments]


def main() -> None:
    """Run the script that the command line names, and leave with its status."""
    file, ours, script, *arguments = sys.argv[1:]
    report = Report()
    status = run_script(Path(script), arguments, ours == "1", report)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # whoever read them may be gone
            stream.flush()
    report.write(Path(file))
    sys.exit(status)


def run_script(script: Path, arguments: list[str], ours: bool, report: Report) -> int:
    """Run a script as Python would; its exit status. Golden runs and trouble go into the report."""
    path = script.absolute()
    sys.argv = [str(script), *arguments]
    sys.path[0] = str(path.parent)
    remark = names.install(path.parent, ours)
    if remark:
        print(f"tilewright: {remark}", file=sys.stderr)
    listen(_entered_into(report))
    module = ModuleType("__main__")
    module.__dict__.update({"__file__": str(path), "__builtins__": __builtins__})
    sys.modules["__main__"] = module
    try:
        seed = knobs.seed()
        if seed is not None:  # for tensors that the script makes by itself
            import torch

            torch.manual_seed(seed)
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        exec(code, module.__dict__)
    except SystemExit as leaving:
        return _exit_status(leaving)
    except KeyboardInterrupt:
        report.trouble = Trouble("interrupted")
        return INTERRUPTED
    except BaseException as error:  # noqa: BLE001  (whatever a script raises, the report has it)
        told = in_our_words(error, str(path))
        report.trouble = trouble_of(told, str(path))
        if isinstance(told, KernelError) and not knobs.tracebacks():
            print(told, file=sys.stderr)
            return 1
        if not isinstance(error, CompilerBug) and not knobs.tracebacks():
            error.with_traceback(without_our_frames(error.__traceback__))
        traceback.print_exception(error)
        return 1
    return 0


def _entered_into(report: Report) -> Listener:
    def enter(kernel: str, result: Any) -> None:
        bench = result.bench
        report.runs.append(
            KernelRun(
                kernel,
                result.passed,
                bool(result.outputs),
                result.error,
                result.compile_seconds,
                None if bench is None else bench.median,
            )
        )

    return enter


def _exit_status(leaving: SystemExit) -> int:
    """As Python reads it: None is success, a number is the status, anything else a complaint."""
    if leaving.code is None:
        return 0
    if isinstance(leaving.code, int):
        return leaving.code & 0xFF if os.name == "posix" else leaving.code
    print(leaving.code, file=sys.stderr)
    return 1
