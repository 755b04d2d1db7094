"""`for` in its five kinds: bounds, carried values, unrolling."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import NoReturn

from tilewright.dtypes import INDEX
from tilewright.errors import (
    InvalidOperationError,
    ParserSyntaxError,
    ParserTypeError,
    UnsupportedFeatureError,
)
from tilewright.frontend.calls import LOOP_WORDS, bind, callee
from tilewright.frontend.carrying import run_loop
from tilewright.frontend.complaints import Complains
from tilewright.frontend.expressions import evaluate
from tilewright.frontend.merging import (
    is_carriable,
    load_in_region,
    require_same_type,
)
from tilewright.frontend.operands import Call
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import (
    Constant,
    Items,
    Named,
    Number,
    Tensor,
    describe,
    same,
)
from tilewright.ir.nodes import Const, Operand
from tilewright.language.operator import operator_of

RunBody = Callable[[Tracer, Sequence[ast.stmt]], None]
Bounds = tuple[Operand, Operand, Operand]


def for_statement(t: Tracer, node: ast.For, run_body: RunBody) -> None:
    """`for v in pl.range(…)` and its siblings."""
    word = None
    if isinstance(node.iter, ast.Call):
        with t.at(node.iter):
            found = evaluate(t, node.iter.func)
            word = operator_of(getattr(found, "value", None))
            if (
                word is None
                and getattr(getattr(found, "value", None), "__module__", "") != "builtins"
            ):
                callee(t, node.iter, evaluate)
    if word is None or word.name not in LOOP_WORDS:
        refuse_loop(t, node)
    check_loop(t, node)
    assert isinstance(node.iter, ast.Call)
    with t.at(node.iter):
        call = bind(t, node.iter, word, evaluate)
        name = None
        if word.name == "spmd":
            from tilewright.frontend.scopes import check_hints, name_hint, spmd_bounds

            bounds, name = spmd_bounds(t, call), name_hint(t, call)
            check_hints(t, call)
        else:
            bounds = _bounds(t, call, word.name)
        initial = _init_values(t, call)
        if word.name == "pipeline":
            stage = t.constant(call["stage"], call.at("stage"), "stage")
            if isinstance(stage, bool) or not isinstance(stage, int) or stage < 1:
                t.fail(
                    InvalidOperationError,
                    f"stage must be a positive constant, got {stage!r}",
                    call.at("stage"),
                )
    variable, explicit = _targets(t, node, len(initial))
    if word.name == "unroll":
        _unroll(t, node, bounds, variable, run_body)
    else:
        run_loop(
            t,
            node,
            word.name,
            bounds,
            variable,
            node.body,
            run_body,
            name=name,
            explicit=dict(zip(explicit, initial, strict=True)),
        )


def refuse_loop(t: Complains, node: ast.For) -> NoReturn:
    """A loop over something else than the language's own ranges."""
    over = ast.unparse(node.iter)
    t.fail(
        ParserSyntaxError,
        f"a loop must use pl.range, pl.parallel, pl.pipeline, pl.unroll or pl.spmd, got {over}",
        node.iter,
        help=f"write pl.{over}" if over.startswith("range(") else None,
    )


def check_loop(t: Complains, node: ast.For) -> None:
    if node.orelse:
        t.fail(
            UnsupportedFeatureError, "else after a loop has no place in a kernel", node.orelse[0]
        )


def _targets(t: Tracer, node: ast.For, count: int) -> tuple[str, list[str]]:
    """The loop variable, and the names of `init_values`."""
    target = node.target
    if isinstance(target, ast.Name):
        if count:
            t.fail(ParserSyntaxError, "init_values need names: for i, (x,) in …", target)
        return target.id, []
    if (
        isinstance(target, ast.Tuple)
        and len(target.elts) == 2
        and isinstance(target.elts[0], ast.Name)
        and isinstance(target.elts[1], ast.Tuple)
        and all(isinstance(name, ast.Name) for name in target.elts[1].elts)
    ):
        names = [name.id for name in target.elts[1].elts if isinstance(name, ast.Name)]
        if len(names) != count:
            t.fail(ParserSyntaxError, f"{len(names)} names for {count} init_values", target)
        return target.elts[0].id, names
    t.fail(ParserSyntaxError, f"a loop variable must be a name, got {ast.unparse(target)}", target)


def _init_values(t: Tracer, call: Call) -> list[Named]:
    given = call.values.get("init_values", Items(()))
    values = given.values if isinstance(given, Items) else (given,)
    for value in values:
        if not is_carriable(value) and not isinstance(value, Tensor):
            t.fail(
                ParserTypeError,
                f"init_values take blocks and scalars, got {describe(value)}",
                call.at("init_values"),
            )
    return [load_in_region(t, v) if isinstance(v, Tensor) else v for v in values]


def _bounds(t: Tracer, call: Call, word: str) -> Bounds:
    given = call["bounds"]
    assert isinstance(given, Items)
    if not 1 <= len(given.values) <= 3:
        t.fail(
            InvalidOperationError,
            f"pl.{word} takes stop, or start and stop, or start, stop and step",
            call.node,
        )
    nodes = call.node.args
    operands = [
        t.index(v, n, f"a bound of pl.{word}") for v, n in zip(given.values, nodes, strict=True)
    ]
    if len(operands) == 1:
        operands = [Const(0, INDEX), operands[0]]
    if len(operands) == 2:
        operands.append(Const(1, INDEX))
    step = operands[2]
    if isinstance(step, Const) and step.value == 0:
        t.fail(
            InvalidOperationError,
            "a loop with step 0 never ends",
            nodes[2],
            help="use a positive step",
        )
    if word == "pipeline" and not isinstance(step, Const):
        t.constant(Number(step), nodes[2], "the step of pl.pipeline")
    return operands[0], operands[1], step


def _unroll(t: Tracer, node: ast.For, bounds: Bounds, variable: str, run_body: RunBody) -> None:
    """The body once per value, the variable a constant."""
    assert isinstance(node.iter, ast.Call)
    fixed = [t.constant(Number(b), node.iter, "a bound of pl.unroll") for b in bounds]
    before = dict(t.frame.names)
    for value in range(*fixed):
        t.bind(variable, Constant(value), node)
        start = dict(t.frame.names)
        run_body(t, node.body)
        for key in list(t.frame.names):
            binding = t.frame.names[key]
            if key not in before and key != variable:
                t.drop(
                    key,
                    f"was bound inside the loop on line {node.lineno} and is not visible after it",
                )
            elif key in start and not same(start[key].value, binding.value):
                require_same_type(t, node, key, start[key], binding)
    t.drop(
        variable, f"is the variable of the loop on line {node.lineno} and is not visible after it"
    )
