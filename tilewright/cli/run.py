"""`tilewright run`: other people's kernel scripts, as they are, on this CPU."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand

from tilewright.cli import options
from tilewright.cli.console import console, seconds
from tilewright.errors import ArgumentValueError

if TYPE_CHECKING:
    from tilewright.frontend.lint import Lint
    from tilewright.scripts.outcome import Outcome

ARGUMENTS = "tilewright.arguments"  # where the context keeps what stood after `--`
COLOURS = {"pass": "green", "fail": "red", "unsupported": "yellow", "timeout": "red"}
TAIL = 30  # lines of a log that a failure shows; the whole of it is in the file

EXAMPLES = """
\b
One script, its own options after `--`:
    tilewright run kernel.py -- -p a2a3 -d 0
Many, with a table at the end; a glob in quotes, or a folder:
    tilewright run 'kernels/**/*.py' --jobs 2 --json results.json
What would not run, and what to write instead, without running it:
    tilewright run kernel.py --dry
Against the definition of the language instead of machine code:
    tilewright run kernel.py --backend interpreter --seed 1
Races between iterations, accesses out of bounds, contents that nobody defined:
    tilewright run kernel.py --check

\b
pass             it ran, and every output agrees with its golden
fail             an output is wrong, or the script ended with an error
unsupported      it uses what tilewright does not have; it says where, and what to write
not a program    nothing in it runs: a module that others import
timeout          it took longer than --timeout allows
"""


class RunCommand(TyperCommand):
    """A command whose arguments after `--` belong to somebody else."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", "SCRIPT...", "[-- ARGS...]"]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        cut = args.index("--") if "--" in args else len(args)
        ctx.meta[ARGUMENTS] = args[cut + 1 :]
        try:
            return list(super().parse_args(ctx, args[:cut]))
        except USAGE_ERROR as error:
            if type(error).__name__ == "NoSuchOption":
                error.message += " A script's own options go after `--`."
            raise


USAGE_ERROR: Any = typer.BadParameter.__bases__[0]  # what every wrong command line is


def run(
    context: typer.Context,
    scripts: Annotated[
        list[str],
        typer.Argument(
            metavar="SCRIPT...",
            help="Files, folders, or globs in quotes.",
            show_default=False,
        ),
    ],
    backend: Annotated[
        options.Backend | None, typer.Option(help="What runs the kernels; by default native.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Look for races, bounds and undefined contents; slower."),
    ] = False,
    bounds: Annotated[
        options.Bounds | None,
        typer.Option(
            help="What reading past the end of a tensor does; by default an error. zeros is for scripts"
            " that overhang knowingly and ignore what they read there."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the inputs; by default the script's own.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="Seconds a script may take; 600 for one of several, else no limit."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Scripts run side by side.")] = 1,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write the outcomes as JSON.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the output of every script.")
    ] = False,
    logs: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder for the scripts' output; by default a new one."),
    ] = None,
    dry: Annotated[
        bool, typer.Option("--dry", help="Only read the scripts, as `lint` does.")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Run scripts even if they cannot work as they are.")
    ] = False,
    ours: Annotated[
        bool,
        typer.Option(
            "--ours", help="Use tilewright's pypto and golden even where there are others."
        ),
    ] = False,
) -> None:
    """Run scripts written for `pypto.language` and `golden`, unchanged, on this CPU.

    Each runs as `__main__` in a process of its own, its folder first on the path. Device names, device
    numbers and profiling flags are taken and mean this CPU. Exit status 0 if every program passed.
    """
    from tilewright.scripts.batch import PATIENCE, Settings, run_all, scripts_in

    try:
        files = scripts_in(scripts)
    except ArgumentValueError as error:
        raise typer.BadParameter(f"{error.message}; {error.help}") from error
    out = console(stderr=json_file == "-")
    if dry:
        raise typer.Exit(show_lint(files, out))
    several = len(files) > 1
    settings = Settings(
        arguments=tuple(context.meta.get(ARGUMENTS, ())),
        backend=None if backend is None else backend.value,
        check=check,
        bounds=None if bounds is None else bounds.value,
        seed=seed,
        timeout=PATIENCE if several and timeout is None else timeout,
        jobs=jobs,
        ours=ours,
        anyway=anyway,
        logs=_log_folder(logs) if several or json_file == "-" else None,
        live=not several and json_file != "-",
    )
    screen = _Screen(out, several, verbose)
    outcomes = run_all(files, settings, screen.read, screen.ended)
    if several:
        screen.summary(outcomes, settings.logs)
    if json_file is not None:
        _write_json(json_file, outcomes, "checked" if check else settings.backend)
    if not all_passed(outcomes):
        raise typer.Exit(1)


def all_passed(outcomes: list[Outcome]) -> bool:
    """Every program passed, and there was one: files that are none are nobody's failure."""
    states = {outcome.status.value for outcome in outcomes} - {"not a program"}
    return states == {"pass"}


def show_lint(files: list[Path], out: Console) -> int:
    """Print what the lint finds in each file; the exit status."""
    from tilewright.frontend.lint import lint

    count = 0
    for file in files:
        found = lint(file)
        count += len(found.findings)
        for finding in found.findings:
            _print_error(out, str(finding.error))
    guilty = "1 script" if len(files) == 1 else f"{len(files)} scripts"
    if count:
        out.print(f"[red]{_mistakes(count)}[/] in {guilty}; nothing was run")
        return 1
    out.print(f"[green]nothing found[/] in {guilty}; nothing was run")
    return 0


@dataclass
class _Screen:
    """What is printed while scripts run."""

    out: Console
    several: bool
    verbose: bool

    def read(self, script: Path, found: Lint) -> None:
        """The mistakes of a script, all of them, before anything of it runs."""
        for finding in found.findings:
            _print_error(self.out, str(finding.error))
        if found.findings and not found.blocked:
            clean = ", ".join(found.runnable) or "the rest"
            self.out.print(
                f"[yellow]{_mistakes(len(found.findings))}[/] in {escape(str(script))};"
                f" {escape(clean)} can run all the same"
            )

    def ended(self, outcome: Outcome) -> None:
        """One line, and the script's output where somebody wants to see it."""
        log = Path(outcome.log) if outcome.log else None
        if log is not None and (self.verbose or outcome.status.value != "pass"):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            shown = lines if self.verbose else lines[-TAIL:]
            self.out.rule(escape(f"{outcome.script}: {log}"), align="left", style="dim")
            if len(shown) < len(lines):
                self.out.print(f"... {len(lines) - len(shown)} lines above", style="dim")
            for line in shown:
                self.out.print(line, markup=False, soft_wrap=True)
        cells = [cell for cell in _row(outcome) if cell]
        self.out.print("  ".join(cells), soft_wrap=True)

    def summary(self, outcomes: list[Outcome], logs: Path | None) -> None:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("", "script", "compile", "run", "total", "why"):
            justify: Any = "right" if title in ("compile", "run", "total") else "left"
            table.add_column(title, justify=justify, overflow="fold")
        for outcome in outcomes:
            table.add_row(*_row(outcome))
        self.out.print()
        self.out.print(table)
        counts = Counter(outcome.status.value for outcome in outcomes)
        parts = [f"[{COLOURS.get(s, 'dim')}]{n} {s}[/]" for s, n in counts.items()]
        self.out.print(f"\n{len(outcomes)} scripts: {', '.join(parts)}   output in {logs}")


def _row(outcome: Outcome) -> tuple[str, ...]:
    status = outcome.status.value
    times = (outcome.compile_seconds, outcome.run_seconds, outcome.seconds or None)
    compile_time, run_time, total = ("" if t is None else seconds(t) for t in times)
    colour = COLOURS.get(status, "dim")
    return (
        f"[{colour}]{status}[/]",
        escape(outcome.script),
        compile_time,
        run_time,
        total,
        escape(outcome.why),
    )


def _print_error(out: Console, text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)
    out.print()


def _mistakes(count: int) -> str:
    return "1 mistake" if count == 1 else f"{count} mistakes"


def _log_folder(asked: Path | None) -> Path:
    if asked is None:
        return Path(tempfile.mkdtemp(prefix="tilewright-logs-"))
    asked.mkdir(parents=True, exist_ok=True)
    return asked


def _write_json(target: str, outcomes: list[Outcome], backend: str | None) -> None:
    from tilewright import __version__, knobs

    counts = Counter(outcome.status.value for outcome in outcomes)
    stored = {
        "tilewright": __version__,
        "backend": backend or knobs.backend(),
        "passed": all_passed(outcomes),
        "counts": dict(counts),
        "scripts": [outcome.as_json() for outcome in outcomes],
    }
    text = json.dumps(stored, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        Path(target).write_text(text, encoding="utf-8")
