"""Rows go through the cache a few at a time: a product and all that follows it, row tile by row tile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tilewright.blocking import chunk_rows, row_tiles
from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block, Function, Op, Operand, Value, index, make_attrs
from tilewright.ir.ops import lookup
from tilewright.ir.typed import as_value, shape_of
from tilewright.ir.types import PanelType, TensorType, TileType, Type
from tilewright.ir.walk import Definition, definitions, free_values, names_in_use, root_tensor, uses
from tilewright.machine import Machine
from tilewright.passes.row_local import is_swept

PRODUCTS = ("matmul_packed", "matmul_packed_acc")

# Elements of the widest row that one task of a shared row loop works on: about 4 us, against 0.1 us for
# taking a task and a few us for the barrier behind the loop.
TASK_ELEMENTS = 16384


def block_rows(fn: Function, machine: Machine) -> Function:
    """Put row-wise work around a product into a loop over row tiles.

    Takes:  packed products and the row-wise ops before and after them, as one straight line.
    Gives:  the same values, bit for bit: a row is computed by the same ops in the same order. A tile has as many
            rows as leave their left sides and results in half of the second-level cache, so that a panel
            streams by once for all of them; tiles are balanced, and outside parallel loops the row loop itself
            is parallel.
    Leaves: work whose rows are needed together afterwards, atomic stores, a single row tile.
    """
    blocker = _RowBlocker(fn, machine)
    return Function(fn.name, fn.params, blocker.block(fn.body, shared=False), fn.span)


@dataclass(frozen=True, slots=True)
class _Run:
    """A stretch of straight-line ops whose rows can be taken apart."""

    rows: int
    tiles: int  # how many row tiles to make of them, at least 2
    per_row: tuple[Op, ...]  # in order, to go into the loop
    before: tuple[Op, ...]  # what they need that has no rows


class _RowBlocker:
    def __init__(self, fn: Function, machine: Machine) -> None:
        self.machine = machine
        self.defined: Mapping[Value, Definition] = definitions(fn)
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
                inner_shared = shared or (
                    op.name == "for" and op.attr("kind") in ("parallel", "spmd")
                )
                ops.append(
                    replace(
                        op, blocks=tuple(self.block(inner, inner_shared) for inner in op.blocks)
                    )
                )
            else:
                pending.append(op)
        ops += self.straight_line(pending, shared)
        return Block(block.args, tuple(ops))

    def straight_line(self, ops: list[Op], shared: bool) -> list[Op]:
        """Cut `ops` into runs, block those that gain from it."""
        start = 0
        out: list[Op] = []
        while start < len(ops):
            for stop in self.ends(ops, start):
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

    def ends(self, ops: list[Op], start: int) -> list[int]:
        """Where a run that begins at `start` may end, the longest first: behind a store, and before a check or
        a write of another kind."""
        if ops[start].name not in ("load", "pack", *PRODUCTS) and not is_swept(ops[start]):
            return []
        found = []
        for stop in range(start, len(ops)):
            if ops[stop].name == "store":
                found.append(stop + 1)
            elif lookup(ops[stop].name).effect in ("write", "check"):
                break
        return found[::-1]

    def run(self, ops: list[Op], shared: bool) -> _Run | None:
        """`ops` as a run, or None when they are none, or when taking rows apart gains nothing."""
        products = [op for op in ops if op.name in PRODUCTS]
        stores = [op for op in ops if op.name == "store"]
        if not stores or not (products or not shared):
            return None
        anchor = products[0].result if products else stores[0].operands[0]
        shape = shape_of(anchor)
        rows = shape[0]
        if len(shape) != 2:
            return None
        per_row = self.closure(ops, rows)
        if per_row is None or not all(id(op) in per_row for op in stores):
            return None
        run = [op for op in ops if id(op) in per_row]
        tiles = self.tiles(run, rows, products, shared)
        before = tuple(op for op in ops if id(op) not in per_row)
        made = {result for op in run for result in op.results}
        if tiles < 2 or any(x in made for op in before for x in free_values(op)):
            return None
        inside = {id(op) for op in ops}
        if any(
            id(reader) not in inside for value in made for reader in self.readers.get(value, ())
        ):
            return None
        if self.memory_conflict(ops, stores):
            return None
        return _Run(rows, tiles, tuple(run), before)

    def tiles(self, run: list[Op], rows: int, products: list[Op], shared: bool) -> int:
        """How many row tiles `rows` rows make."""
        if products:
            return row_tiles(rows, min(self.tile_rows(op, rows, shared) for op in products))
        operands = (x.type for op in run for x in (*op.results, *op.operands))
        widest = max(kind.shape[-1] for kind in operands if isinstance(kind, TileType))
        return -(-rows // max(1, TASK_ELEMENTS // widest))

    def closure(self, ops: list[Op], rows: int) -> set[int] | None:
        """The ops that carry rows (by id), from the products and stores outwards; None when one mixes its rows."""
        work = [op for op in ops if op.name in PRODUCTS or op.name == "store"]
        chosen = {id(op) for op in work}
        inside: set[int] = set()
        while work:
            op = work.pop()
            carried = self.row_operands(op, rows)
            if carried is None:
                return None
            inside = inside or {id(op) for op in ops}
            makers = [self.defined[x].op for x in carried]
            readers = [reader for result in op.results for reader in self.readers.get(result, ())]
            for other in (*makers, *readers):
                if other is not None and id(other) in inside and id(other) not in chosen:
                    chosen.add(id(other))
                    work.append(other)
        return chosen

    def row_operands(self, op: Op, rows: int) -> list[Value] | None:
        """The operands of `op` that carry its rows; None when it is not row-local over `rows` rows."""
        if op.name == "load":
            return (
                []
                if self.row_axis(op, op.operands[0].type) is not None
                and self.has_rows(op.result, rows)
                else None
            )
        if op.name in PRODUCTS:
            if not self.has_rows(op.result, rows):
                return None
            return [
                x for x in op.operands[:2] if isinstance(x, Value) and isinstance(x.type, TileType)
            ]
        if not is_swept(op):
            return None
        if op.name == "store":
            good = (
                self.has_rows(op.operands[0], rows)
                and self.row_axis(op, op.operands[1].type) is not None
            )
            return [as_value(op.operands[0])] if good else None
        if not self.has_rows(op.result, rows):
            return None
        return [x for x in op.operands if isinstance(x, Value) and self.has_rows(x, rows)]

    @staticmethod
    def has_rows(x: Operand, rows: int) -> bool:
        return isinstance(x.type, TileType) and len(x.type.shape) == 2 and x.type.shape[0] == rows

    @staticmethod
    def row_axis(op: Op, tensor: Type) -> int | None:
        """The tensor axis along which the tile's rows run; None when the tile is not 2-D."""
        assert isinstance(tensor, TensorType)
        kept = [axis for axis in range(len(tensor.shape)) if axis not in (op.attr("drop") or ())]
        return kept[0] if len(kept) == 2 else None

    def memory_conflict(self, ops: list[Op], stores: list[Op]) -> bool:
        """True when the run reads a tensor that it also writes, or writes one tensor in two shapes of window."""
        windows: dict[Value, set[tuple[Operand, int, Operand]]] = {}
        for op in stores:
            tensor = op.operands[1]
            axis = self.row_axis(op, tensor.type)
            assert axis is not None  # or the store would not be row-local
            root = root_tensor(as_value(tensor), self.defined)
            windows.setdefault(root, set()).add((tensor, axis, op.operands[2 + axis]))
        read = [op.operands[0] for op in ops if op.name in ("load", "read")]
        if any(root_tensor(as_value(x), self.defined) in windows for x in read):
            return True
        return any(len(found) > 1 for found in windows.values())

    # Making the loop

    def tile_rows(self, product: Op, rows: int, shared: bool) -> int:
        """Rows of a tile of this product."""
        panel = product.operands[-2].type
        assert isinstance(panel, PanelType)
        return chunk_rows(rows, panel.n, panel.k, panel.dtype, self.machine, shared)

    def loop(self, run: _Run, shared: bool) -> list[Op]:
        """`for tile in …: r0 = …; the run on rows r0 … r0 + m`."""
        rows, tiles = run.rows, index(run.tiles)
        low, high = rows // run.tiles, -(-rows // run.tiles)
        builder = self.builder
        builder.span = run.per_row[0].span
        i = builder.fresh(index(0).type, "row_tile")
        with builder.block() as body:
            m: Operand = index(high)
            if low == high:
                r0 = builder.mul(i, m, hint="r0")
            else:
                r0 = builder.floordiv(builder.mul(i, index(rows)), tiles, hint="r0")
                end = builder.mul(builder.add(i, index(1)), index(rows))
                m = builder.sub(builder.floordiv(end, tiles, hint="r1"), r0, hint="m")
            mapping: dict[Value, Operand] = {}
            for op in run.per_row:
                self.shrink(op, mapping, rows, high, r0, m, tuple(sorted({low, high})))
            builder.append(Op("yield", (), (), (), (), builder.span))
        block = Block((i,), tuple(body))
        attrs = make_attrs({"kind": "range" if shared else "parallel"})
        operands = (index(0), tiles, index(1))
        return [Op("for", operands, (), attrs, (block,), run.per_row[0].span)]

    def shrink(
        self,
        op: Op,
        mapping: dict[Value, Operand],
        rows: int,
        high: int,
        r0: Operand,
        m: Operand,
        sizes: tuple[int, ...],
    ) -> None:
        """Append `op` for rows r0 … r0 + m, in tiles of `high` rows; `sizes` are what m can be."""
        builder = self.builder
        builder.span = op.span
        operands = [mapping.get(x, x) if isinstance(x, Value) else x for x in op.operands]
        attrs = dict(op.attrs)
        if op.name in ("load", "store"):
            first = 1 if op.name == "load" else 2
            tensor = operands[first - 1]
            axis = self.row_axis(op, tensor.type)
            assert axis is not None  # or the op would not be row-local
            at, valid = first + axis, first + len(shape_of(tensor)) + axis
            operands[valid] = self.rest(operands[valid], rows, r0, m)
            operands[at] = builder.add(operands[at], r0, hint="row")
            shape = list(attrs["shape"])
            shape[axis] = high
            attrs["shape"] = tuple(shape)
        elif op.name in PRODUCTS:
            if operands[-1] == index(rows):  # else any number of the tile's rows may be valid
                attrs["sizes"] = sizes
            operands[-1] = self.rest(operands[-1], rows, r0, m)
        elif op.name.startswith("row_") or op.name == "fillpad":
            operands[1] = self.rest(operands[1], rows, r0, m)
        if "shape" in attrs and op.name not in ("load", "store"):
            attrs["shape"] = (high, *attrs["shape"][1:])
        for i, x in enumerate(operands):  # rows of a tile made outside the run
            if isinstance(x, Value) and self.has_rows(x, rows) and x in op.operands:
                window = (high, shape_of(x)[1])
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
