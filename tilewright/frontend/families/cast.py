"""Changing the dtype of blocks and scalars."""

from __future__ import annotations

from tilewright.dtypes import BOOL, FP32, DType
from tilewright.errors import InvalidOperationError
from tilewright.frontend.operands import Call, block, constant, dtype_argument, handles
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import Block, Named, Number, to_number
from tilewright.ir.nodes import Const, Operand
from tilewright.ir.ops.elementwise import ROUNDING_MODES


@handles("cast")
def cast(t: Tracer, call: Call) -> Named:
    """x in another dtype."""
    to = dtype_argument(t, call, "target_type")
    mode = constant(t, call, "mode")
    if isinstance(mode, int) and not isinstance(mode, bool) and 0 <= mode < len(ROUNDING_MODES):
        mode = ROUNDING_MODES[mode]
    number = to_number(call["x"])
    if number is not None:
        if mode != "round":
            t.fail(
                InvalidOperationError,
                f"cast: scalars take the default mode only, got {mode!r}",
                call.at("mode"),
                help="leave mode out",
            )
        return Number(cast_scalar(t, number, to))
    x = block(t, call, "x")
    return Block(t.emit("cast", [x.value], to=to, mode=mode), x.valid)


def cast_scalar(t: Tracer, number: Number, to: DType) -> Operand:
    """A scalar in another dtype: truncated and saturated into integers, folded when constant."""
    operand = number.operand
    if number.dtype == to:
        return operand
    if isinstance(operand, Const) and (to == FP32 or not to.is_float):
        value = operand.value
        if to.is_float:
            return Const(float(value), to)
        if to == BOOL:
            return Const(bool(value), to)
        if value == value and abs(value) != float("inf"):
            low, high = to.int_range()
            return Const(max(low, min(high, int(value))), to)
    return t.emit("s.cast", [operand], "s", to=to)
