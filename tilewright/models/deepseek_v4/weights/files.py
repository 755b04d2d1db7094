"""Where a checkpoint's tensors are: in the files of a folder, mapped and not read, or in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tilewright.errors import CheckpointError
from tilewright.models.deepseek_v4.weights.problems import Problems

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CONFIG = "config.json"

# The names that safetensors has for dtypes, of those that our messages may have to name.
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.int8: "I8",
    torch.uint8: "U8",
}

ITEM_BYTES = {name: dtype.itemsize for dtype, name in DTYPES.items()}


@dataclass(frozen=True)
class Stored:
    """A tensor that has not been read. load: a view of the file, no copy; private to this process."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], Tensor] = field(repr=False, compare=False)

    @property
    def where(self) -> str:
        return f"{self.file}: {self.name}"

    @property
    def nbytes(self) -> int:
        """Of the dtypes that we read; 0 for another."""
        return prod(self.shape) * ITEM_BYTES.get(self.dtype, 0)

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


class Tensors(Protocol):
    """Tensors by name."""

    @property
    def names(self) -> Collection[str]: ...

    def find(self, name: str, problems: Problems) -> Stored | None:
        """The tensor of that name; None, with a problem noted, if its file cannot be used."""

    def file_of(self, name: str) -> str:
        """Where a tensor of that name is, or would be looked for."""


@dataclass(frozen=True)
class InMemory:
    """The tensors of a state dict."""

    tensors: Mapping[str, Tensor]

    @property
    def names(self) -> Collection[str]:
        return self.tensors.keys()

    def find(self, name: str, problems: Problems) -> Stored | None:
        tensor = self.tensors[name].detach()
        dtype = DTYPES.get(tensor.dtype, str(tensor.dtype))
        return Stored(name, self.file_of(name), dtype, tuple(tensor.shape), lambda: tensor)

    def file_of(self, name: str) -> str:
        return "state dict"


class Files:
    """The tensors of the safetensors files in a folder; a file is opened when one of its own is asked for."""

    def __init__(self, folder: Path, where: Mapping[str, str]) -> None:
        self.folder = folder
        self.where = where
        self._open: dict[str, Any] = {}
        self._refused: dict[str, tuple[str, str, str]] = {}

    @property
    def names(self) -> Collection[str]:
        return self.where.keys()

    @property
    def shards(self) -> list[str]:
        return sorted(set(self.where.values()))

    def file_of(self, name: str) -> str:
        return self.where.get(name, SINGLE if self.shards in ([], [SINGLE]) else INDEX)

    def find(self, name: str, problems: Problems) -> Stored | None:
        shard = self.where[name]
        handle = self.handle(shard, problems)
        if handle is None:
            return None
        if name not in handle.keys():  # noqa: SIM118  (a handle is no mapping)
            problems.add(
                f"{shard}: {name}",
                "no such tensor",
                f"it there, as {INDEX} says",
                "download both files again; they are of different checkpoints",
            )
            return None
        part = handle.get_slice(name)
        return Stored(
            name, shard, part.get_dtype(), tuple(part.get_shape()), lambda: handle.get_tensor(name)
        )

    def handle(self, shard: str, problems: Problems) -> Any | None:
        """The open file; None, with a problem noted, if it is missing or broken."""
        if shard not in self._open and shard not in self._refused:
            try:
                self._open[shard] = safe_open(self.folder / shard, framework="pt")
            except FileNotFoundError:
                named = f"the file, {INDEX} names it" if shard != SINGLE else "the file"
                self._refused[shard] = ("no such file", named, "download it into this folder")
            except (SafetensorError, OSError) as reason:
                found = f"{_bytes_of(self.folder / shard)} that end too early or are no safetensors"
                self._refused[shard] = (
                    f"{found} ({reason})",
                    "a whole safetensors file",
                    "download it again; the download may have stopped half-way",
                )
        if shard in self._refused:
            problems.add(shard, *self._refused[shard])
        return self._open.get(shard)


def open_files(path: Path) -> Files:
    """The tensors in a folder (by its index, or in all its files), or in one file.

    Raises CheckpointError if there is nothing there, or the index makes no sense.
    """
    problems = Problems(str(path))
    if path.is_file() and path.suffix == ".safetensors":
        return _by_content(path.parent, [path.name])
    folder = path.parent if path.name == INDEX else path
    if (folder / INDEX).is_file():
        return Files(folder, _weight_map(folder / INDEX))
    shards = sorted(file.name for file in folder.glob("*.safetensors")) if folder.is_dir() else []
    if shards:
        return _by_content(folder, shards)
    if folder.is_dir():
        found = "neither in this folder"
    else:
        found = "a file that is neither" if folder.is_file() else "no such folder"
    problems.add(
        str(path),
        found,
        f"{INDEX} or *.safetensors",
        "name the folder that holds the checkpoint's files",
    )
    problems.raise_any()
    raise AssertionError


def _by_content(folder: Path, shards: list[str]) -> Files:
    """Files without an index say themselves what is in them."""
    problems = Problems(str(folder))
    where: dict[str, str] = {}
    files = Files(folder, where)
    for shard in shards:
        handle = files.handle(shard, problems)
        for name in () if handle is None else handle.keys():
            if name in where:
                problems.add(
                    f"{shard}: {name}",
                    f"a tensor that {where[name]} has too",
                    "each tensor once",
                    "keep the files of one checkpoint in this folder",
                )
            where[name] = shard
    problems.raise_any()
    return files


def _weight_map(index: Path) -> dict[str, str]:
    problems = Problems(str(index.parent))
    again = "download the index again"
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        problems.add(f"{INDEX}: weight_map", "none", "an object: a file for each tensor", again)
        weight_map = {}
    for name, shard in weight_map.items():
        # A file elsewhere is not part of the checkpoint, whoever wrote the index.
        if not isinstance(shard, str) or Path(shard).name != shard:
            problems.add(f"{INDEX}: {name}", repr(shard), "the name of a file beside it", again)
    problems.raise_any()
    return weight_map


def read_json(file: Path) -> dict[str, Any]:
    """An object from a JSON file; raises CheckpointError for anything else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        reason = f"a JSON {type(value).__name__}"
    except (ValueError, OSError, RecursionError) as error:
        value, reason = None, str(error)
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{file.name}: found {reason}, wanted a JSON object",
            notes=(f"in {file.parent}",),
            help="download it again",
        )
    return value


def _bytes_of(file: Path) -> str:
    try:
        return f"{file.stat().st_size} bytes"
    except OSError:
        return "bytes"
