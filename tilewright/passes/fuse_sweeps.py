"""Chains of row-wise work become one sweep over the rows."""

from __future__ import annotations

from collections.abc import Mapping

from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Value
from tilewright.ir.ops import lookup
from tilewright.ir.typed import as_value
from tilewright.ir.types import TensorType
from tilewright.ir.walk import (
    Definition,
    defined_in,
    definitions,
    free_values,
    names_in_use,
    ops_in,
    root_tensor,
)
from tilewright.machine import Machine
from tilewright.passes.row_local import is_swept, leading


def fuse_sweeps(fn: Function, machine: Machine) -> Function:
    """Group row-wise ops over one set of rows into `sweep` ops.

    Takes:  tile ops in final row tiles.
    Gives:  the same values; every row-wise op stands in a sweep, and values that only a sweep's own ops
            read are not handed out of it, so they never need a place in memory. Two stores into one tensor
            share a sweep only when their windows surely are apart: within a sweep they happen by row and
            by strip, not in the order of the program.
    Leaves: loads (read in place), products, and whatever moves data across rows.
    """
    fuser = _Fuser(fn)
    return Function(fn.name, fn.params, fuser.block(fn.body), fn.span)


class _Fuser:
    def __init__(self, fn: Function) -> None:
        self.defined: Mapping[Value, Definition] = definitions(fn)
        self.builder = Builder(names_in_use(fn))
        self.readers: dict[Value, int] = {}
        for op in ops_in(fn):
            for x in op.operands:
                if isinstance(x, Value):
                    self.readers[x] = self.readers.get(x, 0) + 1

    def block(self, block: Block) -> Block:
        out: list[Op] = []
        group: list[Op] = []
        made: set[Value] = set()  # by the group
        stores: list[Op] = []  # of the group

        def close() -> None:
            if group:
                out.append(self.sweep(list(group)))
            group.clear()
            made.clear()
            stores.clear()

        for op in block.ops:
            if op.blocks:
                op = Op(
                    op.name,
                    op.operands,
                    op.results,
                    op.attrs,
                    tuple(map(self.block, op.blocks)),
                    op.span,
                )
            depends = any(x in made for x in free_values(op))
            if is_swept(op):
                if group and leading(op) != leading(group[0]):
                    if depends or op.name == "store":
                        close()
                    else:
                        out.append(self.sweep([op]))
                        continue
                if op.name == "store":
                    if not all(self.apart(op, other) for other in stores):
                        close()
                    stores.append(op)
                group.append(op)
                made.update(op.results)
            elif (
                depends or op.name in ("yield", "return") or (group and self.conflicts(op, stores))
            ):
                close()
                out.append(op)
            else:
                out.append(op)  # independent of the open group: it may as well come first
        close()
        return Block(block.args, tuple(out))

    def conflicts(self, op: Op, stores: list[Op]) -> bool:
        """True when `op` must not move before the reads and the stores of the open group."""
        if any(lookup(inner.name).effect in ("write", "check") for inner in ops_in(op)):
            return True
        tensors = [
            x for inner in ops_in(op) for x in inner.operands if isinstance(x.type, TensorType)
        ]
        written = {self.root(store.operands[1]) for store in stores}
        return any(self.root(x) in written for x in tensors)

    def root(self, tensor: Operand) -> Value:
        return root_tensor(as_value(tensor), self.defined)

    def apart(self, a: Op, b: Op) -> bool:
        """True when two stores surely have no element in common: along some axis, one ends where the other
        begins or before."""
        if self.root(a.operands[1]) != self.root(b.operands[1]):
            return True
        if a.operands[1] != b.operands[1]:
            return False
        for axis, (m, n) in enumerate(zip(a.attr("shape"), b.attr("shape"), strict=True)):
            (base, i), (other, j) = (self.offset(op.operands[2 + axis]) for op in (a, b))
            if base == other and (i + m <= j or j + n <= i):
                return True
        return False

    def offset(self, x: Operand) -> tuple[Value | None, int]:
        """`x` as a value plus a number; no value when it is a literal."""
        if isinstance(x, Const):
            return None, int(x.value)
        place = self.defined[x]
        if place.op is not None and place.block is None and place.op.name == "s.add":
            for base, shift in (place.op.operands, place.op.operands[::-1]):
                if isinstance(shift, Const):
                    value, more = self.offset(base)
                    return value, more + int(shift.value)
        return x, 0

    def sweep(self, ops: list[Op]) -> Op:
        """The ops as one sweep that hands out what others read."""
        inside: dict[Value, int] = {}
        for op in ops:
            for x in op.operands:
                if isinstance(x, Value):
                    inside[x] = inside.get(x, 0) + 1
        escaping = [
            v
            for v in sorted(defined_in(ops), key=lambda v: v.name)
            if self.outside_readers(v, inside)
        ]
        order = {result: i for i, op in enumerate(ops) for result in op.results}
        escaping.sort(key=lambda v: order[v])
        # The sweep's results take the names that the rest of the program knows; inside, fresh ones.
        renamed: dict[Value, Value] = {v: self.builder.fresh(v.type, v.name) for v in escaping}
        body = []
        for op in ops:
            operands = tuple(renamed.get(x, x) if isinstance(x, Value) else x for x in op.operands)
            results = tuple(renamed.get(r, r) for r in op.results)
            body.append(Op(op.name, operands, results, op.attrs, (), op.span))
        body.append(Op("yield", tuple(renamed[v] for v in escaping), (), (), (), ops[-1].span))
        return Op("sweep", (), tuple(escaping), (), (Block((), tuple(body)),), ops[0].span)

    def outside_readers(self, value: Value, inside: dict[Value, int]) -> bool:
        return self.readers.get(value, 0) > inside.get(value, 0)
