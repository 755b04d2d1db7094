"""Statements: assignment, slices as stores, regions, return.

Loops and branches have files of their own.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from tilewright.errors import (
    InvalidOperationError,
    KernelError,
    ParserSyntaxError,
    ParserTypeError,
    UnsupportedFeatureError,
)
from tilewright.frontend.annotations import check_annotation
from tilewright.frontend.branches import if_statement
from tilewright.frontend.calls import LOOP_WORDS, callee
from tilewright.frontend.checking import check_assignment, refuse_statement
from tilewright.frontend.expressions import (
    NO_EXPRESSION,
    evaluate,
    refuse_expression,
)
from tilewright.frontend.families.arrays import write_item
from tilewright.frontend.inlining import inline, return_statement
from tilewright.frontend.jumps import Branch, looked_at
from tilewright.frontend.loops import for_statement, while_statement
from tilewright.frontend.mistakes import NeedsRegion
from tilewright.frontend.operands import Call
from tilewright.frontend.options import check_options, name_hint
from tilewright.frontend.recovery import forgiving
from tilewright.frontend.scopes import with_statement
from tilewright.frontend.subscripts import resolve
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import (
    Array,
    Block,
    Constant,
    Items,
    Method,
    Named,
    Nothing,
    Tensor,
    Token,
    describe,
    is_number,
)
from tilewright.frontend.windows import as_source, write_window
from tilewright.language.kernel import Kernel
from tilewright.language.operator import operator_of

SUBMIT_OPTIONS = ("deps", "name_hint", "allow_early_resolve")
SIMPLE = (ast.Assign, ast.AnnAssign, ast.Expr)  # may turn out to be work on blocks
MOST_COPIES = 4  # branches within each other whose arms each have a copy of what follows


def run_body(t: Tracer, statements: Sequence[ast.stmt]) -> None:
    """Read statements in order. A run of them that works on blocks outside a region becomes one."""
    i = 0
    while i < len(statements) and not t.frame.returned:
        node = statements[i]
        if isinstance(node, ast.If):
            i += 1 + _branch(t, node, statements[i + 1 :])
            continue
        if t.in_region or not isinstance(node, SIMPLE):
            statement(t, node)
            i += 1
            continue
        here = t.snapshot()
        try:
            with t.builder.block() as ops:
                statement(t, node)
            t.flush(ops)
            i += 1
            continue
        except NeedsRegion:
            t.restore(here)
        first = node
        count = _run_of_block_work(t, statements, i)

        def body(run: Sequence[ast.stmt] = statements[i : i + count]) -> None:
            for inner in run:
                statement(t, inner)

        t.region(f"{t.frame.kernel.__name__}_{first.lineno}", first, body)
        i += count


def _branch(t: Tracer, node: ast.If, rest: Sequence[ast.stmt]) -> int:
    """Read an `if`. The rest goes into both arms where it looks at a name that is another tensor in each; where
    that cannot be, such a name stands for a copy.

    Gives how many statements of the rest were read with it.
    """
    here, outside = t.snapshot(), t.torn
    t.torn = set()
    with t.builder.block() as ops:
        statement(t, node)
    names, t.torn = t.torn, outside | t.torn
    moved = list(rest[:-1] if rest and _stands_last(t, rest[-1]) else rest)
    in_loop = any(around != "if" for around in t.inside)  # the next turn may look at it
    if not (names if in_loop else names & looked_at(rest)):
        t.flush(ops)
        return 0
    t.restore(here)
    if (
        not isinstance(node, Branch)
        and t.inside.count("if") < MOST_COPIES
        and names & looked_at(moved)
    ):
        both = ast.If(node.test, [*node.body, *moved], [*node.orelse, *moved])
        statement(t, ast.copy_location(both, node))
        return len(moved)
    before, t.picks = t.picks, True
    statement(t, node)
    t.picks = before
    return 0


def _stands_last(t: Tracer, node: ast.stmt) -> bool:
    """Whether a statement ends the body that it stands in, and cannot move into an arm."""
    value = getattr(node, "value", None)
    return isinstance(node, ast.Return) or (value is not None and _is_yield(t, value))


def _run_of_block_work(t: Tracer, statements: Sequence[ast.stmt], start: int) -> int:
    """How many statements from `start` on cannot be orchestration.

    At least one. Trying leaves no trace.
    """
    before = t.snapshot()
    mistakes, t.mistakes = t.mistakes, None
    count = 0
    with t.builder.block():
        for node in statements[start:]:
            if not isinstance(node, SIMPLE) or (count and _calls_a_kernel(t, node)):
                break
            here = t.snapshot()
            try:
                if count:
                    statement(t, node)
                    break
                raise NeedsRegion
            except NeedsRegion:
                t.restore(here)
            except KernelError:
                break
            try:
                t.in_region = True
                statement(t, node)
            except KernelError:
                break
            finally:
                t.in_region = False
            count += 1
    t.restore(before)
    t.mistakes = mistakes
    return max(count, 1)


def _calls_a_kernel(t: Tracer, node: ast.stmt) -> bool:
    """Whether a statement calls another kernel, which has regions of its own."""
    value = getattr(node, "value", None)
    if not isinstance(value, ast.Call):
        return False
    if getattr(value.func, "attr", "") == "submit":
        return True
    try:
        return isinstance(callee(t, value, evaluate), Kernel)
    except KernelError:
        return False


def statement(t: Tracer, node: ast.stmt) -> None:
    """Read one statement. Where mistakes are collected, one more does not end the reading."""
    if t.mistakes is None:
        _statement(t, node)
    else:
        forgiving(t, node, _statement)


def _statement(t: Tracer, node: ast.stmt) -> None:
    with t.at(node):
        match node:
            case ast.Assign():
                check_assignment(t, node)
                assign(t, node.targets[0], node.value)
            case ast.AnnAssign():
                check_assignment(t, node)
                assert node.value is not None
                assign(t, node.target, node.value)
                check_annotation(t, node)
            case ast.Expr():
                expression_statement(t, node)
            case ast.For():
                for_statement(t, node, run_body)
            case ast.If():
                if_statement(t, node, run_body)
            case ast.With():
                with_statement(t, node, run_body)
            case ast.While():
                while_statement(t, node, run_body)
            case ast.Return():
                return_statement(t, node, run_body)
            case ast.Pass():
                pass
            case _:
                refuse_statement(t, node)


def result_of(t: Tracer, node: ast.expr) -> Named:
    """The right-hand side of an assignment: an expression, or a call of another kernel."""
    if isinstance(node, ast.Call):
        with t.at(node):
            thing = callee(t, node, evaluate)
            if isinstance(thing, Kernel):
                return inline(t, thing, node, run_body)
            if getattr(operator_of(thing), "name", "") == "submit":
                return _submit(t, node)
    return evaluate(t, node)


def _submit(t: Tracer, node: ast.Call) -> Named:
    """`pl.submit(kernel, …)` is the call, and a task id after its results."""
    if not node.args:
        t.fail(
            InvalidOperationError,
            "pl.submit needs a kernel to call",
            node,
            help="write out, tid = pl.submit(kernel, arguments…)",
        )
    options = {k.arg: k.value for k in node.keywords if k.arg in SUBMIT_OPTIONS}
    rest = [k for k in node.keywords if k.arg not in SUBMIT_OPTIONS]
    values = {name: evaluate(t, option) for name, option in options.items()}
    hints = Call("submit", node, {"name_hint": Constant(None), **values}, options)
    name_hint(t, hints)
    check_options(t, hints)
    pasted = ast.copy_location(ast.Call(node.args[0], node.args[1:], rest), node)
    with t.at(pasted):
        if not isinstance(callee(t, pasted, evaluate), Kernel):
            t.fail(
                InvalidOperationError,
                f"pl.submit needs a kernel first, got {ast.unparse(node.args[0])}",
                node.args[0],
                help="decorate what is to run with @pl.jit.inline or @pl.jit.incore",
            )
    result = result_of(t, pasted)
    if isinstance(result, Nothing):
        return Token()
    return Items((*(result.values if isinstance(result, Items) else (result,)), Token()))


def assign(t: Tracer, target: ast.expr, source: ast.expr) -> None:
    """`x = …`, `a, b = …`, `dst[…] = …`."""
    if isinstance(target, ast.Subscript):
        _assign_window(t, target, source)
        return
    if _is_yield(t, source):
        _yield(t, target, source)
        return
    with t.naming(target.id if isinstance(target, ast.Name) else "v"):
        value = result_of(t, source)
    if isinstance(value, (Nothing, Method)):
        t.fail(
            ParserTypeError,
            f"{ast.unparse(source)} has no result to give a name to",
            source,
            help="call it as a statement; a kernel has a result where it ends with return",
        )
    if isinstance(target, ast.Name):
        first = isinstance(value, Constant) and value.value is None  # the task before the first
        t.bind(target.id, Token() if first else value, target)
        return
    if not isinstance(target, (ast.Tuple, ast.List)):
        t.fail(
            ParserSyntaxError,
            f"cannot assign to {ast.unparse(target)}",
            target,
            help="assign to a name, or to a window of a named tensor",
        )
    if not isinstance(value, Items):
        t.fail(
            ParserTypeError,
            f"cannot unpack {describe(value)}",
            source,
            help="give it one name; pl.slice or a subscript takes parts of it",
        )
    if len(value.values) != len(target.elts):
        t.fail(
            ParserTypeError,
            f"{len(target.elts)} names for {len(value.values)} values",
            target,
            help=f"give {len(value.values)} names",
        )
    for name, item in zip(target.elts, value.values, strict=True):
        if not isinstance(name, ast.Name):
            t.fail(
                ParserSyntaxError,
                f"cannot unpack into {ast.unparse(name)}",
                name,
                help="unpack into names",
            )
        t.bind(name.id, item, name)


def _assign_window(t: Tracer, target: ast.Subscript, source: ast.expr) -> None:
    """`dst[window] = src`: a store into memory, an insertion into a block."""
    if not isinstance(target.value, ast.Name):
        t.fail(
            ParserSyntaxError,
            f"a slice-assignment needs a name, got {ast.unparse(target.value)}",
            target,
            help="give the window a name first",
        )
    name = target.value.id
    base = t.lookup(target.value)
    if isinstance(base, Array):
        value = evaluate(t, source)
        write_item(t, base, target, evaluate(t, target.slice), value)
        return
    if not isinstance(base, (Tensor, Block)):
        t.fail(
            ParserTypeError,
            f"{name} is {describe(base)}, which has no windows",
            target,
            help="bind the name anew; a list in a kernel stays as it is",
        )
    value = evaluate(t, source)
    window = resolve(t, base, target, evaluate)
    if (window.is_element and not isinstance(value, (Tensor, Block))) or (
        isinstance(value, Constant) and is_number(value.value)
    ):
        t.fail(
            UnsupportedFeatureError,
            f"{ast.unparse(target)} = a scalar",
            target,
            help=f"write pl.write({name}, [indices], value)",
        )
    block = as_source(t, value, source, "slice-assignment")
    new = write_window(t, base, block, window.shape, window.offsets, t.node, drop=window.drop)
    if new is not base:
        t.update(name, new)


def expression_statement(t: Tracer, node: ast.Expr) -> None:
    value = node.value
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return
    if type(value) in NO_EXPRESSION:
        refuse_expression(t, value)
    if not isinstance(value, ast.Call):
        t.fail(
            UnsupportedFeatureError,
            f"the expression {ast.unparse(value)} does nothing",
            node,
            help="give it a name, or remove it",
        )
    with t.at(value):
        thing = callee(t, value, evaluate)
        word = operator_of(thing)
        if word is not None and word.name in ("static_assert", "static_print"):
            _while_compiling(t, value, word.name)
        elif word is not None and word.name == "yield_":
            _yield(t, None, value)
        elif word is not None and word.name in LOOP_WORDS:
            t.fail(
                ParserSyntaxError,
                f"pl.{word.name} stands after `for … in` only",
                value,
                help=f"write for i in pl.{word.name}(…):",
            )
        else:
            result_of(t, value)


def _while_compiling(t: Tracer, node: ast.Call, name: str) -> None:
    """pl.static_assert and pl.static_print."""
    values = [evaluate(t, argument) for argument in node.args]
    if name == "static_print":
        t.prints.append(" ".join(_shown(value) for value in values))
        return
    if not values or not 1 <= len(values) <= 2 or node.keywords:
        t.fail(
            InvalidOperationError,
            "static_assert takes a condition and a message",
            node,
            help='write pl.static_assert(condition, "why")',
        )
    holds = t.constant(values[0], node.args[0], "the condition of static_assert")
    if not holds and not t.dead:
        message = _shown(values[1]) if len(values) == 2 else ast.unparse(node.args[0])
        t.fail(
            InvalidOperationError,
            f"static_assert failed: {message}",
            node,
            help=f"make it true: {ast.unparse(node.args[0])}",
        )


def _shown(value: Named) -> str:
    if isinstance(value, Constant):
        return str(value.value)
    if isinstance(value, Items):
        return "[" + ", ".join(map(_shown, value.values)) + "]"
    return describe(value)


def _is_yield(t: Tracer, node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "yield_"
        and getattr(operator_of(callee(t, node, evaluate)), "name", "") == "yield_"
    )


def _yield(t: Tracer, target: ast.expr | None, node: ast.expr) -> None:
    """`a, b = pl.yield_(x, y)`: what goes on to the next iteration, and the names for it
    afterwards.
    """
    assert isinstance(node, ast.Call)
    values = tuple(evaluate(t, argument) for argument in node.args)
    names = (
        target.elts
        if isinstance(target, (ast.Tuple, ast.List))
        else []
        if target is None
        else [target]
    )
    if names and len(names) != len(values):
        t.fail(
            ParserTypeError,
            f"{len(names)} names for {len(values)} yielded values",
            node,
            help=f"give {len(values)} names",
        )
    for name, value in zip(names, values, strict=False):
        if not isinstance(name, ast.Name):
            t.fail(
                ParserSyntaxError,
                f"cannot yield into {ast.unparse(name)}",
                name,
                help="yield into names: a, b = pl.yield_(x, y)",
            )
        t.bind(name.id, value, name)
    t.frame.yielded = values
    t.frame.yielded_names = tuple(name.id for name in names if isinstance(name, ast.Name))
