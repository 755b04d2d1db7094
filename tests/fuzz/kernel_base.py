"""What random kernels are written with: names, lines, blocks, tiles of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch

FLOATS = ("FP32", "BF16", "FP16")
INTEGERS = ("INT8", "INT16", "INT32", "UINT8")
DTYPES = ("FP32", "FP32", *FLOATS, *INTEGERS)
BITS = {"FP32": 32, "BF16": 16, "FP16": 16, "INT8": 8, "INT16": 16, "INT32": 32, "UINT8": 8}
TORCH = {
    "FP32": torch.float32,
    "BF16": torch.bfloat16,
    "FP16": torch.float16,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "UINT8": torch.uint8,
}
MODES = ("none", "rint", "round", "floor", "ceil", "trunc")
TILES = (1, 3, 8, 16, 33, 70)
WIDTHS = (1, 7, 16, 17, 40, 64, 130)
DEPTHS = (8, 33, 64, 96, 1030)
PRODUCTS = {"BF16": "FP32", "FP16": "FP32", "FP32": "FP32", "INT8": "INT32"}


@dataclass(frozen=True)
class Block:
    """A block that can be named. partial: only the first rows are valid, as many as there are left."""

    name: str
    rows: int
    columns: int
    dtype: str
    partial: bool = False

    def like(self, other: Block) -> bool:
        return (self.rows, self.columns, self.dtype) == (other.rows, other.columns, other.dtype)


@dataclass(frozen=True)
class Tensor:
    """A tensor of T rows, or of `rows` where that is known."""

    name: str
    columns: int
    dtype: str
    rows: int | None = None
    role: str = ""

    @property
    def annotation(self) -> str:
        inner = f"pl.Tensor[[{'T' if self.rows is None else self.rows}, {self.columns}], pl.{self.dtype}]"
        return f"{self.name}: pl.{self.role}[{inner}]" if self.role else f"{self.name}: {inner}"

    def contents(self, tokens: int, generator: torch.Generator) -> torch.Tensor:
        shape = (tokens if self.rows is None else self.rows, self.columns)
        if self.role == "Out":
            return torch.full(shape, 77, dtype=TORCH[self.dtype])
        whole = torch.randint(-100, 100, shape, generator=generator)
        if self.dtype not in FLOATS or self.role == "small":
            whole = torch.where(whole % 13 == 4, whole * 30_000_000, whole)
            return (whole % 7 - 3 if self.role == "small" else whole).to(TORCH[self.dtype])
        mixed = torch.where(whole % 3 == 0, whole / 4, torch.randn(shape, generator=generator) * 40)
        special = torch.tensor(
            [-0.0, float("inf"), float("-inf"), float("nan"), 1e-40, 3e38, 65520.0]
        )
        strange = special[whole % len(special)]
        return torch.where(whole % 11 == 5, strange, mixed).to(TORCH[self.dtype])


@dataclass
class Written:
    """A kernel: its text, and arguments for it."""

    text: str
    tensors: list[Tensor]
    targets: int  # rows that an index may point to

    def args(self, tokens: int, scalar: int) -> list[Any]:
        generator = torch.Generator().manual_seed(tokens * 64 + scalar)
        ids = torch.randint(0, self.targets, (max(tokens, 1),), generator=generator).int()
        return [ids[:tokens], scalar, *(t.contents(tokens, generator) for t in self.tensors)]


@dataclass
class Writer:
    """Writes lines, and knows what can be named."""

    random: Random
    lines: list[str] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    readable: list[Tensor] = field(default_factory=list)
    later: list[Tensor] = field(default_factory=list)  # readable after this phase
    inlined: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    depth: int = 1
    count: int = 0
    tile: int = 1  # rows of a tile
    tiled: bool = False  # inside a loop over tiles of rows

    # What everything is written with

    def pick(self, choices: Sequence[Any]) -> Any:
        return choices[self.random.randrange(len(choices))]

    def often(self, percent: int) -> bool:
        return self.random.randrange(100) < percent

    def say(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)

    @contextmanager
    def under(self, line: str) -> Iterator[None]:
        self.say(line)
        self.depth += 1
        before = list(self.blocks)
        yield
        self.blocks = before
        self.depth -= 1

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def make(self, text: str, rows: int, columns: int, dtype: str, partial: bool = False) -> Block:
        made = Block(self.name("b"), rows, columns, dtype, partial)
        self.say(f"{made.name} = {text}")
        self.blocks.append(made)
        return made

    def param(self, columns: int, dtype: str, rows: int | None = None, role: str = "") -> Tensor:
        made = Tensor(self.name("x" if role in ("", "small") else "y"), columns, dtype, rows, role)
        self.tensors.append(made)
        return made

    @contextmanager
    def tiles(self, kinds: Sequence[str] = ("parallel", "spmd", "range")) -> Iterator[None]:
        """A loop over tiles of rows: `t0` is the first, `left` how many of this tile exist."""
        kind = self.pick(kinds)
        tile = self.tile
        if kind == "spmd":
            head = f"for b in pl.spmd((t_dim + {tile - 1}) // {tile}):"
        else:
            head = f"for t0 in pl.{kind}(0, t_dim, {tile}):"
        with self.under(head):
            if kind == "spmd":
                self.say(f"t0 = b * {tile}")
            self.say(f"left = pl.min({tile}, t_dim - t0)")
            self.tiled = True
            if kind == "spmd":
                yield
            else:
                with self.under("with pl.at(level=CORE):"):
                    yield
            self.tiled = False

    def load(self, tensor: Tensor | None = None) -> Block:
        """This tile's rows of a tensor that no iteration of this loop writes."""
        x = tensor or self.pick([t for t in self.readable if t.rows is None])
        width = x.columns if self.often(70) else 1 + self.random.randrange(x.columns)
        at = self.pick(
            (str(self.random.randrange(x.columns - width + 1)), f"s % {x.columns - width + 1}")
        )
        window = f"{x.name}, [{self.tile}, {width}], [t0, {at}], valid_shape=[left, {width}]"
        if self.often(20):
            window = f"{x.name}, [t0, {at}], [{self.tile}, {width}], valid_shapes=[left, {width}]"
            return self.make(f"pl.load({window})", self.tile, width, x.dtype, True)
        block = self.make(f"pl.slice({window})", self.tile, width, x.dtype, True)
        if self.often(40):
            self.filled(block)
        return self.blocks[-1]

    def filled(self, x: Block) -> Block:
        if not x.partial:
            return x
        pad = self.pick(("zero", "min", "max"))
        return self.make(f"pl.fillpad({x.name}, pl.PadValue.{pad})", x.rows, x.columns, x.dtype)

    def block(self, full: bool = False) -> Block:
        if not self.blocks or (self.tiled and self.often(15)):
            self.load()
        x = self.pick(self.blocks[-4:] if self.often(70) else self.blocks)
        return self.filled(x) if full else x

    def small(self, x: Block, dtype: str) -> Block:
        """Whole numbers from -128 to 127."""
        if x.dtype != "INT8":
            x = self.cast(x, "INT8", "rint")
        return x if dtype == "INT8" else self.cast(x, dtype, "none")

    def cast(self, x: Block, dtype: str, mode: str) -> Block:
        text = f'pl.cast({x.name}, target_type=pl.{dtype}, mode="{mode}")'
        return self.make(text, x.rows, x.columns, dtype, x.partial)

    def literal(self, dtype: str) -> str:
        return self.pick(("0.5", "-2.0", "3.0")) if dtype in FLOATS else self.pick(("2", "1", "3"))
