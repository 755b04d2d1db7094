"""Chains of row-wise work become one sweep over the rows."""

from __future__ import annotations

from collections.abc import Mapping

from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block, Function, Op, Value
from tilewright.ir.types import TensorType
from tilewright.ir.walk import defined_in, definitions, free_values, names_in_use, ops_in, root_tensor
from tilewright.machine import Machine
from tilewright.passes.row_local import is_swept, leading


def fuse_sweeps(fn: Function, machine: Machine) -> Function:
    """Group row-wise ops over one set of rows into `sweep` ops.

    Takes:  tile ops in final row tiles.
    Gives:  the same values; every row-wise op stands in a sweep, and values that only a sweep's own ops
            read are not handed out of it, so they never need a place in memory.
    Leaves: loads (read in place), products, and whatever moves data across rows.
    """
    fuser = _Fuser(fn)
    return Function(fn.name, fn.params, fuser.block(fn.body), fn.span)


class _Fuser:
    def __init__(self, fn: Function) -> None:
        self.defined: Mapping = definitions(fn)
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
        written: set[Value] = set()  # tensors that the group stores into

        def close() -> None:
            if group:
                out.append(self.sweep(list(group)))
            group.clear()
            made.clear()
            written.clear()

        for op in block.ops:
            if op.blocks:
                op = Op(
                    op.name, op.operands, op.results, op.attrs, tuple(map(self.block, op.blocks)), op.span
                )
            depends = any(x in made for x in free_values(op))
            if is_swept(op):
                if group and leading(op) != leading(group[0]):
                    if depends or op.name == "store":
                        close()
                    else:
                        out.append(self.sweep([op]))
                        continue
                group.append(op)
                made.update(op.results)
                if op.name == "store":
                    written.add(root_tensor(op.operands[1], self.defined))  # type: ignore[arg-type]
            elif depends or op.name in ("yield", "return") or self.conflicts(op, written, bool(group)):
                close()
                out.append(op)
            else:
                out.append(op)  # independent of the open group: it may as well come first
        close()
        return Block(block.args, tuple(out))

    def conflicts(self, op: Op, written: set[Value], open_group: bool) -> bool:
        """True when `op` must not move before the stores and reads of the open group."""
        if not open_group:
            return False
        if any(inner.name in ("store", "write", "check_window", "check_that") for inner in ops_in(op)):
            return True
        tensors = [x for inner in ops_in(op) for x in inner.operands if isinstance(x.type, TensorType)]
        return any(root_tensor(x, self.defined) in written for x in tensors)  # type: ignore[arg-type]

    def sweep(self, ops: list[Op]) -> Op:
        """The ops as one sweep that hands out what others read."""
        inside: dict[Value, int] = {}
        for op in ops:
            for x in op.operands:
                if isinstance(x, Value):
                    inside[x] = inside.get(x, 0) + 1
        escaping = [v for v in sorted(defined_in(ops), key=lambda v: v.name) if self.outside_readers(v, inside)]
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
