"""Random moves: patterns, windows, shapes."""

from __future__ import annotations

from fuzz_base import PATTERNS, Draws, Scope, Tile


class Moves(Draws):
    def pattern(self, scope: Scope) -> Tile | None:
        x = self.tile(scope, full=True)
        if len(x.shape) != 2:
            return None
        what = self.random.randrange(3)
        if what == 0:
            partner = self.same_type(scope, x)
            return Tile(self.op("interleave", x.value, partner.value))
        stride = 4 if x.shape[1] % 4 == 0 and self.often(40) else 2
        if x.shape[1] % stride:
            return None
        pattern = self.pick(PATTERNS[stride])
        picked = Tile(self.op("gather_mask", x.value, pattern=pattern))
        if what == 1:
            return picked
        new = self.op("neg", picked.value)
        into = self.op("scatter_mask", new, x.value, pattern=self.pick(PATTERNS[stride]))
        if stride == 2 and self.often(60):
            into = self.op("scatter_mask", picked.value, into, pattern=self.pick(PATTERNS[2]))
        return Tile(into)

    def extract(self, scope: Scope) -> Tile | None:
        x = self.tile(scope, full=True)
        if len(x.shape) != 2:
            return None
        rows, columns = x.shape
        h = rows if self.often(50) else 1 + self.random.randrange(rows)
        w = columns if self.often(20) else 1 + self.random.randrange(columns)
        at = [self.offset(scope, rows - h), self.offset(scope, columns - w)]
        return Tile(self.op("extract", x.value, *at, shape=(h, w)))

    def insert(self, scope: Scope) -> Tile | None:
        x = self.tile(scope, full=True)
        if len(x.shape) != 2:
            return None
        fitting = [
            t for t in scope.tiles
            if t.dtype == x.dtype and len(t.shape) == 2 and all(n <= m for n, m in zip(t.shape, x.shape, strict=True))
        ]  # fmt: skip
        part = self.pick(fitting) if fitting else x
        if part.valid is not None and self.often(50):
            return None
        h, w = part.shape
        at = [self.offset(scope, x.shape[0] - h), self.offset(scope, x.shape[1] - w)]
        return Tile(self.op("insert", x.value, part.value, *at, *part.extents, shape=(h, w)))

    def shape(self, scope: Scope) -> Tile | None:
        x = self.tile(scope, full=True)
        if len(x.shape) != 2:
            return None
        rows, columns = x.shape
        what = self.random.randrange(4)
        if what == 0:
            return Tile(self.op("transpose", x.value, axis1=0, axis2=1))
        if what == 1:
            joined = [
                t
                for t in scope.tiles
                if t.dtype == x.dtype
                and t.valid is None
                and len(t.shape) == 2
                and t.shape[0] == rows
            ]
            return Tile(self.op("concat", x.value, self.pick(joined or [x]).value))
        shapes = [(1, rows * columns), (columns, rows), (rows * columns, 1)]
        if rows % 2 == 0:
            shapes.append((rows // 2, columns * 2))
        shape = self.pick(shapes)
        if shape == x.shape:
            return None
        return Tile(self.op("reshape", x.value, shape=shape))
