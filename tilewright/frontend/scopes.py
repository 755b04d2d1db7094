"""`with` scopes: regions, blocks of a launch, and scopes that only matter to a scheduler."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import NoReturn

from tilewright.errors import InvalidOperationError, ParserSyntaxError
from tilewright.frontend.branches import when
from tilewright.frontend.calls import SCOPE_WORDS, bind
from tilewright.frontend.complaints import Complains
from tilewright.frontend.expressions import evaluate
from tilewright.frontend.loops import launch
from tilewright.frontend.operands import Call
from tilewright.frontend.options import check_options, name_hint
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import Constant, Token, describe
from tilewright.language.loops import Level
from tilewright.language.operator import operator_of

RunBody = Callable[[Tracer, Sequence[ast.stmt]], None]


def with_statement(t: Tracer, node: ast.With, run_body: RunBody) -> None:
    """One `with` item: pl.at, pl.spmd, pl.incore, or a scope without effect on values."""
    check_with(t, node)
    item = node.items[0]
    expression = item.context_expr
    word = None
    if isinstance(expression, ast.Call):
        with t.at(expression):
            word = operator_of(getattr(evaluate(t, expression.func), "value", None))
    if word is None or word.name not in SCOPE_WORDS or not isinstance(expression, ast.Call):
        refuse_scope(t, expression)
    with t.at(expression):
        call = bind(t, expression, word, evaluate)
    if item.optional_vars is not None:
        if not isinstance(item.optional_vars, ast.Name):
            t.fail(
                ParserSyntaxError,
                "a task id needs a plain name",
                item.optional_vars,
                help="write with … as tid:",
            )
        t.bind(item.optional_vars.id, Token(), item.optional_vars)
    match word.name:
        case "spmd":
            launch(t, node, call, None, run_body)
        case "at" if _level(t, call) is not Level.CORE_GROUP:
            check_options(t, call)
            when(t, node, call, lambda: run_body(t, node.body))
        case "at" | "incore" | "auto_incore":
            name = (name_hint(t, call) if word.name == "at" else None) or (
                f"{t.frame.kernel.__name__}_{node.lineno}"
            )
            check_options(t, call)
            when(
                t,
                node,
                call,
                lambda: t.region(name, expression, lambda: run_body(t, node.body)),
            )
        case _:
            check_options(t, call)
            run_body(t, node.body)


def check_with(t: Complains, node: ast.With) -> None:
    if len(node.items) != 1:
        t.fail(
            ParserSyntaxError,
            "one scope per with",
            node.items[1].context_expr,
            help="nest two with statements",
        )


def refuse_scope(t: Complains, node: ast.expr) -> NoReturn:
    """`with` of something that is no scope of the language."""
    t.fail(
        ParserSyntaxError,
        f"with {ast.unparse(node)} is no scope of the language",
        node,
        help="write with pl.at(level=pl.Level.CORE_GROUP):",
    )


def _level(t: Tracer, call: Call) -> Level:
    value = call["level"]
    level = value.value if isinstance(value, Constant) else None
    if not isinstance(level, Level):
        t.fail(
            InvalidOperationError,
            f"pl.at: level must be a pl.Level, got {describe(value)}",
            call.at("level"),
            help="write level=pl.Level.CORE_GROUP",
        )
    return level
