"""sin and cos of FP32 lanes: the angle less whole half turns, in double, and one polynomial for both.

All is computed in double and rounded once, so nearly every result is the float next to the truth, and the same
for a vector and for a scalar. Angles past LARGE, which a loop takes lane by lane, are reduced by integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.codegen.llvm.polynomials import polynomial, times
from tilewright.codegen.llvm.types import F32, I1, I32, I64, const, counted, define, once
from tilewright.machine import Machine

if TYPE_CHECKING:
    from tilewright.codegen.llvm.lanes import Lanes

F64, I128, I256 = ir.DoubleType(), ir.IntType(128), ir.IntType(256)

# sin(r) / r by powers of r^2, |r| <= pi / 2, highest first; within 2^-41 by Chebyshev interpolation.
SIN = (
    1.5502507984399832e-10,
    -2.5036744950479975e-08,
    2.755712317326084e-06,
    -0.00019841268709047569,
    0.008333333330940343,
    -0.16666666666658467,
    1.0,
)
# pi in two parts; the first has 32 bits, so that its product with up to 2^20 and a half is exact.
PI_HIGH, PI_LOW = 3.1415926534682512, 1.2154201013012384e-10
PER_HALF_TURN = 0.3183098861837907
LARGE = 2.0**21
WHOLE = 1.5 * 2.0**52  # adding it leaves a rounded whole number in the low bits of the sum

# floor(2^200 / pi), for angles up to 2^128.
POINT = 200
ONE_OVER_PI = 511504265972482371356817160047419747232591328621101924753663
FRACTION = 94  # bits behind the point that are kept of the angle in half turns
PI_AT_63 = 3.141592653589793 * 2.0**-63


def sine(lanes: Lanes, x: ir.Value, of_cos: bool) -> ir.Value:
    """sin x, or cos x = sin(x + pi / 2); NaN for infinities and for NaN."""
    b = lanes.b
    wide = b.fpext(x, lanes.like(F64, x))
    turns = times(lanes, wide, PER_HALF_TURN, lanes.same(wide, 0.5 if of_cos else 0.0))
    shifted = b.fadd(turns, lanes.same(wide, WHOLE))
    less = b.fsub(shifted, lanes.same(wide, WHOLE))
    if of_cos:
        less = b.fsub(less, lanes.same(wide, 0.5))
    r = times(lanes, less, -PI_LOW, times(lanes, less, -PI_HIGH, wide))
    near = _of_reduced(lanes, r, b.bitcast(shifted, lanes.like(I64, x)))
    large = b.fcmp_ordered(">", lanes.call("fabs", x.type, x), lanes.same(x, LARGE))
    return _replaced(lanes, near, large, x, of_cos)


def _of_reduced(lanes: Lanes, r: ir.Value, turns: ir.Value) -> ir.Value:
    """sin r in FP32, its sign turned where `turns` is odd."""
    b = lanes.b
    signs = b.shl(turns, lanes.same(turns, 63))
    r = b.bitcast(b.xor(b.bitcast(r, turns.type), signs), r.type)
    z = b.fmul(r, r)
    return b.fptrunc(b.fmul(r, polynomial(lanes, z, SIN)), lanes.like(F32, r))


def _replaced(lanes: Lanes, near: ir.Value, large: ir.Value, x: ir.Value, of_cos: bool) -> ir.Value:
    """`near`, but for large angles: few programs have one, so all lanes wait for them."""
    b, function = lanes.b, _sine_of_large(lanes.b.module, type(lanes), lanes.machine)
    which, count = const(I1, of_cos), 1
    some = large
    if isinstance(x.type, ir.VectorType):
        count = x.type.count
        bits = ir.IntType(count)
        some = b.icmp_unsigned("!=", b.bitcast(large, bits), const(bits, 0))
    usual = b.block
    with b.if_then(some, likely=False):
        if count == 1:
            exact = b.call(function, [x, which])
        else:
            with counted(b, 0, count, 1, [near], name="lane") as loop:
                one = b.call(function, [b.extract_element(x, loop.i), which])
                loop.next = [b.insert_element(loop.carried[0], one, loop.i)]
            exact = b.select(large, loop.results[0], near)
        rare = b.block
    result = b.phi(near.type)
    result.add_incoming(near, usual)
    result.add_incoming(exact, rare)
    return result


def _sine_of_large(module: ir.Module, lanes_of: type[Lanes], machine: Machine) -> ir.Function:
    """`(float x, i1 of_cos)` for |x| > LARGE: x / pi modulo 2 in fixed point, by integers (Payne and Hanek)."""
    name = "sine_of_large"

    def emit() -> ir.Function:
        fn = define(module, name, F32, [("x", F32), ("of_cos", I1)])
        fn.attributes.add("noinline")
        x, of_cos = fn.args
        b = ir.IRBuilder(fn.append_basic_block("entry"))
        bits = b.bitcast(x, I32)
        exponent = b.and_(b.lshr(bits, const(I32, 23)), const(I32, 255))
        mantissa = b.or_(b.and_(bits, const(I32, 0x7FFFFF)), const(I32, 0x800000))
        # x = mantissa * 2^(exponent - 150); of 1 / pi the bits that are worth 2^0 … 2^-FRACTION then
        down = b.sub(const(I32, POINT - FRACTION + 150), exponent)
        part = b.trunc(b.lshr(ir.Constant(I256, ONE_OVER_PI), b.zext(down, I256)), I128)
        product = b.mul(part, b.zext(mantissa, I128))
        turns = b.trunc(b.lshr(product, ir.Constant(I128, FRACTION - 63)), I64)
        negative = b.icmp_signed("<", bits, const(I32, 0))
        turns = b.select(negative, b.sub(const(I64, 0), turns), turns)
        half = const(I64, 1 << 62)
        turns = b.select(of_cos, b.add(turns, half), turns)
        one = const(I64, 1)
        rest = b.sitofp(b.ashr(b.shl(turns, one), one), F64)
        odd = b.lshr(b.add(turns, half), const(I64, 63))
        lanes = lanes_of(b, machine)
        found = _of_reduced(lanes, b.fmul(rest, lanes.same(rest, PI_AT_63)), odd)
        endless = b.icmp_unsigned("==", exponent, const(I32, 255))
        b.ret(b.select(endless, lanes.same(found, float("nan")), found))
        return fn

    return once(module, name, emit)
