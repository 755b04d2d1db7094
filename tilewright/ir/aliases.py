"""Which loads must be copies: a load is read in place unless its memory may change before its last use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tilewright.ir.nodes import Block, Function, Op, Value
from tilewright.ir.ops import lookup
from tilewright.ir.typed import as_value
from tilewright.ir.walk import (
    Definition,
    definitions,
    free_values,
    memory_of,
    ops_in,
    root_tensor,
    yielded,
)


def loads_to_copy(fn: Function) -> set[Value]:
    """The loads whose data must be copied when they run (a load is a copy of the data now).

    A load may be read in place when nothing between it and its last reader writes to the same root tensor,
    and when it does not leave its block.
    """
    defined = definitions(fn)
    found: set[Value] = set()

    def visit(block: Block) -> None:
        for position, op in enumerate(block.ops):
            for inner in op.blocks:
                visit(inner)
            if op.name != "load":
                continue
            following = block.ops[position + 1 :]
            readers = [i for i, other in enumerate(following) if op.result in free_values(other)]
            aliases = _aliases(following, op.result)
            readers += [
                i
                for i, other in enumerate(following)
                if any(x in aliases for x in free_values(other))
            ]
            if not readers:
                continue
            root = root_tensor(as_value(op.operands[0]), defined)
            leaves = any(x == op.result or x in aliases for x in yielded(block))
            if leaves or any(
                root in written(other, defined) for other in following[: max(readers) + 1]
            ):
                found.add(op.result)

    visit(fn.body)
    return found


def _aliases(ops: Sequence[Op], value: Value) -> set[Value]:
    """Tiles that may be the same memory as `value`: windows and reshapes of it, also handed out of regions.

    What a loop carries and what a branch gives are copies.
    """
    found = {value}

    def visit(ops: Sequence[Op]) -> None:
        for op in ops:
            if op.name in ("extract", "reshape") and op.operands[0] in found:
                found.update(op.results)
            for inner in op.blocks:
                visit(inner.ops)
                if op.name == "at":
                    ends = zip(op.results, yielded(inner), strict=True)
                    found.update(result for result, x in ends if x in found)

    visit(ops)
    return found - {value}


def written(op: Op, defined: Mapping[Value, Definition]) -> set[Value]:
    """Root tensors that `op`, or something inside it, writes to."""
    roots: set[Value] = set()
    for inner in ops_in(op):
        if lookup(inner.name).effect == "write":
            roots.add(root_tensor(as_value(memory_of(inner)), defined))
    return roots
