"""Sorting as the device does it: runs of 32 first, then sorted runs merged.

A sorted value travels with its index in a *pair* of 8 bytes: FP32 value, index; or FP16 value, 16 bits of
0, index. A pair takes as many lanes of the value's dtype as fit into 8 bytes.
"""

from __future__ import annotations

from tilewright.dtypes import FP16, FP32, UINT32, DType
from tilewright.ir.nodes import Operand
from tilewright.ir.ops.table import Attrs, RuleBroken, dims, operator, same_dtype, tile
from tilewright.ir.types import TileType, Type

RUN = 32  # values that sort32 sorts together
PAIR_BYTES = 8


def pair_lanes(dtype: DType) -> int:
    """Lanes of a (value, index) pair."""
    return PAIR_BYTES // dtype.nbytes


def _sortable(a: TileType) -> None:
    if a.dtype not in (FP32, FP16):
        raise RuleBroken(f"values must be FP32 or FP16, got {a.dtype}", help="pl.cast them first")


@operator("sort32", "values, index")
def _sort32(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Each run of 32 columns as pairs, values descending, NaN first, ties in ascending position."""
    a, index = tile(operands[0], "values"), tile(operands[1], "idx")
    _sortable(a)
    if index.dtype != UINT32:
        raise RuleBroken(
            f"idx must be UINT32, got {index.dtype}",
            help="make it with pl.arange(…, dtype=pl.UINT32)",
        )
    if index.shape != a.shape:
        raise RuleBroken(
            f"values are {dims(a.shape)}, idx is {dims(index.shape)}",
            help=f"make idx {dims(a.shape)} too: one index for each value",
        )
    if a.shape[-1] % RUN:
        raise RuleBroken(
            f"sorts runs of {RUN} columns, got {a.shape[-1]}", help="pad with pl.fillpad(…, min)"
        )
    return (TileType((*a.shape[:-1], a.shape[-1] * pair_lanes(a.dtype)), a.dtype),)


@operator("mrgsort", "*runs")
def _mrgsort(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Sorted lists of pairs merged, the earlier list first among equal values.

    One operand: every complete group of four neighbouring runs of attrs['block_len'] lanes becomes one run.
    Two to four: all of them become one list.
    """
    lists = [tile(x, "a list") for x in operands]
    for x in lists:
        _sortable(x)
        same_dtype(lists[0], x, "all lists")
        lanes = pair_lanes(x.dtype)
        if len(x.shape) != 2 or x.shape[0] != 1 or x.shape[1] % lanes:
            raise RuleBroken(
                f"takes one row of pairs, {lanes} lanes each, got {dims(x.shape)}",
                help="pl.reshape it to one row, or loop over the rows",
            )
    if len(lists) == 1:
        length = attrs.get("block_len")
        if not isinstance(length, int) or length <= 0 or length % 64:
            raise RuleBroken(
                f"block_len must be a multiple of 64, got {length}",
                help="pl.sort32 leaves runs of 64; then 256, 1024, …",
            )
        return (lists[0],)
    if len(lists) > 4:
        raise RuleBroken(f"merges two to four lists, got {len(lists)}", help="merge four at a time")
    return (TileType((1, sum(x.shape[1] for x in lists)), lists[0].dtype),)
