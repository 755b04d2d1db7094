"""What one scope stores and the next one loads stays a tile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tilewright.ir.affine import affine
from tilewright.ir.aliases import written
from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block, Function, Op, Operand, Value, index, make_attrs
from tilewright.ir.typed import as_value, shape_of
from tilewright.ir.walk import (
    LOOPS,
    definitions,
    free_values,
    names_in_use,
    root_tensor,
    substitute,
    yielded,
)
from tilewright.machine import Machine

BETWEEN = (
    "window",
    "reshape_view",
    "transpose_view",
    "create",
)  # may stand before a region as well


def forward_stores(fn: Function, machine: Machine) -> Function:
    """Join neighbouring regions, and let a load of what was just stored read the stored tile.

    Takes:  regions in a row, with scalars and views between them; stores that are valid throughout.
    Gives:  the same values. A load of the stored window is the tile, a load of some of its columns an
            extract, in loops and branches of the region too. Stores stay; those into tensors that nobody
            reads any more are drop_dead's. What the regions hand out, the joined one does.
    Leaves: loads of other windows, and everything behind a write that may overlap.
    """
    return _Forwarder(fn).run()


class _Forwarder:
    def __init__(self, fn: Function) -> None:
        self.fn = fn
        self.defined: Mapping = definitions(fn)
        self.builder = Builder(names_in_use(fn))

    def run(self) -> Function:
        return replace(self.fn, body=self.block(self.fn.body))

    def block(self, source: Block) -> Block:
        ops = join_regions(
            [replace(op, blocks=tuple(map(self.block, op.blocks))) for op in source.ops]
        )
        lines = [
            replace(op, blocks=(self.line(op.blocks[0], []),)) if op.name == "at" else op
            for op in ops
        ]
        return Block(source.args, tuple(lines))

    def line(self, block: Block, stored: list[Op]) -> Block:
        """Forwarding within one straight line, and into the loops and branches in it.

        stored: what is in memory when the block begins.
        """
        mapping: dict[Value, Operand] = {}
        out: list[Op] = []
        for source in block.ops:
            op = substitute(source, mapping)
            assert isinstance(op, Op)
            if op.name == "load":
                found = self.found(op, stored)
                if found is not None:
                    made, mapping[op.result] = found
                    out += made
                    continue
            changed = written(op, self.defined)
            kept = [
                s
                for s in stored
                if root_tensor(as_value(s.operands[1]), self.defined) not in changed
                or self.are_apart(s, op)
            ]
            if op.blocks:  # a second turn finds what the first one left
                first = kept if op.name in LOOPS else stored
                blocks = tuple(self.line(inner, list(first)) for inner in op.blocks)
                op = replace(op, blocks=blocks)
            stored = kept
            if op.name == "store" and not op.attr("atomic") and is_whole(op):
                stored.append(op)
            out.append(op)
        return Block(block.args, tuple(out))

    def found(self, load: Op, stored: list[Op]) -> tuple[list[Op], Operand] | None:
        """What to read instead of the load: ops to put in its place, and the value.

        Where the load is valid in part, the rest of its tile is unspecified, so the stored numbers do.
        """
        window = 1 + len(load.attr("shape"))  # the tensor and where it begins
        for store in stored:
            alike = store.attrs == load.attrs
            if alike and store.operands[1 : 1 + window] == load.operands[:window]:
                return [], store.operands[0]
            column = self.column_within(store, load)
            if alike and column == 0:
                return [], store.operands[0]
            if column is not None:
                self.builder.span = load.span
                with self.builder.block() as ops:
                    source = [store.operands[0], index(0), index(column)]
                    shape = shape_of(load.result)
                    value = self.builder.value("extract", source, load.result.name, shape=shape)
                return ops, value
        return None

    def are_apart(self, first: Op, second: Op) -> bool:
        """True for stores into windows of the same name that surely share no element."""
        if second.name != "store" or first.operands[1] != second.operands[1]:
            return False
        shapes = first.attr("shape"), second.attr("shape")
        starts = (op.operands[2 : 2 + len(shapes[0])] for op in (first, second))
        for here, there, *extents in zip(*starts, *shapes, strict=True):
            distance = affine(there, self.defined).plus(affine(here, self.defined), -1)
            far = distance.const >= extents[0] or -distance.const >= extents[1]
            if not distance.terms and far:
                return True
        return False

    def column_within(self, store: Op, load: Op) -> int | None:
        """The stored tile's column at which the loaded window begins, when it lies within and is as high."""
        rank = len(load.attr("shape"))
        here, there = load.operands[1 : 1 + rank], store.operands[2 : 2 + rank]
        shapes = load.attr("shape"), store.attr("shape")
        same = (
            store.operands[1] == load.operands[0]
            and here[:-1] == there[:-1]
            and shapes[0][:-1] == shapes[1][:-1]
        )
        if not same or load.attr("drop") != store.attr("drop") or len(shape_of(load.result)) != 2:
            return None
        if rank - 1 in (load.attr("drop") or ()):
            return None
        distance = affine(here[-1], self.defined).plus(affine(there[-1], self.defined), -1)
        if distance.terms or distance.const < 0 or distance.const + shapes[0][-1] > shapes[1][-1]:
            return None
        return distance.const


def join_regions(ops: list[Op]) -> list[Op]:
    """Neighbouring regions as one; scalars and views between them come before it."""
    out: list[Op] = []
    last: int | None = None  # where the region that may still grow stands
    for op in ops:
        if op.name == "at" and last is not None:
            joined = _joined(out.pop(last), op)
            last = len(out)
            out.append(joined)
            continue
        if op.name == "at":
            last = len(out)
        elif not (op.name.startswith("s.") or op.name in BETWEEN) or (
            last is not None and set(free_values(op)) & set(out[last].results)
        ):
            last = None
        out.append(op)
    return out


def _joined(first: Op, second: Op) -> Op:
    """Both regions as one, which hands out what either did; the second reads what the first would yield."""
    names = dict.fromkeys(n for n in (first.attr("name"), second.attr("name")) if n)
    attrs = make_attrs({"name": "_".join(names) or None})
    body = first.blocks[0]
    handed = dict(zip(first.results, yielded(body), strict=True))
    following = substitute(second.blocks[0], handed)
    end = replace(following.ops[-1], operands=(*handed.values(), *yielded(following)))
    joined = Block((), (*body.ops[:-1], *following.ops[:-1], end))
    return Op("at", (), (*first.results, *second.results), attrs, (joined,), first.span)


def is_whole(op: Op) -> bool:
    """True when the window of a load or store is valid throughout."""
    shape = op.attr("shape")
    return op.operands[-len(shape) :] == tuple(map(index, shape))
