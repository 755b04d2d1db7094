"""Frozen inputs and goldens on disk: `in/<name>.pt` and `out/<name>.pt`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tilewright.golden.spec import ScalarSpec, Spec


def save(data: Path, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
    """Write tensors (scalars as 0-d tensors) below `data`, made if it does not exist."""
    for folder, tensors in (("in", inputs), ("out", outputs)):
        (data / folder).mkdir(parents=True, exist_ok=True)
        for name, tensor in tensors.items():
            torch.save(tensor, data / folder / f"{name}.pt")


def missing_files(data: Path, specs: Sequence[Spec]) -> list[str]:
    """Files that a replay of `specs` needs and `data` does not have, relative to it."""
    return [file for spec in specs for file in _files(spec) if not (data / file).is_file()]


def load(data: Path, specs: Sequence[Spec]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(values by name: tensors and 0-d tensors for scalars, golden outputs by name).

    Outputs without an initial value are not among the values. Raises ValueError when a file holds
    another dtype or shape than its spec says. Nothing is unpickled but tensors.
    """
    values: dict[str, Any] = {}
    golden: dict[str, Tensor] = {}
    for spec in specs:
        for file in _files(spec):
            tensor = torch.load(data / file, weights_only=True)
            _check(data / file, tensor, spec)
            (values if file.startswith("in/") else golden)[spec.name] = tensor
    return values, golden


def _files(spec: Spec) -> list[str]:
    role = "input" if isinstance(spec, ScalarSpec) else spec.role
    folders = {"input": ("in",), "output": ("out",), "in-out": ("in", "out")}[role]
    return [f"{folder}/{spec.name}.pt" for folder in folders]


def _check(file: Path, tensor: object, spec: Spec) -> None:
    shape = () if isinstance(spec, ScalarSpec) else tuple(spec.shape)
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{file} holds a {type(tensor).__name__}, wanted a tensor")
    if tensor.dtype != spec.dtype or tuple(tensor.shape) != shape:
        raise ValueError(
            f"{file} holds {tuple(tensor.shape)} {tensor.dtype}, "
            f"wanted {shape} {spec.dtype} for {spec.name!r}; remove the folder and run again"
        )
