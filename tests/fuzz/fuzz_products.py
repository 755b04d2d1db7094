"""Random products, of tiles and of matrices in memory."""

from __future__ import annotations

from fuzz_base import COLUMNS, Scope, Tile
from fuzz_elementwise import Elementwise

from tilewright.dtypes import BF16, FP16, FP32, INDEX, INT8, INT32
from tilewright.ir.nodes import Block, Operand, index
from tilewright.ir.types import ScalarType, TileType


class Products(Elementwise):
    def product(self, scope: Scope) -> Tile | None:
        a = self.tile(scope, full=True)
        if len(a.shape) != 2 or a.shape[0] * a.shape[1] > 4000:
            return None
        dtype = self.pick((INT8, BF16, FP32, FP16))
        a_trans = self.often(15)
        m, k = a.shape[::-1] if a_trans else a.shape
        if k > 1000:  # 1000 * 128 * 128 is below 2^24: every sum is exact
            return None
        fitting = [
            t
            for t in scope.tiles
            if t.valid is None
            and len(t.shape) == 2
            and k in t.shape
            and t.shape[0] * t.shape[1] <= 8000
        ]
        if fitting and self.often(70):
            b = self.pick(fitting)
        else:
            b = Tile(
                self.op(
                    "full",
                    shape=(k, self.pick(COLUMNS)),
                    dtype=dtype if dtype != INT8 else INT8,
                    value=2,
                )
            )
        b_trans = b.shape[0] != k
        n = b.shape[0] if b_trans else b.shape[1]
        left, right = self.small(a, dtype), self.small(b, dtype)
        counts: list[Operand] = [index(m), index(k), index(n)]
        if self.often(20):
            counts = [self.clamped(scope, 0, size) for size in (m, k, n)]
        attrs = {"a_trans": a_trans or None, "b_trans": b_trans or None}
        if self.often(30):
            kind = INT32 if dtype == INT8 else FP32
            fitting = [
                t
                for t in scope.tiles
                if t.value.type == TileType((m, n), INT32) and t.valid is None
            ]
            if kind == INT32 and fitting:
                acc = self.pick(fitting).value
            else:
                acc = self.op("full", shape=(m, n), dtype=kind, value=1)
            return Tile(self.op("matmul_acc", acc, left, right, *counts, **attrs))
        return Tile(self.op("matmul", left, right, *counts, **attrs))

    def product_in_memory(self, scope: Scope) -> None:
        """All rows of a left side times a window of columns of a right side."""
        assert scope.columns is not None
        fitting = [f for f in self.factors if f[1].type.shape[1] >= scope.columns[1]]
        if not fitting:
            return
        left, right = self.pick(fitting)
        m, depth = left.type.shape
        n = right.type.shape[1]
        variable, size = scope.columns
        within = self.maximum_of(scope, variable) + size <= n
        column: Operand = variable if within else self.offset(scope, n - size)
        step = self.pick([k for k in (depth, depth, 8, 16, 32) if depth % k == 0])
        acc = TileType((m, size), INT32 if left.type.dtype == INT8 else FP32)

        def sides(k: Operand) -> list[Operand]:
            a = self.b.value(
                "load", [left, index(0), k, index(m), index(step)], "a", shape=(m, step)
            )
            b = self.b.value(
                "load", [right, k, column, index(step), index(size)], "b", shape=(step, size)
            )
            return [a, b, index(m), index(step), index(size)]

        if step == depth and self.often(80):
            result = self.op("matmul", *sides(index(0)))
        else:
            start = self.op(
                "full", shape=acc.shape, dtype=acc.dtype, value=self.random.randrange(2)
            )
            k = self.b.fresh(ScalarType(INDEX), "k")
            carried = self.b.fresh(acc, "acc")
            with self.b.block() as ops:
                operands = sides(k)
                if self.often(50):
                    first = self.b.value("s.eq", [k, index(0)], "first")
                    blocks = []
                    for name, before in (("matmul", []), ("matmul_acc", [carried])):
                        with self.b.block() as arm:
                            self.b.op("yield", [self.op(name, *before, *operands)])
                        blocks.append(Block((), tuple(arm)))
                    (following,) = self.b.structured("if", [first], blocks, [acc]).results
                else:
                    following = self.op("matmul_acc", carried, *operands)
                self.b.op("yield", [following])
            bounds = (index(0), index(depth), index(step), start)
            kind = self.pick(("range", "pipeline"))
            (result,) = self.b.structured(
                "for", bounds, [Block((k, carried), tuple(ops))], [acc], kind=kind
            ).results
        scope.tiles.append(Tile(result))
