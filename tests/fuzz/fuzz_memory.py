"""Random loads and stores, fresh tiles, single elements."""

from __future__ import annotations

from fuzz_base import COLUMNS, DTYPES, ROWS, Draws, Scope, Tile

from tilewright.dtypes import FP32, INT16, INT32
from tilewright.ir.nodes import Operand, Value, index
from tilewright.ir.ops.elementwise import ROUNDING_MODES


class Memory(Draws):
    def load(self, scope: Scope) -> None:
        tensor = self.pick(scope.readable)
        rows, columns = tensor.type.shape
        if scope.rows is not None and (
            tensor in scope.writable or (rows == self.height and self.often(70))
        ):
            start, h = scope.rows
        else:
            h = rows if self.often(50) else 1 + self.random.randrange(rows)
            start = self.offset(scope, rows - h)
        w = columns if self.often(60) else 1 + self.random.randrange(columns)
        at = [start, self.offset(scope, columns - w)]
        if scope.columns is not None and tensor in scope.writable:
            at[1], w = scope.columns
        elif scope.columns is not None and self.often(60):
            first, size = scope.columns
            if self.maximum_of(scope, first) + size <= columns:
                at[1], w = first, size
        valid: tuple[Operand, Operand] | None = None
        if self.often(20):
            valid = (self.clamped(scope, 0, h), self.clamped(scope, 0, w))
        counts = valid or (index(h), index(w))
        value = self.b.value("load", [tensor, *at, *counts], "l", shape=(h, w))
        scope.tiles.append(Tile(value, None if valid == (index(h), index(w)) else valid))

    def store(self, scope: Scope) -> None:
        private = [
            t
            for t in scope.readable
            if scope.rows is not None and t.type.shape[0] == scope.rows[1] and self.is_private(t)
        ]
        targets = [*scope.writable, *private]
        if not targets:
            return
        target = self.pick(targets)
        rows, columns = target.type.shape
        limit = rows if scope.rows is None or target in private else scope.rows[1]
        across = columns if scope.columns is None else scope.columns[1]
        fitting = [
            t
            for t in scope.tiles
            if len(t.shape) == 2 and t.shape[0] <= limit and t.shape[1] <= across
        ]
        if not fitting:
            fitting = [
                Tile(
                    self.op(
                        "full",
                        shape=(limit, across),
                        dtype=target.type.dtype,
                        value=self.random.randrange(9),
                    )
                )
            ]
        tile = fitting[-1] if self.often(60) else self.pick(fitting)
        value = tile.value
        if tile.dtype != target.type.dtype:
            value = self.op("cast", value, to=target.type.dtype, mode=self.pick(ROUNDING_MODES))
        h, w = tile.shape
        if scope.rows is None or target in private:
            start = self.offset(scope, rows - h)
        else:
            start = self.b.add(scope.rows[0], index(self.random.randrange(limit - h + 1)))
        at = [start, self.offset(scope, columns - w)]
        if scope.columns is not None:
            at[1] = self.b.add(scope.columns[0], index(self.random.randrange(across - w + 1)))
        attrs = {}
        if self.often(6) and not scope.shared:
            attrs["atomic"] = "add"
        self.b.op("store", [value, target, *at, *tile.extents], shape=(h, w), **attrs)

    def is_private(self, tensor: Value) -> bool:
        made = self.maker(tensor)
        return made is not None and made.name == "create" and tensor is self.private

    def made(self, scope: Scope) -> Tile:
        if self.often(50):
            dtype = self.pick(DTYPES)
            low = 0 if dtype.is_integer and not dtype.is_signed else -4
            return Tile(
                self.op(
                    "full",
                    shape=(self.pick(ROWS), self.pick(COLUMNS)),
                    dtype=dtype,
                    value=self.random.randrange(low, 5),
                )
            )
        if self.often(50):
            start = self.clamped(scope, -5, 50)
            width = self.pick(COLUMNS[1:])
            down = True if self.often(30) else None
            return Tile(
                self.op(
                    "arange",
                    start,
                    shape=(1, width),
                    dtype=self.pick((INT16, INT32)),
                    descending=down,
                )
            )
        value = self.clamped(scope, -5, 50)
        return Tile(
            self.op(
                "splat",
                value,
                shape=(self.pick(ROWS), self.pick(COLUMNS)),
                dtype=self.pick((INT32, FP32)),
            )
        )

    def scalars(self, scope: Scope) -> Tile | None:
        """An element that becomes a scalar, put into a tile."""
        x = self.tile(scope, full=True)
        if x.dtype.is_float or len(x.shape) != 2:
            return None
        at = [self.offset(scope, n - 1) for n in x.shape]
        value = self.op("element", x.value, *at)
        if self.often(50):
            scope.scalars.append((value, -(1 << 40), 1 << 40))
            return None
        to = [self.offset(scope, n - 1) for n in x.shape]
        return Tile(self.op("with_element", x.value, value, *to))
