"""Random element-wise operators, casts and reductions."""

from __future__ import annotations

from fuzz_base import COLUMNS, EXACT_UNARY, INSIDE, ROWS, Draws, Scope, Tile

from tilewright.dtypes import BF16, FP16, FP32, INT8, DType
from tilewright.ir.nodes import Const, Operand, Value, index
from tilewright.ir.ops.elementwise import ARITHMETIC, BINARY, ROUNDING_MODES


class Elementwise(Draws):
    def unary(self, scope: Scope) -> Tile:
        x = self.tile(scope)
        names = EXACT_UNARY if x.dtype.is_float else ("neg", "abs", "relu", "not_")
        return Tile(self.op(self.pick(names), x.value), x.valid)

    def binary(self, scope: Scope) -> Tile:
        x = self.tile(scope)
        name = self.pick(ARITHMETIC if x.dtype.is_float else BINARY)
        if self.often(15):
            name = "cmp"
        attrs = {"kind": self.pick(("eq", "ne", "lt", "le", "gt", "ge"))} if name == "cmp" else {}
        partners = [t for t in scope.tiles if t.dtype == x.dtype and self.broadcasts(x, t)]
        if not partners or self.often(25):
            y: Operand = (
                Const(self.pick((0.5, -2.0, 3.0)), FP32)
                if x.dtype.is_float
                else Const(self.pick((2, -3 if x.dtype.is_signed else 3, 1)), x.dtype)
            )
            return Tile(self.op(name, x.value, y, **attrs), x.valid)
        y = self.pick(partners[-5:]).value
        return Tile(self.op(name, x.value, y, **attrs), x.valid)

    def cast(self, scope: Scope) -> Tile | None:
        x = self.tile(scope)
        to = self.pick(INSIDE)
        if to == x.dtype:
            return None
        return Tile(self.op("cast", x.value, to=to, mode=self.pick(ROUNDING_MODES)), x.valid)

    def small(self, x: Tile, dtype: DType) -> Value:
        """The tile as whole numbers between -128 and 127, in `dtype`."""
        value = x.value
        if x.dtype != INT8:
            value = self.op("cast", value, to=INT8, mode="rint")
        return value if dtype == INT8 else self.op("cast", value, to=dtype, mode="none")

    def reduce(self, scope: Scope) -> Tile:
        x = self.tile(scope)
        name = self.pick(
            ("row_sum", "row_max", "row_min", "row_max", "col_sum", "col_max", "col_min")
        )
        value = x.value
        if name.endswith("sum") and x.dtype.is_float:
            value = self.small(x, self.pick((FP32, FP32, BF16, FP16)))
        tree = name == "col_sum" and value.type.dtype == FP16 and self.often(50)
        made = self.op(name, value, *x.extents, tree=tree or None)
        if x.valid is None:
            return Tile(made)
        if name.startswith("row"):
            return Tile(made, (x.valid[0], index(1)))
        return Tile(made, (index(1), x.valid[1]))

    def broadcast(self, scope: Scope) -> Tile | None:
        x = self.tile(scope, full=True)
        if len(x.shape) != 2 or 1 not in x.shape:
            return None
        h = self.pick(ROWS) if x.shape[0] == 1 else x.shape[0]
        w = self.pick(COLUMNS) if x.shape[1] == 1 else x.shape[1]
        return Tile(self.op("broadcast", x.value, shape=(h, w)))

    def pad(self, scope: Scope) -> Tile:
        partial = [t for t in scope.tiles if t.valid is not None]
        x = self.pick(partial) if partial else self.tile(scope, full=True)
        valid = x.valid
        if valid is None:
            rows, columns = (self.clamped(scope, 0, n) for n in x.shape)
            valid = (rows, columns)
        return Tile(self.op("fillpad", x.value, *valid, value=self.random.randrange(5)))

    def choose(self, scope: Scope) -> Tile:
        x = self.tile(scope, full=True)
        other = self.same_type(scope, x)
        masks = [
            t
            for t in scope.tiles
            if t.valid is None and len(t.shape) == len(x.shape) and self.broadcasts(x, t)
        ]
        mask = self.pick(masks) if masks else x
        return Tile(self.op("sel", mask.value, x.value, other.value))
