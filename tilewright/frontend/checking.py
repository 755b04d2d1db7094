"""Mistakes of form: found in a kernel's text alone, before anything is known of its arguments."""

from __future__ import annotations

import ast

from tilewright.errors import UnsupportedFeatureError
from tilewright.frontend.expressions import EXPRESSIONS, NO_EXPRESSION
from tilewright.frontend.signature import signature_of
from tilewright.frontend.source import source_of
from tilewright.frontend.statements import NO_STATEMENT
from tilewright.language.kernel import Kernel


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
