"""Checkpoints for tests: written small, then broken in one place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tilewright.models.deepseek_v4.config import DEMO, Config
from tilewright.models.deepseek_v4.weights import make_checkpoint, plan_checkpoint
from tilewright.models.deepseek_v4.weights.layouts import LAYOUTS

SINGLE = "model.safetensors"
SHARDED = 150_000  # bytes in a file such that DEMO's layers are cut in the middle


def written(
    folder: Path,
    layout: str = "release",
    stored: str = "fp8",
    layers: int = 3,
    shard_bytes: int = 1 << 30,
    seed: int = 5,
    cfg: Config = DEMO,
) -> Path:
    """A checkpoint of random weights."""
    plan = plan_checkpoint(cfg, LAYOUTS[layout], stored, layers, seed, shard_bytes)
    make_checkpoint(plan, folder)
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """Everything that its files hold, as safetensors reads it."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """Change the tensors of a checkpoint in one file."""
    tensors = tensors_of(folder)
    change(tensors)
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / SINGLE)
    return folder


def renamed(folder: Path, names: Mapping[str, str]) -> Path:
    """Replace parts of the names of tensors."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            new = name
            for old, other in names.items():
                new = new.replace(old, other)
            tensors[new] = tensors.pop(name)

    return edit(folder, change)


def configure(folder: Path, **fields: Any) -> Path:
    """Change fields of config.json; None removes one."""
    data = json.loads((folder / "config.json").read_text())
    data |= fields
    kept = {name: value for name, value in data.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


def dequantized(tensors: Mapping[str, torch.Tensor], name: str, scale: str) -> torch.Tensor:
    """An FP8 weight block by block, FP64."""
    codes, scales = tensors[name].double(), tensors[scale].double()
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            codes[128 * i : 128 * (i + 1), 128 * j : 128 * (j + 1)] *= scales[i, j]
    return codes
