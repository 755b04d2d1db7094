"""Reductions over the last axis (rows) or the one before it (columns), valid elements only."""

from __future__ import annotations

from tilewright.ir.nodes import Operand
from tilewright.ir.ops.elementwise import computable
from tilewright.ir.ops.table import Attrs, RuleBroken, dims, integers, operators, tile
from tilewright.ir.types import TileType, Type

ROW = ("row_sum", "row_max", "row_min")
COL = ("col_sum", "col_max", "col_min")


@operators(ROW, "tile, *valid")
def _row(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """[…, M, N] -> […, M, 1]. With no valid column: 0, -inf, +inf. NaN in, NaN out."""
    a = tile(operands[0], "the operand")
    computable(a)
    integers(operands[1:], len(a.shape), "valid extents")
    return (TileType((*a.shape[:-1], 1), a.dtype),)


@operators(COL, "tile, *valid")
def _col(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """[…, M, N] -> […, 1, N]. With no valid row: 0, -inf, +inf. NaN in, NaN out.

    FP16 sums add in FP16, row after row, or pair by pair with attrs['tree'].
    """
    a = tile(operands[0], "the operand")
    computable(a)
    if len(a.shape) < 2:
        raise RuleBroken(
            f"a column reduction needs rank 2 or more, got {dims(a.shape)}",
            help="pl.reshape it to [1, n] or [n, 1] first",
        )
    integers(operands[1:], len(a.shape), "valid extents")
    return (TileType((*a.shape[:-2], 1, a.shape[-1]), a.dtype),)
