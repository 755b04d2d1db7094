"""`tilewright checkpoint`: what is in a checkpoint, and making one of random weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from tilewright.cli import options
from tilewright.cli.console import console, progress

if TYPE_CHECKING:
    from tilewright.models.deepseek_v4.weights import Checkpoint
    from tilewright.models.deepseek_v4.weights.problems import Problems

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}

checkpoint = typer.Typer(no_args_is_help=True, help="Checkpoints of DeepSeek-V4, real or random.")

MAKE_EXAMPLES = """
\b
Three layers of the full size, 120 MB, and of the small one, 0.4 MB:
    tilewright checkpoint make flash-checkpoint
    tilewright checkpoint make demo-checkpoint --preset demo
As Transformers names them, in BF16, in several files:
    tilewright checkpoint make hf-checkpoint --layout hf --dtype bf16 --shard-size 100MB
"""
SHOW_EXAMPLES = """
\b
All layers; every tensor of one; a shard alone, of a download that is not complete:
    tilewright checkpoint show DIR
    tilewright checkpoint show DIR --layer 2
    tilewright checkpoint show DIR/model-00002-of-00046.safetensors
"""


@checkpoint.command(epilog=MAKE_EXAMPLES)
def make(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is not there yet.")],
    preset: Annotated[options.Preset, typer.Option(help="Model size.")] = options.Preset.flash,
    layout: Annotated[
        options.Layout, typer.Option(help="Names: of the release or of Transformers.")
    ] = options.Layout.release,
    dtype: Annotated[
        options.WeightFormat,
        typer.Option(help="Weights in FP8 with a scale for each 128 x 128 block, or in BF16."),
    ] = options.WeightFormat.fp8,
    layers: Annotated[int, typer.Option(min=1, help="Layers, of every RoPE in turn.")] = 3,
    seed: options.Seed = 0,
    shard_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Most bytes in a file: 500MB, 2GiB.")
    ] = "1GiB",
) -> None:
    """Write a checkpoint of random weights: what the Q/KV kernels need of each layer, and config.json.

    The folder appears when everything is in it.
    """
    from tilewright.models.deepseek_v4.config import PRESETS
    from tilewright.models.deepseek_v4.weights import make_checkpoint, plan_checkpoint
    from tilewright.models.deepseek_v4.weights.layouts import LAYOUTS

    plan = plan_checkpoint(
        PRESETS[preset.value],
        LAYOUTS[layout.value],
        dtype.value,
        layers,
        seed,
        nbytes(shard_size),
    )
    out = console()
    files = f"{plan.shards} file{'s' * (plan.shards > 1)}"
    of = f"{layers} layer{'s' * (layers > 1)}"
    out.print(f"{plan.tensors} tensors of {of}, {megabytes(plan.nbytes)} in {files}")
    with progress() as tell:
        make_checkpoint(plan, folder, tell)
    out.print(f"wrote {folder}", markup=False, soft_wrap=True)


@checkpoint.command(epilog=SHOW_EXAMPLES)
def show(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The checkpoint's folder, or one file of it.")
    ],
    preset: Annotated[
        options.Preset | None, typer.Option(help="What config.json should agree with.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(min=0, help="Every tensor of this layer instead of all layers.")
    ] = None,
) -> None:
    """List what is found, by headers alone; exit status 1 if something is missing or does not fit."""
    from tilewright.models.deepseek_v4.config import PRESETS
    from tilewright.models.deepseek_v4.weights import open_checkpoint
    from tilewright.models.deepseek_v4.weights.problems import Problems

    out = console()
    found = open_checkpoint(folder, PRESETS[preset.value] if preset else None)
    if layer is not None:
        found.require(layer)
    cfg = found.cfg
    out.print(
        f"{folder}: {found.found.layout.name} layout, {cfg.name}", markup=False, soft_wrap=True
    )
    out.print(
        f"hidden_size {cfg.hidden_size}  heads {cfg.num_attention_heads} of {cfg.head_dim}"
        f" ({cfg.rope_dim} turned)  q_lora_rank {cfg.q_lora_rank}"
    )
    problems = Problems(str(folder))
    if layer is None:
        out.print(_layers(found, problems))
    else:
        out.print(_tensors(found, layer, problems))
    for problem in problems.found:
        out.print(f"[red]{escape(str(problem))}[/]", soft_wrap=True)
    if problems.found:
        raise typer.Exit(1)


def _layers(found: Checkpoint, problems: Problems) -> Table:
    """A row a layer: its RoPE, and how its weights are stored."""
    from tilewright.models.deepseek_v4.weights.layouts import MATRICES
    from tilewright.models.deepseek_v4.weights.problems import Problems

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("layer", "rope", *MATRICES, "bytes", "files", ""):
        table.add_column(title, justify="right" if title in ("layer", "bytes") else "left")
    for number in found.layers:
        own = Problems(problems.subject)
        parts = found.stored(number, own)
        problems.found += own.found
        kinds = [parts[role].dtype if role in parts else "-" for role in MATRICES]
        files = ", ".join(sorted({part.file for part in parts.values()}))
        verdict = "[green]complete[/]" if not own.found else f"[red]{len(own.found)} wrong[/]"
        nbytes = sum(part.nbytes for part in parts.values())
        rope = found.rope(number) or "-"
        table.add_row(str(number), rope, *kinds, megabytes(nbytes), escape(files), verdict)
    return table


def _tensors(found: Checkpoint, layer: int, problems: Problems) -> Table:
    """A row a tensor of one layer."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("", "tensor", "dtype", "shape", "file"):
        table.add_column(title, overflow="fold")
    for role, part in found.stored(layer, problems).items():
        shape = " x ".join(map(str, part.shape))
        table.add_row(role, escape(part.name), part.dtype, shape, escape(part.file))
    return table


def nbytes(text: str) -> int:
    """`500MB`, `2GiB`, `1000`: bytes; typer.BadParameter for anything else."""
    parts = re.fullmatch(r"(\d+)\s*([KMG]I?)?B?", text.strip().upper())
    if parts is None or not int(parts[1]):
        raise typer.BadParameter(f"--shard-size is {text!r}; wanted a size like 500MB or 2GiB")
    return int(parts[1]) * UNITS[parts[2] or ""]


def megabytes(count: int) -> str:
    """`39.9 MB`."""
    return f"{count / 1e6:.1f} MB"
