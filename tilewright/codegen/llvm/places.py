"""Where values live: tensors and tiles as an address with strides, and the arena that tiles are put in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from llvmlite import ir

from tilewright.codegen.llvm.types import I64, const, index, offset
from tilewright.dtypes import DType
from tilewright.ir.types import TileType

LINE = 64  # bytes: a cache line, and the widest vector

Extent: TypeAlias = int | ir.Value


@dataclass(frozen=True, slots=True)
class Place:
    """Data of `shape` at `address`, `strides` in bytes.

    valid:  how many leading elements of each axis may be touched, where that is fewer than `shape`.
    padded: whole vectors may be read and written past the last column (a tile in the arena), so that
            only valid columns of the caller's memory ever need a mask.
    """

    address: ir.Value
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    valid: tuple[Extent, ...]
    padded: bool = False

    @property
    def all_valid(self) -> bool:
        return self.valid == self.shape

    @property
    def is_dense(self) -> bool:
        """True when a row can be read by the vector: its columns are next to each other."""
        return self.strides[-1] == self.dtype.nbytes or self.shape[-1] == 1

    def at(self, builder: ir.IRBuilder, indices: Sequence[Extent]) -> ir.Value:
        """Address of the element at `indices`; missing trailing ones are 0."""
        known = 0
        address = self.address
        for i, stride in zip(indices, self.strides, strict=False):
            if isinstance(i, int):
                known += i * stride
            elif isinstance(i, ir.Constant):
                known += int(i.constant) * stride
            elif stride:
                address = offset(builder, address, builder.mul(i, index(stride)))
        return offset(builder, address, known)


@dataclass(frozen=True, slots=True)
class Panel:
    """A packed right-hand matrix, or a window of one: column blocks `stride` bytes apart from `address` on."""

    address: ir.Value
    k: int
    n: int
    dtype: DType
    stride: int


def tile_strides(shape: tuple[int, ...], dtype: DType) -> tuple[int, ...]:
    """Strides of a tile in the arena: rows are padded to whole cache lines, and to an odd number of them.

    The odd number keeps rows of a power-of-two width from falling into one set of the first cache.
    A tile with one column keeps its rows together instead.
    """
    if shape[-1] == 1:
        pitch = dtype.nbytes
    else:
        lines = -(-shape[-1] * dtype.nbytes // LINE)
        pitch = (lines | 1) * LINE
    strides = [dtype.nbytes]
    for extent in reversed(shape[:-1]):
        strides.insert(0, pitch)
        pitch *= extent
    return tuple(strides)


def tile_bytes(type: TileType) -> int:
    """Bytes that a tile takes in the arena, a line more so that a last whole vector stays inside."""
    strides = tile_strides(type.shape, type.dtype)
    rows = type.shape[0] if len(type.shape) > 1 else 1
    return (
        rows
        * (
            strides[0]
            if len(type.shape) > 1
            else -(-type.shape[0] * type.dtype.nbytes // LINE) * LINE
        )
        + LINE
    )


@dataclass(slots=True)
class Arena:
    """A stretch of memory laid out at compile time; a block gives back what it took when it ends."""

    used: int = 0
    size: int = 0

    def take(self, nbytes: int, align: int = LINE) -> int:
        """Offset of `nbytes` fresh bytes."""
        start = -(-self.used // align) * align
        self.used = start + nbytes
        self.size = max(self.size, self.used)
        return start

    @contextmanager
    def scope(self) -> Iterator[None]:
        """What is taken inside is free again afterwards."""
        mark = self.used
        try:
            yield
        finally:
            self.used = mark


def value_of(x: Extent) -> ir.Value:
    """An extent as an i64."""
    return const(I64, x) if isinstance(x, int) else x
