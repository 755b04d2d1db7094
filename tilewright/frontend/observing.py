"""Whether what a value held before a loop can be seen in it, or is only handed on until it is replaced."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.frontend.values import Named, operands_of
from tilewright.ir.nodes import Block, Op, Operand, Value
from tilewright.ir.walk import LOOPS, carried_args, initial_values, yielded

# The arm that the first turn takes, of an `if` that compares the loop variable with its first value.
FIRST_ARM = {"s.eq": 0, "s.le": 0, "s.ge": 0, "s.ne": 1, "s.lt": 1, "s.gt": 1}
Start = tuple[Value, Operand]  # a loop variable and its first value


def observed(value: Named, body: Sequence[Op]) -> bool:
    """Whether a turn with these ops looks at what `value` held before it.

    An accumulator that every turn starts anew (`if k == 0: acc = matmul(…) else: acc = matmul_acc(acc, …)`)
    is handed to the inner loop and not looked at.
    """
    held = {x for x in operands_of(value) if isinstance(x, Value)}
    return not held or _looks(body, held, [])


def _looks(ops: Sequence[Op], held: set[Value], starts: list[Start]) -> bool:
    """Whether one of the ops uses a held value; those that hand it on add their results to `held`."""
    tests: dict[Operand, Op] = {}
    for op in ops:
        tests.update((result, op) for result in op.results)
        if op.name == "load" and op.operands[0] in held:
            held.add(op.result)
        elif op.name in LOOPS:
            if _loop_looks(op, held, starts):
                return True
        elif op.blocks:
            first = _first_arm(tests.get(op.operands[0]), starts) if op.name == "if" else None
            arms = op.blocks if first is None else (op.blocks[first],)
            if any(_looks(arm.ops, held, starts) for arm in arms):
                return True
            for arm in arms:
                held |= _handed_out(op, arm, held)
        elif op.name != "yield" and not held.isdisjoint(op.operands):
            return True
    return False


def _loop_looks(loop: Op, held: set[Value], starts: list[Start]) -> bool:
    if not held.isdisjoint(loop.operands[: LOOPS[loop.name][0]]):
        return True
    (body,) = loop.blocks
    for arg, initial in zip(carried_args(loop), initial_values(loop), strict=True):
        if initial in held:
            held.add(arg)
    here = [(body.args[0], loop.operands[0])] if loop.name == "for" else []
    if _looks(body.ops, held, [*starts, *here]):
        return True
    held |= _handed_out(loop, body, held)
    return False


def _handed_out(op: Op, block: Block, held: set[Value]) -> set[Value]:
    return {
        result for result, given in zip(op.results, yielded(block), strict=False) if given in held
    }


def _first_arm(test: Op | None, starts: Sequence[Start]) -> int | None:
    """Which arm the first turn of a loop around takes; None where that is not plain to see."""
    if test is None or tuple(test.operands) not in starts:
        return None
    return FIRST_ARM.get(test.name)
