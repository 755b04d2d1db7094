"""Random gathers, scatters and sorts."""

from __future__ import annotations

from math import prod

from fuzz_base import Draws, Scope, Tile

from tilewright.dtypes import FP16, FP32, INT8, INT32, UINT32
from tilewright.ir.nodes import Const, Operand, Value, index
from tilewright.ir.types import TensorType


class Indices(Draws):
    def gather(self, scope: Scope) -> Tile | None:
        x = self.tile(scope, full=True)
        if len(x.shape) != 2:
            return None
        axis = self.random.randrange(2)
        count = (
            self.op("arange", index(0), shape=(1, x.shape[1] if axis == 0 else 20), dtype=INT32)
            if x.shape[1] > 1
            else None
        )
        if count is None:
            return None
        width = x.shape[1] if axis == 0 else 20
        where = self.op("broadcast", count, shape=(x.shape[0], width))
        high = self.op("minimum", where, Const(x.shape[axis] - 1, INT32))
        return Tile(self.op("gather", x.value, high, dim=axis))

    def numbers(self, shape: tuple[int, int], below: int) -> Value | None:
        """Indices that count along the columns, all below a number."""
        if shape[1] == 1:
            return None
        start = index(self.random.randrange(3))
        count = self.op("arange", start, shape=(1, shape[1]), dtype=INT32)
        wide = self.op("broadcast", count, shape=shape)
        return self.op("minimum", wide, Const(below - 1, INT32))

    def anything(self, x: Tile, below: int) -> Value:
        """The tile as indices below a number, or sometimes as ones that may well lie outside."""
        value = x.value if x.dtype == INT8 else self.op("cast", x.value, to=INT8, mode="rint")
        value = self.op("cast", value, to=INT32, mode="none")
        if self.often(30):
            self.astray = True
            return value
        value = self.op("maximum", value, Const(0, INT32))
        return self.op("minimum", value, Const(below - 1, INT32))

    def scatter(self, scope: Scope) -> Tile | None:
        x = self.tile(scope, full=True)
        if len(x.shape) != 2:
            return None
        source = self.same_type(scope, x)
        if self.often(50):
            axis = self.random.randrange(2)
            by = self.anything(x, x.shape[axis])
            return Tile(self.op("scatter", x.value, by, source.value, dim=axis))
        rows = x.shape[0]
        by = self.anything(x, rows)
        one = self.op("extract", by, index(0), index(0), shape=(rows, 1))
        one = self.op("reshape", one, shape=(1, rows)) if self.often(50) else one
        return Tile(self.op("scatter_rows", x.value, one, source.value))

    def find(self, scope: Scope) -> Tile | None:
        x = self.tile(scope)
        if len(x.shape) != 2:
            return None
        room = 1 + self.random.randrange(x.shape[1] + 3)
        return Tile(self.op("find", x.value, self.clamped(scope, -3, 9), *x.extents, count=room))

    def put(self, scope: Scope) -> None:
        """Elements stored by flat index, where no other iteration is in the way."""
        fitting = [t for t in scope.writable if self.is_contiguous(t) and not scope.shared]
        x = self.tile(scope)
        if not fitting or len(x.shape) != 2:
            return
        target = self.pick(fitting)
        dtype, value = target.type.dtype, x.value
        by = self.numbers(x.shape, prod(target.type.shape))
        if by is None:
            return
        if x.dtype != dtype:
            value = self.op("cast", value, to=dtype, mode="rint")
        self.b.op("mscatter", [target, value, by, *x.extents])

    @staticmethod
    def is_contiguous(tensor: Value) -> bool:
        assert isinstance(tensor.type, TensorType)
        return tensor.type.is_contiguous

    def sort(self, scope: Scope) -> Tile | None:
        """Pairs sorted within 32 columns, rows of them merged; or what they were made of."""
        x = self.tile(scope, full=True)
        if len(x.shape) != 2 or x.shape[1] % 32:
            return None
        kind = FP16 if x.dtype == FP16 else FP32
        value = x.value if x.dtype == kind else self.op("cast", x.value, to=kind, mode="rint")
        count = self.op("arange", index(0), shape=(1, x.shape[1]), dtype=UINT32)
        by = self.op("broadcast", count, shape=x.shape)
        pairs = self.op("sort32", value, by)
        if self.often(60):
            row = self.op(
                "extract",
                pairs,
                self.offset(scope, x.shape[0] - 1),
                index(0),
                shape=(1, pairs.type.shape[1]),
            )
            pairs = self.merged(row, 32 * 8 // kind.nbytes)
        if self.often(40):
            return Tile(pairs)
        pattern = "P0101" if kind == FP32 else "P0001"
        return Tile(self.op("gather_mask", pairs, pattern=pattern))

    def merged(self, row: Value, run: int) -> Value:
        """Sorted runs of `run` lanes, four into one, or a few of them as lists."""
        width = row.type.shape[1]
        if self.often(50) or width < 2 * run:
            return self.op("mrgsort", row, block_len=run)
        starts = [index(i) for i in range(0, width, run)]
        count = min(len(starts), 2 + self.random.randrange(3))
        lists: list[Operand] = [
            self.op("extract", row, index(0), self.pick(starts), shape=(1, run))
            for _ in range(count)
        ]
        return self.op("mrgsort", *lists)
