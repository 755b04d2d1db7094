"""Random valid programs whose results do not depend on the order of a sum.

Sums and products are taken of small whole numbers only (INT8 cast to what is needed), so both ways of
running give the same bits, and so does the interpreter after every pass. What a window does not cover
is tracked as the front end does, and never reaches an output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

import torch

from tilewright.dtypes import BF16, FP16, FP32, INDEX, INT8, INT16, INT32, DType
from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Param, Value, index
from tilewright.ir.ops.elementwise import ROUNDING_MODES
from tilewright.ir.types import ScalarType, TensorType, TileType, tensor_type

ROWS = (1, 2, 3, 5, 6, 7, 8, 13, 16, 20)
COLUMNS = (1, 2, 4, 6, 8, 15, 16, 17, 32, 33, 40, 64, 65, 80, 130)
SHARED_COLUMNS = (64, 96, 128, 192)  # of tensors that parallel loops share out by columns
DEPTHS = (8, 32, 64, 96, 33)  # K of products that read their operands from memory
DTYPES = (FP32, FP32, FP32, BF16, FP16, INT8, INT32, INT16)
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum")
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
    left: Operand | None = None  # how many of `rows` there are, where the last block may overhang
    sums: list[Value] = field(default_factory=list)  # tensors that iterations only add to
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
            self.left,
            list(self.sums),
            self.depth + 1,
        )


@dataclass(frozen=True)
class Program:
    """A function and arguments for it."""

    function: Function
    args: list[torch.Tensor | int]


class Author:
    """Writes one program, drawing every choice from `random`."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.b = Builder()
        self.params: list[Param] = []
        self.args: list[torch.Tensor | int] = []
        self.generator = torch.Generator().manual_seed(random.randrange(1 << 16))
        self.height = random.choice(
            (4, 8, 12, 24, 26, 39)
        )  # rows of tensors that parallel loops share
        self.private: Value | None = None  # a tensor of the current iteration
        self.factors: list[
            tuple[Value, Value]
        ] = []  # left and right sides that products read in place

    def pick(self, choices: Sequence):
        return choices[self.random.randrange(len(choices))]

    def often(self, percent: int) -> bool:
        return self.random.randrange(100) < percent

    # The whole

    def program(self) -> Program:
        scope = Scope()
        for _ in range(2 + self.random.randrange(3)):
            rows = self.height if self.often(50) else self.pick(ROWS)
            scope.readable.append(self.tensor((rows, self.pick(COLUMNS)), self.pick(DTYPES)))
        for _ in range(2):
            value = self.b.fresh(ScalarType(INDEX), "p")
            self.params.append(Param(value))
            self.args.append(self.random.randrange(40))
            scope.scalars.append((value, -(1 << 40), 1 << 40))
        for _ in range(2 + self.random.randrange(2)):
            width = self.pick(SHARED_COLUMNS if self.often(50) else COLUMNS)
            tensor = self.tensor((self.height, width), self.pick(DTYPES))
            scope.writable.append(tensor)
            scope.readable.append(tensor)
        for _ in range(self.random.randrange(3)):
            depth, dtype = self.pick(DEPTHS), self.pick((INT8, BF16, FP32, FP16))
            left = self.tensor((self.height, depth), dtype, small=True)
            self.factors.append(
                (left, self.tensor((depth, self.pick(SHARED_COLUMNS)), dtype, small=True))
            )
        for _ in range(2 + self.random.randrange(4)):
            self.segment(scope)
        self.b.op("return", ())
        body = Block((), self.b.ops)
        return Program(Function("fuzzed", tuple(self.params), body), self.args)

    def tensor(self, shape: tuple[int, ...], dtype: DType, small: bool = False) -> Value:
        """A parameter with contents; `small` whole numbers for the sides of products."""
        value = self.b.fresh(tensor_type(shape, dtype), "x")
        self.params.append(Param(value))
        contents = self.contents(shape, dtype)
        if small:
            kind = getattr(torch, str(dtype.torch))
            contents = torch.randint(-3, 4, shape, generator=self.generator).to(kind)
        self.args.append(contents)
        return value

    def contents(self, shape: tuple[int, ...], dtype: DType) -> torch.Tensor:
        kind = getattr(torch, str(dtype.torch))
        whole = torch.randint(-128, 128, shape, generator=self.generator)
        if not dtype.is_float:
            return whole.to(kind)
        x = torch.randn(shape, generator=self.generator)
        return torch.where(whole % 3 == 0, whole.float() / 4, x).to(kind)

    # Orchestration

    def segment(self, scope: Scope) -> None:
        what = self.random.randrange(14)
        if what in (10, 11, 12) and scope.depth == 0:
            self.parallel_columns(scope)
        elif what in (0, 13) and scope.depth == 0:
            shape = (self.height, self.pick(SHARED_COLUMNS if self.often(60) else COLUMNS))
            fresh = self.b.value("create", (), "t", shape=shape, dtype=self.pick(DTYPES), value=0)
            scope.readable.append(fresh)
            scope.writable.append(fresh)
        elif what in (1, 2, 3) and scope.depth == 0:
            sizes = [n for n in (1, 2, 3, 4, 6, 13) if self.height % n == 0]
            size = self.pick(sizes)
            bounds: tuple[Operand, Operand] = (index(0), index(self.height))
            tail = self.often(35)
            if tail:
                size = self.pick((3, 4, 5, 7, 8, 16))
                bounds = (
                    self.clamped(scope, 0, self.height) if self.often(40) else index(0),
                    self.clamped(scope, 0, self.height) if self.often(40) else index(self.height),
                )
            for _ in range(1 + self.random.randrange(2)):  # loops of equal bounds may become one
                self.parallel(scope, size, bounds, tail)
        elif what == 4 and scope.depth < 2:
            self.sequential(scope)
        elif what == 5 and scope.depth < 2:
            self.branch(scope)
        elif what == 6 and scope.depth == 0:
            self.view(scope)
        else:
            self.region(scope)

    def region(self, scope: Scope) -> None:
        inner = scope.inner()
        with self.b.block() as ops:
            self.statements(inner)
            leaving = [self.pick(inner.tiles)] if inner.tiles and self.often(30) else []
            leaving = [t for t in leaving if t not in scope.tiles and t.valid is None]
            self.b.op("yield", [t.value for t in leaving])
        op = self.b.structured(
            "at", (), [Block((), tuple(ops))], [t.value.type for t in leaving], name="region"
        )
        scope.tiles += [Tile(v) for v in op.results]

    def statements(self, scope: Scope) -> None:
        for _ in range(1 + self.random.randrange(9)):
            self.statement(scope)
        for _ in range(1 + self.random.randrange(2)):
            self.store(scope)

    def parallel(
        self, scope: Scope, size: int, bounds: tuple[Operand, Operand], tail: bool
    ) -> None:
        """Rows in blocks; an iteration writes its own rows only, and reads what nobody else writes.

        tail: the last block may reach past the end, and only some of its rows are valid.
        """
        variable = self.b.fresh(ScalarType(INDEX), "i")
        inner = scope.inner()
        inner.rows = (variable, size)
        inner.scalars.append((variable, 0, self.height - (1 if tail else size)))
        self.claim(scope, inner, [t for t in scope.writable if self.is_whole(t)])
        with self.b.block() as ops:
            if tail:
                inner.left = self.b.min(self.b.sub(bounds[1], variable), index(size))
            if self.often(30):
                mine = self.b.value(
                    "create",
                    (),
                    "t",
                    shape=(size, self.pick(COLUMNS)),
                    dtype=self.pick(DTYPES),
                    value=0,
                )
                inner.readable.append(mine)
                self.private = mine
            self.region(inner)
            if self.often(40):
                self.region(inner)
            self.b.op("yield", ())
        kind = self.pick(("parallel", "spmd"))
        operands = (*bounds, index(size))
        self.b.structured("for", operands, [Block((variable,), tuple(ops))], kind=kind)

    def claim(self, scope: Scope, inner: Scope, whole: list[Value]) -> None:
        """Let a parallel loop write one or two of these tensors; nobody reads what others write of them."""
        written = [self.pick(whole) for _ in range(1 + self.random.randrange(2))] if whole else []
        if self.often(25):
            inner.sums = [self.sum_of(scope, written)]
        roots = {self.root(t) for t in (*written, *inner.sums)}
        inner.writable = written
        inner.readable = [t for t in scope.readable if t in written or self.root(t) not in roots]

    def sum_of(self, scope: Scope, written: list[Value]) -> Value:
        """A tensor that iterations add to: of integers, which wrap, or zeros that get whole numbers only."""
        roots = {self.root(t) for t in written}
        integers = [
            t for t in scope.writable if not t.type.dtype.is_float and self.root(t) not in roots
        ]
        if integers and self.often(60):
            return self.pick(integers)
        shape = (self.pick(ROWS), self.pick(COLUMNS))
        total = self.b.value("create", (), "t", shape=shape, dtype=FP32, value=0)
        scope.readable.append(total)
        return total

    def add_to_sum(self, scope: Scope) -> None:
        """An atomic store to anywhere in a tensor that this loop only adds to."""
        target = self.pick(scope.sums)
        rows, columns = target.type.shape
        fitting = [
            t
            for t in scope.tiles
            if len(t.shape) == 2 and t.shape[0] <= rows and t.shape[1] <= columns
        ]
        if not fitting:
            return
        tile = self.pick(fitting)
        dtype = target.type.dtype
        value = self.small(tile, dtype)
        h, w = tile.shape
        at = [self.offset(scope, rows - h), self.offset(scope, columns - w)]
        self.b.op("store", [value, target, *at, *tile.extents], shape=(h, w), atomic="add")

    def parallel_columns(self, scope: Scope) -> None:
        """Columns in blocks; mostly products of factors in memory, a stretch of K at a time or at once."""
        wide = [t for t in scope.writable if self.is_whole(t) and t.type.shape[1] in SHARED_COLUMNS]
        if not wide:
            return
        columns = self.pick(wide).type.shape[1]
        size = self.pick([n for n in (8, 16, 32, 64, 96) if columns % n == 0])
        for _ in range(1 + self.random.randrange(2)):
            variable = self.b.fresh(ScalarType(INDEX), "j")
            inner = scope.inner()
            inner.columns = (variable, size)
            inner.scalars.append((variable, 0, columns - size))
            self.claim(scope, inner, [t for t in wide if t.type.shape[1] == columns])
            with self.b.block() as ops:
                with self.b.block() as body:
                    if self.often(80):
                        self.product_in_memory(inner)
                    for _ in range(self.random.randrange(5)):
                        self.statement(inner)
                    for _ in range(1 + self.random.randrange(2)):
                        self.store(inner)
                    self.b.op("yield", ())
                self.b.structured("at", (), [Block((), tuple(body))], (), name="columns")
                self.b.op("yield", ())
            bounds = (index(0), index(columns), index(size))
            kind = self.pick(("parallel", "spmd", "range"))
            self.b.structured("for", bounds, [Block((variable,), tuple(ops))], kind=kind)

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

    def maximum_of(self, scope: Scope, x: Operand) -> int:
        return next(most for value, _, most in scope.scalars if value == x)

    def sequential(self, scope: Scope) -> None:
        """A loop that may carry tiles."""
        trips = self.random.randrange(4)
        count: Operand = index(trips)
        if self.often(40):
            count = self.clamped(scope, 0, 3)
            trips = 3
        carried = [t for t in scope.tiles if t.valid is None]
        carried = [self.pick(carried) for _ in range(self.random.randrange(3))] if carried else []
        variable = self.b.fresh(ScalarType(INDEX), "k")
        args = [self.b.fresh(t.value.type, "c") for t in carried]
        inner = scope.inner()
        inner.scalars.append((variable, 0, max(0, trips - 1)))
        inner.tiles += [Tile(a) for a in args]
        with self.b.block() as ops:
            if carried or self.often(50):
                self.statements(inner)
            else:
                self.region(inner)
            yields = [self.like(inner, a.type) for a in args]
            self.b.op("yield", yields)
        kind = self.pick(("range", "range", "pipeline", "unroll"))
        operands = (index(0), count, index(1), *(t.value for t in carried))
        types = [a.type for a in args]
        op = self.b.structured(
            "for", operands, [Block((variable, *args), tuple(ops))], types, kind=kind
        )
        scope.tiles += [Tile(v) for v in op.results]

    def like(self, scope: Scope, kind: TileType) -> Value:
        """A tile of this very type, new ones first."""
        fitting = [t.value for t in scope.tiles if t.value.type == kind and t.valid is None]
        return fitting[-1 - self.random.randrange(min(3, len(fitting)))]

    def branch(self, scope: Scope) -> None:
        condition = self.b.value(
            self.pick(("s.lt", "s.ge", "s.eq")),
            [self.pick(scope.scalars)[0], index(self.random.randrange(30))],
            "c",
        )
        merged = [t for t in scope.tiles if t.valid is None]
        merged = [self.pick(merged)] if merged and self.often(60) else []
        blocks = []
        for _ in range(2):
            inner = scope.inner()
            with self.b.block() as ops:
                if self.often(70):
                    self.statements(inner)
                self.b.op("yield", [self.like(inner, t.value.type) for t in merged])
            blocks.append(Block((), tuple(ops)))
        op = self.b.structured("if", [condition], blocks, [t.value.type for t in merged])
        scope.tiles += [Tile(v) for v in op.results]

    def view(self, scope: Scope) -> None:
        """Another name for memory."""
        source = self.pick(scope.readable)
        rows, columns = source.type.shape
        if self.often(50):
            h, w = 1 + self.random.randrange(rows), 1 + self.random.randrange(columns)
            offsets = [self.offset(scope, rows - h), self.offset(scope, columns - w)]
            made = self.b.value("window", [source, *offsets], "w", shape=(h, w))
        elif self.often(50) and source.type.is_contiguous:
            shape = self.pick(
                [s for s in ((1, rows * columns), (columns, rows)) if s != (rows, columns)]
                or [(rows, columns)]
            )
            made = self.b.value("reshape_view", [source], "v", shape=shape)
        else:
            made = self.b.value("transpose_view", [source], "v", axis1=0, axis2=1)
            scope.readable.append(made)
            return
        scope.readable.append(made)
        if source in scope.writable:
            scope.writable.append(made)

    def is_whole(self, tensor: Value) -> bool:
        """True for a tensor with the rows that a parallel loop shares out, not a view of one."""
        assert isinstance(tensor.type, TensorType)
        made = self.maker(tensor)
        return tensor.type.shape[0] == self.height and (made is None or made.name == "create")

    def maker(self, value: Value) -> Op | None:
        for ops in self.b._blocks:
            for op in ops:
                if value in op.results:
                    return op
        return None

    def root(self, tensor: Value) -> Value:
        made = self.maker(tensor)
        return tensor if made is None or made.name == "create" else self.root(made.operands[0])  # type: ignore[arg-type]

    # Scalars

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

    # Statements

    def statement(self, scope: Scope) -> None:
        if not scope.tiles or self.often(22):
            self.load(scope)
            return
        choices = (
            self.unary, self.binary, self.binary, self.binary, self.cast, self.cast, self.reduce, self.reduce,
            self.broadcast, self.pattern, self.extract, self.insert, self.shape, self.pad, self.choose,
            self.product, self.product, self.scalars, self.gather, self.made,
        )  # fmt: skip
        made = self.pick(choices)(scope)
        if made is not None:
            scope.tiles.append(made)

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
        if scope.left is not None and scope.rows is not None and start is scope.rows[0]:
            rows_there, columns_there = valid or (index(h), index(w))
            valid = (self.b.min(scope.left, rows_there), columns_there)
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
        if scope.sums and self.often(30):
            self.add_to_sum(scope)
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
        counts = tile.extents
        if scope.rows is None or target in private:
            start = self.offset(scope, rows - h)
        elif scope.left is not None:
            start = scope.rows[0]
            counts[0] = self.b.min(counts[0], scope.left)
        else:
            start = self.b.add(scope.rows[0], index(self.random.randrange(limit - h + 1)))
        at = [start, self.offset(scope, columns - w)]
        if scope.columns is not None:
            at[1] = self.b.add(scope.columns[0], index(self.random.randrange(across - w + 1)))
        attrs = {}
        if self.often(6) and not target.type.dtype.is_float and not scope.shared:
            attrs["atomic"] = "add"
        self.b.op("store", [value, target, *at, *counts], shape=(h, w), **attrs)

    def is_private(self, tensor: Value) -> bool:
        made = self.maker(tensor)
        return made is not None and made.name == "create" and tensor is self.private

    def unary(self, scope: Scope) -> Tile:
        x = self.tile(scope)
        names = EXACT_UNARY if x.dtype.is_float else ("neg", "abs", "relu")
        return Tile(self.op(self.pick(names), x.value), x.valid)

    def binary(self, scope: Scope) -> Tile:
        x = self.tile(scope)
        name = self.pick(BINARY)
        if self.often(15):
            name = "cmp"
        attrs = {"kind": self.pick(("eq", "ne", "lt", "le", "gt", "ge"))} if name == "cmp" else {}
        partners = [t for t in scope.tiles if t.dtype == x.dtype and self.broadcasts(x, t)]
        if not partners or self.often(25):
            y: Operand = (
                Const(self.pick((0.5, -2.0, 3.0)), FP32)
                if x.dtype.is_float
                else Const(self.pick((2, -3, 1)), x.dtype)
            )
            return Tile(self.op(name, x.value, y, **attrs), x.valid)
        y = self.pick(partners[-5:]).value
        return Tile(self.op(name, x.value, y, **attrs), x.valid)

    @staticmethod
    def broadcasts(x: Tile, y: Tile) -> bool:
        """Whether `y` goes with `x` into a tile of x's shape, valid where x is."""
        if len(x.shape) != len(y.shape):
            return False
        fits = all(n in (1, m) for m, n in zip(x.shape, y.shape, strict=True))
        return fits and (y.valid is None or (y.valid == x.valid and y.shape == x.shape))

    def cast(self, scope: Scope) -> Tile | None:
        x = self.tile(scope)
        to = self.pick(DTYPES)
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
        made = self.op(name, value, *x.extents)
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

    def same_type(self, scope: Scope, x: Tile) -> Tile:
        fitting = [t for t in scope.tiles if t.value.type == x.value.type and t.valid is None]
        return self.pick(fitting) if fitting else x

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

    def made(self, scope: Scope) -> Tile:
        if self.often(50):
            return Tile(
                self.op(
                    "full",
                    shape=(self.pick(ROWS), self.pick(COLUMNS)),
                    dtype=self.pick(DTYPES),
                    value=self.random.randrange(-4, 5),
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


@contextmanager
def shown(program: Program) -> Iterator[None]:
    """Add the program's text to what fails inside."""
    from tilewright.ir.printer import to_text

    try:
        yield
    except Exception as error:
        error.add_note(to_text(program.function))
        raise


def write_program(random: Random) -> Program:
    return Author(random).program()
