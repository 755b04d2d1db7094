"""Reductions over rows and columns, valid elements only."""

from __future__ import annotations

from tilewright.errors import InvalidOperationError
from tilewright.frontend.operands import Call, axis_argument, block, constant, handles
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import Block, Named, with_valid
from tilewright.ir.nodes import index
from tilewright.ir.ops.table import dims


@handles("row_sum", "row_max", "row_min", "col_sum", "col_max", "col_min")
def reduce(t: Tracer, call: Call) -> Named:
    """[M,N] -> [M,1] or [1,N]."""
    return reduction(t, call.name, block(t, call, "x"))


@handles("tile.sum", "tile.max", "tile.min")
def along(t: Tracer, call: Call) -> Named:
    """The same, by axis."""
    x = block(t, call, "x")
    axis = axis_argument(t, call, "axis", len(x.shape))
    if len(x.shape) != 2 or constant(t, call, "keepdim") is not True:
        t.fail(
            InvalidOperationError,
            f"{call.name} takes a 2-D block and keepdim=True, got {dims(x.shape)}",
            call.node,
        )
    return reduction(t, f"{'row' if axis else 'col'}_{call.name[5:]}", x)


def reduction(t: Tracer, name: str, x: Block) -> Block:
    result = t.emit(name, [x.value, *x.extents])
    if x.valid is None:
        return Block(result)
    gone = len(x.shape) - (1 if name.startswith("row") else 2)
    return with_valid(result, [index(1) if axis == gone else v for axis, v in enumerate(x.valid)])
