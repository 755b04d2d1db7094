"""`tilewright bench`: how fast the kernels are, as a share of what this machine can do at most."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tilewright.cli import options
from tilewright.cli.console import console, seconds
from tilewright.errors import ArgumentValueError

if TYPE_CHECKING:
    from tilewright.bench.results import Report, Result, Row

ALL_KERNELS = ("prefill_qkv_proj_rope", "qkv_proj_rope")
TOKENS = "1,8,128,512"
ROUNDS = 7
PEER_BUDGET = 20.0

EXAMPLES = """
\b
Prefill at 1, 8, 128 and 512 tokens beside Torch; a minute or two:
    tilewright bench
Decode of 64 sequences on one thread and two, weights out of every cache, nobody beside:
    tilewright bench decode --tokens 64 --threads 1,2 --cold --peers none
All that was measured in a file, and a picture of it:
    tilewright bench --json bench.json --plot bench.html
"""


def bench(
    kernel: Annotated[
        str,
        typer.Argument(
            metavar="[KERNEL]",
            help="prefill_qkv_proj_rope (prefill), qkv_proj_rope (decode), or all.",
        ),
    ] = "prefill",
    tokens: Annotated[
        str, typer.Option(metavar="T,T,...", help="Tokens in a call, one row each.")
    ] = TOKENS,
    preset: Annotated[options.Preset, typer.Option(help="Model size.")] = options.Preset.flash,
    threads: Annotated[
        str, typer.Option(metavar="N,N,...", help="Thread counts.", show_default="all cores")
    ] = "",
    peers: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Who is measured beside: torch_eager, torch_compile, torch_best, openvino,"
            " onnxruntime, zentorch; all, or none.",
            show_default="the three of Torch, and the others where they are installed",
        ),
    ] = "",
    cold: Annotated[
        bool,
        typer.Option(
            "--cold", help="Rotate through copies of the weights that no cache can hold together."
        ),
    ] = False,
    unbound: Annotated[
        bool, typer.Option("--unbound", help="Also our kernel packing its weights in every call.")
    ] = False,
    rounds: Annotated[
        int, typer.Option(min=1, help="Turns that everybody has; times are over all of them.")
    ] = ROUNDS,
    peer_budget: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="For all calls of one peer in one row: slow ones have fewer rounds, or are skipped.",
        ),
    ] = PEER_BUDGET,
    seed: options.Seed = 0,
    json: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the machine and all rows here.", callback=options.writable
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Plot shares of the roofline: .html, or .png with matplotlib.",
            callback=options.writable,
        ),
    ] = None,
) -> None:
    """Measure this machine's peaks, then the kernels beside Torch with the same weights.

    Outputs are checked before anything is timed; exit status 1 if an element of ours is wrong.
    """
    import torch  # noqa: F401  (its OpenMP team is the one that kernels run on)

    from tilewright.bench import plot as plotting
    from tilewright.bench.run import Request, check
    from tilewright.bench.run import bench as measure
    from tilewright.machine import host

    request = Request(
        kernels=ALL_KERNELS if kernel == "all" else (kernel,),
        preset=preset.value,
        tokens=counts(tokens, "--tokens"),
        threads=counts(threads, "--threads") if threads else (host().cores,),
        peers=_peers(peers),
        rounds=rounds,
        cold=cold,
        unbound=unbound,
        seed=seed,
        peer_budget=peer_budget,
    )
    out = console()
    try:
        check(request)
        if plot is not None:
            plotting.check(plot)
    except ArgumentValueError as error:
        raise typer.BadParameter(str(error)) from error
    with progress(request.steps) as say:
        report = measure(request, say)
    show(report, out)
    if json is not None:
        report.write(json)
    if plot is not None:
        plotting.write(report, plot)
    if not all(row.ours.passed for row in report.rows):
        raise typer.Exit(1)


@contextmanager
def progress(steps: int) -> Iterator[Callable[[str], None]]:
    """What is going on, on standard error: a bar on a terminal, else a line a step.

    The bar is drawn between steps only: a thread that draws it would disturb what is measured.
    """
    screen = Console(stderr=True, highlight=False, style="dim")
    if not screen.is_terminal:
        yield lambda text: screen.print(text, soft_wrap=True)
        return
    columns = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=screen, auto_refresh=False, transient=True) as bar:
        task = bar.add_task("", total=steps, completed=-1)

        def say(text: str) -> None:
            bar.update(task, advance=1, description=text, refresh=True)

        yield say


def counts(text: str, option: str) -> tuple[int, ...]:
    """`1,8,128` as numbers; typer.BadParameter unless each is 1 or more."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{option} wants numbers of 1 or more with commas, got {text!r}")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _peers(text: str) -> tuple[str, ...]:
    """Names of the peers asked for; unknown ones are refused where they are looked up."""
    from importlib.util import find_spec

    from tilewright.bench.engines import PEERS as KNOWN

    if text == "all":
        return tuple(KNOWN)
    if text == "none":
        return ()
    if text:
        return tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    return tuple(n for n in KNOWN if n.startswith("torch_") or find_spec(n) is not None)


def show(report: Report, out: Console) -> None:
    """The peaks, then a table a kernel and thread count: us, and everyone who was measured or why
    they were not.
    """
    for peaks in report.machine["peaks"]:
        rates = "   ".join(f"{name} {rate:.0f} GOP/s" for name, rate in peaks["gops"].items())
        out.print(
            f"peaks of {peaks['threads']} threads   {rates}   memory {peaks['memory_gbs']:.1f} GB/s"
        )
    for row_of, rows in groupby(report.rows, key=lambda row: (row.kernel, row.preset)):
        out.print(f"\n[bold]{' '.join(row_of)}[/]")
        of_one = list(rows)
        out.print(_table(of_one))
        for line in _skipped(of_one):
            out.print(line, style="dim", soft_wrap=True, markup=False)
    temper = "cold" if report.rows[0].cold else "warm"
    out.print(
        f"{temper} weights. roof: the least time by products (p) or memory (m). read: of bytes like the weights',"
        " nothing else done. vs: time of each over ours. GB/s: of weights. q, kv: elements within tolerance.",
        style="dim",
        soft_wrap=True,
    )


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    left = ("who", "q", "kv")
    titles = ("T", "threads", "who", "median", "p10", "p90", "GOP/s", "GB/s", "roof", "share", "vs")
    for title in (*titles, "q", "kv"):
        table.add_column(title, justify="left" if title in left else "right", no_wrap=True)
    ours = 0.0  # seconds of the bound kernel, which comes first of a problem
    for row in rows:
        ours = row.seconds if row.bound else ours
        name = "tilewright" if row.bound else "tilewright unbound"
        first = (str(row.tokens), str(row.threads))
        table.add_row(*first, f"[bold]{name}[/]", *_cells(row, row.ours, ours))
        if not row.bound:
            continue
        read = [seconds(row.read.median), *(seconds(row.read.percentile(x)) for x in (0.1, 0.9))]
        table.add_row("", "", "read", *read, "", f"{row.weight_bytes / row.read.median / 1e9:.1f}")
        for peer, result in row.peers.items():
            if result.timing is not None:
                table.add_row("", "", peer, *_cells(row, result, ours))
    return table


def _skipped(rows: list[Row]) -> list[str]:
    """A line for every peer that was not measured and the reason: `skipped: zentorch: not installed`."""
    reasons: dict[str, list[Row]] = {}
    for row in rows:
        for peer, result in row.peers.items() if row.bound else ():
            if result.timing is None:
                reasons.setdefault(f"skipped: {peer}: {result.skipped}", []).append(row)
    every = [row for row in rows if row.bound]
    lines = []
    for reason, found in reasons.items():
        tokens = ", ".join(dict.fromkeys(str(row.tokens) for row in found))
        lines.append(reason if len(found) == len(every) else f"{reason} (T = {tokens})")
    return lines


def _cells(row: Row, result: Result, ours: float) -> tuple[str, ...]:
    timing = result.timing
    assert timing is not None
    wrong = " [red]FAIL[/]" if result is row.ours and not result.passed else ""
    return (
        seconds(timing.median),
        seconds(timing.percentile(0.1)),
        seconds(timing.percentile(0.9)),
        f"{row.ops / timing.median / 1e9:.0f}",
        f"{row.weight_bytes / timing.median / 1e9:.1f}",
        f"{seconds(row.roofline_us / 1e6)} {row.bound_by[0]}" if result is row.ours else "",
        f"{row.roofline_us / 1e6 / timing.median:.1%}",
        f"{timing.median / ours:.2f}x",
        f"{result.within['q']:.3%}",
        f"{result.within['kv']:.3%}{wrong}",
    )
