"""A kernel's parameters: kind, direction, annotated shape and dtype, default, and where they are
written.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from typing import Any, Literal

from tilewright.dtypes import TASK_ID, DType
from tilewright.errors import ParserTypeError
from tilewright.frontend.annotations import evaluate_annotation
from tilewright.frontend.source import Source, source_of
from tilewright.ir.nodes import Direction
from tilewright.language.kernel import Kernel
from tilewright.language.types import (
    ArrayAnnotation,
    DirectedAnnotation,
    Dynamic,
    Scalar,
    ScalarAnnotation,
    Tensor,
    TensorAnnotation,
    Tile,
)
from tilewright.span import Span

Kind = Literal["tensor", "scalar", "array"]
ANNOTATIONS = "write pl.Tensor[[rows, columns], dtype], pl.Out[…], pl.InOut[…] or pl.Scalar[dtype]"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter.

    `shape` has None where an extent is not fixed; it is None when nothing is said. `symbols` has the names
    of the dynamic extents, None for the others.
    """

    name: str
    kind: Kind
    direction: Direction
    shape: tuple[int | None, ...] | None
    dtype: DType | None
    default: Any
    span: Span
    symbols: tuple[str | None, ...] = ()

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
    defaults = kernel.signature.parameters
    return tuple(
        _parameter(kernel, source, node, defaults[node.arg].default)
        for node in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        if node.arg in defaults
    )


def receiver_of(kernel: Kernel) -> str | None:
    """What a method calls the program it belongs to: `self`. None for a plain function."""
    return None if kernel.program is None else kernel.function.__code__.co_varnames[0]


def _parameter(kernel: Kernel, source: Source, node: ast.arg, default: Any) -> Parameter:
    span = source.span(node)
    if node.annotation is None:
        raise missing_annotation(node, span)
    annotation = _evaluate(kernel, source, node)
    direction: Direction = "in"
    if isinstance(annotation, DirectedAnnotation):
        direction, annotation = annotation.direction, annotation.tensor
    if annotation in (Tensor, Tile):
        annotation = TensorAnnotation(None, None)
    if annotation == TASK_ID:
        annotation = ScalarAnnotation(TASK_ID)
    if isinstance(annotation, ArrayAnnotation):
        if kernel.kind == "entry":
            raise ParserTypeError(
                f"parameter {node.arg!r}: an entry takes no arrays",
                span,
                help="pass a tensor; arrays are made by pl.array.create",
            )
        extents = _extents(TensorAnnotation((annotation.count,), None), node, span)
        return Parameter(node.arg, "array", "in", extents, annotation.dtype, default, span)
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
            tuple(e.name if isinstance(e, Dynamic) else None for e in annotation.shape or ()),
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
                help="write // instead of /" if isinstance(extent, float) else "write a number",
            )
    return tuple(extents)


def _evaluate(kernel: Kernel, source: Source, node: ast.arg) -> Any:
    """The annotation's value now; Python's, from the definition, when a name is out of reach."""
    assert node.annotation is not None
    what = f"parameter {node.arg!r}"
    try:
        return evaluate_annotation(kernel, source, node.annotation, what, node)
    except NameError as reason:
        found = kernel.function.__annotations__.get(node.arg)
        if found is None or isinstance(found, str):
            raise ParserTypeError(
                f"{what}: the annotation cannot be evaluated: {reason}",
                source.span(node),
                help="bind the name before the kernel, or annotate with a bare pl.Tensor",
            ) from None
        return found
