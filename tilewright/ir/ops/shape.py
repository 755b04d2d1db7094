"""Tiles made from nothing, and tiles cut, joined and turned."""

from __future__ import annotations

from math import prod

from tilewright.dtypes import INT16, INT32, UINT16, UINT32
from tilewright.ir.nodes import Operand
from tilewright.ir.ops.table import (
    Attrs,
    RuleBroken,
    dims,
    integers,
    keep_axes,
    operator,
    same_dtype,
    scalar,
    tile,
)
from tilewright.ir.types import ScalarType, TileType, Type


@operator("full", "")
def _full(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """attrs['shape'] of attrs['dtype'], every element attrs['value'].

    attrs['fresh']: the author was promised no contents and may not rely on them.
    """
    dtype, value = attrs["dtype"], attrs.get("value")
    if value is not None and dtype.is_integer:
        low, high = dtype.int_range()
        if not low <= value <= high:
            raise RuleBroken(f"{value} is outside {dtype}, which holds {low} to {high}")
    return (TileType(tuple(attrs["shape"]), dtype),)


@operator("splat", "scalar")
def _splat(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """attrs['shape'] of attrs['dtype'], every element the scalar."""
    scalar(operands[0], "the value")
    return (TileType(tuple(attrs["shape"]), attrs["dtype"]),)


@operator("arange", "start")
def _arange(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """start + j (start - j when attrs['descending']) along the last axis of attrs['shape']."""
    shape, dtype = tuple(attrs["shape"]), attrs["dtype"]
    scalar(operands[0], "start")
    if dtype not in (INT16, INT32, UINT16, UINT32):
        raise RuleBroken(
            f"arange counts in INT16, INT32, UINT16 or UINT32, got {dtype}",
            help="count in pl.INT32, and pl.cast the result",
        )
    if any(extent != 1 for extent in shape[:-1]) or shape[-1] == 1:
        raise RuleBroken(
            f"arange needs leading extents of 1 and a last one above 1, got {dims(shape)}",
            help=f"write [1, {max(shape)}], then pl.reshape or pl.col_expand it",
        )
    return (TileType(shape, dtype),)


@operator("extract", "tile, *offsets")
def _extract(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """The window attrs['shape'] at `offsets`, without the unit axes in attrs['drop']."""
    a, shape = tile(operands[0], "the source"), tuple(attrs["shape"])
    integers(operands[1:], len(a.shape), "offsets")
    if len(shape) != len(a.shape) or any(
        w > n or w <= 0 for w, n in zip(shape, a.shape, strict=True)
    ):
        raise RuleBroken(
            f"the window {dims(shape)} does not fit into {dims(a.shape)}",
            help="take a smaller window, or start it earlier",
        )
    return (TileType(keep_axes(shape, attrs.get("drop", ())), a.dtype),)


@operator("insert", "tile, source, *offsets, *valid")
def _insert(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """The tile with the window attrs['shape'] at `offsets` replaced by the valid part of source."""
    a, source, shape = (
        tile(operands[0], "the target"),
        tile(operands[1], "the source"),
        tuple(attrs["shape"]),
    )
    integers(operands[2:], 2 * len(a.shape), "offsets and valid extents")
    if len(shape) != len(a.shape) or any(
        w > n or w <= 0 for w, n in zip(shape, a.shape, strict=True)
    ):
        raise RuleBroken(
            f"the window {dims(shape)} does not fit into {dims(a.shape)}",
            help="take a smaller window, or start it earlier",
        )
    wanted = keep_axes(shape, attrs.get("drop", ()))
    if wanted != source.shape:
        raise RuleBroken(
            f"the window is {dims(wanted)}, the source is {dims(source.shape)}",
            help="slice both with the same extents",
        )
    same_dtype(a, source, "target and source")
    return (a,)


@operator("reshape", "tile")
def _reshape(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Row-major reinterpretation as attrs['shape']."""
    a, shape = tile(operands[0], "the operand"), tuple(attrs["shape"])
    if prod(shape) != a.numel:
        raise RuleBroken(
            f"cannot reshape {dims(a.shape)} ({a.numel} elements) to {dims(shape)} ({prod(shape)})",
            help=f"the extents must multiply to {a.numel}",
        )
    return (TileType(shape, a.dtype),)


@operator("transpose", "tile")
def _transpose(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Axes attrs['axis1'] and attrs['axis2'] swapped."""
    a = tile(operands[0], "the operand")
    shape, i, j = list(a.shape), attrs["axis1"], attrs["axis2"]
    shape[i], shape[j] = shape[j], shape[i]
    return (TileType(tuple(shape), a.dtype),)


@operator("concat", "a, b")
def _concat(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Two 2-D tiles joined along columns."""
    a, b = (tile(x, "operand") for x in operands)
    same_dtype(a, b, "both operands")
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[0]:
        raise RuleBroken(
            f"concat joins 2-D blocks with equal rows, got {dims(a.shape)} and {dims(b.shape)}",
            help="pl.reshape or pl.slice them to equal rows; pl.assemble puts rows below each other",
        )
    return (TileType((a.shape[0], a.shape[1] + b.shape[1]), a.dtype),)


@operator("fillpad", "tile, *valid")
def _fillpad(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """The tile with every element outside `valid` replaced by attrs['value']."""
    a = tile(operands[0], "the operand")
    integers(operands[1:], len(a.shape), "valid extents")
    return (a,)


@operator("limit", "tile, *valid")
def _limit(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """The tile; from here on its elements outside `valid` are unspecified."""
    a = tile(operands[0], "the operand")
    integers(operands[1:], len(a.shape), "valid extents")
    return (a,)


@operator("element", "tile, *indices")
def _element(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """One element as a scalar."""
    a = tile(operands[0], "the source")
    integers(operands[1:], len(a.shape), "indices")
    return (ScalarType(a.dtype),)


@operator("with_element", "tile, scalar, *indices")
def _with_element(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """The tile with one element replaced."""
    a, s = tile(operands[0], "the target"), scalar(operands[1], "the value")
    integers(operands[2:], len(a.shape), "indices")
    if s.dtype != a.dtype:
        raise RuleBroken(
            f"cannot write {s.dtype} into a {a.dtype} block", help=f"pl.cast(…, pl.{a.dtype}) first"
        )
    return (a,)
