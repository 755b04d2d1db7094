"""What approximations are made of, on the lanes of any float: a multiply-add, and a polynomial of them.

Without contraction flags LLVM keeps every rounding, so a lane's bits do not depend on how many are beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

if TYPE_CHECKING:
    from tilewright.codegen.llvm.lanes import Lanes


def polynomial(lanes: Lanes, x: ir.Value, coefficients: tuple[float, ...]) -> ir.Value:
    """The coefficients stand highest power first."""
    found: ir.Value = lanes.same(x, coefficients[0])
    for number in coefficients[1:]:
        found = fma(lanes, found, x, lanes.same(x, number))
    return found


def times(lanes: Lanes, x: ir.Value, number: float, y: ir.Value) -> ir.Value:
    """x * number + y."""
    return fma(lanes, x, lanes.same(x, number), y)


def fma(lanes: Lanes, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """x * y + z, rounded once where the machine can."""
    machine = lanes.machine
    if machine.is_aarch64 or machine.has("fma") or machine.vector_bits == 512:
        return lanes.call("fma", x.type, x, y, z)
    return lanes.b.fadd(lanes.b.fmul(x, y), z)
