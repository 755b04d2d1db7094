"""`pl.op(…)`: bind the arguments to the word's signature and hand them to the word's family."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from inspect import Parameter
from types import FunctionType
from typing import Any, NoReturn

from tilewright import language
from tilewright.errors import (
    InvalidOperationError,
    KernelError,
    ParserSyntaxError,
    ParserTypeError,
    UnsupportedFeatureError,
)
from tilewright.frontend.complaints import INSTEAD, Complains
from tilewright.frontend.families import HANDLERS
from tilewright.frontend.keywords import in_our_names
from tilewright.frontend.operands import Call
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import (
    Constant,
    Items,
    Method,
    Named,
    Nothing,
    describe,
    from_python,
)
from tilewright.ir.ops.table import RuleBroken
from tilewright.language.kernel import Kernel
from tilewright.language.loops import Hint, cross_core_slot, split
from tilewright.language.operator import Operator, operator_of, why_not_bound
from tilewright.language.types import Dynamic, dynamic

Evaluate = Callable[[Tracer, ast.expr], Named]

# Words that stand in one place of a sentence only.
LOOP_WORDS = ("range", "parallel", "pipeline", "unroll", "spmd", "while_", "split_aiv")
SCOPE_WORDS = ("at", "spmd", "incore", "auto_incore", "cluster", "manual_scope", "scope")
SEVERAL = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
BUILTIN_HELP = {
    "range": "loop with pl.range, pl.parallel, pl.pipeline or pl.unroll",
    "min": "write pl.min(a, b) for scalars, pl.minimum for blocks",
    "max": "write pl.max(a, b) for scalars, pl.maximum for blocks",
    "abs": "write pl.abs(x)",
    "print": "write pl.static_print(…) for what is known while compiling",
    "len": "write x.shape[0]",
    "float": "write pl.cast(x, pl.FP32)",
    "int": "write pl.cast(x, pl.INT32)",
}


def callee(t: Tracer, node: ast.Call, evaluate: Evaluate) -> Any:
    """The Python object or method that is called.

    UnsupportedFeatureError when kernels cannot call it.
    """
    value = evaluate(t, node.func)
    if isinstance(value, Method):
        return value
    if not isinstance(value, Constant):
        t.fail(
            UnsupportedFeatureError,
            f"{describe(value)} cannot be called",
            node,
            help="kernels call pl.… and functions decorated with @pl.jit.inline",
        )
    thing = value.value
    if may_call(thing):
        return thing
    refuse_callee(
        t,
        node,
        builtin=getattr(thing, "__module__", None) == "builtins",
        function=isinstance(thing, FunctionType),
    )


def may_call(thing: Any) -> bool:
    """Whether a kernel can call this: another kernel, a word, a maker of hints."""
    return (
        isinstance(thing, (Kernel, Hint))
        or operator_of(thing) is not None
        or thing in (split, cross_core_slot, dynamic)
    )


def refuse_callee(t: Complains, node: ast.Call, builtin: bool, function: bool) -> NoReturn:
    """The call of something that lives in Python only."""
    name = ast.unparse(node.func)
    advice = BUILTIN_HELP.get(name) if builtin else None
    if advice is None and node.args and all(_is_literal(x) for x in node.args):
        advice = f"compute it outside the kernel, and use its name: VALUE = {ast.unparse(node)}"
    elif advice is None and isinstance(node.func, ast.Attribute):
        word = node.func.attr
        advice = INSTEAD.get(word) or (f"write pl.{word}(…)" if word in language.__all__ else None)
    if advice is None and function:
        advice = f"decorate {name} with @pl.jit.inline to call it from a kernel"
    t.fail(
        UnsupportedFeatureError,
        f"a kernel cannot call {name}",
        node,
        help=advice or "kernels call pl.… and functions decorated with @pl.jit.inline",
    )


def _is_literal(node: ast.expr) -> bool:
    return all(isinstance(n, (ast.Constant, ast.UnaryOp, ast.unaryop)) for n in ast.walk(node))


def call(t: Tracer, node: ast.Call, evaluate: Evaluate) -> Named:
    """The value of a call inside an expression."""
    thing = callee(t, node, evaluate)
    if isinstance(thing, Method):
        known, t.frame.extents = t.frame.extents, {}  # what is meant is a symbol, not its extent
        given = [evaluate(t, argument) for argument in node.args]
        t.frame.extents = known
        _bind_dynamic(t, node, thing, given)
        return Nothing()
    if isinstance(thing, Kernel):
        t.fail(
            ParserSyntaxError,
            f"the call of kernel {thing.__name__!r} is nested in an expression",
            node,
            help="give its result a name on a line of its own",
        )
    word = operator_of(thing)
    if word is None:
        return _hint(t, node, thing, evaluate)
    if word.name == "cond":
        t.fail(
            ParserSyntaxError,
            "pl.cond stands first in the body of pl.while_ only",
            node,
            help="write pl.cond(x < limit) right after for (x,) in pl.while_(init_values=(start,)):",
        )
    if word.name == "submit":
        t.fail(
            ParserSyntaxError,
            "pl.submit is nested in an expression",
            node,
            help="give its results names on a line of their own: out, tid = pl.submit(…)",
        )
    if word.name == "yield_":
        t.fail(
            ParserSyntaxError,
            "pl.yield_ is a statement: `out = pl.yield_(x)`",
            node,
            help="write it on a line of its own, last in the body",
        )
    if word.name in LOOP_WORDS or word.name in SCOPE_WORDS:
        place = "with" if word.name in SCOPE_WORDS else "for … in"
        t.fail(
            ParserSyntaxError,
            f"pl.{word.name} stands after `{place}` only",
            node,
            help=f"write {place} pl.{word.name}(…):",
        )
    with t.naming("v"):
        bound = bind(t, node, word, evaluate)
    handler = HANDLERS.get(word.name)
    if handler is None:  # static_assert, static_print
        t.fail(
            UnsupportedFeatureError,
            f"pl.{word.name} has no value",
            node,
            help="write it on a line of its own",
        )
    try:
        return handler(t, bound)
    except RuleBroken as broken:
        _broken(t, node, bound, broken)


def _bind_dynamic(t: Tracer, node: ast.Call, method: Method, given: list[Named]) -> None:
    """`x.bind_dynamic(axis, symbol)`: the symbol is the extent from here on."""
    rank = len(method.owner.shape)
    values = [x.value if isinstance(x, Constant) else None for x in given]
    if (
        len(values) != 2
        or not isinstance(values[0], int)
        or not -rank <= values[0] < rank
        or not isinstance(values[1], Dynamic)
    ):
        t.fail(
            InvalidOperationError,
            f"bind_dynamic takes an axis of {rank} and a symbol, got"
            f" {', '.join(map(describe, given)) or 'nothing'}",
            node,
            help='write x.bind_dynamic(0, T) with T = pl.dynamic("T")',
        )
    t.frame.extents[values[1].name] = method.owner.shape[values[0]]


def _hint(t: Tracer, node: ast.Call, thing: Any, evaluate: Evaluate) -> Named:
    """`pl.split(mode)`, `pl.dynamic(name)` and their like: constants in, a hint or a symbol out."""
    if isinstance(thing, Hint):
        return Constant(thing)
    args = [t.constant(evaluate(t, x), x, "a hint's argument") for x in node.args]
    named = {
        k.arg or "": t.constant(evaluate(t, k.value), k.value, k.arg or "**") for k in node.keywords
    }
    try:
        made = thing(*args, **named)
    except TypeError as reason:
        t.fail(
            InvalidOperationError,
            f"pl.{thing.__name__}: {reason}",
            node,
            help=f"its parameters are {inspect.signature(thing)}",
        )
    except KernelError as error:
        t.fail(type(error), f"pl.{thing.__name__}: {error.message}", node, error.help)
    return Constant(made)


def _broken(t: Tracer, node: ast.Call, bound: Call, broken: RuleBroken) -> NoReturn:
    kind: type[KernelError] = InvalidOperationError
    if bound.name in ("store", "assemble") and broken.message.startswith(
        ("cannot store", "the window", "target and")
    ):
        kind = ParserTypeError
    text = (
        broken.message
        if broken.message.startswith(bound.name)
        else f"{bound.name}: {broken.message}"
    )
    t.fail(kind, text, node, broken.help, t.notes(node))


def bind(t: Tracer, node: ast.Call, word: Operator, evaluate: Evaluate) -> Call:
    """Evaluate the arguments and name them as the signature does.

    InvalidOperationError on a mismatch.
    """
    bound = named_arguments(t, node, word)
    values: dict[str, Named] = {}
    nodes: dict[str, ast.expr] = {}
    for name, parameter in word.signature.parameters.items():
        given: Any = bound.get(name)
        if name not in bound:
            default = parameter.default
            values[name] = Items(()) if parameter.kind in SEVERAL else from_python(default)
        elif parameter.kind in SEVERAL:
            items = given.values() if isinstance(given, dict) else given
            values[name] = Items(tuple(evaluate(t, item) for item in items))
            nodes[name] = node
        else:
            values[name] = evaluate(t, given)
            nodes[name] = given
    return Call(word.name, node, values, nodes)


def named_arguments(t: Complains, node: ast.Call, word: Operator) -> dict[str, Any]:
    """The written arguments by parameter. InvalidOperationError when the signature has others."""
    positional, named = written_arguments(t, node)
    ours = in_our_names(word.signature, len(positional), named)
    try:
        return word.signature.bind(*positional, **ours).arguments
    except TypeError as reason:
        text, near = why_not_bound(word.signature, len(positional), ours, reason)
        t.fail(
            InvalidOperationError,
            f"pl.{word.name}: {text}",
            node,
            help=near or f"its parameters are {word.signature}",
        )


def written_arguments(t: Complains, node: ast.Call) -> tuple[list[ast.expr], dict[str, ast.expr]]:
    """The arguments without and with a name; kernels have no other kind."""
    positional: list[ast.expr] = []
    named: dict[str, ast.expr] = {}
    for argument in node.args:
        if isinstance(argument, ast.Starred):
            t.fail(
                UnsupportedFeatureError,
                "a starred argument has no place in a kernel",
                argument,
                help="write the arguments out, one by one",
            )
        positional.append(argument)
    for keyword in node.keywords:
        if keyword.arg is None:
            t.fail(
                UnsupportedFeatureError,
                "** arguments have no place in a kernel",
                node,
                help="write the arguments out: name=value",
            )
        named[keyword.arg] = keyword.value
    return positional, named
