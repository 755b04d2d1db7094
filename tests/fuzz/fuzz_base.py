"""What random programs are made with: what can be named, and how choices are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import torch

from tilewright.dtypes import BF16, FP16, FP32, INT8, INT16, INT32, UINT8, UINT16, UINT32, DType
from tilewright.ir.build import Builder
from tilewright.ir.nodes import Function, Op, Operand, Param, Value, index
from tilewright.ir.types import TileType

ROWS = (1, 2, 3, 5, 6, 7, 8, 13, 16, 20, 33, 70)
COLUMNS = (1, 2, 4, 6, 8, 15, 16, 17, 32, 33, 40, 64, 65, 80, 130)
SHARED_COLUMNS = (64, 96, 128, 192)  # of tensors that parallel loops share out by columns
DEPTHS = (8, 32, 64, 96, 33, 1030)  # K of products that read their operands from memory
DTYPES = (FP32, FP32, FP32, BF16, FP16, INT8, INT32, INT16, UINT8)
INSIDE = (*DTYPES, UINT16, UINT32)  # of tiles: no argument has the last two
EXACT_UNARY = ("neg", "abs", "sqrt", "rsqrt", "recip", "relu")
PATTERNS = {2: ("P0101", "P1010"), 4: ("P0001", "P0010", "P0100", "P1000")}


@dataclass(frozen=True)
class Tile:
    """A tile and how much of it is valid (None: all). `small`: whole numbers from -3 to 3."""

    value: Value
    valid: tuple[Operand, Operand] | None = None
    small: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        assert isinstance(self.value.type, TileType)
        return self.value.type.shape

    @property
    def dtype(self) -> DType:
        assert isinstance(self.value.type, TileType)
        return self.value.type.dtype

    @property
    def extents(self) -> list[Operand]:
        return list(self.valid) if self.valid else [index(n) for n in self.shape]


@dataclass
class Scope:
    """What can be named: tiles, integer scalars with their least and largest value, tensors."""

    tiles: list[Tile] = field(default_factory=list)
    scalars: list[tuple[Operand, int, int]] = field(default_factory=list)
    readable: list[Value] = field(default_factory=list)
    writable: list[Value] = field(default_factory=list)
    rows: tuple[Operand, int] | None = None  # inside a parallel loop: the first row, and how many
    columns: tuple[Operand, int] | None = None  # the same for a loop over columns
    depth: int = 0

    @property
    def shared(self) -> bool:
        """Inside a parallel loop."""
        return self.rows is not None or self.columns is not None

    def inner(self) -> Scope:
        return Scope(
            list(self.tiles),
            list(self.scalars),
            list(self.readable),
            list(self.writable),
            self.rows,
            self.columns,
            self.depth + 1,
        )


@dataclass(frozen=True)
class Program:
    """A function and arguments for it."""

    function: Function
    args: list[torch.Tensor | int]
    astray: bool = False  # whether an index may lie outside what it points into


class Draws:
    """Draws every choice from `random`, and appends to one program."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.b = Builder()
        self.params: list[Param] = []
        self.args: list[torch.Tensor | int] = []
        self.generator = torch.Generator().manual_seed(random.randrange(1 << 16))
        self.height = random.choice(
            (4, 8, 12, 24, 26, 39, 70)
        )  # rows of tensors that parallel loops share
        self.astray = False
        self.private: Value | None = None  # a tensor of the current iteration
        self.factors: list[
            tuple[Value, Value]
        ] = []  # left and right sides that products read in place

    def pick(self, choices: Sequence):
        return choices[self.random.randrange(len(choices))]

    def often(self, percent: int) -> bool:
        return self.random.randrange(100) < percent

    def op(self, name: str, *operands: Operand, **attrs) -> Value:
        return self.b.value(name, operands, "v", **attrs)

    def tile(self, scope: Scope, full: bool = False) -> Tile:
        """A tile to work on, new ones more often."""
        tiles = [t for t in scope.tiles if not full or t.valid is None]
        if not tiles:
            return Tile(
                self.op(
                    "full",
                    shape=(self.pick(ROWS), self.pick(COLUMNS)),
                    dtype=self.pick(DTYPES),
                    value=3,
                )
            )
        recent = tiles[-4:]
        return self.pick(recent if self.often(70) else tiles)

    def same_type(self, scope: Scope, x: Tile) -> Tile:
        fitting = [t for t in scope.tiles if t.value.type == x.value.type and t.valid is None]
        return self.pick(fitting) if fitting else x

    def like(self, scope: Scope, kind: TileType) -> Value:
        """A tile of this very type, new ones first."""
        fitting = [t.value for t in scope.tiles if t.value.type == kind and t.valid is None]
        return fitting[-1 - self.random.randrange(min(3, len(fitting)))]

    @staticmethod
    def broadcasts(x: Tile, y: Tile) -> bool:
        """Whether `y` goes with `x` into a tile of x's shape, valid where x is."""
        if len(x.shape) != len(y.shape):
            return False
        fits = all(n in (1, m) for m, n in zip(x.shape, y.shape, strict=True))
        return fits and (y.valid is None or (y.valid == x.valid and y.shape == x.shape))

    def maker(self, value: Value) -> Op | None:
        for ops in self.b._blocks:
            for op in ops:
                if value in op.results:
                    return op
        return None

    def root(self, tensor: Value) -> Value:
        made = self.maker(tensor)
        return tensor if made is None or made.name == "create" else self.root(made.operands[0])  # type: ignore[arg-type]

    def clamped(self, scope: Scope, low: int, high: int) -> Operand:
        """A scalar that is surely between two numbers, often one that the compiler cannot know."""
        if self.often(35) or high <= low:
            return index(low + self.random.randrange(max(1, high - low + 1)))
        x, least, most = self.pick(scope.scalars)
        if low <= least and most <= high:
            return x
        if self.often(50):
            rest = self.b.scalar("s.mod", x, index(high - low + 1))
            return self.b.add(rest, index(low))
        return self.b.scalar("s.max", self.b.min(x, index(high)), index(low))

    def offset(self, scope: Scope, room: int) -> Operand:
        return self.clamped(scope, 0, room)

    def maximum_of(self, scope: Scope, x: Operand) -> int:
        return next(most for value, _, most in scope.scalars if value == x)
