"""Arguments of a call: bound as Python does, and checked before anything runs."""

from __future__ import annotations

import operator
from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, TypeAlias

from tilewright.dtypes import ARGUMENT_DTYPES, BOOL, DType
from tilewright.errors import ArgumentError, ArgumentValueError
from tilewright.frontend import Parameter, signature_of
from tilewright.frontend.signature import Kind
from tilewright.language.kernel import Kernel
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
        Slot(p.name, p.kind, p.dtype if p.kind == "scalar" else None, p.span)
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
    values: dict[str, Any] = {}
    types: dict[str, TensorKind] = {}
    nbytes: dict[str, int] = {}
    key = []
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
        missing = next((s for s in slots if repr(s.name) in str(reason)), None)
        raise ArgumentError(
            f"{kernel.title}: {reason}",
            missing.span if missing else None,
            help=f"its parameters are {', '.join(s.name for s in slots)}",
        ) from None
    bound.apply_defaults()
    return tuple(bound.arguments[slot.name] for slot in slots)


# What calls have found before: (torch dtype, torch shape) -> (our kind, bytes), and the layouts that are
# strided. Checking an argument is a good part of a call that takes microseconds.
_kinds: dict[tuple[Any, Any], tuple[TensorKind, int]] = {}
_strided: set[Any] = set()
KINDS_KEPT = 4096


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
                help="pass a torch.Tensor",
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
            help=f"{name}.contiguous()",
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
        return float(value)
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
            f"argument {name!r} is {number}; a {dtype} holds {low} to {high}", span
        )
    return number


def _kind(value: Any) -> str:
    if isinstance(value, (bool, int, float, str)) or value is None:
        return repr(value)
    return f"a {type(value).__name__}"


def check_annotations(parameters: Sequence[Parameter], bound: Bound) -> None:
    """Arguments have the shapes and dtypes that their annotations fix. ArgumentError otherwise."""
    for p in parameters:
        if p.kind != "tensor":
            continue
        shape, dtype = bound.types[p.name]
        if p.dtype is not None and dtype != p.dtype:
            raise ArgumentError(
                f"argument {p.name!r} has dtype {dtype}, the kernel is annotated {p.dtype}",
                p.span,
                help=f"{p.name}.to(torch.{p.dtype.torch})" if p.dtype.torch else None,
            )
        if p.shape is None:
            continue
        wanted = "[" + ", ".join("any" if n is None else str(n) for n in p.shape) + "]"
        if len(shape) != len(p.shape):
            raise ArgumentError(
                f"argument {p.name!r} has rank {len(shape)}, shape {list(shape)};"
                f" the kernel is annotated {wanted}",
                p.span,
                help="reshape the argument, or annotate the parameter with a bare pl.Tensor",
            )
        for axis, (found, fixed) in enumerate(zip(shape, p.shape, strict=True)):
            if fixed is not None and found != fixed:
                raise ArgumentError(
                    f"argument {p.name!r} has shape {list(shape)},"
                    f" the kernel is annotated {wanted}:"
                    f" axis {axis} is {found}, wanted {fixed}",
                    p.span,
                    help="annotate axes that vary with pl.dynamic",
                )


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
