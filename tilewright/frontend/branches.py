"""`if`: both arms are read; names bound in both, or rebound in one, merge afterwards."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Sequence

from tilewright.dtypes import BOOL
from tilewright.errors import ParserTypeError
from tilewright.frontend.expressions import evaluate
from tilewright.frontend.jumps import Branch
from tilewright.frontend.merging import Arm, merge_arms, require_same_type
from tilewright.frontend.mistakes import NeedsRegion
from tilewright.frontend.operands import Call
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import Binding, Constant, Named, describe, same, to_number
from tilewright.ir.nodes import Operand

RunBody = Callable[[Tracer, Sequence[ast.stmt]], None]


def condition(t: Tracer, test: ast.expr) -> Named:
    """A BOOL scalar: a constant, or a number of the program."""
    before = t.snapshot()
    try:
        value = evaluate(t, test)
    except NeedsRegion:
        t.restore(before)
        held = "the.condition"
        t.bind(held, Constant(None), test)
        t.region(
            f"{t.frame.kernel.__name__}_{test.lineno}",
            test,
            lambda: t.bind(held, evaluate(t, test), test),
        )
        value = t.frame.names.pop(held).value
    number = to_number(value)
    if number is None or number.dtype != BOOL:
        t.fail(
            ParserTypeError,
            f"the condition must be BOOL, got {describe(value)}",
            test,
            help=f"compare explicitly: {ast.unparse(test)} != 0",
        )
    return value


def if_statement(t: Tracer, node: ast.If, run_body: RunBody) -> None:
    """A branch on a BOOL scalar; a constant condition is folded after both arms are checked."""
    value = condition(t, node.test)
    number = to_number(value)
    assert number is not None
    if isinstance(value, Constant):
        fold(t, node, bool(value.value), run_body)
        return
    branch(
        t,
        node,
        number.operand,
        lambda: run_body(t, node.body),
        lambda: run_body(t, node.orelse),
        *_jumps(node),
    )


def _jumps(node: ast.If) -> tuple[tuple[bool, bool], frozenset[str]]:
    """Which arms always end in a jump, and the names that are looked at behind the branch."""
    return (node.jumps, node.wanted) if isinstance(node, Branch) else ((False, False), frozenset())


def when(t: Tracer, node: ast.AST, call: Call, body: Callable[[], None]) -> None:
    """`body`, skipped where the scope has a `predicate` and that is false."""
    if "predicate" not in call.values or not call.given("predicate"):
        body()
        return
    operand = t.operand(call["predicate"], call.at("predicate"), "predicate")
    if operand.type.dtype != BOOL:
        t.fail(
            ParserTypeError,
            f"predicate must be BOOL, got {describe(call['predicate'])}",
            call.at("predicate"),
            help="compare explicitly: predicate=(flags[i] != 0)",
        )
    branch(t, node, operand, body, lambda: None)


def branch(
    t: Tracer,
    node: ast.AST,
    condition: Operand,
    then: Callable[[], None],
    otherwise: Callable[[], None],
    jumps: tuple[bool, bool] = (False, False),
    wanted: Collection[str] = (),
) -> None:
    """An `if` op; what the arms leave behind merges.

    An arm that ends in a jump need not bind what is `wanted` behind the branch.
    """
    span = t.span(node)
    before = dict(t.frame.names)
    yielded = t.frame.yielded, t.frame.yielded_names
    arms = []
    for body, jump in zip((then, otherwise), jumps, strict=True):
        t.frame.names = dict(before)
        with t.builder.block() as ops, t.within("if"), t.runs(None):
            body()
        arms.append(Arm(ops, t.frame.names, jump))
    t.frame.names = before
    t.frame.yielded, t.frame.yielded_names = yielded  # what an arm yields has names by now
    merge_arms(t, node, condition, arms[0], arms[1], span, wanted)


def fold(t: Tracer, node: ast.If, holds: bool, run_body: RunBody) -> None:
    """A constant condition: read the dead arm for its mistakes, keep the live one."""
    live, dead = (node.body, node.orelse) if holds else (node.orelse, node.body)
    here = t.snapshot()
    with t.builder.block(), t.runs(False):
        run_body(t, dead)
    t.restore(here)
    before: dict[str, Binding] = dict(t.frame.names)
    dead_names = _bound_names(dead)
    jumps, wanted = _jumps(node)
    if jumps[1 if holds else 0]:
        dead_names |= wanted
    yielded = t.frame.yielded, t.frame.yielded_names
    run_body(t, live)
    t.frame.yielded, t.frame.yielded_names = yielded
    if t.frame.returned:
        return
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
