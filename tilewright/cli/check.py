"""`tilewright check`: run kernels on seeded inputs, judge every output against Torch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tilewright.cli import options
from tilewright.cli.console import console, progress, seconds
from tilewright.errors import ArgumentValueError

if TYPE_CHECKING:
    from tilewright.golden import OutputReport, RunResult
    from tilewright.golden.spec import Spec
    from tilewright.models.deepseek_v4.config import Config, Rope
    from tilewright.models.deepseek_v4.registry import Entry
    from tilewright.models.deepseek_v4.weights import Layer

# Warm calls that are timed, the median of which is shown. The interpreter takes long and needs only
# the one that shows its result to repeat.
REPEATS = {"native": 9, "interpreter": 1, "checked": 1}
BASELINE_REPEATS = 3

EXAMPLES = """
\b
The full-size prefill kernel on drawn weights, and the same with tokens 128 to 255 of a prompt:
    tilewright check prefill
    tilewright check prefill --start-pos 128
Weights of a checkpoint:
    tilewright check prefill --checkpoint DIR --layer 2
A few tokens at the small size, by the definition of the language instead of machine code:
    tilewright check decode --preset demo --tokens 7 --backend interpreter
Every kernel, both back ends:
    tilewright check all
"""

ALL = "all"
DEFAULT_PRESET = "flash"
# What `check all` runs for each kernel unless an option says otherwise: every path on the small
# preset, and the model's own size where a back end is fast enough to be worth waiting for.
SWEEP: tuple[tuple[str, str, Rope], ...] = (
    ("demo", "interpreter", "plain"),
    ("demo", "native", "plain"),
    ("demo", "native", "yarn"),
    ("flash", "native", "plain"),
)


@dataclass(frozen=True)
class Request:
    """One check: which kernel, on which inputs, run how."""

    kernel: str
    preset: str | None  # None: what the checkpoint's config.json says
    backend: str
    rope: Rope | None  # None: plain, or what the layer of a checkpoint has
    tokens: int | None
    start_pos: int | None
    max_seq: int | None
    seed: int
    threads: int | None
    baseline: bool
    checkpoint: Path | None = None
    layer: int | None = None


@dataclass(frozen=True)
class Prepared:
    """What a request comes to. layer: of its checkpoint, if it has one."""

    entry: Entry
    cfg: Config
    tokens: int
    rope: Rope
    layer: int | None
    specs: list[Spec]


def check(
    kernel: Annotated[
        str,
        typer.Argument(
            metavar="KERNEL",
            help=f"{options.KERNELS}; or all.",
        ),
    ],
    start_pos: options.StartPos = None,
    preset: Annotated[
        options.Preset | None,
        typer.Option(
            help="Model size.", show_default="flash, or that of the checkpoint; all: demo and flash"
        ),
    ] = None,
    tokens: options.Tokens = None,
    seed: options.Seed = 0,
    backend: Annotated[
        options.Backend | None,
        typer.Option(
            help="What runs the kernel; checked looks for races, bounds and undefined contents.",
            show_default="native; all: native and interpreter",
        ),
    ] = None,
    rope: Annotated[
        options.RopeTable | None,
        typer.Option(help="RoPE table.", show_default="plain, or the layer's; all: both"),
    ] = None,
    threads: options.Threads = None,
    max_seq: options.MaxSeq = None,
    baseline: Annotated[bool, typer.Option(help="Also time the reference in FP32 Torch.")] = True,
    checkpoint: options.Checkpoint = None,
    layer: options.Layer = None,
) -> None:
    """Check a kernel against its Torch reference; exit status 1 if any element is wrong.

    Outputs are poisoned before the kernel runs, the memory around them is guarded, and a second run
    must give the same bits.
    """
    out = console()
    if layer is not None and checkpoint is None:
        raise typer.BadParameter("--layer wants a --checkpoint that it is of")
    asked = Request(
        kernel,
        preset.value if preset else None,
        backend.value if backend else "native",
        rope.value if rope else None,
        tokens,
        start_pos,
        max_seq,
        seed,
        threads,
        baseline,
        checkpoint,
        layer,
    )
    if kernel == ALL and checkpoint is not None:
        requests = [replace(asked, kernel=name) for name in _names()]
    elif kernel == ALL:
        requests = list(_sweep(asked, preset, backend, rope))
    else:
        requests = [asked]
    failed = 0
    for request in requests:
        failed += not run_one(request, out)
    if len(requests) > 1:
        verdict = "[green]all passed[/]" if not failed else f"[red]{failed} failed[/]"
        out.print(f"{len(requests)} checks, {verdict}")
    if failed:
        raise typer.Exit(1)


def kernel_main(name: str) -> None:
    """What `python -m` of a kernel's module does: `tilewright check NAME` with its options."""
    import sys

    from tilewright.cli.app import main

    main(["check", name, *sys.argv[1:]])


def _sweep(
    asked: Request,
    preset: options.Preset | None,
    backend: options.Backend | None,
    rope: options.RopeTable | None,
) -> Iterator[Request]:
    """The requests of `check all`; an option given narrows the sweep to its value."""
    ways = dict.fromkeys(
        (
            preset.value if preset else way_preset,
            backend.value if backend else way_backend,
            rope.value if rope else way_rope,
        )
        for way_preset, way_backend, way_rope in SWEEP
    )
    for name in _names():
        for way_preset, way_backend, way_rope in ways:
            yield replace(asked, kernel=name, preset=way_preset, backend=way_backend, rope=way_rope)


def _names() -> list[str]:
    """Every kernel."""
    from tilewright.models.deepseek_v4.registry import KERNELS

    return list(KERNELS)


def run_one(request: Request, out: Console) -> bool:
    """Run one check and print it; True when it passed.

    Raises typer.BadParameter for an unknown kernel or inputs that cannot be made, and whatever the
    compiler raises.
    """
    from tilewright.golden import run_jit

    ready = prepare(request)
    entry, cfg = ready.entry, ready.cfg
    out.print(_heading(request, ready), soft_wrap=True)  # a checkpoint's path may be long
    result = run_jit(
        entry.build(cfg),
        ready.specs,
        golden_fn=entry.golden(cfg),
        runtime_cfg={"backend": request.backend, "threads": request.threads, "log_level": "quiet"},
        compare_fn=entry.checks(cfg),
        strict=True,
        repeats=REPEATS[request.backend],
    )
    plain = _baseline(ready) if request.baseline else None
    show_result(result, plain, out)
    return result.passed


def prepare(request: Request) -> Prepared:
    """The kernel and its inputs; typer.BadParameter if the request makes no sense, CheckpointError if
    the checkpoint does not.
    """
    from tilewright.models.deepseek_v4.config import PRESETS
    from tilewright.models.deepseek_v4.registry import Inputs, find
    from tilewright.models.deepseek_v4.specs import with_values

    try:
        entry = find(request.kernel)
    except KeyError as error:
        raise typer.BadParameter(str(error.args[0])) from error
    weights = None
    if request.checkpoint is not None:
        weights = read_layer(request.checkpoint, request.layer, request.preset)
    cfg = PRESETS[request.preset or DEFAULT_PRESET] if weights is None else weights.cfg
    rope = request.rope or "plain" if weights is None else rope_of(weights, request.rope)
    tokens = entry.tokens if request.tokens is None else request.tokens
    asked = Inputs(tokens, request.start_pos, request.max_seq, request.seed, rope)
    try:
        specs = entry.specs(cfg, asked)
    except ArgumentValueError as error:
        raise typer.BadParameter(error.message) from error
    if weights is not None:
        with progress() as tell:
            specs = with_values(specs, weights.arguments(entry.query, tell))
    return Prepared(entry, cfg, tokens, rope, weights.number if weights else None, specs)


def read_layer(path: Path, number: int | None, preset: str | None) -> Layer:
    """A layer of a checkpoint, its first by default."""
    from tilewright.models.deepseek_v4.config import PRESETS
    from tilewright.models.deepseek_v4.weights import open_checkpoint

    with progress() as tell:
        checkpoint = open_checkpoint(path, PRESETS[preset] if preset else None)
        return checkpoint.layer(checkpoint.layers[0] if number is None else number, tell)


def rope_of(layer: Layer, asked: Rope | None) -> Rope:
    """The RoPE of a layer; typer.BadParameter if another was asked for."""
    if layer.rope is not None and asked not in (None, layer.rope):
        raise typer.BadParameter(
            f"layer {layer.number} has {layer.rope} RoPE by its config.json; leave --rope out"
        )
    return layer.rope or asked or "plain"


def _heading(request: Request, ready: Prepared) -> str:
    name, tokens = ready.entry.name, ready.tokens
    at = "drawn positions" if request.start_pos is None else f"start_pos {request.start_pos}"
    if request.start_pos is None and name.startswith("prefill"):
        at = "start_pos 0"
    threads = "" if request.threads is None else f"  threads {request.threads}"
    weights = "" if ready.layer is None else f"  layer {ready.layer} of {request.checkpoint}"
    return (
        f"[bold]{name}[/]  {ready.cfg.name}{escape(weights)}  {tokens} token{'s' * (tokens > 1)}"
        f"  {at}  rope {ready.rope}  {request.backend}{threads}  seed {request.seed}"
    )


def _baseline(ready: Prepared) -> float:
    """Median seconds of the reference in FP32, all weights widened inside the call."""
    import torch

    from tilewright.golden import ScalarSpec

    values = {
        s.name: s.to_python() if isinstance(s, ScalarSpec) else s.create_tensor()
        for s in ready.specs
    }
    times = []
    for _ in range(1 + BASELINE_REPEATS):
        started = time.perf_counter()
        ready.entry.reference(values, ready.cfg, torch.float32)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def show_result(result: RunResult, baseline: float | None, out: Console) -> None:
    """The table of outputs, the times, and everything that is wrong."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("", "output", "shape", "dtype", "judged by", "outside", "worst element"):
        table.add_column(title, justify="right" if title == "outside" else "left", overflow="fold")
    for report in result.outputs:
        table.add_row(*_row(report))
    out.print(table)
    for report in result.outputs:
        for note in report.notes:
            out.print(f"  {report.name}: {note}", style="dim")
    out.print(_times(result, baseline))
    if result.error:
        out.print(result.error, style="red", markup=False)
    out.print("[green]PASS[/]\n" if result.passed else "[red]FAIL[/]\n")


def _row(report: OutputReport) -> tuple[str, ...]:
    verdict = "[green]pass[/]" if report.passed else "[red]FAIL[/]"
    shape = " x ".join(map(str, report.shape))
    share = "" if report.share is None else f"{report.outside} ({report.share:.3%})"
    worst = "" if report.worst is None else escape(str(report.worst))
    if report.worst is not None and report.worst.ratio == 0:
        worst = "all equal"
    dtype = str(report.dtype).removeprefix("torch.")
    return verdict, report.name, shape, dtype, report.policy, share, worst


def _times(result: RunResult, baseline: float | None) -> str:
    parts = []
    if result.compile_seconds is not None:
        parts.append(f"compile {seconds(result.compile_seconds)}")
    if result.bench is not None:
        bench = result.bench
        parts.append(
            f"run {seconds(bench.median)} "
            f"(median of {len(bench.warm)}; first {seconds(bench.first)})"
        )
        if baseline is not None:
            parts.append(f"FP32 Torch {seconds(baseline)} ({baseline / bench.median:.1f}x)")
    return "   ".join(parts)
