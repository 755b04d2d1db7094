"""Sorting runs of 32, and merging sorted runs."""

from __future__ import annotations

from tilewright.dtypes import INDEX
from tilewright.errors import InvalidOperationError
from tilewright.frontend.operands import Call, block, constant, handles
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import Block, Named, describe, with_valid
from tilewright.ir.nodes import Const
from tilewright.ir.typed import shape_of


@handles("sort32")
def sort32(t: Tracer, call: Call) -> Named:
    """Pairs, sorted within every 32."""
    values, index = (_whole_rows(t, call, parameter) for parameter in ("values", "idx"))
    pairs = t.emit("sort32", [values.value, index.value])
    if values.valid is None and index.valid is None:
        return Block(pairs)
    both = zip(values.extents[:-1], index.extents[:-1], strict=False)
    columns = Const(shape_of(pairs)[-1], INDEX)
    return with_valid(pairs, [*(t.min(a, b) for a, b in both), columns])


def _whole_rows(t: Tracer, call: Call, parameter: str) -> Block:
    """An operand whose columns are all valid: sorting would mix the others in."""
    x = block(t, call, parameter)
    if x.extents[-1] != Const(x.shape[-1], INDEX):
        t.fail(
            InvalidOperationError,
            f"{call.name}: every column must be valid, {parameter} is {describe(x)} with a valid part",
            call.at(parameter),
            help="pl.fillpad(…, pad_value=pl.PadValue.min) first",
            notes=t.notes(call.node),
        )
    return x


@handles("mrgsort")
def mrgsort(t: Tracer, call: Call) -> Named:
    """Four runs of a row, or two to four lists."""
    lists = [_whole_rows(t, call, name) for name in ("a", "b", "c", "d") if call.given(name)]
    constant(t, call, "exhausted")
    by_length = call.given("block_len")
    if by_length != (len(lists) == 1):
        t.fail(
            InvalidOperationError,
            f"mrgsort takes one row and block_len=, or two to four lists, got {len(lists)}"
            f" {'with' if by_length else 'without'} block_len",
            call.node,
            help="pl.mrgsort(pairs, block_len=64) after pl.sort32, then 256, 1024, …",
        )
    length = t.extent(call["block_len"], call.at("block_len"), "block_len") if by_length else None
    return Block(t.emit("mrgsort", [x.value for x in lists], block_len=length))
