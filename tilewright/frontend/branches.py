"""`if`: both arms are read; names bound in both, or rebound in one, merge afterwards."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence

from tilewright.dtypes import BOOL
from tilewright.errors import ParserTypeError
from tilewright.frontend.expressions import evaluate
from tilewright.frontend.merging import Arm, merge_arms, require_same_type
from tilewright.frontend.tracer import NeedsRegion, Tracer, to_number
from tilewright.frontend.values import Binding, Constant, describe, same
from tilewright.ir.nodes import Operand

RunBody = Callable[[Tracer, Sequence[ast.stmt]], None]


def if_statement(t: Tracer, node: ast.If, run_body: RunBody) -> None:
    """A branch on a BOOL scalar; a constant condition is folded after both arms are checked."""
    before = t.snapshot()
    try:
        value = evaluate(t, node.test)
    except NeedsRegion:
        t.restore(before)
        t.bind("if.condition", Constant(None), node)
        t.region(
            f"{t.frame.kernel.__name__}_{node.lineno}",
            node.test,
            lambda: t.bind("if.condition", evaluate(t, node.test), node),
        )
        value = t.frame.names.pop("if.condition").value
    number = to_number(value)
    if number is None or number.dtype != BOOL:
        t.fail(
            ParserTypeError,
            f"the condition must be BOOL, got {describe(value)}",
            node.test,
            help=f"compare explicitly: {ast.unparse(node.test)} != 0",
        )
    if isinstance(value, Constant):
        fold(t, node, bool(value.value), run_body)
        return
    branch(
        t, node, number.operand, lambda: run_body(t, node.body), lambda: run_body(t, node.orelse)
    )


def guarded(t: Tracer, node: ast.AST, condition: Operand, body: Callable[[], None]) -> None:
    """Run `body` only where the condition holds."""
    branch(t, node, condition, body, lambda: None)


def branch(
    t: Tracer,
    node: ast.AST,
    condition: Operand,
    then: Callable[[], None],
    otherwise: Callable[[], None],
) -> None:
    """An `if` op; what the arms leave behind merges."""
    span = t.span(node)
    before = dict(t.frame.names)
    arms = []
    for body in (then, otherwise):
        t.frame.names = dict(before)
        with t.builder.block() as ops:
            body()
        arms.append(Arm(ops, t.frame.names))
    t.frame.names = before
    merge_arms(t, node, condition, arms[0], arms[1], span)


def fold(t: Tracer, node: ast.If, holds: bool, run_body: RunBody) -> None:
    """A constant condition: read the dead arm for its mistakes, keep the live one."""
    live, dead = (node.body, node.orelse) if holds else (node.orelse, node.body)
    here = t.snapshot()
    t.dead += 1
    with t.builder.block():
        run_body(t, dead)
    t.dead -= 1
    t.restore(here)
    before: dict[str, Binding] = dict(t.frame.names)
    dead_names = _bound_names(dead)
    run_body(t, live)
    for name in list(t.frame.names):
        binding = t.frame.names[name]
        old = before.get(name)
        if old is not None and not same(old.value, binding.value):
            require_same_type(t, node, name, old, binding)
        elif old is None and name not in dead_names:
            t.drop(name, f"was bound in one arm of the if on line {node.lineno} only")


def _bound_names(statements: Sequence[ast.stmt]) -> set[str]:
    found = set()
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return found
