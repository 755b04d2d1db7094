"""`with` scopes: regions, blocks of a launch, and scopes that only matter to a scheduler."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import NoReturn

from tilewright.dtypes import BOOL, INDEX
from tilewright.errors import InvalidOperationError, ParserSyntaxError, ParserTypeError
from tilewright.frontend.branches import guarded
from tilewright.frontend.calls import SCOPE_WORDS, bind, callee
from tilewright.frontend.complaints import Complains
from tilewright.frontend.expressions import evaluate
from tilewright.frontend.loops import run_loop
from tilewright.frontend.operands import Call
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import Constant, Items, Token, describe
from tilewright.ir.nodes import Const, Operand
from tilewright.language.loops import Hint, Level
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
            word = operator_of(callee(t, expression, evaluate))
    if word is None or word.name not in SCOPE_WORDS or not isinstance(expression, ast.Call):
        refuse_scope(t, expression)
    with t.at(expression):
        call = bind(t, expression, word, evaluate)
    if item.optional_vars is not None:
        if not isinstance(item.optional_vars, ast.Name):
            t.fail(ParserSyntaxError, "a task id needs a plain name", item.optional_vars)
        t.bind(item.optional_vars.id, Token(), item.optional_vars)
    match word.name:
        case "spmd":
            run_loop(
                t,
                node,
                "spmd",
                spmd_bounds(t, call),
                None,
                node.body,
                run_body,
                name=name_hint(t, call),
            )
        case "at" if _level(t, call) is not Level.CORE_GROUP:
            run_body(t, node.body)
        case "at" | "incore" | "auto_incore":
            name = name_hint(t, call) if word.name == "at" else None
            check_hints(t, call)

            def body() -> None:
                t.region(
                    name or f"{t.frame.kernel.__name__}_{node.lineno}",
                    expression,
                    lambda: run_body(t, node.body),
                )

            if word.name == "at" and call.given("predicate"):
                guarded(t, node, _predicate(t, call), body)
            else:
                body()
        case _:
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


def _predicate(t: Tracer, call: Call) -> Operand:
    operand = t.operand(call["predicate"], call.at("predicate"), "predicate")
    if operand.type.dtype != BOOL:
        t.fail(
            ParserTypeError,
            f"predicate must be BOOL, got {describe(call['predicate'])}",
            call.at("predicate"),
        )
    return operand


def name_hint(t: Tracer, call: Call) -> str | None:
    """The author's name for a region, kept for traces and symbols."""
    value = call["name_hint"]
    name = value.value if isinstance(value, Constant) else value
    if name is None:
        return None
    if not isinstance(name, str) or not name.isidentifier():
        t.fail(
            InvalidOperationError,
            f"name_hint must be an identifier, got {name!r}",
            call.at("name_hint"),
        )
    return name


def check_hints(t: Tracer, call: Call) -> None:
    """Optimisation hints change no value; their kind is checked."""
    if "optimizations" not in call.values:
        return
    hints = call["optimizations"]
    items = hints.values if isinstance(hints, Items) else (hints,)
    for hint in items:
        if (
            not (isinstance(hint, Constant) and isinstance(hint.value, Hint))
            and operator_of(getattr(hint, "value", None)) is None
        ):
            t.fail(
                InvalidOperationError,
                f"an optimisation hint must be pl.auto_chunk or pl.split(…), got {describe(hint)}",
                call.at("optimizations"),
            )


def spmd_bounds(t: Tracer, call: Call) -> tuple[Operand, Operand, Operand]:
    """0, n, 1 of `pl.spmd(n)`."""
    return (
        Const(0, INDEX),
        t.index(call["n"], call.at("n"), "the number of blocks"),
        Const(1, INDEX),
    )
