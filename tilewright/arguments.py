"""Arguments of a call: bound as Python does, and checked before anything runs."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, prod
from typing import Any, TypeAlias

from tilewright.dtypes import ARGUMENT_DTYPES, BF16, BOOL, FP16, FP32, DType
from tilewright.errors import ArgumentError, ArgumentValueError, KernelError
from tilewright.frontend import Parameter, signature_of
from tilewright.frontend.signature import Kind
from tilewright.frontend.source import source_of
from tilewright.language.kernel import Kernel
from tilewright.language.operator import why_not_bound
from tilewright.span import Span

# `str(torch.float32)` without its prefix, so that torch need not be imported to read a dtype.
BY_TORCH_NAME = {f"torch.{dtype.torch}": dtype for dtype in ARGUMENT_DTYPES}
ACCEPTED = ", ".join(f"torch.{dtype.torch}" for dtype in ARGUMENT_DTYPES)


@dataclass(frozen=True, slots=True)
class Slot:
    """What a call must know of a parameter; `dtype` is set for scalars."""

    name: str
    kind: Kind
    dtype: DType | None
    span: Span
    written: bool = False  # marked Out or InOut: a copy would not do


TensorKind: TypeAlias = tuple[tuple[int, ...], DType]


@dataclass(slots=True)
class Bound:
    """The arguments by parameter name.

    `types` holds shape and dtype of tensors, `key` all of them, `nbytes` the size of those that have
    memory.
    """

    slots: Sequence[Slot]
    values: dict[str, Any]
    types: dict[str, TensorKind]
    key: tuple[Any, ...]
    nbytes: dict[str, int]

    def span(self, name: str) -> Span:
        """Where the parameter is written."""
        return next(slot.span for slot in self.slots if slot.name == name)


def slots_of(kernel: Kernel) -> tuple[Slot, ...]:
    return tuple(
        Slot(
            p.name,
            p.kind,
            p.dtype if p.kind == "scalar" else None,
            p.span,
            p.direction != "in",
        )
        for p in signature_of(kernel)
    )


def bind(
    kernel: Kernel,
    slots: Sequence[Slot],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    data: bool = True,
    released: Set[str] = frozenset(),
) -> Bound:
    """Give every parameter its argument and check kinds, dtypes, device, layout and ranges.

    data=False: only shapes and dtypes matter, so that meta tensors will do; the same for the arguments
    named in `released`.
    Raises ArgumentError or ArgumentValueError naming the argument, what was found and what is
    wanted.
    """
    if kwargs or len(args) != len(slots):
        args = _by_name(kernel, slots, args, kwargs)
    try:
        return _bound(slots, args, data, released)
    except KernelError as first:
        first.also = tuple(_others(slots, args, data, released, first))
        raise


def _others(
    slots: Sequence[Slot], args: Sequence[Any], data: bool, released: Set[str], first: KernelError
) -> Iterator[KernelError]:
    """What is wrong with the other arguments, each taken by itself."""
    for slot, value in zip(slots, args, strict=True):
        try:
            _bound([slot], [value], data, released)
        except KernelError as error:
            if error.message != first.message:
                yield error


def _bound(slots: Sequence[Slot], args: Sequence[Any], data: bool, released: Set[str]) -> Bound:
    values: dict[str, Any] = {}
    types: dict[str, TensorKind] = {}
    nbytes: dict[str, int] = {}
    key: list[TensorKind] = []
    for slot, value in zip(slots, args, strict=True):
        name = slot.name
        if slot.kind == "tensor":
            kind, size = _tensor_kind(slot, value)
            if data and name not in released:
                if not (value.is_cpu and value.layout in _strided and value.is_contiguous()):
                    _require_data(slot, value)
                nbytes[name] = size
            types[name] = kind
            key.append(kind)
        else:
            value = _scalar(slot, value)
        values[name] = value
    return Bound(slots, values, types, tuple(key), nbytes)


def _by_name(
    kernel: Kernel, slots: Sequence[Slot], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    try:
        bound = kernel.signature.bind(*args, **kwargs)
    except TypeError as reason:
        names = [s.name for s in slots]
        text, near = why_not_bound(kernel.signature, len(args), kwargs, reason)
        missing = next((s for s in slots if repr(s.name) in text), None)
        raise ArgumentError(
            f"{kernel.title}: {text}",
            missing.span if missing else _definition(kernel),
            help=near or f"its parameters are {', '.join(names)}",
        ) from None
    bound.apply_defaults()
    return tuple(bound.arguments[slot.name] for slot in slots)


def _definition(kernel: Kernel) -> Span:
    source = source_of(kernel)
    return source.span(source.function)


# What calls have found before: (torch dtype, torch shape) -> (our kind, bytes), and the layouts that are
# strided. Checking an argument is a good part of a call that takes microseconds.
_kinds: dict[tuple[Any, Any], tuple[TensorKind, int]] = {}
_strided: set[Any] = set()
KINDS_KEPT = 4096
LONGEST = 40  # letters of an argument that a message shows
# The largest finite numbers; FP8 and FP4 scalars are not taken.
LARGEST = {FP32: (2 - 2**-23) * 2.0**127, BF16: (2 - 2**-7) * 2.0**127, FP16: 65504.0}


def _tensor_kind(slot: Slot, value: Any) -> tuple[TensorKind, int]:
    """Shape and dtype of a tensor argument, and its bytes."""
    try:
        return _kinds[value.dtype, value.shape]
    except (AttributeError, KeyError, TypeError):
        shape, dtype = _tensor_type(slot, value)
        if len(_kinds) >= KINDS_KEPT:
            _kinds.clear()
        found = (shape, dtype), prod(shape) * dtype.nbytes
        _kinds[value.dtype, value.shape] = found
        return found


def _tensor_type(slot: Slot, value: Any) -> TensorKind:
    """Shape and dtype of a tensor argument that a kernel can take."""
    name, span = slot.name, slot.span
    dtype = BY_TORCH_NAME.get(str(getattr(value, "dtype", None)))
    if dtype is None:
        if not hasattr(value, "dtype") or not hasattr(value, "data_ptr"):
            raise ArgumentError(
                f"argument {name!r} must be a Torch tensor, got {_kind(value)}",
                span,
                help=_as_tensor(name, value),
            )
        raise ArgumentError(
            f"argument {name!r} has dtype {value.dtype}; kernels take {ACCEPTED}",
            span,
            help=f"{name}.to(torch.float32)",
        )
    shape = tuple(value.shape)
    if not 1 <= len(shape) <= 8:
        raise ArgumentError(
            f"argument {name!r} has rank {len(shape)}; kernels take rank 1 to 8",
            span,
            help=f"{name}.reshape(1)" if not shape else None,
        )
    return shape, dtype


def _require_data(slot: Slot, value: Any) -> None:
    """A tensor whose memory a kernel can use."""
    name, span = slot.name, slot.span
    if value.device.type != "cpu":
        raise ArgumentError(
            f"argument {name!r} is on device {value.device}; kernels run on the CPU",
            span,
            help=f"{name}.cpu()",
        )
    if str(value.layout) != "torch.strided":
        raise ArgumentError(
            f"argument {name!r} has layout {value.layout}; kernels take torch.strided",
            span,
            help=f"{name}.to_dense()",
        )
    if not value.is_contiguous():
        raise ArgumentError(
            f"argument {name!r} is not contiguous: shape {list(value.shape)},"
            f" strides {list(value.stride())}",
            span,
            help=f"pass one made for it: torch.empty({list(value.shape)}, dtype={value.dtype})"
            if slot.written
            else f"{name}.contiguous()",
        )
    _strided.add(value.layout)


def _scalar(slot: Slot, value: Any) -> int | float | bool:
    """A scalar argument as a Python number that its dtype holds."""
    name, span, dtype = slot.name, slot.span, slot.dtype
    assert dtype is not None
    if dtype == BOOL:
        if not isinstance(value, bool):
            raise ArgumentError(
                f"argument {name!r} must be a bool, got {_kind(value)}",
                span,
                help="pass True or False",
            )
        return value
    if isinstance(value, bool) or hasattr(value, "data_ptr"):
        advice = f"{name}.item()" if hasattr(value, "data_ptr") else "pass a number"
        raise ArgumentError(
            f"argument {name!r} must be a {dtype} number, got {_kind(value)}", span, help=advice
        )
    if dtype.is_float:
        if not isinstance(value, (int, float)):
            raise ArgumentError(
                f"argument {name!r} must be a {dtype} number, got {_kind(value)}",
                span,
                help="pass a float",
            )
        return _float(slot, value)
    try:
        number = operator.index(value)
    except TypeError:
        raise ArgumentError(
            f"argument {name!r} must be a {dtype} integer, got {_kind(value)}",
            span,
            help="pass an int",
        ) from None
    low, high = dtype.int_range()
    if not low <= number <= high:
        raise ArgumentValueError(
            f"argument {name!r} is {number}; a {dtype} holds {low} to {high}",
            span,
            help=f"pass a number from {low} to {high}",
        )
    return number


def _float(slot: Slot, value: int | float) -> float:
    """A number as a float of the scalar's dtype holds it: NaN and infinities are fine."""
    assert slot.dtype is not None
    largest = LARGEST[slot.dtype]
    if -largest <= value <= largest or (not isinstance(value, int) and not isfinite(value)):
        return float(value)
    shown = f"an integer of {value.bit_length()} bits" if isinstance(value, int) else repr(value)
    raise ArgumentValueError(
        f"argument {slot.name!r} is {shown}; a {slot.dtype} holds -{largest:.6g} to {largest:.6g}",
        slot.span,
        help="pass a smaller number, or math.inf",
    )


def _as_tensor(name: str, value: Any) -> str:
    """How something else becomes a tensor."""
    if type(value).__module__ == "numpy":
        return f"torch.from_numpy({name})"
    if isinstance(value, (list, tuple, int, float)):
        return f"torch.tensor({name})"
    return "pass a torch.Tensor"


def _kind(value: Any) -> str:
    if value is None or (isinstance(value, (bool, int, float, str)) and len(repr(value)) < LONGEST):
        return repr(value)
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' or name == 'ndarray' else 'a'} {name}"


def check_annotations(parameters: Sequence[Parameter], bound: Bound) -> None:
    """Arguments have the shapes and dtypes that their annotations fix. ArgumentError otherwise."""
    found = [
        error
        for p in parameters
        if p.kind == "tensor"
        for error in _against(p, *bound.types[p.name])
    ]
    if found:
        found[0].also = tuple(found[1:])
        raise found[0]


def _against(p: Parameter, shape: tuple[int, ...], dtype: DType) -> Iterator[ArgumentError]:
    """Where an argument differs from its annotation."""
    if p.dtype is not None and dtype != p.dtype:
        yield ArgumentError(
            f"argument {p.name!r} has dtype {dtype}, the kernel is annotated {p.dtype}",
            p.span,
            help=f"{p.name}.to(torch.{p.dtype.torch})"
            if p.dtype.torch
            else "no Torch tensor has it: annotate another",
        )
    if p.shape is None:
        return
    wanted = "[" + ", ".join("any" if n is None else str(n) for n in p.shape) + "]"
    if len(shape) != len(p.shape):
        yield ArgumentError(
            f"argument {p.name!r} has rank {len(shape)}, shape {list(shape)};"
            f" the kernel is annotated {wanted}",
            p.span,
            help="reshape the argument, or annotate the parameter with a bare pl.Tensor",
        )
        return
    for axis, (found, fixed) in enumerate(zip(shape, p.shape, strict=True)):
        if fixed is not None and found != fixed:
            yield ArgumentError(
                f"argument {p.name!r} has shape {list(shape)},"
                f" the kernel is annotated {wanted}:"
                f" axis {axis} is {found}, wanted {fixed}",
                p.span,
                help="annotate axes that vary with pl.dynamic",
            )
            return


def check_overlap(kernel: Kernel, bound: Bound, written: set[str]) -> None:
    """No memory that the kernel writes may be seen through another argument.

    ArgumentError otherwise.
    """
    values = bound.values
    ranges = sorted(
        [
            (start := values[name].data_ptr(), start + n, name)
            for name, n in bound.nbytes.items()
            if n
        ]
    )
    if all(one[1] <= other[0] for one, other in pairwise(ranges)):
        return
    reach, holder, reach_written, writer = -1, "", -1, ""
    for start, end, name in ranges:
        # Sorted by start, a range overlaps an earlier one when that one reaches past its start.
        if (name in written and start < reach) or start < reach_written:
            other = holder if name in written and start < reach else writer
            guilty, innocent = (name, other) if name in written else (other, name)
            raise ArgumentError(
                f"argument {guilty!r} is written by {kernel.__name__!r} and shares memory with"
                f" argument {innocent!r}",
                bound.span(guilty),
                help=f"pass a tensor of its own: torch.empty_like({guilty})",
            )
        if end > reach:
            reach, holder = end, name
        if name in written and end > reach_written:
            reach_written, writer = end, name
