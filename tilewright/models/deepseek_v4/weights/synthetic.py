"""A checkpoint of random weights in a layout of choice: planned first, then written as a whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from tilewright.errors import CheckpointError
from tilewright.models.deepseek_v4.config import Config
from tilewright.models.deepseek_v4.specs import generator
from tilewright.models.deepseek_v4.weights.config_json import LAYER_TYPES, config_json
from tilewright.models.deepseek_v4.weights.files import CONFIG, INDEX, SINGLE
from tilewright.models.deepseek_v4.weights.layer import shapes
from tilewright.models.deepseek_v4.weights.layouts import GAINS, MATRICES, Layout
from tilewright.models.deepseek_v4.weights.problems import Tell, silent
from tilewright.models.deepseek_v4.weights.quantize import FP8_BLOCK, blocks, quantize_fp8

Stored = Literal["fp8", "bf16"]
SHARD_BYTES = 1 << 30  # a shard is in memory as a whole while it is written


def original(cfg: Config, layer: int, role: str, seed: int) -> Tensor:
    """A weight before any quantisation, FP32 as a checkpoint stores it: gains [N], matrices [out, in].

    Gains are around 1; matrices such that every projection has deviation about 1, the columns of
    wq_b up to three times apart. Depends on nothing but its arguments.
    """
    draw = generator(seed, f"layers.{layer}.{role}")
    shape = shapes(cfg)[role]
    if role in GAINS:
        return torch.empty(shape).normal_(1.0, 0.1, generator=draw)
    weight = torch.empty(shape).normal_(0.0, shape[1] ** -0.5, generator=draw)
    if role == "wq_b":
        weight.mul_(torch.empty(shape[0], 1).uniform_(0.5, 1.5, generator=draw))
    return weight


@dataclass(frozen=True)
class Item:
    """A tensor that will be written: of a layer and a role; a scale goes with its weight."""

    layer: int
    role: str
    names: tuple[str, ...]
    nbytes: int
    shard: int


@dataclass(frozen=True)
class Plan:
    """A checkpoint that is not written yet.

    layout: the names it will have; stored: "fp8" or "bf16". items: its tensors, in the order of the files.
    """

    cfg: Config
    layout: Layout
    stored: Stored
    layers: int
    seed: int
    items: tuple[Item, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors; headers and config.json are a few KiB more."""
        return sum(item.nbytes for item in self.items)

    @property
    def tensors(self) -> int:
        """How many tensors there will be, block scales included."""
        return sum(len(item.names) for item in self.items)

    @property
    def shards(self) -> int:
        """How many files of tensors."""
        return self.items[-1].shard + 1

    @property
    def ratios(self) -> list[int]:
        """The compress ratio of each layer: every kind in turn."""
        kinds = list(LAYER_TYPES.values())
        return [kinds[n % len(kinds)] for n in range(self.layers)]

    def file_of(self, shard: int) -> str:
        """The file name of a shard, counted from 0."""
        if self.shards == 1:
            return SINGLE
        return f"model-{shard + 1:05}-of-{self.shards:05}.safetensors"


def plan_checkpoint(
    cfg: Config,
    layout: Layout,
    stored: Stored,
    layers: int,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> Plan:
    """What would be written: every tensor, its size and its shard. Nothing is drawn or written.

    stored:      "fp8" (E4M3 with a scale for each 128 x 128 block) or "bf16"; gains are FP32.
    shard_bytes: of tensors in a file at most, unless a single tensor is larger.
    """
    items: list[Item] = []
    shard = filled = 0
    for layer in range(layers):
        for role, shape in shapes(cfg).items():
            names: tuple[str, ...] = (layout.written(layer, role),)
            if role in GAINS:
                nbytes = 4 * prod(shape)
            elif stored == "bf16":
                nbytes = 2 * prod(shape)
            else:
                names = (*names, layout.written_scale(layer, role))
                nbytes = prod(shape) + prod(blocks(shape, FP8_BLOCK))
            if filled and filled + nbytes > shard_bytes:
                shard, filled = shard + 1, 0
            filled += nbytes
            items.append(Item(layer, role, names, nbytes, shard))
    return Plan(cfg, layout, stored, layers, seed, tuple(items))


def make_checkpoint(plan: Plan, folder: Path, tell: Tell = silent) -> None:
    """Write it. The folder appears when it is complete; until then, and after a failure, it is not there.

    Raises CheckpointError if the folder exists and is not empty, or the disk has too little room.
    """
    _check_room(plan, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}.", dir=folder.parent, ignore_cleanup_errors=True
    ) as temporary:
        unfinished = Path(temporary) / "checkpoint"
        unfinished.mkdir()
        _write(plan, unfinished, tell)
        unfinished.replace(folder)


def _write(plan: Plan, folder: Path, tell: Tell) -> None:
    written = 0
    weight_map: dict[str, str] = {}
    metadata = {"format": "pt", "made_by": "tilewright", "seed": str(plan.seed)}
    for shard, items in groupby(plan.items, key=lambda item: item.shard):
        tensors: dict[str, Tensor] = {}
        for item in items:
            tensors |= zip(item.names, _made(plan, item), strict=True)
            written += item.nbytes
            tell(f"writing {plan.file_of(shard)}", written, plan.nbytes)
        save_file(tensors, folder / plan.file_of(shard), metadata)
        weight_map |= dict.fromkeys(tensors, plan.file_of(shard))
    if plan.shards > 1:
        index = {"metadata": {"total_size": plan.nbytes}, "weight_map": weight_map}
        _write_json(folder / INDEX, index)
    fp8 = plan.stored == "fp8"
    _write_json(folder / CONFIG, config_json(plan.cfg, plan.layout, plan.ratios, fp8))


def _made(plan: Plan, item: Item) -> Iterator[Tensor]:
    """The tensors of an item, in the order of its names."""
    values = original(plan.cfg, item.layer, item.role, plan.seed)
    if item.role not in MATRICES:
        yield values
    elif plan.stored == "bf16":
        yield values.to(torch.bfloat16)
    else:
        yield from quantize_fp8(values)


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _check_room(plan: Plan, folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(
            f"{folder}: found something there already, wanted a folder that does not exist",
            help="name another folder, or remove this one",
        )
    there = next(p for p in folder.absolute().parents if p.exists())
    free = shutil.disk_usage(there).free
    if free < plan.nbytes:
        raise CheckpointError(
            f"{folder}: found {free / 1e9:.1f} GB free, wanted {plan.nbytes / 1e9:.1f} GB",
            help="make fewer layers, or name a folder on another disk",
        )
