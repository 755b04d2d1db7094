"""A kernel's parameters: kind, direction, annotated shape and dtype, default, and where they are
written.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from tilewright.dtypes import DType
from tilewright.errors import KernelError, ParserTypeError
from tilewright.frontend.source import Source, enclosing_reader, source_of
from tilewright.ir.nodes import Direction
from tilewright.language.kernel import Kernel
from tilewright.language.types import (
    DirectedAnnotation,
    Dynamic,
    Scalar,
    ScalarAnnotation,
    Tensor,
    TensorAnnotation,
)
from tilewright.span import Span

ANNOTATIONS = "write pl.Tensor[[rows, columns], dtype], pl.Out[…], pl.InOut[…] or pl.Scalar[dtype]"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter.

    `shape` has None where an extent is not fixed; it is None when nothing is said.
    """

    name: str
    kind: Literal["tensor", "scalar"]
    direction: Direction
    shape: tuple[int | None, ...] | None
    dtype: DType | None
    default: Any
    span: Span

    @property
    def has_default(self) -> bool:
        return self.default is not inspect.Parameter.empty


def signature_of(kernel: Kernel) -> tuple[Parameter, ...]:
    """The parameters in order. ParserTypeError when one has no usable annotation.

    Annotations are evaluated anew, so that they follow the constants they mention.
    """
    source = source_of(kernel)
    arguments = source.function.args
    for odd in (arguments.vararg, arguments.kwarg):
        if odd is not None:
            raise ParserTypeError(
                f"parameter {odd.arg!r} takes any number of arguments",
                source.span(odd),
                help="give every parameter a name and an annotation",
            )
    defaults = inspect.signature(kernel.function).parameters
    return tuple(
        _parameter(kernel, source, node, defaults[node.arg].default)
        for node in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    )


def _parameter(kernel: Kernel, source: Source, node: ast.arg, default: Any) -> Parameter:
    span = source.span(node)
    if node.annotation is None:
        raise missing_annotation(node, span)
    annotation = _evaluate(kernel, source, node)
    direction: Direction = "in"
    if isinstance(annotation, DirectedAnnotation):
        direction, annotation = annotation.direction, annotation.tensor
    if annotation is Tensor:
        annotation = TensorAnnotation(None, None)
    if isinstance(annotation, ScalarAnnotation):
        return Parameter(node.arg, "scalar", "in", (), annotation.dtype, default, span)
    if isinstance(annotation, TensorAnnotation):
        return Parameter(
            node.arg,
            "tensor",
            direction,
            _extents(annotation, node, span),
            annotation.dtype,
            default,
            span,
        )
    if annotation is Scalar:
        raise ParserTypeError(
            f"parameter {node.arg!r}: pl.Scalar needs a dtype",
            span,
            help="write pl.Scalar[pl.INT32]",
        )
    raise ParserTypeError(
        f"parameter {node.arg!r} has annotation {source.text(node.annotation)},"
        " which is no type of a kernel",
        span,
        help=ANNOTATIONS,
    )


def missing_annotation(node: ast.arg, span: Span) -> ParserTypeError:
    return ParserTypeError(
        f"parameter {node.arg!r} is missing a type annotation", span, help=ANNOTATIONS
    )


def _extents(
    annotation: TensorAnnotation, node: ast.arg, span: Span
) -> tuple[int | None, ...] | None:
    if annotation.shape is None:
        return None
    extents: list[int | None] = []
    for extent in annotation.shape:
        if isinstance(extent, int) and not isinstance(extent, bool):
            extents.append(extent)
        elif isinstance(extent, Dynamic):
            extents.append(None)
        else:
            raise ParserTypeError(
                f"parameter {node.arg!r}: an extent must be an integer or pl.dynamic,"
                f" got {extent!r}",
                span,
            )
    return tuple(extents)


def _evaluate(kernel: Kernel, source: Source, node: ast.arg) -> Any:
    """The annotation's value now; Python's, from the definition, when a name is out of reach."""
    assert node.annotation is not None
    code = compile(_expression(source, node.arg), source.file, "eval")
    try:
        return eval(code, kernel.function.__globals__, _Closure(kernel))
    except NameError as reason:
        found = kernel.function.__annotations__.get(node.arg)
        if found is None or isinstance(found, str):
            raise ParserTypeError(
                f"parameter {node.arg!r}: the annotation cannot be evaluated: {reason}",
                source.span(node),
            ) from None
        return found
    except KernelError as error:
        raise type(error)(
            f"parameter {node.arg!r}: {error.message}", source.span(node), error.notes, error.help
        ) from None
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as reason:
        raise ParserTypeError(
            f"parameter {node.arg!r}: the annotation cannot be evaluated:"
            f" {type(reason).__name__}: {reason}",
            source.span(node),
        ) from None


@cache
def _expression(source: Source, name: str) -> ast.Expression:
    arguments = source.function.args
    for node in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
        if node.arg == name and node.annotation is not None:
            text = node.annotation
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                return ast.parse(text.value, mode="eval")
            return ast.Expression(text)
    raise KeyError(name)


class _Closure(dict[str, Any]):
    """The names a kernel closes over, as locals of an annotation."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel

    def __missing__(self, name: str) -> Any:
        if name in self.kernel.function.__code__.co_freevars:
            read = enclosing_reader(self.kernel.function, name)
            if read is not None:
                return read()
        return self.kernel.around[name]
