"""Annotations as values: evaluated where they stand, and compared with what they describe."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from types import GenericAlias, SimpleNamespace
from typing import Any

from tilewright.dtypes import INDEX, INT64, UINT8, DType
from tilewright.errors import KernelError, ParserTypeError
from tilewright.frontend.frame import Frame
from tilewright.frontend.source import Source, enclosing_reader
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import (
    Block,
    Constant,
    Items,
    Named,
    Nothing,
    Number,
    Tensor,
    describe,
    to_number,
)
from tilewright.ir.nodes import Const
from tilewright.language.kernel import Kernel
from tilewright.language.types import (
    DirectedAnnotation,
    Dynamic,
    ScalarAnnotation,
    TensorAnnotation,
)


def evaluate_annotation(
    kernel: Kernel,
    source: Source,
    node: ast.expr,
    what: str,
    blame: ast.AST,
    local: Mapping[str, Any] | None = None,
) -> Any:
    """The annotation's value now. Its names are those of the body, then those around the kernel.

    NameError when a name is out of reach; ParserTypeError, saying `what` is annotated, for anything
    else that goes wrong.
    """
    code = compile(_expression(node), source.file, "eval")
    try:
        return eval(code, kernel.function.__globals__, _Names(kernel, local or {}))
    except NameError:
        raise
    except KernelError as error:
        raise type(error)(
            f"{what}: {error.message}", source.span(blame), error.notes, error.help
        ) from None
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as reason:
        raise ParserTypeError(
            f"{what}: the annotation cannot be evaluated: {type(reason).__name__}: {reason}",
            source.span(blame),
        ) from None


@cache
def _expression(node: ast.expr) -> ast.Expression:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return ast.parse(node.value, mode="eval")
    return ast.Expression(node)


class _Names(dict[str, Any]):
    """The names an annotation may use beside globals: constants of the body, a closure, an enclosing function."""

    def __init__(self, kernel: Kernel, local: Mapping[str, Any]) -> None:
        super().__init__(local)
        self.kernel = kernel

    def __missing__(self, name: str) -> Any:
        if name in self.kernel.function.__code__.co_freevars:
            read = enclosing_reader(self.kernel.function, name)
            if read is not None:
                return read()
        return self.kernel.around[name]


def check_annotation(t: Tracer, node: ast.AnnAssign) -> None:
    """`x: pl.Tensor[[16, 32], pl.FP32] = …` is checked where it names a shape or a dtype."""
    if not isinstance(node.target, ast.Name):
        return
    name = node.target.id
    value = t.frame.names[name].value
    local = {n: _to_python(b.value) for n, b in t.frame.names.items() if _is_known(b.value)}
    try:
        annotation = evaluate_annotation(
            t.frame.kernel, t.frame.source, node.annotation, name, node.annotation, local
        )
    except NameError as reason:
        t.fail(
            ParserTypeError,
            f"{name}: the annotation cannot be evaluated: {reason}",
            node,
            help="annotate with names that are bound here, or leave the annotation out",
        )
    problem = mismatch(annotation, value)
    if problem:
        packed = isinstance(value, Block) and value.predicate
        t.fail(
            ParserTypeError,
            f"{name} is annotated {problem}, found {describe(value)}",
            node,
            help="packed predicates are pl.Tile[[M, 32], pl.UINT8] for up to 256 columns"
            if packed
            else "an annotation is checked and converts nothing: correct it, or leave it out",
            notes=t.notes(node.value) if node.value is not None else (),
        )


def _is_known(value: Named) -> bool:
    """Whether an annotation can name it: constants, lists of them, and what has a shape and a dtype."""
    if isinstance(value, Items):
        return all(map(_is_known, value.values))
    if isinstance(value, Number):
        return isinstance(value.operand, Const)
    return isinstance(value, (Constant, Tensor, Block))


def _to_python(value: Named) -> Any:
    match value:
        case Constant():
            return value.value
        case Items():
            return tuple(map(_to_python, value.values))
        case Number(operand=Const() as literal):
            return literal.value
        case Tensor() | Block():
            return SimpleNamespace(shape=value.shape, dtype=value.dtype)
    raise TypeError(f"no annotation can name {describe(value)}")


def check_result(t: Tracer, frame: Frame, value: Named) -> None:
    """What a kernel returns is what `-> …` says, where that names shapes or dtypes."""
    source = frame.source
    node = source.function.returns
    if node is None or not frame.kernel.check_annotations:
        return
    try:
        annotation = evaluate_annotation(frame.kernel, source, node, "the result", node)
    except NameError:  # nothing but a hint for readers
        return
    problem = mismatch(annotation, value)
    if problem:
        t.fail(
            ParserTypeError,
            f"{source.function.name} is annotated to return {problem}, found {describe(value)}",
            source.function.body[-1],
            help="an annotation is checked and converts nothing: correct it, or leave it out",
            notes=[f"{source.span(node)}: declared here"],
        )


def mismatch(annotation: Any, value: Named) -> str | None:
    """What the annotation wants, if the value is something else; None where it fits or says nothing."""
    if isinstance(annotation, DirectedAnnotation):
        annotation = annotation.tensor
    if isinstance(annotation, GenericAlias) and annotation.__origin__ is tuple:
        annotation = annotation.__args__
    if isinstance(annotation, (tuple, list)):
        items = value.values if isinstance(value, Items) else (value,)
        if len(items) != len(annotation) or isinstance(value, Nothing):
            return f"a tuple of {len(annotation)}"
        found = (mismatch(a, v) for a, v in zip(annotation, items, strict=True))
        return next((problem for problem in found if problem), None)
    if isinstance(annotation, TensorAnnotation):
        return _tensor_mismatch(annotation, value)
    if isinstance(annotation, ScalarAnnotation):
        number = to_number(value)
        literal = isinstance(value, Constant) and not isinstance(value.value, bool)
        if number is None or not _same_scalar(annotation.dtype, number.dtype, literal):
            return f"pl.Scalar[pl.{annotation.dtype}]"
    return None


PREDICATE_BYTES = 32  # what a row of up to 256 packed bits takes


def _tensor_mismatch(annotation: TensorAnnotation, value: Named) -> str | None:
    kind = "block" if annotation.is_tile else "tensor"
    text = f"a {'' if annotation.shape is None else _extents(annotation.shape) + ' '}"
    text += f"{'' if annotation.dtype is None else f'{annotation.dtype} '}{kind}"
    if not isinstance(value, Block if annotation.is_tile else (Tensor, Block)):
        return text
    assert isinstance(value, (Tensor, Block))
    shape = annotation.shape
    if isinstance(value, Block) and value.predicate and annotation.dtype == UINT8:
        packed = (*value.shape[:-1], PREDICATE_BYTES * -(-value.shape[-1] // 256))
        if shape is None or tuple(shape) == packed:
            return None  # packed bits, as a device has them
    if shape is not None and (
        len(shape) != len(value.shape)
        or any(isinstance(w, int) and w != n for w, n in zip(shape, value.shape, strict=True))
    ):
        return text
    return text if annotation.dtype not in (None, value.dtype) else None


def _extents(shape: tuple[Any, ...]) -> str:
    return f"[{', '.join(n.name if isinstance(n, Dynamic) else str(n) for n in shape)}]"


def _same_scalar(wanted: DType, found: DType, literal: bool) -> bool:
    """Integer scalars of 64 bits are INDEX; a literal fits every dtype of its kind."""
    if wanted == found or {wanted, found} <= {INDEX, INT64}:
        return True
    return literal and wanted.is_integer == found.is_integer and wanted.is_float == found.is_float
