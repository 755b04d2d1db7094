"""Marks for a checking run, which machine code does not need."""

from __future__ import annotations

from tilewright.ir.nodes import Function, Op
from tilewright.ir.walk import Replace, map_ops
from tilewright.machine import Machine


def drop_limits(fn: Function, machine: Machine) -> Function:
    """Replace every limit by its operand.

    Takes:  the program as the front end made it.
    Gives:  the same values wherever they are specified; one that is not is whatever the operand holds.
    Leaves: valid extents, which every reader of the tile has as operands of its own.
    """
    return map_ops(fn, _dropped)


def _dropped(op: Op) -> Replace | None:
    return Replace((), {op.result: op.operands[0]}) if op.name == "limit" else None
