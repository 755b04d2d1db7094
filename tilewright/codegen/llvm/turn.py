"""Copies of places whose columns are not next to each other: squares turned in registers.

Where some other axis is dense, G elements of it (16 bytes) are loaded at each of G columns, or of twice or four
times as many where vectors are that wide, and turned by log2(G) rounds of zips within 16 bytes, each of which is
one instruction. What is left at the edges goes element by element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.codegen.llvm.places import Extent, Place, value_of
from tilewright.codegen.llvm.types import I64, const, counted, memory_type, shuffle, vector

if TYPE_CHECKING:
    from tilewright.codegen.llvm.function import FunctionEmitter

GRANULE = 16  # bytes within which every instruction set shuffles freely

Indices = tuple[Extent, ...]


def copy_turned(owner: FunctionEmitter, target: Place, source: Place) -> None:
    """The valid elements of `source` into a tile of its shape; the rest of the tile stays."""
    _Turner(owner, target, source).axis(0, ())


class _Turner:
    """The loops around one copy."""

    def __init__(self, owner: FunctionEmitter, target: Place, source: Place) -> None:
        self.owner, self.b, self.target, self.source = owner, owner.b, target, source
        nbytes, self.last = source.dtype.nbytes, len(source.shape) - 1
        self.deep = GRANULE // nbytes
        self.wide = self.deep * owner.machine.vector_bits // 128
        while self.wide > max(self.deep, source.shape[-1]):
            self.wide //= 2
        dense = [
            axis
            for axis in range(self.last)
            if source.strides[axis] == nbytes and source.shape[axis] >= self.deep
        ]
        self.dense = dense[0] if dense and source.shape[-1] >= self.wide else None

    def axis(self, number: int, done: Indices) -> None:
        """Loops over the axes from `number` on that are not turned, then what is inside them."""
        if number == self.dense or (number == self.last and self.dense is not None):
            self.axis(number + 1, (*done, 0))
        elif number <= self.last:
            with counted(self.b, 0, value_of(self.source.valid[number]), name="at") as loop:
                self.axis(number + 1, (*done, loop.i))
        elif self.dense is None:
            self.element(done)
        else:
            self.plane(done, self.dense)

    def plane(self, at: Indices, dense: int) -> None:
        """Squares as far as they go, then the edges."""

        def here(i: ir.Value, j: ir.Value) -> Indices:
            return (*at[:dense], i, *at[dense + 1 : self.last], j)

        b, ends = self.b, (self.source.valid[dense], self.source.valid[self.last])
        rows, columns = map(value_of, ends)
        whole_rows = self.whole(ends[0], self.deep)
        whole_columns = self.whole(ends[1], self.wide)
        with (
            counted(b, 0, whole_columns, self.wide, name="column") as over,
            counted(b, 0, whole_rows, self.deep, name="row") as down,
        ):
            self.square(here(down.i, over.i), dense)
        for first, end, left in (
            (whole_rows, rows, const(I64, 0)),
            (const(I64, 0), whole_rows, whole_columns),
        ):
            with (
                counted(b, first, end, name="row") as down,
                counted(b, left, columns, name="column") as over,
            ):
                self.element(here(down.i, over.i))

    def whole(self, count: Extent, step: int) -> ir.Value:
        """`count` less what a last step would not fill."""
        if isinstance(count, int):
            return const(I64, count // step * step)
        return self.b.and_(count, const(I64, -step))

    def element(self, at: Indices) -> None:
        b = self.b
        element = b.load(self.source.at(b, at), typ=memory_type(self.source.dtype))
        b.store(element, self.target.at(b, at))

    def square(self, at: Indices, dense: int) -> None:
        """`deep` elements along the dense axis by `wide` columns from `at` on."""
        b, nbytes = self.b, self.source.dtype.nbytes
        kind = vector(ir.IntType(8 * nbytes), self.deep)

        def piece(column: int) -> ir.Value:
            place = (*at[:-1], b.add(value_of(at[-1]), const(I64, column)))
            load = b.load(self.source.at(b, place), typ=kind)
            load.align = nbytes
            return load

        parts = self.wide // self.deep
        lanes = []
        for k in range(self.deep):
            pieces = [piece(k + self.deep * part) for part in range(parts)]
            while len(pieces) > 1:
                count = range(2 * pieces[0].type.count)
                pieces = [
                    shuffle(b, x, y, count) for x, y in zip(pieces[::2], pieces[1::2], strict=True)
                ]
            lanes += pieces
        for c, row in enumerate(self.turned(lanes)):
            place = list(at)
            place[dense] = b.add(value_of(at[dense]), const(I64, c))
            b.store(row, self.target.at(b, place)).align = nbytes

    def turned(self, rows: list[ir.Value]) -> list[ir.Value]:
        """The square in each 16 bytes of the vectors, its rows as columns."""
        half, count = self.deep // 2, rows[0].type.count
        starts = range(0, count, self.deep)
        low, high = (
            [
                lane
                for s in starts
                for i in range(half)
                for lane in (s + first + i, count + s + first + i)
            ]
            for first in (0, half)
        )
        for _ in range(self.deep.bit_length() - 1):
            rows = [
                shuffle(self.b, x, y, order)
                for x, y in zip(rows[:half], rows[half:], strict=True)
                for order in (low, high)
            ]
        return rows
