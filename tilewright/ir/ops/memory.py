"""Tensors in memory: fresh ones, views, windows read and written, single elements, bounds.

Operand groups named `offsets`, `valid` and `indices` hold one integer scalar per axis of the tensor.
A window is `attrs["shape"]` elements at `offsets`; `valid` says how many leading elements along each
axis really exist: nothing outside them is read or written. `attrs["drop"]` lists
axes of extent 1 that the tile, or the view, does not have.
"""

from __future__ import annotations

from math import prod

from tilewright.dtypes import BOOL
from tilewright.ir.nodes import Operand
from tilewright.ir.ops.table import (
    Attrs,
    RuleBroken,
    dims,
    integers,
    keep_axes,
    operator,
    scalar,
    tensor,
    tile,
)
from tilewright.ir.types import ScalarType, TensorType, TileType, Type, tensor_type


def window_shape(t: TensorType, attrs: Attrs) -> tuple[int, ...]:
    shape = tuple(attrs["shape"])
    if len(shape) != len(t.shape):
        raise RuleBroken(
            f"the window {dims(shape)} has rank {len(shape)}, the tensor {dims(t.shape)} has {len(t.shape)}",
            help=f"write {len(t.shape)} extents, one per axis",
        )
    if any(extent <= 0 for extent in shape):
        raise RuleBroken(
            f"a window needs positive extents, got {dims(shape)}",
            help="write every extent out; a part that may be empty is a valid_shape",
        )
    return shape


@operator("create", "")
def _create(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Fresh tensor attrs['shape'] of attrs['dtype'], filled with attrs['value'] (0 when absent).

    attrs['fill'] == False: every element is stored before it is read, so the contents do not matter.
    """
    return (tensor_type(tuple(attrs["shape"]), attrs["dtype"]),)


@operator("window", "tensor, *offsets")
def _window(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """View of a window: same memory, the tensor's strides."""
    t = tensor(operands[0], "the source")
    shape, drop = window_shape(t, attrs), attrs.get("drop", ())
    integers(operands[1:], len(t.shape), "offsets")
    strides = tuple(stride for axis, stride in enumerate(t.strides) if axis not in drop)
    return (TensorType(keep_axes(shape, drop), t.dtype, strides),)


@operator("reshape_view", "tensor")
def _reshape_view(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """View of a contiguous tensor in another shape of as many elements."""
    t = tensor(operands[0], "the source")
    shape = tuple(attrs["shape"])
    if prod(shape) != prod(t.shape):
        raise RuleBroken(
            f"cannot reshape {dims(t.shape)} ({prod(t.shape)} elements) to {dims(shape)} ({prod(shape)})",
            help=f"the extents must multiply to {prod(t.shape)}",
        )
    if not t.is_contiguous:
        raise RuleBroken(
            f"a reshape of a window that is not contiguous has no view ({dims(t.shape)}, strides {dims(t.strides)})",
            help="reshape the whole tensor first, then take the window",
        )
    return (tensor_type(shape, t.dtype),)


@operator("transpose_view", "tensor")
def _transpose_view(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """View with axes attrs['axis1'] and attrs['axis2'] swapped."""
    t = tensor(operands[0], "the source")
    shape, strides = list(t.shape), list(t.strides)
    i, j = attrs["axis1"], attrs["axis2"]
    shape[i], shape[j] = shape[j], shape[i]
    strides[i], strides[j] = strides[j], strides[i]
    return (TensorType(tuple(shape), t.dtype, tuple(strides)),)


@operator("load", "tensor, *offsets, *valid", effect="read")
def _load(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """A copy of the window as it is now. Elements outside `valid` are unspecified.

    attrs['outside'] == 'zero': what lies outside the tensor is 0, not an error.
    """
    t = tensor(operands[0], "the source")
    shape = window_shape(t, attrs)
    integers(operands[1:], 2 * len(t.shape), "offsets and valid extents")
    return (TileType(keep_axes(shape, attrs.get("drop", ())), t.dtype),)


@operator("store", "tile, tensor, *offsets, *valid", effect="write")
def _store(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Write the valid part of the tile into the window; attrs['atomic'] == 'add' adds instead."""
    source, t = tile(operands[0], "the source"), tensor(operands[1], "the target")
    shape = window_shape(t, attrs)
    integers(operands[2:], 2 * len(t.shape), "offsets and valid extents")
    wanted = keep_axes(shape, attrs.get("drop", ()))
    if source.shape != wanted:
        raise RuleBroken(
            f"the window is {dims(wanted)}, the source is {dims(source.shape)}",
            help="slice both with the same extents",
        )
    if source.dtype != t.dtype:
        raise RuleBroken(
            f"cannot store {source.dtype} into a {t.dtype} tensor",
            help=f'pl.cast(…, target_type=pl.{t.dtype}, mode="rint") first',
        )
    return ()


@operator("read", "tensor, *indices", effect="read")
def _read(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """One element as a scalar."""
    t = tensor(operands[0], "the source")
    integers(operands[1:], len(t.shape), "indices")
    return (ScalarType(t.dtype),)


@operator("write", "tensor, scalar, *indices", effect="write")
def _write(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Store one element."""
    t, s = tensor(operands[0], "the target"), scalar(operands[1], "the value")
    integers(operands[2:], len(t.shape), "indices")
    if s.dtype != t.dtype:
        raise RuleBroken(
            f"cannot write {s.dtype} into a {t.dtype} tensor",
            help=f"pl.cast(…, pl.{t.dtype}) first",
        )
    return ()


@operator("check_window", "*offsets, *valid", effect="check")
def _check_window(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Stop the run with a BoundsError unless 0 <= offset and offset + valid <= extent on every axis.

    attrs['extents'] are the tensor's; attrs['subject'] names it; attrs['access'] is 'read' or 'write'.
    """
    integers(operands, 2 * len(attrs["extents"]), "offsets and valid extents")
    return ()


@operator("check_that", "condition", effect="check")
def _check_that(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Stop the run with attrs['message'] unless the condition holds."""
    if scalar(operands[0], "the condition").dtype != BOOL:
        raise RuleBroken(f"the condition must be BOOL, got {operands[0].type}")
    return ()
