"""FP8 in machine code: by way of FP16, whose bits hold either format with room to spare.

E5M2 is the upper half of an FP16. E4M3FN is an FP16 of another bias: scaled by 2^-8, its bits stand seven
places up. FP32 is first rounded to odd in FP16, which no second rounding sees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.codegen.llvm.types import F16, F32, I8, I16
from tilewright.dtypes import FP8E4M3FN, DType

if TYPE_CHECKING:
    from tilewright.codegen.llvm.lanes import Lanes

SCALE = 256.0  # of E4M3FN over an FP16 with the same bits
LARGEST, NAN = 0x7E, 0x7F  # codes of E4M3FN, which has no infinities
INFINITE = 0x7C00  # of FP16


def widen(lanes: Lanes, dtype: DType, x: ir.Value) -> ir.Value:
    """FP8 as FP32, exactly."""
    b = lanes.b
    bits = b.zext(x, lanes.like(I16, x))
    if dtype != FP8E4M3FN:
        half = b.bitcast(b.shl(bits, lanes.same(bits, 8)), lanes.like(F16, x))
        return b.fpext(half, lanes.like(F32, x))
    sign = b.shl(b.and_(bits, lanes.same(bits, 0x80)), lanes.same(bits, 8))
    code = b.and_(bits, lanes.same(bits, 0x7F))
    half = b.bitcast(b.or_(sign, b.shl(code, lanes.same(bits, 7))), lanes.like(F16, x))
    wide = b.fpext(half, lanes.like(F32, x))
    number = b.fmul(wide, lanes.same(wide, SCALE))
    is_nan = b.icmp_unsigned("==", code, lanes.same(code, NAN))
    return b.select(is_nan, lanes.same(wide, float("nan")), number)


def narrow(lanes: Lanes, dtype: DType, x: ir.Value, mode: str) -> ir.Value:
    """FP32 rounded to FP8. Beyond its range E5M2 is infinite as in IEEE, E4M3FN stays at its largest."""
    b, scaled = lanes.b, x
    if dtype == FP8E4M3FN:
        scaled = b.fmul(x, lanes.same(x, 1 / SCALE))
        size = lanes.call(
            "fabs", x.type, x
        )  # so small that the product may lose it, but it is not 0
        tiny = b.and_(
            b.fcmp_ordered("<", size, lanes.same(x, 2.0**-100)),
            b.fcmp_ordered(">", size, lanes.same(x, 0.0)),
        )
        least = lanes.call("copysign", x.type, lanes.same(x, 2.0**-40), x)
        scaled = b.select(tiny, least, scaled)
    half = lanes.to_narrower(scaled, F16, I16, "odd")
    bits = b.bitcast(half, lanes.like(I16, x))
    sign = b.lshr(bits, lanes.same(bits, 15))
    code = b.and_(bits, lanes.same(bits, 0x7FFF))
    rounded = _rounded(lanes, code, sign, 7 if dtype == FP8E4M3FN else 8, mode)
    is_nan = b.icmp_unsigned(">", code, lanes.same(code, INFINITE))
    if dtype == FP8E4M3FN:
        rounded = lanes.call("umin", code.type, rounded, lanes.same(code, LARGEST))
    rounded = b.select(is_nan, lanes.same(code, NAN), rounded)
    signed = b.or_(rounded, b.shl(sign, lanes.same(sign, 7)))
    return b.trunc(signed, lanes.like(I8, x))


def _rounded(lanes: Lanes, code: ir.Value, sign: ir.Value, shift: int, mode: str) -> ir.Value:
    """The code without its last `shift` bits, moved on by one where the mode says."""
    b, half, most = lanes.b, 1 << (shift - 1), (1 << shift) - 1
    count = lanes.same(code, shift)
    kept = b.lshr(code, count)
    match mode:
        case "trunc":
            return kept
        case "odd":
            lost = b.icmp_unsigned("!=", b.and_(code, lanes.same(code, most)), lanes.same(code, 0))
            return b.or_(kept, b.zext(lost, code.type))
        case "round":
            bias: ir.Value = lanes.same(code, half)
        case "floor":
            bias = b.mul(sign, lanes.same(code, most))
        case "ceil":
            bias = b.mul(b.xor(sign, lanes.same(sign, 1)), lanes.same(code, most))
        case _:
            bias = b.add(b.and_(kept, lanes.same(code, 1)), lanes.same(code, half - 1))
    return b.lshr(b.add(code, bias), count)
