"""`tilewright accuracy`: what each number format costs, against FP64 with the weights as they were."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from tilewright.cli import options
from tilewright.cli.check import DEFAULT_PRESET, read_layer, rope_of
from tilewright.cli.console import console, progress
from tilewright.errors import ArgumentValueError

if TYPE_CHECKING:
    from tilewright.models.deepseek_v4.accuracy import Error, Question
    from tilewright.models.deepseek_v4.config import Rope

EXAMPLES = """
\b
Drawn weights of the full size, and what an FP8 checkpoint has cost already:
    tilewright accuracy
Weights of a checkpoint, at positions far from 0:
    tilewright accuracy --checkpoint DIR --layer 2 --start-pos 100000
All figures in a file:
    tilewright accuracy --preset demo --json accuracy.json

\b
rounded     FP64, rounded once at the end: no output in this format does better
bf16        the kernels with BF16 weights
w8a8        the kernels with an INT8 wq_b and INT8 codes of the query's latent
fp8         FP64 with the weights that an FP8 checkpoint keeps
fp8 w8a8    the INT8 kernel on these
"""


def accuracy(
    checkpoint: options.Checkpoint = None,
    layer: options.Layer = None,
    preset: Annotated[
        options.Preset | None,
        typer.Option(help="Model size.", show_default="flash, or what config.json says"),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens that errors are taken over.")] = 128,
    start_pos: Annotated[int, typer.Option(min=0, help="Position of the first token.")] = 0,
    rope: Annotated[
        options.RopeTable | None,
        typer.Option(help="RoPE table.", show_default="plain, or the layer's"),
    ] = None,
    seed: options.Seed = 0,
    backend: Annotated[
        options.Backend, typer.Option(help="What runs the kernels.")
    ] = options.Backend.native,
    json: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write all figures here.", callback=options.writable),
    ] = None,
) -> None:
    """Measure the error of W8A8, of BF16, and of FP8 weights, an output at a time.

    Weights are drawn unless a checkpoint is named.
    """
    from tilewright.models.deepseek_v4.accuracy import Question, drawn_layer, measure
    from tilewright.models.deepseek_v4.config import PRESETS

    asked: Rope | None = rope.value if rope else None
    size = preset.value if preset else None
    if layer is not None and checkpoint is None:
        raise typer.BadParameter("--layer wants a --checkpoint that it is of")
    if checkpoint is None:
        weights = drawn_layer(PRESETS[size or DEFAULT_PRESET], seed)
    else:
        weights = read_layer(checkpoint, layer, size)
    question = Question(weights, rope_of(weights, asked), tokens, start_pos, seed, backend.value)
    try:
        with progress("steps") as tell:
            errors = measure(question, tell)
    except ArgumentValueError as error:
        raise typer.BadParameter(error.message) from error
    source = "drawn weights" if checkpoint is None else f"layer {weights.number} of {checkpoint}"
    out = console()
    out.print(
        f"{weights.cfg.name}  {source}  {tokens} tokens  start_pos {start_pos}  rope {question.rope}"
        f"  {question.backend}  seed {seed}",
        markup=False,
        soft_wrap=True,
    )
    out.print(table_of(errors))
    if not any(found.way == "fp8" for found in errors):
        out.print("the weights are stored in FP8: the truth is FP64 with these", style="dim")
    if json is not None:
        json.write_text(json_module.dumps(report(question, source, errors), indent=2) + "\n")


def table_of(errors: list[Error]) -> Table:
    """A row for each output and way; the share of elements within so many BF16 steps of the truth."""
    from tilewright.models.deepseek_v4.accuracy import KEPT, ULPS

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("output", "way"):
        table.add_column(title)
    bounds = [f"<= {bound:g} ulp" for bound in ULPS]
    for title in ("relative L2", "max abs", *bounds, f"> {ULPS[-1]:g}"):
        table.add_column(title, justify="right")
    by_output = sorted(errors, key=lambda found: list(KEPT).index(found.output))
    for output, rows in groupby(by_output, key=lambda found: found.output):
        for number, found in enumerate(rows):
            *within, beyond = found.within
            shares = [f"{share:.1%}" for share in (*accumulate(within), beyond)]
            name = "" if number else output
            figures = (f"{found.relative_l2:.3e}", f"{found.max_abs:.3g}")
            table.add_row(name, found.way, *figures, *shares)
    return table


def report(question: Question, source: str, errors: list[Error]) -> dict[str, Any]:
    """Everything as JSON."""
    from tilewright.models.deepseek_v4.accuracy import ULPS

    return {
        "config": asdict(question.layer.cfg),
        "weights": source,
        "tokens": question.tokens,
        "start_pos": question.start_pos,
        "rope": question.rope,
        "backend": question.backend,
        "seed": question.seed,
        "ulps": list(ULPS),
        "errors": [asdict(found) for found in errors],
    }
