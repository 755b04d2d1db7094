"""Rows go through the cache a few at a time: a product and all that follows it, row tile by row tile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block, Function, Op, Operand, Value, index, make_attrs
from tilewright.ir.ops import lookup
from tilewright.ir.types import TensorType, TileType
from tilewright.ir.walk import definitions, free_values, names_in_use, root_tensor, uses
from tilewright.machine import Machine
from tilewright.passes.row_local import is_swept

PRODUCTS = ("matmul_packed", "matmul_packed_acc")

# Elements of the widest row that one task of a shared row loop works on: about 4 us, against 0.1 us for
# taking a task and a few us for the barrier behind the loop.
TASK_ELEMENTS = 16384


def block_rows(fn: Function, machine: Machine) -> Function:
    """Put row-wise work around a product into a loop over row tiles.

    Takes:  packed products and the row-wise ops before and after them, as one straight line.
    Gives:  the same values, bit for bit: a row is computed by the same ops in the same order. Tiles are
            balanced (128 rows in tiles of 6 at most are 22 tiles of 5 or 6), the work after a product finds it in
            the first cache, and outside parallel loops the row loop itself is parallel.
    Leaves: work whose rows are needed together afterwards, atomic stores, a single row tile.
    """
    blocker = _RowBlocker(fn, machine)
    return Function(fn.name, fn.params, blocker.block(fn.body, shared=False), fn.span)


@dataclass(frozen=True, slots=True)
class _Run:
    """A stretch of straight-line ops whose rows can be taken apart."""

    rows: int
    per_row: tuple[Op, ...]  # in order, to go into the loop
    before: tuple[Op, ...]  # what they need that has no rows


class _RowBlocker:
    def __init__(self, fn: Function, machine: Machine) -> None:
        self.machine = machine
        self.defined: Mapping = definitions(fn)
        self.readers = uses(fn)
        self.builder = Builder(names_in_use(fn))

    def block(self, block: Block, shared: bool) -> Block:
        """`shared`: some loop around is parallel, so the row loop stays on its thread."""
        ops: list[Op] = []
        pending: list[Op] = []
        for op in block.ops:
            if op.blocks or op.name in ("yield", "return"):
                ops += self.straight_line(pending, shared)
                pending = []
                inner_shared = shared or (op.name == "for" and op.attr("kind") in ("parallel", "spmd"))
                ops.append(replace(op, blocks=tuple(self.block(inner, inner_shared) for inner in op.blocks)))
            else:
                pending.append(op)
        ops += self.straight_line(pending, shared)
        return Block(block.args, tuple(ops))

    def straight_line(self, ops: list[Op], shared: bool) -> list[Op]:
        """Cut `ops` into runs, block those that gain from it."""
        start = 0
        out: list[Op] = []
        while start < len(ops):
            for stop in range(len(ops), start, -1):
                run = self.run(ops[start:stop], shared)
                if run is not None:
                    out += [*run.before, *self.loop(run, shared)]
                    break
            else:
                stop = start + 1
                out.append(ops[start])
            start = stop
        return out

    # Finding a run

    def run(self, ops: list[Op], shared: bool) -> _Run | None:
        """`ops` as a run, or None when they are none, or when taking rows apart gains nothing."""
        if ops[0].name not in ("load", "pack", *PRODUCTS) and not is_swept(ops[0]):
            return None
        products = [op for op in ops if op.name in PRODUCTS]
        stores = [op for op in ops if op.name == "store"]
        if not stores or not (products or not shared):
            return None
        anchor = products[0].result if products else stores[0].operands[0]
        rows = anchor.type.shape[0]  # type: ignore[union-attr]
        if len(anchor.type.shape) != 2 or rows <= (self.tile_rows() if products else 1):  # type: ignore[union-attr]
            return None
        per_row = self.closure(ops, rows)
        if per_row is None or not all(op in per_row for op in stores):
            return None
        before = tuple(op for op in ops if op not in per_row)
        if any(lookup(op.name).effect in ("write", "check") for op in before):
            return None
        made = {result for op in per_row for result in op.results}
        if any(x in made for op in before for x in free_values(op)):
            return None
        inside = {id(op) for op in ops}
        if any(id(reader) not in inside for value in made for reader in self.readers.get(value, ())):
            return None
        if self.memory_conflict(ops, stores):
            return None
        return _Run(rows, tuple(op for op in ops if op in per_row), before)

    def closure(self, ops: list[Op], rows: int) -> list[Op] | None:
        """The ops that carry rows, from the products and stores outwards; None when one mixes its rows."""
        makers = {result: op for op in ops for result in op.results}
        chosen = {id(op): op for op in ops if op.name in PRODUCTS or op.name == "store"}
        work = list(chosen.values())
        while work:
            op = work.pop()
            carried = self.row_operands(op, rows)
            if carried is None:
                return None
            linked = [makers[x] for x in carried if x in makers]
            linked += [reader for result in op.results for reader in ops if result in reader.operands]
            for other in linked:
                if id(other) not in chosen:
                    chosen[id(other)] = other
                    work.append(other)
        return list(chosen.values())

    def row_operands(self, op: Op, rows: int) -> list[Value] | None:
        """The operands of `op` that carry its rows; None when it is not row-local over `rows` rows."""
        if op.name == "load":
            return [] if self.row_axis(op, op.operands[0].type) is not None and self.has_rows(op.result, rows) else None
        if op.name in PRODUCTS:
            if not self.has_rows(op.result, rows):
                return None
            return [x for x in op.operands[:2] if isinstance(x, Value) and isinstance(x.type, TileType)]
        if not is_swept(op):
            return None
        if op.name == "store":
            good = self.has_rows(op.operands[0], rows) and self.row_axis(op, op.operands[1].type) is not None
            return [op.operands[0]] if good else None  # type: ignore[list-item]
        if not self.has_rows(op.result, rows):
            return None
        tiles = [x for x in op.operands if isinstance(x, Value) and isinstance(x.type, TileType)]
        return [x for x in tiles if len(x.type.shape) == 2 and x.type.shape[0] == rows]  # type: ignore[union-attr]

    @staticmethod
    def has_rows(x: Operand, rows: int) -> bool:
        return isinstance(x.type, TileType) and len(x.type.shape) == 2 and x.type.shape[0] == rows

    @staticmethod
    def row_axis(op: Op, tensor) -> int | None:
        """The tensor axis along which the tile's rows run; None when the tile is not 2-D."""
        assert isinstance(tensor, TensorType)
        kept = [axis for axis in range(len(tensor.shape)) if axis not in (op.attr("drop") or ())]
        return kept[0] if len(kept) == 2 else None

    def memory_conflict(self, ops: list[Op], stores: list[Op]) -> bool:
        """True when the run reads a tensor that it also writes, or writes one tensor in two shapes of window."""
        written = {root_tensor(op.operands[1], self.defined) for op in stores}  # type: ignore[arg-type]
        read = {root_tensor(op.operands[0], self.defined) for op in ops if op.name in ("load", "read")}  # type: ignore[arg-type]
        if written & read:
            return True
        by_root: dict[Value, set] = {}
        for op in stores:
            axis = self.row_axis(op, op.operands[1].type)
            start = op.operands[2 + axis]  # type: ignore[operator]
            by_root.setdefault(root_tensor(op.operands[1], self.defined), set()).add((op.operands[1], axis, start))  # type: ignore[arg-type]
        return any(len(starts) > 1 for starts in by_root.values())

    # Making the loop

    def tile_rows(self) -> int:
        """Rows of a register tile on this machine: 6 by 4 vectors fit 32 registers, 4 by 2 fit 16."""
        return 6 if self.machine.vector_bits >= 512 else 4

    def loop(self, run: _Run, shared: bool) -> list[Op]:
        """`for tile in …: r0 = …; the run on rows r0 … r0 + m`."""
        has_product = any(op.name in PRODUCTS for op in run.per_row)
        if has_product:
            most = self.tile_rows()
        else:
            widest = max(x.type.shape[-1] for op in run.per_row for x in (*op.results, *op.operands[:1]))  # type: ignore[union-attr]
            most = max(1, TASK_ELEMENTS // widest)
        tiles = -(-run.rows // most)
        if tiles < 2:
            return list(run.per_row)
        high = -(-run.rows // tiles)
        builder = self.builder
        builder.span = run.per_row[0].span
        i = builder.fresh(index(0).type, "row_tile")
        with builder.block() as body:
            r0 = builder.floordiv(builder.mul(i, index(run.rows)), index(tiles), hint="r0")
            r1 = builder.floordiv(builder.mul(builder.add(i, index(1)), index(run.rows)), index(tiles), hint="r1")
            m: Operand = builder.sub(r1, r0, hint="m")
            if run.rows % tiles == 0:
                r0, m = builder.mul(i, index(high), hint="r0"), index(high)
            sizes = tuple(sorted({run.rows // tiles, high}))
            mapping: dict[Value, Operand] = {}
            for op in run.per_row:
                self.shrink(op, mapping, run.rows, high, r0, m, sizes)
            builder.append(Op("yield", (), (), (), (), builder.span))
        block = Block((i,), tuple(body))
        attrs = make_attrs({"kind": "range" if shared else "parallel"})
        operands = (index(0), index(tiles), index(1))
        return [Op("for", operands, (), attrs, (block,), run.per_row[0].span)]

    def shrink(self, op: Op, mapping, rows: int, high: int, r0: Operand, m: Operand, sizes) -> None:
        """Append `op` for rows r0 … r0 + m, in tiles of `high` rows."""
        builder = self.builder
        builder.span = op.span
        operands = [mapping.get(x, x) if isinstance(x, Value) else x for x in op.operands]
        attrs = dict(op.attrs)
        if op.name in ("load", "store"):
            first = 1 if op.name == "load" else 2
            rank = len(operands[first - 1].type.shape)  # type: ignore[union-attr]
            axis = self.row_axis(op, operands[first - 1].type)
            at, valid = first + axis, first + rank + axis  # type: ignore[operator]
            operands[valid] = self.rest(operands[valid], rows, r0, m)
            operands[at] = builder.add(operands[at], r0, hint="row")
            shape = list(attrs["shape"])
            shape[axis] = high  # type: ignore[index]
            attrs["shape"] = tuple(shape)
        elif op.name in PRODUCTS:
            operands[-1] = self.rest(operands[-1], rows, r0, m)
            attrs["sizes"] = sizes
        elif op.name.startswith("row_") or op.name == "fillpad":
            operands[1] = self.rest(operands[1], rows, r0, m)
        if "shape" in attrs and op.name not in ("load", "store"):
            attrs["shape"] = (high, *attrs["shape"][1:])
        for i, x in enumerate(operands):  # rows of a tile made outside the run
            if isinstance(x, Value) and self.has_rows(x, rows) and (x in op.operands) and i < len(op.operands):
                window = (high, x.type.shape[1])  # type: ignore[union-attr]
                operands[i] = builder.value("extract", [x, r0, index(0)], x.name, shape=window)
        if op.name == "store":
            builder.op("store", operands, span=op.span, **attrs)
        else:
            mapping[op.result] = builder.value(op.name, operands, op.result.name, **attrs)

    def rest(self, valid: Operand, rows: int, r0: Operand, m: Operand) -> Operand:
        """How many of the tile's rows are valid when the first `valid` of all are."""
        if valid == index(rows):
            return m
        left = self.builder.sub(valid, r0)
        return self.builder.scalar("s.max", index(0), self.builder.min(left, m), hint="valid")


