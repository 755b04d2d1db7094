"""Which loads must be copies: a load is read in place unless its memory may change before its last use."""

from __future__ import annotations

from tilewright.ir.nodes import Block, Function, Op, Value
from tilewright.ir.ops import lookup
from tilewright.ir.types import TensorType
from tilewright.ir.walk import definitions, free_values, ops_in, root_tensor, yielded


def loads_to_copy(fn: Function) -> set[Value]:
    """The loads whose data must be copied when they run (language.md 4.1: a load is a copy of the data now).

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
            readers += [i for i, other in enumerate(following) if any(x in aliases for x in free_values(other))]
            if not readers:
                continue
            root = root_tensor(op.operands[0], defined)  # type: ignore[arg-type]
            leaves = any(x == op.result or x in aliases for x in yielded(block))
            if leaves or any(root in written(other, defined) for other in following[: max(readers) + 1]):
                found.add(op.result)

    visit(fn.body)
    return found


def _aliases(ops: tuple[Op, ...], value: Value) -> set[Value]:
    """Tiles of this block that may be the same memory as `value`: windows and reshapes of it."""
    found = {value}
    for op in ops:
        if op.name in ("extract", "reshape") and op.operands[0] in found:
            found.update(op.results)
        for inner in op.blocks:
            if op.name == "at" and any(x in found for x in yielded(inner)):
                found.update(r for r, x in zip(op.results, yielded(inner), strict=True) if x in found)
    return found - {value}


def written(op: Op, defined) -> set[Value]:
    """Root tensors that `op`, or something inside it, writes to."""
    roots: set[Value] = set()
    for inner in ops_in(op):
        if lookup(inner.name).effect == "write":
            target = inner.operands[1] if inner.name == "store" else inner.operands[0]
            assert isinstance(target.type, TensorType)
            roots.add(root_tensor(target, defined))  # type: ignore[arg-type]
    return roots
