"""Mistakes of form: found in a kernel's text alone, before anything is known of its arguments."""

from __future__ import annotations

import ast
from typing import NoReturn

from tilewright.errors import ParserSyntaxError, UnsupportedFeatureError
from tilewright.frontend.complaints import Complains
from tilewright.frontend.expressions import BINARY, BLOCK_OPERATOR, EXPRESSIONS, NO_EXPRESSION
from tilewright.frontend.signature import signature_of
from tilewright.frontend.source import source_of
from tilewright.language.kernel import Kernel

NO_STATEMENT = {
    ast.AugAssign: ("augmented assignment", None),
    ast.Assert: ("assert", "write pl.static_assert(condition, message)"),
    ast.Try: ("try", "a kernel raises nothing that it could catch: leave it out"),
    ast.FunctionDef: ("a nested function", "decorate a function outside with @pl.jit.inline"),
    ast.ClassDef: ("a class", "define it outside the kernel"),
    ast.Import: ("import", "import at the top of the file"),
    ast.ImportFrom: ("import", "import at the top of the file"),
    ast.Global: ("global", "pass the value as an argument, or return it"),
    ast.Nonlocal: ("nonlocal", "pass the value as an argument, or return it"),
    ast.Delete: ("del", "leave it out: a name costs nothing"),
    ast.Raise: ("raise", "write pl.static_assert(condition, message)"),
    ast.Match: ("match", "write if and elif"),
    ast.AsyncFunctionDef: ("an async function", "decorate a def outside with @pl.jit.inline"),
    ast.AsyncFor: ("async for", "write for i in pl.range(n):"),
    ast.AsyncWith: ("async with", "write with pl.at(level=pl.Level.CORE_GROUP):"),
}
if hasattr(ast, "TryStar"):  # from Python 3.11 on
    NO_STATEMENT[ast.TryStar] = NO_STATEMENT[ast.Try]
if hasattr(ast, "TypeAlias"):  # from Python 3.12 on
    NO_STATEMENT[ast.TypeAlias] = ("a type alias", "write the type where it is used")


def check_syntax(kernel: Kernel) -> None:
    """Refuse parameters without annotation, and statements and expressions that no kernel has."""
    signature_of(kernel)
    source = source_of(kernel)
    for statement in source.function.body:
        for node in ast.walk(statement):
            what, advice = NO_STATEMENT.get(
                type(node), (NO_EXPRESSION.get(type(node)), EXPRESSIONS)
            )
            if what is not None and not isinstance(node, ast.Slice):
                raise UnsupportedFeatureError(
                    f"{what} has no place in a kernel", source.span(node), help=advice
                )


def refuse_statement(t: Complains, node: ast.stmt) -> NoReturn:
    """No kernel has statements of this kind."""
    what, advice = NO_STATEMENT.get(
        type(node), (f"the statement {ast.unparse(node)}", "leave it out")
    )
    if isinstance(node, ast.AugAssign):
        advice = f"write {_written_out(node)}"
    t.fail(UnsupportedFeatureError, f"{what} has no place in a kernel", node, advice)


def _written_out(node: ast.AugAssign) -> str:
    """`k += 1` as the assignment that it stands for."""
    target, value = ast.unparse(node.target), ast.unparse(node.value)
    sign = BINARY[type(node.op)][2] if type(node.op) in BINARY else "@"
    if isinstance(node.target, ast.Subscript):
        return f"{target} = {BLOCK_OPERATOR.get(sign, 'pl.…')}({target}, {value})"
    return f"{target} = {target} {sign} {value}"


def check_assignment(t: Complains, node: ast.Assign | ast.AnnAssign) -> None:
    """One target, and a value for it."""
    if isinstance(node, ast.Assign) and len(node.targets) != 1:
        t.fail(ParserSyntaxError, "chained assignment", node, help="write one assignment per line")
    if node.value is None:
        t.fail(
            ParserSyntaxError, "an annotation without a value", node, help="bind the name: x = …"
        )
