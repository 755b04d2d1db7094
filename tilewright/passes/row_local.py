"""Which operators work row by row: row i of what they give depends on row i of what they take.

`block_rows` cuts such work into row tiles, `fuse_sweeps` runs it as one sweep; both ask here.
"""

from __future__ import annotations

from tilewright.ir.nodes import Const, Op, Operand
from tilewright.ir.ops.elementwise import BINARY, UNARY
from tilewright.ir.ops.reduce import ROW
from tilewright.ir.types import TileType

# Ops that a sweep can do: element-wise ones, reductions along the row, and moves within the row.
SWEPT = frozenset(
    (*BINARY, *UNARY, *ROW, "cmp", "sel", "cast", "broadcast", "gather_mask", "interleave", "full", "splat")
    + ("arange", "fillpad", "extract", "store", "scatter_mask")
)


def is_swept(op: Op) -> bool:
    """True when a sweep can contain `op`."""
    if op.name not in SWEPT:
        return False
    if op.name == "extract":  # a window of columns only
        source, shape = op.operands[0].type, op.attr("shape")
        whole_rows = shape[:-1] == source.shape[:-1] and not op.attr("drop")  # type: ignore[union-attr]
        return whole_rows and all(x == Const(0, x.type.dtype) for x in op.operands[1:-1])  # type: ignore[union-attr]
    if op.name == "store":
        return store_rows(op) is not None and not op.attr("atomic")
    return True


def store_rows(op: Op) -> tuple[int, ...] | None:
    """Leading shape of what a store writes; None when the last axis of the tile is not the tensor's last."""
    tile, tensor = op.operands[0].type, op.operands[1].type
    last = len(tensor.shape) - 1  # type: ignore[union-attr]
    if last in (op.attr("drop") or ()) or tensor.strides[-1] != 1:  # type: ignore[union-attr]
        return None
    return tile.shape[:-1]  # type: ignore[union-attr]


def leading(op: Op) -> tuple[int, ...]:
    """The rows that a swept op goes over: every axis but the last."""
    shape = op.operands[0].type.shape if op.name == "store" else op.result.type.shape  # type: ignore[union-attr]
    return shape[:-1]


def tile_operands(op: Op) -> list[Operand]:
    """The operands that are tiles."""
    return [x for x in op.operands if isinstance(x.type, TileType)]
