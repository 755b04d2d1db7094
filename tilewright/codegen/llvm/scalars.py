"""Scalar arithmetic: integers in 64 bits, floats in FP32, conditions in one bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.codegen.llvm.checks import fail_unless
from tilewright.codegen.llvm.lanes import Lanes
from tilewright.codegen.llvm.types import F32, I1, I64, const, memory_type
from tilewright.dtypes import BOOL, FP32, DType
from tilewright.ir.nodes import Op
from tilewright.ir.typed import scalar_type_of

if TYPE_CHECKING:
    from tilewright.codegen.llvm.function import FunctionEmitter

RELATIONS = {"s.eq": "==", "s.ne": "!=", "s.lt": "<", "s.le": "<=", "s.gt": ">", "s.ge": ">="}


def emit_scalar(owner: FunctionEmitter, op: Op) -> ir.Value:
    """The value of a scalar op at the builder's position."""
    b, name = owner.b, op.name
    operands = [owner.scalar(x) for x in op.operands]
    if name == "s.cast":
        source = scalar_type_of(op.operands[0]).dtype
        return _cast(owner, source, op.attr("to"), operands[0])
    is_float = operands[0].type == F32
    if name in RELATIONS:
        if not is_float:
            return b.icmp_signed(RELATIONS[name], *operands)
        compare = b.fcmp_unordered if name == "s.ne" else b.fcmp_ordered
        return compare(RELATIONS[name], *operands)
    match name:
        case "s.and":
            return b.and_(*operands)
        case "s.or":
            return b.or_(*operands)
        case "s.not":
            return b.xor(operands[0], const(I1, 1))
        case "s.neg":
            return b.fneg(operands[0]) if is_float else b.sub(const(I64, 0), operands[0])
        case "s.add":
            return b.fadd(*operands) if is_float else b.add(*operands)
        case "s.sub":
            return b.fsub(*operands) if is_float else b.sub(*operands)
        case "s.mul":
            return b.fmul(*operands) if is_float else b.mul(*operands)
        case "s.div":
            return b.fdiv(*operands)
        case "s.min" | "s.max":
            relation = "<=" if name == "s.min" else ">="
            x, y = operands
            if not is_float:
                return b.select(b.icmp_signed(relation, x, y), x, y)
            first = b.or_(
                b.fcmp_ordered(relation, x, y), b.fcmp_unordered("uno", x, x)
            )  # NaN if either is
            return b.select(first, x, y)
        case "s.shl" | "s.shr":
            x, count = operands
            if not isinstance(count, ir.Constant) or not 0 <= count.constant < 64:
                fail_unless(owner, b.icmp_unsigned("<", count, const(I64, 64)), op, [count])
            return b.shl(x, count) if name == "s.shl" else b.ashr(x, count)
        case "s.floordiv" | "s.mod":
            return _floor_division(owner, op, *operands)
    raise KeyError(name)


def _floor_division(owner: FunctionEmitter, op: Op, x: ir.Value, y: ir.Value) -> ir.Value:
    """Python's `//` and `%`; a divisor of 0 stops the launch instead of trapping."""
    b, zero = owner.b, const(I64, 0)
    if not isinstance(y, ir.Constant) or not y.constant:
        fail_unless(owner, b.icmp_signed("!=", y, zero), op, [x, y])
    # -2^63 / -1 traps as well; negation wraps
    by_minus_one = b.icmp_signed("==", y, const(I64, -1))
    safe = b.select(by_minus_one, const(I64, 1), y)
    quotient, rest = b.sdiv(x, safe), b.srem(x, safe)
    below = b.and_(b.icmp_signed("!=", rest, zero), b.icmp_signed("<", b.xor(rest, safe), zero))
    if op.name == "s.mod":
        return b.select(by_minus_one, zero, b.select(below, b.add(rest, safe), rest))
    floored = b.select(below, b.sub(quotient, const(I64, 1)), quotient)
    return b.select(by_minus_one, b.sub(zero, x), floored)


def _cast(owner: FunctionEmitter, source: DType, to: DType, x: ir.Value) -> ir.Value:
    """Float to integer truncates and saturates; a 16-bit float scalar is held as the FP32 it equals."""
    b, lanes = owner.b, owner.lanes
    if to == BOOL:
        zero = Lanes.constant(x.type, 0)
        return (
            x
            if x.type == I1
            else b.fcmp_unordered("!=", x, zero)
            if x.type == F32
            else b.icmp_signed("!=", x, zero)
        )
    if to.is_float:
        if x.type == I1:
            x = b.uitofp(x, F32)
        elif x.type != F32:
            x = b.sitofp(x, F32)
        return lanes.widen(to, lanes.narrow(to, x))
    if x.type == I1:
        return b.zext(x, I64)
    if x.type == F32:
        element = lanes.cast(FP32, to, "trunc", x)
        return owner.element_as_scalar(to, element)
    if to.bits == 64:
        return x
    low, high = to.int_range()
    x = b.select(b.icmp_signed("<", x, const(I64, low)), const(I64, low), x)
    x = b.select(b.icmp_signed(">", x, const(I64, high)), const(I64, high), x)
    return owner.element_as_scalar(to, b.trunc(x, memory_type(to)))
