"""exp and log of FP32 lanes: range reduction and a polynomial, the same steps for a vector and for a scalar.

Within 2 ulp of the truth over the whole range, subnormals included. Where the machine has no
fused multiply-add, products round by themselves; the constants are split so that the bound holds there too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.codegen.llvm.polynomials import polynomial, times
from tilewright.codegen.llvm.types import F32, I32

if TYPE_CHECKING:
    from tilewright.codegen.llvm.lanes import Lanes

LOG2_E = 1.4426950408889634
# ln 2 in two parts; the first has 9 bits, so that its product with an exponent is exact.
LN2_HIGH, LN2_LOW = 0.693359375, -2.1219444005469057e-4

# Adding it leaves a rounded whole number in the low bits of the sum.
WHOLE = 1.5 * 2.0**23
WHOLE_BITS = 0x4B400000

# (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2, highest power first; Chebyshev interpolation.
EXP = (0.00138822955, 0.00836317334, 0.0416672118, 0.166665778, 0.49999997)
# Beyond these e^x is infinite, and zero; within, its exponent splits into two that a float has.
EXP_MOST, EXP_LEAST = 89.0, -104.0

# (log(1 + f) - f + f^2 / 2) / f^3 for 1 + f from sqrt(1/2) to sqrt(2), highest power first.
LOG = (
    0.0697161183,
    -0.114797339,
    0.116854198,
    -0.124256872,
    0.142490581,
    -0.166678026,
    0.200007156,
    -0.24999997,
    0.333333313,
)
SQRT_HALF_BITS = 0x3F3504F3
LEAST_NORMAL, SUBNORMAL_SCALE = 2.0**-126, 2.0**23


def exp(lanes: Lanes, x: ir.Value) -> ir.Value:
    """e^x; inf above the range, 0 below it, NaN for NaN."""
    b = lanes.b
    x = b.select(b.fcmp_ordered(">", x, lanes.same(x, EXP_MOST)), lanes.same(x, EXP_MOST), x)
    x = b.select(b.fcmp_ordered("<", x, lanes.same(x, EXP_LEAST)), lanes.same(x, EXP_LEAST), x)
    shifted = times(lanes, x, LOG2_E, lanes.same(x, WHOLE))
    turns = b.fsub(shifted, lanes.same(x, WHOLE))
    r = times(lanes, turns, -LN2_HIGH, x)
    r = times(lanes, turns, -LN2_LOW, r)
    whole = b.bitcast(shifted, lanes.like(I32, x))
    power = b.sub(whole, lanes.same(whole, WHOLE_BITS))
    tail = b.fmul(b.fmul(r, r), polynomial(lanes, r, EXP))
    near = b.fadd(b.fadd(tail, r), lanes.same(r, 1.0))
    half = b.ashr(power, lanes.same(power, 1))  # 2^128 is no float, and neither is 2^-150
    return b.fmul(
        b.fmul(near, _power_of_two(lanes, half)), _power_of_two(lanes, b.sub(power, half))
    )


def log(lanes: Lanes, x: ir.Value) -> ir.Value:
    """The natural logarithm; -inf for 0, NaN for what is below and for NaN."""
    b = lanes.b
    small = b.fcmp_ordered("<", x, lanes.same(x, LEAST_NORMAL))
    normal = b.select(small, b.fmul(x, lanes.same(x, SUBNORMAL_SCALE)), x)
    bits = b.bitcast(normal, lanes.like(I32, x))
    power = b.ashr(b.sub(bits, lanes.same(bits, SQRT_HALF_BITS)), lanes.same(bits, 23))
    mantissa = b.bitcast(b.sub(bits, b.shl(power, lanes.same(bits, 23))), x.type)
    f = b.fsub(mantissa, lanes.same(x, 1.0))
    scaled = b.select(small, b.sub(power, lanes.same(bits, 23)), power)
    turns = b.sitofp(scaled, x.type)
    square = b.fmul(f, f)
    tail = b.fmul(b.fmul(square, f), polynomial(lanes, f, LOG))
    tail = times(lanes, turns, LN2_LOW, tail)
    tail = times(lanes, square, -0.5, tail)
    found = times(lanes, turns, LN2_HIGH, b.fadd(f, tail))
    infinity = lanes.same(x, float("inf"))
    found = b.select(b.fcmp_ordered("==", x, infinity), infinity, found)
    zero = lanes.same(x, 0.0)
    found = b.select(b.fcmp_ordered("==", x, zero), lanes.same(x, float("-inf")), found)
    return b.select(b.fcmp_unordered("<", x, zero), lanes.same(x, float("nan")), found)


def _power_of_two(lanes: Lanes, power: ir.Value) -> ir.Value:
    """2^power as a float, -126 <= power <= 127."""
    b = lanes.b
    bits = b.shl(b.add(power, lanes.same(power, 127)), lanes.same(power, 23))
    return b.bitcast(bits, lanes.like(F32, power))
