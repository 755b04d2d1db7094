"""Elements picked and put by index. Patterns of columns are element-wise: see there."""

from __future__ import annotations

from math import prod

from tilewright.dtypes import INT32
from tilewright.ir.nodes import Operand
from tilewright.ir.ops.table import (
    Attrs,
    RuleBroken,
    dims,
    integer,
    integers,
    operator,
    same_dtype,
    tensor,
    tile,
)
from tilewright.ir.types import TileType, Type


def _index(operand: Operand) -> TileType:
    found = tile(operand, "index")
    if found.dtype != INT32:
        raise RuleBroken(f"index must be INT32, got {found.dtype}", help="pl.cast it to pl.INT32")
    return found


def _not_larger(index: TileType, other: TileType, what: str, but: int | None = None) -> None:
    """Ranks agree, and along every axis except `but` there is an element of `other` for every index."""
    if len(other.shape) != len(index.shape):
        raise RuleBroken(
            f"{what} {dims(other.shape)} and index {dims(index.shape)} differ in rank",
            help="pl.reshape one of them to the other's rank",
        )
    for axis, (n, m) in enumerate(zip(other.shape, index.shape, strict=True)):
        if axis != but and m > n:
            raise RuleBroken(
                f"index {dims(index.shape)} is larger than {what} {dims(other.shape)} on axis {axis}",
                help="slice the index to what it picks from",
            )


@operator("gather", "tile, index")
def _gather(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """out[…, j, …] = tile[…, index[…, j, …], …] along attrs['dim'], shaped like index.

    An index outside the axis gives an unspecified element.
    """
    a, index = tile(operands[0], "the source"), _index(operands[1])
    _not_larger(index, a, "the source", but=attrs["dim"])
    return (TileType(index.shape, a.dtype),)


@operator("find", "mask, offset, *valid")
def _find(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Row by row the first attrs['count'] columns where mask is not 0, ascending, plus offset; then 0."""
    mask = tile(operands[0], "the mask")
    integer(operands[1], "the offset")
    integers(operands[2:], len(mask.shape), "valid extents")
    if attrs["count"] <= 0:
        raise RuleBroken(
            f"needs room for one index or more, got {attrs['count']}",
            help="write out_cols=8, or how many may be found",
        )
    return (TileType((*mask.shape[:-1], attrs["count"]), INT32),)


@operator("scatter", "tile, index, source")
def _scatter(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """The tile with out[…, index[…, j, …], …] = source[…, j, …] along attrs['dim'], in ascending order.

    An index outside the axis puts nothing.
    """
    a, index, source = tile(operands[0], "x"), _index(operands[1]), tile(operands[2], "src")
    same_dtype(a, source, "x and src")
    _not_larger(index, source, "src")
    _not_larger(index, a, "x", but=attrs["dim"])
    return (a,)


@operator("scatter_rows", "tile, index, source")
def _scatter_rows(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """The tile [R, N] with row index.flat[k] replaced by row k of source [K, N], in ascending order.

    An index outside the rows puts nothing.
    """
    a, index, source = tile(operands[0], "x"), _index(operands[1]), tile(operands[2], "src")
    same_dtype(a, source, "x and src")
    if len(a.shape) != 2 or source.shape != (prod(index.shape), a.shape[1]):
        raise RuleBroken(
            f"needs a row of {a.shape[-1]} for each of {prod(index.shape)} indices,"
            f" got {dims(source.shape)}",
            help="give one row of values for each index",
        )
    return (a,)


@operator("mscatter", "tensor, tile, index, *valid", effect="write")
def _mscatter(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """tensor.flat[index[i, j]] = tile[i, j] for the valid elements, in ascending order.

    An index outside the tensor stops the run.
    """
    t, a, index = (
        tensor(operands[0], "the target"),
        tile(operands[1], "the tile"),
        _index(operands[2]),
    )
    integers(operands[3:], len(a.shape), "valid extents")
    if a.dtype != t.dtype:
        raise RuleBroken(
            f"cannot store {a.dtype} into a {t.dtype} tensor",
            help=f'pl.cast(…, target_type=pl.{t.dtype}, mode="rint") first',
        )
    if a.shape != index.shape:
        raise RuleBroken(
            f"the tile is {dims(a.shape)}, its index is {dims(index.shape)}",
            help="index and tile have one shape: one place for each element",
        )
    if not t.is_contiguous:
        raise RuleBroken(
            f"flat indices need a contiguous tensor, this is a window ({dims(t.shape)})",
            help="store into the whole tensor",
        )
    return ()
