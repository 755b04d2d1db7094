"""Random programs from outside: parameters, regions, loops, branches, views."""

from __future__ import annotations

import torch
from fuzz_base import COLUMNS, DEPTHS, DTYPES, ROWS, SHARED_COLUMNS, Draws, Program, Scope, Tile

from tilewright.dtypes import BF16, BOOL, FP16, FP32, INDEX, INT8, DType
from tilewright.ir.nodes import Block, Function, Operand, Param, Value, index
from tilewright.ir.types import ScalarType, TensorType, tensor_type


class Orchestration(Draws):
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
        return Program(Function("fuzzed", tuple(self.params), body), self.args, self.astray)

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
            for _ in range(1 + self.random.randrange(2)):  # loops of equal bounds may become one
                self.parallel(scope, size)
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

    def parallel(self, scope: Scope, size: int) -> None:
        """Rows in blocks; an iteration writes its own rows only, and reads what nobody else writes."""
        variable = self.b.fresh(ScalarType(INDEX), "i")
        inner = scope.inner()
        inner.rows = (variable, size)
        inner.scalars.append((variable, 0, self.height - size))
        self.claim(scope, inner, [t for t in scope.writable if self.is_whole(t)])
        with self.b.block() as ops:
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
        bounds = (index(0), index(self.height), index(size))
        self.b.structured("for", bounds, [Block((variable,), tuple(ops))], kind=kind)

    def claim(self, scope: Scope, inner: Scope, whole: list[Value]) -> None:
        """Let a parallel loop write one or two of these tensors; nobody reads what others write of them."""
        written = [self.pick(whole) for _ in range(1 + self.random.randrange(2))] if whole else []
        roots = {self.root(t) for t in written}
        inner.writable = written
        inner.readable = [t for t in scope.readable if t in written or self.root(t) not in roots]

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
            yields: list[Operand] = [self.like(inner, a.type) for a in args]
            conditional = self.often(30)
            if conditional:
                yields = [*self.onward(variable, count), *yields]
            self.b.op("yield", yields)
        if conditional:
            self.conditional(scope, variable, count, carried, Block(tuple(args), tuple(ops)))
            return
        kind = self.pick(("range", "range", "pipeline", "unroll"))
        operands = (index(0), count, index(1), *(t.value for t in carried))
        types = [a.type for a in args]
        op = self.b.structured(
            "for", operands, [Block((variable, *args), tuple(ops))], types, kind=kind
        )
        scope.tiles += [Tile(v) for v in op.results]

    def onward(self, variable: Value, count: Operand) -> list[Operand]:
        """Whether there is another turn, and its number; some turns are the last before their time."""
        following = self.b.value("s.add", [variable, index(1)], "next")
        more = self.b.value("s.lt", [following, count], "more")
        if self.often(50):
            last = self.b.value("s.ne", [variable, index(self.random.randrange(3))], "on")
            more = self.b.value("s.and", [more, last], "more")
        return [more, following]

    def conditional(
        self, scope: Scope, variable: Value, count: Operand, carried: list[Tile], body: Block
    ) -> None:
        """The loop as one that does not know how often it turns."""
        go = self.b.fresh(ScalarType(BOOL), "go")
        first = self.b.value("s.lt", [index(0), count], "c")
        args = (go, variable, *body.args)
        operands = (first, index(0), *(t.value for t in carried))
        types = [a.type for a in args]
        op = self.b.structured("while", operands, [Block(args, body.ops)], types)
        scope.tiles += [Tile(v) for v in op.results[2:]]

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
