"""Tensors in memory: views that share it, windows copied out and in, bounds checked before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from tilewright.dtypes import UINT64, DType
from tilewright.errors import BoundsError, KernelError, outside
from tilewright.interpreter.arrays import (
    compute_in,
    constant,
    leading,
    rounded,
    storage,
    wrap_int,
)
from tilewright.interpreter.casts import cast_scalar
from tilewright.interpreter.meanings import Call, meaning
from tilewright.ir.types import TensorType, contiguous_strides
from tilewright.span import Span


class Watch(Protocol):
    """What looks on while a program touches one storage."""

    def touched(self, memory: Memory, offsets: Sequence[int], counts: Sequence[int]) -> None: ...


def unravel(position: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The indices of an element, from its number in row-major order."""
    indices = []
    for stride in contiguous_strides(tuple(shape)):
        indices.append(position // stride)
        position %= stride
    return tuple(indices)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a tensor value is while running: `type.shape` elements of a storage from `start`.

    `exists` counts the elements along each axis that are really there: a window may overhang its
    tensor as long as nobody touches the excess. `watch` sees every part that an operator takes.
    """

    array: torch.Tensor
    start: int
    type: TensorType
    exists: tuple[int, ...]
    name: str
    watch: Watch | None = None

    def part(self, offsets: Sequence[int], counts: Sequence[int]) -> torch.Tensor:
        """A Torch view of `counts` elements at `offsets`, already known to be inside."""
        if self.watch is not None:
            self.watch.touched(self, offsets, counts)
        start = self.place(offsets, counts)
        return torch.as_strided(self.array, tuple(counts), self.type.strides, start)

    def place(self, offsets: Sequence[int], counts: Sequence[int]) -> int:
        """Where in the storage a part begins; one of nothing, which may lie anywhere, where all begins."""
        if not all(counts):
            return self.start
        return self.start + sum(o * s for o, s in zip(offsets, self.type.strides, strict=True))

    def whole(self) -> torch.Tensor:
        """A Torch view of everything; the array itself when that is the same."""
        same_place = self.start == self.array.storage_offset()
        if same_place and self.type.shape == tuple(self.array.shape):
            return self.array
        return self.part((0,) * len(self.type.shape), self.type.shape)


def of_array(array: torch.Tensor, type: TensorType, name: str) -> Memory:
    """An argument as memory."""
    return Memory(array, int(array.storage_offset()), type, type.shape, name)


def require_inside(
    subject: str,
    access: str,
    extents: Sequence[int],
    offsets: Sequence[int],
    counts: Sequence[int],
    span: Span | None,
) -> None:
    """Raise BoundsError unless 0 <= offset < offset + count <= extent on every axis; nothing fits anywhere."""
    for axis, (extent, offset, count) in enumerate(zip(extents, offsets, counts, strict=True)):
        if count and (offset < 0 or count < 0 or offset + count > extent):
            raise outside(subject, access, axis, offset, count, extent, span)


def require_valid(shape: Sequence[int], valid: Sequence[int], span: Span) -> None:
    """Raise BoundsError unless the valid extents lie in the window."""
    for axis, (extent, count) in enumerate(zip(shape, valid, strict=True)):
        if not 0 <= count <= extent:
            raise BoundsError(
                f"valid extent {count} on axis {axis}, the window has {extent}",
                span,
                help="keep it between 0 and the window's extent, for instance with pl.min",
            )


def halves(numbers: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Operand groups of equal length: offsets, then valid extents."""
    rank = len(numbers) // 2
    return tuple(numbers[:rank]), tuple(numbers[rank:])


# Views


@meaning("create")
def create(call: Call) -> Memory:
    """The value asked for, or zeros (poison in poison mode, also where no one reads the fill)."""
    made: TensorType = call.op.result.type  # type: ignore[assignment]
    value = call.get("value")
    if value is None or call.get("fill") is False:
        array = call.fresh(made.shape, made.dtype)
    else:
        array = constant(cast_scalar(value, made.dtype), made.shape, made.dtype)
    return Memory(array, 0, made, made.shape, call.op.result.name)


@meaning("window")
def window(call: Call, source: Memory, *offsets: int) -> Memory:
    shape, drop = tuple(call["shape"]), call.get("drop", ())
    if any(offset < 0 for offset in offsets):
        require_inside(call.subject(0), "read", source.exists, offsets, shape, call.op.span)
    exists = tuple(
        max(0, min(n, there - offset))
        for n, there, offset in zip(shape, source.exists, offsets, strict=True)
    )
    start = source.start + sum(o * s for o, s in zip(offsets, source.type.strides, strict=True))
    kept = tuple(n for axis, n in enumerate(exists) if axis not in drop)
    return replace(source, start=start, type=call.op.result.type, exists=kept)  # type: ignore[arg-type]


@meaning("reshape_view")
def reshape_view(call: Call, source: Memory) -> Memory:
    if source.exists != source.type.shape:
        axis = next(i for i, n in enumerate(source.exists) if n != source.type.shape[i])
        raise outside(
            source.name, "read", axis, 0, source.type.shape[axis], source.exists[axis], call.op.span
        )
    view: TensorType = call.op.result.type  # type: ignore[assignment]
    return replace(source, type=view, exists=view.shape)


@meaning("transpose_view")
def transpose_view(call: Call, source: Memory) -> Memory:
    i, j = call["axis1"], call["axis2"]
    exists = list(source.exists)
    exists[i], exists[j] = exists[j], exists[i]
    return replace(source, type=call.op.result.type, exists=tuple(exists))  # type: ignore[arg-type]


# Windows


@meaning("load")
def load(call: Call, source: Memory, *numbers: int) -> torch.Tensor:
    """A copy of the window's valid part; the rest of the tile is unspecified."""
    offsets, valid = halves(numbers)
    shape = tuple(call["shape"])
    require_valid(shape, valid, call.op.span)
    if call.get("outside") == "zero":
        return _with_zeros(call, source, offsets, valid).reshape(call.type.shape)
    require_inside(call.subject(0), "read", source.exists, offsets, valid, call.op.span)
    if valid == shape:
        tile = source.part(offsets, valid).clone(memory_format=torch.contiguous_format)
    else:
        tile = call.blank(shape)
        leading(tile, valid).copy_(source.part(offsets, valid))
    return tile.reshape(call.type.shape)


def _with_zeros(
    call: Call, source: Memory, offsets: tuple[int, ...], valid: tuple[int, ...]
) -> torch.Tensor:
    """A window that may lie anywhere: 0 where it is valid and there is nothing."""
    tile = call.blank(tuple(call["shape"]))
    leading(tile, valid).zero_()
    starts = [min(max(o, 0), n) for o, n in zip(offsets, source.exists, strict=True)]
    ends = [
        max(s, min(o + v, n))
        for s, o, v, n in zip(starts, offsets, valid, source.exists, strict=True)
    ]
    counts = [e - s for s, e in zip(starts, ends, strict=True)]
    if all(counts):
        inside = tuple(slice(s - o, e - o) for s, e, o in zip(starts, ends, offsets, strict=True))
        tile[inside] = source.part(starts, counts)
    return tile


@meaning("store")
def store(call: Call, tile: torch.Tensor, target: Memory, *numbers: int) -> None:
    """The valid part of the tile into the window; `atomic="add"` adds it."""
    offsets, valid = halves(numbers)
    shape = tuple(call["shape"])
    require_valid(shape, valid, call.op.span)
    require_inside(call.subject(1), "write", target.exists, offsets, valid, call.op.span)
    part = leading(tile.reshape(shape), valid)
    place = target.part(offsets, valid)
    if call.get("atomic") == "add":
        dtype = target.type.dtype
        part = rounded(compute_in(place, dtype) + compute_in(part, dtype), dtype)
    place.copy_(part)


@meaning("read")
def read(call: Call, source: Memory, *indices: int) -> float | int | bool:
    ones = (1,) * len(indices)
    require_inside(call.subject(0), "read", source.exists, indices, ones, call.op.span)
    return scalar_of(source.part(indices, ones), call.op.result.type.dtype)


@meaning("write")
def write(call: Call, target: Memory, value: float, *indices: int) -> None:
    """One element; integers keep their low bits."""
    ones = (1,) * len(indices)
    require_inside(call.subject(0), "write", target.exists, indices, ones, call.op.span)
    target.part(indices, ones).copy_(element_of(value, target.type.dtype))


def scalar_of(array: torch.Tensor, dtype: DType) -> float | int | bool:
    """The only element as a Python number."""
    value = array.item()
    return wrap_int(int(value), UINT64) if dtype == UINT64 else value


def element_of(value: float, dtype: DType) -> torch.Tensor:
    """A scalar as an array of one element; integers, which compute in 64 bits, wrap."""
    if dtype.is_integer:
        return constant(wrap_int(int(value), dtype), (1,), dtype)
    return torch.tensor([value], dtype=torch.float32 if dtype.is_float else torch.bool).to(
        storage(dtype)
    )


# Checks


@meaning("check_window")
def check_window(call: Call, *numbers: int) -> None:
    offsets, valid = halves(numbers)
    require_inside(call["subject"], call["access"], call["extents"], offsets, valid, call.op.span)


@meaning("check_that")
def check_that(call: Call, condition: bool) -> None:
    if not condition:
        raise KernelError(call["message"], call.op.span, help=call.get("help"))
