"""Even and odd columns written one after the other are one interleave."""

from __future__ import annotations

from tilewright.ir.nodes import Function, Op
from tilewright.ir.ops.elementwise import mask_pattern
from tilewright.ir.typed import as_value
from tilewright.ir.walk import definitions, map_ops
from tilewright.machine import Machine


def merge_interleave(fn: Function, machine: Machine) -> Function:
    """scatter(odd, P1010, dst=scatter(even, P0101, dst=d)) becomes interleave(even, odd), either order.

    Takes:  any program.
    Gives:  the same values: every column of `d` is overwritten, so `d` is not read any more.
    Leaves: a single scatter, and patterns of stride 4.
    """
    made_by = {
        value: place.op
        for value, place in definitions(fn).items()
        if place.op and place.block is None
    }

    def rewrite(op: Op) -> Op | None:
        if op.name != "scatter_mask":
            return None
        inner = made_by.get(as_value(op.operands[1]))
        if inner is None or inner.name != "scatter_mask":
            return None
        outer_phase, inner_phase = (
            mask_pattern(op.attr("pattern")),
            mask_pattern(inner.attr("pattern")),
        )
        if {outer_phase, inner_phase} != {(2, 0), (2, 1)}:
            return None
        even, odd = op.operands[0], inner.operands[0]
        if outer_phase == (2, 1):
            even, odd = odd, even
        return Op("interleave", (even, odd), op.results, (), (), op.span)

    return map_ops(fn, rewrite)
