"""Fresh tensors are zero; one that is overwritten before it is read needs no zeros."""

from __future__ import annotations

from collections.abc import Mapping

from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Value, make_attrs
from tilewright.ir.typed import shape_of, whole_number
from tilewright.ir.walk import Definition, definitions, map_ops, ops_in, root_tensor
from tilewright.machine import Machine


def skip_fill(fn: Function, machine: Machine) -> Function:
    """Mark a `create` with fill = False when every element is surely stored before any is read.

    Takes:  windows as the author wrote them (before rows are blocked).
    Gives:  the same values: the first op that touches the tensor covers all of it, by one full store or
            by a loop of constant bounds whose windows tile one axis.
    Leaves: everything else zero-filled.
    """
    defined = definitions(fn)
    covered: set[Value] = set()

    def visit(block: Block) -> None:
        fresh = [op.result for op in block.ops if op.name == "create"]
        for tensor in fresh:
            for op in block.ops:
                if op.name == "create" or not _touches(op, tensor, defined):
                    continue
                if _covers(op, tensor):
                    covered.add(tensor)
                break
        for op in block.ops:
            for inner in op.blocks:
                visit(inner)

    visit(fn.body)

    def rewrite(op: Op) -> Op | None:
        if op.name != "create" or op.result not in covered:
            return None
        attrs = make_attrs({**dict(op.attrs), "fill": False})
        return Op("create", (), op.results, attrs, (), op.span)

    return map_ops(fn, rewrite)


def _touches(op: Op, tensor: Value, defined: Mapping[Value, Definition]) -> bool:
    return any(
        isinstance(x, Value) and x in defined and root_tensor(x, defined) == tensor
        for inner in ops_in(op)
        for x in inner.operands
    )


def _covers(op: Op, tensor: Value, loop: Op | None = None) -> bool:
    """True when running `op` stores every element of `tensor` and reads none before."""
    if op.name == "store" and op.operands[1] == tensor:
        return not op.attr("atomic") and _window_covers(op, tensor, loop)
    if op.name == "at":
        return _first_touch_covers(op.blocks[0], tensor, loop)
    if op.name == "for" and loop is None and all(isinstance(x, Const) for x in op.operands[:3]):
        if len(range(*map(whole_number, op.operands[:3]))) == 0:
            return False
        return _first_touch_covers(op.blocks[0], tensor, op) and _reads_what_it_stored(op, tensor)
    return False


def _reads_what_it_stored(loop: Op, tensor: Value) -> bool:
    """True when a turn of the loop reads the tensor nowhere but in the window that it has stored."""
    touches = [op for op in ops_in(loop) if tensor in op.operands]
    first = touches[0]
    return all(
        op.name == "store" or (op.name == "load" and op.operands[1:] == first.operands[2:])
        for op in touches
    )


def _first_touch_covers(block: Block, tensor: Value, loop: Op | None) -> bool:
    for op in block.ops:
        if any(tensor in inner.operands for inner in ops_in(op)):
            return _covers(op, tensor, loop)
    return False


def _window_covers(store: Op, tensor: Value, loop: Op | None) -> bool:
    extents = shape_of(tensor)
    rank = len(extents)
    offsets, valid = store.operands[2 : 2 + rank], store.operands[2 + rank :]
    walked = 0
    for extent, offset, count in zip(extents, offsets, valid, strict=True):
        if not isinstance(count, Const):
            return False
        if isinstance(offset, Const) and offset.value == 0 and count.value == extent:
            continue
        if not _walks(loop, offset, whole_number(count), extent):
            return False
        walked += 1
    return walked <= 1


def _walks(loop: Op | None, offset: Operand, width: int, extent: int) -> bool:
    """True when `offset` is the loop's variable and its windows of `width` cover 0 … extent."""
    if loop is None or offset != loop.blocks[0].args[0]:
        return False
    start, stop, step = map(whole_number, loop.operands[:3])
    return start == 0 and 0 < step <= width and (stop - 1) // step * step + width >= extent
