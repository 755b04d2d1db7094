"""Matrix products: exact INT8 into INT32, float into FP32, one accumulation order per K."""

from __future__ import annotations

from tilewright.dtypes import BF16, FP16, FP32, INT8, INT32, DType
from tilewright.ir.nodes import Operand
from tilewright.ir.ops.elementwise import broadcast_shapes
from tilewright.ir.ops.table import (
    Attrs,
    RuleBroken,
    dims,
    integers,
    operator,
    panel,
    same_dtype,
    tile,
)
from tilewright.ir.types import PanelType, TileType, Type

ACCUMULATOR = {BF16: FP32, FP16: FP32, FP32: FP32, INT8: INT32}


def accumulator_dtype(dtype: DType) -> DType:
    """What products of `dtype` add up in."""
    if dtype not in ACCUMULATOR:
        raise RuleBroken(
            f"matmul takes BF16, FP16, FP32 or INT8 operands, got {dtype}",
            help="pl.cast the operands to one of them",
        )
    return ACCUMULATOR[dtype]


def _product(a: TileType, b: TileType, attrs: Attrs) -> TileType:
    same_dtype(a, b, "matmul operands")
    if len(a.shape) < 2 or len(b.shape) < 2:
        raise RuleBroken(
            f"matmul needs rank 2 or more, got {dims(a.shape)} and {dims(b.shape)}",
            help="pl.reshape a vector to [1, K] or [K, 1]",
        )
    m, ka = a.shape[-2:] if not attrs.get("a_trans") else a.shape[:-3:-1]
    kb, n = b.shape[-2:] if not attrs.get("b_trans") else b.shape[:-3:-1]
    if ka != kb:
        raise RuleBroken(
            f"matmul needs matching inner dimensions, got K = {ka} and {kb}"
            f" (operands {dims(a.shape)} and {dims(b.shape)})",
            help="slice both with the same K tile",
        )
    batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return TileType((*batch, m, n), accumulator_dtype(a.dtype))


@operator("matmul", "a, b, m, k, n")
def _matmul(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """op(a) op(b), where a_trans / b_trans swap the last two axes. Only the first m rows, n columns
    and k terms take part; what lies outside [m, n] in the result is 0."""
    integers(operands[2:], 3, "valid extents")
    return (_product(tile(operands[0], "a"), tile(operands[1], "b"), attrs),)


@operator("matmul_acc", "acc, a, b, m, k, n")
def _matmul_acc(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """acc + op(a) op(b), continuing acc's accumulation order."""
    acc = tile(operands[0], "acc")
    integers(operands[3:], 3, "valid extents")
    product = _product(tile(operands[1], "a"), tile(operands[2], "b"), attrs)
    if acc != product:
        raise RuleBroken(
            f"the accumulator is {acc}, the product is {product}",
            help=f"make the accumulator {dims(product.shape)} of {product.dtype}",
        )
    return (product,)


@operator("pack", "b, k, n")
def _pack(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """b [K, N] (or [N, K] with attrs['trans']) copied into the order that the microkernel streams.

    Only the first k rows and n columns of op(b) are read; the rest of the panel is 0.
    """
    b = tile(operands[0], "b")
    integers(operands[1:], 2, "valid extents")
    rows, columns = b.shape if not attrs.get("trans") else b.shape[::-1]
    return (PanelType(rows, columns, b.dtype),)


@operator("panel_window", "panel, k0, n0")
def _panel_window(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Rows k0 … k0 + attrs['k'] and columns n0 … n0 + attrs['n'] of a packed matrix, as a panel of its own.

    Nothing is copied: n0 is a multiple of a column block, and so is n unless the window reaches the last
    column; k0 is a multiple of a group of K.
    """
    whole = panel(operands[0], "the source")
    integers(operands[1:], 2, "offsets")
    return (PanelType(attrs["k"], attrs["n"], whole.dtype),)


@operator("matmul_packed", "a, panel, m")
def _matmul_packed(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """a [M, K] times a packed panel; only the first m rows are computed, the others are unspecified."""
    a, b = tile(operands[0], "a"), panel(operands[1], "b")
    if a.shape[-1] != b.k or a.dtype != b.dtype:
        raise RuleBroken(f"a is {a}, the panel is {b}")
    return (TileType((a.shape[0], b.n), accumulator_dtype(a.dtype)),)


@operator("matmul_packed_acc", "acc, a, panel, m")
def _matmul_packed_acc(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """acc + a times a packed panel."""
    product = _matmul_packed(operands[1:], attrs)
    if tile(operands[0], "acc") != product[0]:
        raise RuleBroken(f"the accumulator is {operands[0].type}, the product is {product[0]}")
    return product
