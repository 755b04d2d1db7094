"""Leaving out what nobody reads: region results whose names are not used afterwards."""

from __future__ import annotations

from dataclasses import replace

from tilewright.ir.nodes import Block, Function, Op, Value


def drop_unused_results(function: Function) -> Function:
    """Give each region only the results that are read.

    Takes:  a function as the front end builds it.
    Gives:  the same values; every `at` yields exactly what is used outside it.
    Leaves: everything else.
    """
    used: set[str] = set()
    _uses(function.body, used)
    return replace(function, body=_block(function.body, used))


def _uses(block: Block, used: set[str]) -> None:
    for op in block.ops:
        used.update(x.name for x in op.operands if isinstance(x, Value))
        for inner in op.blocks:
            _uses(inner, used)


def _block(block: Block, used: set[str]) -> Block:
    return replace(block, ops=tuple(_op(op, used) for op in block.ops))


def _op(op: Op, used: set[str]) -> Op:
    if not op.blocks:
        return op
    blocks = tuple(_block(inner, used) for inner in op.blocks)
    if op.name != "at":
        return replace(op, blocks=blocks)
    (body,) = blocks
    last = body.ops[-1]
    kept = [i for i, result in enumerate(op.results) if result.name in used]
    last = replace(last, operands=tuple(last.operands[i] for i in kept))
    results = tuple(op.results[i] for i in kept)
    return replace(op, results=results, blocks=(replace(body, ops=(*body.ops[:-1], last)),))
