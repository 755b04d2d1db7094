"""Which operators work row by row: row i of what they give depends on row i of what they take.

`block_rows` cuts such work into row tiles, `fuse_sweeps` runs it as one sweep; both ask here.
"""

from __future__ import annotations

from tilewright.ir.nodes import Const, Op
from tilewright.ir.ops.elementwise import BINARY, UNARY
from tilewright.ir.ops.reduce import ROW
from tilewright.ir.typed import shape_of, tensor_type_of

# Ops that a sweep can do: element-wise ones, reductions along the row, and moves within the row.
SWEPT = frozenset(
    (
        *(*BINARY, *UNARY, *ROW, "cmp", "sel", "cast", "broadcast", "full", "splat", "arange"),
        *("gather_mask", "scatter_mask", "interleave", "fillpad", "extract", "store"),
    )
)


def is_swept(op: Op) -> bool:
    """True when a sweep can contain `op`."""
    if op.name not in SWEPT:
        return False
    if op.name == "extract":  # a window of columns only
        whole_rows = op.attr("shape")[:-1] == shape_of(op.operands[0])[:-1] and not op.attr("drop")
        return whole_rows and all(isinstance(x, Const) and x.value == 0 for x in op.operands[1:-1])
    if op.name == "store":
        return store_rows(op) is not None and not op.attr("atomic")
    return True


def store_rows(op: Op) -> tuple[int, ...] | None:
    """Leading shape of what a store writes; None when the last axis of the tile is not the tensor's last."""
    tensor = tensor_type_of(op.operands[1])
    last = len(tensor.shape) - 1
    if last in (op.attr("drop") or ()) or tensor.strides[-1] != 1:
        return None
    return shape_of(op.operands[0])[:-1]


def leading(op: Op) -> tuple[int, ...]:
    """The rows that a swept op goes over: every axis but the last."""
    return shape_of(op.operands[0] if op.name == "store" else op.result)[:-1]
