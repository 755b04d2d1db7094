"""Reductions over rows and columns, valid elements only."""

from __future__ import annotations

from typing import Any

from tilewright.dtypes import FP16
from tilewright.errors import InvalidOperationError
from tilewright.frontend.operands import Call, axis_argument, block, constant, handles
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import Block, Named, with_valid
from tilewright.ir.nodes import index
from tilewright.ir.ops.table import dims


@handles("row_sum", "row_max", "row_min", "col_sum", "col_max", "col_min")
def reduce(t: Tracer, call: Call) -> Named:
    """[M,N] -> [M,1] or [1,N]. A scratch tile decides one thing: how FP16 columns add up."""
    x = block(t, call, "x")
    tree = call.name == "col_sum" and x.dtype == FP16 and call.given("tmp_tile")
    return reduction(t, call.name, x, tree=tree or None)


@handles("tile.sum", "tile.max", "tile.min")
def along(t: Tracer, call: Call) -> Named:
    """The same, by axis."""
    x = block(t, call, "tile")
    axis = axis_argument(t, call, "axis", len(x.shape))
    if len(x.shape) != 2:
        t.fail(
            InvalidOperationError,
            f"{call.name} takes a 2-D block, got {dims(x.shape)}",
            call.node,
            notes=t.notes(call.node),
            help="pl.reshape it to two axes first",
        )
    result = reduction(t, f"{'row' if axis else 'col'}_{call.name[5:]}", x)
    if constant(t, call, "keepdim"):
        return result
    kept = 1 - axis
    flat = t.emit("reshape", [result.value], shape=(x.shape[kept],))
    return with_valid(flat, None if x.valid is None else x.valid[kept : kept + 1])


def reduction(t: Tracer, name: str, x: Block, **attrs: Any) -> Block:
    result = t.emit(name, [x.value, *x.extents], **attrs)
    if x.valid is None:
        return Block(result)
    gone = len(x.shape) - (1 if name.startswith("row") else 2)
    return with_valid(result, [index(1) if axis == gone else v for axis, v in enumerate(x.valid)])
