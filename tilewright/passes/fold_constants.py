"""Everything that is known once shapes are: scalar arithmetic, branches, equal scalars computed twice."""

from __future__ import annotations

from tilewright.dtypes import BF16, BOOL, FP16, FP32
from tilewright.ir.build import fold_scalar
from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Value, index
from tilewright.ir.typed import whole_number
from tilewright.ir.walk import Replace, map_ops, substitute, yielded
from tilewright.machine import Machine


def fold_constants(fn: Function, machine: Machine) -> Function:
    """Fold integer and BOOL scalars, take known branches, unwrap loops of one turn, share equal scalars.

    Takes:  any program.
    Gives:  the same values; a branch on a literal is replaced by its arm, a loop that surely runs once by
            its body, one that surely never runs by nothing; of two equal scalar ops where the first
            dominates the second, one is left.
    Leaves: floating scalars (they compute in FP32 at run time) and everything about tiles.
    """
    while True:
        folded = share_scalars(map_ops(fn, _fold))
        if folded == fn:
            return fn
        fn = folded


def _fold(op: Op) -> Replace | None:
    if op.name.startswith("s."):
        folded = fold_scalar(op.name, op.operands)
        if (
            op.name == "s.cast"
            and isinstance(op.operands[0], Const)
            and op.operands[0].dtype.is_integer
        ):
            folded = _fold_cast(op)
        return None if folded is None else Replace((), {op.result: folded})
    if op.name == "if" and isinstance(op.operands[0], Const):
        arm = op.blocks[0] if op.operands[0].value else op.blocks[1]
        return Replace(arm.ops[:-1], dict(zip(op.results, yielded(arm), strict=True)))
    if op.name == "while" and op.operands[0] == Const(False, BOOL):
        return Replace((), dict(zip(op.results, op.operands, strict=True)))
    if op.name == "for" and all(isinstance(x, Const) for x in op.operands[:3]):
        return _unwrap(op)
    return None


def _unwrap(loop: Op) -> Replace | None:
    """A loop of one turn is its body; one of no turn hands on what it carries."""
    start, stop, step = (whole_number(x) for x in loop.operands[:3])
    if step == 0 or len(range(start, stop, step)) > 1:
        return None
    if not range(start, stop, step):
        return Replace((), dict(zip(loop.results, loop.operands[3:], strict=True)))
    body = loop.blocks[0]
    inside = substitute(body, dict(zip(body.args, (index(start), *loop.operands[3:]), strict=True)))
    assert isinstance(inside, Block)
    return Replace(inside.ops[:-1], dict(zip(loop.results, yielded(inside), strict=True)))


def _fold_cast(op: Op) -> Const | None:
    value, to = whole_number(op.operands[0]), op.attr("to")
    if to.is_integer:
        low, high = to.int_range()
        return Const(min(max(value, low), high), to)
    exact = {FP32: 24, FP16: 11, BF16: 8}.get(to, 0)  # bits of a significand
    return Const(float(value), to) if abs(value) < 1 << exact else None


def share_scalars(fn: Function) -> Function:
    """Of two equal scalar ops, the second reads the first, where the first has surely run."""
    return Function(fn.name, fn.params, _share(fn.body, {}), fn.span)


def _share(block: Block, outer: dict[tuple, Value]) -> Block:
    known = dict(outer)
    mapping: dict[Value, Operand] = {}
    ops: list[Op] = []
    for op in block.ops:
        op = substitute(op, mapping)
        if op.name.startswith("s."):
            signs = tuple(repr(x.value) for x in op.operands if isinstance(x, Const))  # 0.0 == -0.0
            key = (op.name, op.operands, signs, op.attrs)
            if key in known:
                mapping[op.result] = known[key]
                continue
            known[key] = op.result
        if op.blocks:
            blocks = tuple(_share(inner, known) for inner in op.blocks)
            op = Op(op.name, op.operands, op.results, op.attrs, blocks, op.span)
        ops.append(op)
    return Block(block.args, tuple(ops))
