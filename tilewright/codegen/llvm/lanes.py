"""Element-wise arithmetic on `n` lanes at once (n = 1 is a plain scalar): what each operator is on a CPU.

A lane holds the element as it lies in memory: BF16 as 16 bits, FP16 as half, BOOL as a byte. 16-bit
floats widen to FP32, compute, and round once to nearest even.
"""

from __future__ import annotations

from llvmlite import ir

from tilewright.codegen.llvm import exponential, fp8, trigonometric
from tilewright.codegen.llvm.types import (
    BFLOAT,
    F16,
    F32,
    I1,
    I8,
    I16,
    I32,
    const,
    intrinsic,
    memory_type,
    splat,
)
from tilewright.dtypes import BF16, BOOL, FP8, FP16, FP32, INT32, UINT8, DType
from tilewright.machine import Machine

F64 = ir.DoubleType()


class Lanes:
    """Emits arithmetic at the builder's position."""

    def __init__(self, builder: ir.IRBuilder, machine: Machine) -> None:
        self.b = builder
        self.machine = machine

    # Types and constants of as many lanes as a value has

    @staticmethod
    def like(element: ir.Type, value: ir.Value) -> ir.Type:
        """`element`, in as many lanes as `value` has."""
        kind = value.type
        return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element

    @staticmethod
    def constant(kind: ir.Type, number: float | int) -> ir.Constant:
        """`number` in every lane of `kind`."""
        if isinstance(kind, ir.VectorType):
            return ir.Constant(kind, [Lanes.constant(kind.element, number)] * kind.count)
        if isinstance(kind, ir.IntType):
            return const(kind, int(number))
        return ir.Constant(kind, float(number))

    def same(self, value: ir.Value, number: float | int) -> ir.Constant:
        return self.constant(value.type, number)

    def spread(self, value: ir.Value, lanes: int) -> ir.Value:
        """A scalar in every lane."""
        return value if lanes == 1 else splat(self.b, value, lanes)

    def call(self, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
        """An LLVM intrinsic whose name carries the type of `result`."""
        module = self.b.module
        mangled = f"llvm.{name}.{_mangle(result)}"
        return self.b.call(intrinsic(module, mangled, result, [x.type for x in args]), args)

    # 16-bit floats

    def widen(self, dtype: DType, x: ir.Value) -> ir.Value:
        """Narrow floats as FP32, exactly; other dtypes as they are."""
        if dtype in FP8:
            return fp8.widen(self, dtype, x)
        if dtype == BF16:
            wide = self.b.zext(x, self.like(I32, x))
            return self.b.bitcast(self.b.shl(wide, self.same(wide, 16)), self.like(F32, x))
        if dtype == FP16:
            return self.b.fpext(x, self.like(F32, x))
        return x

    def narrow(self, dtype: DType, x: ir.Value, mode: str = "rint") -> ir.Value:
        """FP32 rounded to `dtype`; other dtypes as they are."""
        if dtype in FP8:
            return fp8.narrow(self, dtype, x, mode)
        if dtype == BF16:
            return self._to_bf16(x, mode)
        if dtype == FP16:
            return self.to_narrower(x, F16, I16, mode)
        return x

    def _to_bf16(self, x: ir.Value, mode: str) -> ir.Value:
        if (
            mode in ("rint", "none", "odd")
            and isinstance(x.type, ir.VectorType)
            and self.has_bf16_convert(x)
        ):
            return self._to_bf16_by_instruction(x)
        return self._to_bf16_by_bits(x, mode)

    def has_bf16_convert(self, x: ir.Value) -> bool:
        return (
            self.machine.vector_bits == 512
            and self.machine.has("avx512bf16")
            and x.type.count == 16
        )

    def _to_bf16_by_instruction(self, x: ir.Value) -> ir.Value:
        """`vcvtneps2bf16` rounds to nearest even and keeps NaN, but takes subnormals for zero: a vector with
        one, which is rare, goes the long way."""
        b = self.b
        wide, bits = x.type, ir.VectorType(I1, 16)
        classify = intrinsic(b.module, "llvm.x86.avx512.fpclass.ps.512", bits, [wide, I32])
        subnormal = b.call(classify, [x, const(I32, 0x20)])
        convert = intrinsic(
            b.module, "llvm.x86.avx512bf16.cvtneps2bf16.512", ir.VectorType(BFLOAT, 16), [wide]
        )
        quick = b.bitcast(b.call(convert, [x]), ir.VectorType(I16, 16))
        usual = b.block
        with b.if_then(b.icmp_signed("!=", b.bitcast(subnormal, I16), const(I16, 0)), likely=False):
            exact = self._to_bf16_by_bits(x, "rint")
            rare = b.block
        result = b.phi(quick.type)
        result.add_incoming(quick, usual)
        result.add_incoming(exact, rare)
        return result

    def _to_bf16_by_bits(self, x: ir.Value, mode: str) -> ir.Value:
        """Add what rounds up, keep the upper half of the bits. A NaN becomes a quiet NaN."""
        b = self.b
        bits = b.bitcast(x, self.like(I32, x))
        sign = b.lshr(bits, self.same(bits, 31))
        match mode:
            case "rint" | "none" | "odd":
                last = b.and_(b.lshr(bits, self.same(bits, 16)), self.same(bits, 1))
                bias = b.add(last, self.same(bits, 0x7FFF))
            case "round":
                bias = self.same(bits, 0x8000)
            case "trunc":
                bias = self.same(bits, 0)
            case "floor":  # away from zero where negative
                bias = b.mul(sign, self.same(bits, 0xFFFF))
            case "ceil":
                bias = b.mul(b.xor(sign, self.same(bits, 1)), self.same(bits, 0xFFFF))
        rounded = b.lshr(b.add(bits, bias), self.same(bits, 16))
        quiet = b.or_(b.lshr(bits, self.same(bits, 16)), self.same(bits, 0x40))
        is_nan = b.fcmp_unordered("uno", x, x)
        infinite = b.icmp_unsigned(
            "==", b.and_(bits, self.same(bits, 0x7FFFFFFF)), self.same(bits, 0x7F800000)
        )
        rounded = (
            b.select(infinite, b.lshr(bits, self.same(bits, 16)), rounded)
            if mode != "rint"
            else rounded
        )
        return b.trunc(b.select(is_nan, quiet, rounded), self.like(I16, x))

    def to_narrower(
        self, x: ir.Value, narrow: ir.Type, bits_type: ir.IntType, mode: str
    ) -> ir.Value:
        """A float in a narrower format: round to nearest even, then step by one unit where the mode differs."""
        b = self.b
        nearest = b.fptrunc(x, self.like(narrow, x))
        if mode in ("rint", "none"):
            return nearest
        wide = x.type
        back = b.fpext(nearest, wide)
        bits = b.bitcast(nearest, self.like(bits_type, x))
        size, back_size = self.call("fabs", wide, x), self.call("fabs", wide, back)
        one = self.same(bits, 1)
        up, down = b.add(bits, one), b.sub(bits, one)  # away from zero, towards zero
        too_big = b.fcmp_ordered(">", back_size, size)
        too_small = b.fcmp_ordered("<", back_size, size)
        negative = b.fcmp_ordered("<", x, self.same(x, 0.0))
        no = self.constant(self.like(I1, x), 0)
        match mode:
            case "trunc":
                step_up, step_down = no, too_big
            case "floor":
                step_up, step_down = b.and_(too_small, negative), b.and_(too_big, b.not_(negative))
            case "ceil":
                step_up, step_down = b.and_(too_small, b.not_(negative)), b.and_(too_big, negative)
            case "odd":  # truncate, then set the last bit where something was lost
                toward_zero = b.select(too_big, down, bits)
                lost = b.fcmp_ordered("!=", back, x)
                return b.bitcast(b.select(lost, b.or_(toward_zero, one), toward_zero), nearest.type)
            case _:  # "round": ties away from zero
                above = b.fpext(b.bitcast(up, nearest.type), wide)
                above_size = self.call("fabs", wide, above)
                tie = b.fcmp_ordered("==", b.fsub(above_size, size), b.fsub(size, back_size))
                step_up, step_down = b.and_(too_small, tie), no
        stepped = b.select(step_up, up, b.select(step_down, down, bits))
        return b.bitcast(stepped, nearest.type)

    # Operators

    def binary(self, name: str, dtype: DType, x: ir.Value, y: ir.Value) -> ir.Value:
        """`y` is of `dtype`, or an FP32 scalar's lanes where dtype is a 16-bit float."""
        b = self.b
        if dtype == BOOL:
            return b.zext(self.nonzero(dtype, self.binary(name, UINT8, x, y)), x.type)
        if dtype.is_float:
            x = self.widen(dtype, x)
            y = self.widen(dtype, y) if y.type != x.type else y
            match name:
                case "add":
                    out = b.fadd(x, y)
                case "sub":
                    out = b.fsub(x, y)
                case "mul":
                    out = b.fmul(x, y)
                case "div":
                    out = b.fdiv(x, y)
                case "rem":
                    rest = b.frem(x, y)
                    wrong = b.and_(
                        b.fcmp_unordered("!=", rest, self.same(x, 0.0)),
                        b.xor(
                            b.fcmp_ordered("<", rest, self.same(x, 0.0)),
                            b.fcmp_ordered("<", y, self.same(x, 0.0)),
                        ),
                    )
                    out = b.select(wrong, b.fadd(rest, y), rest)
                case _:
                    # llvm.maximum, llvm.minimum: NaN in, NaN out
                    out = self.call(name, x.type, x, y)
            return self.narrow(dtype, out)
        match name:
            case "add":
                return b.add(x, y)
            case "sub":
                return b.sub(x, y)
            case "mul":
                return b.mul(x, y)
            case "div":
                return self._divide(dtype, x, y)
            case "rem":
                return self._remainder(dtype, x, y)
            case "and_" | "or_" | "xor":
                return getattr(b, name)(x, y)
            case "shl" | "shr":
                return self._shift(name, dtype, x, y)
        sign = "s" if dtype.is_signed else "u"
        return self.call(f"{sign}{name[:3]}", x.type, x, y)

    def _divide(self, dtype: DType, x: ir.Value, y: ir.Value) -> ir.Value:
        """Quotient towards zero; by zero gives 0, and the smallest number by -1 wraps: no trap."""
        b = self.b
        by_zero = b.icmp_signed("==", y, self.same(y, 0))
        if not dtype.is_signed:
            quotient = b.udiv(x, b.select(by_zero, self.same(y, 1), y))
            return b.select(by_zero, self.same(x, 0), quotient)
        by_minus_one = b.icmp_signed("==", y, self.same(y, -1))
        safe = b.select(b.or_(by_zero, by_minus_one), self.same(y, 1), y)
        quotient = b.select(by_minus_one, b.sub(self.same(x, 0), x), b.sdiv(x, safe))
        return b.select(by_zero, self.same(x, 0), quotient)

    def _remainder(self, dtype: DType, x: ir.Value, y: ir.Value) -> ir.Value:
        """x - floor(x / y) * y; by zero gives 0."""
        b, zero = self.b, self.same(y, 0)
        trivial = b.icmp_signed("==", y, zero)
        if not dtype.is_signed:
            return b.select(trivial, zero, b.urem(x, b.select(trivial, self.same(y, 1), y)))
        trivial = b.or_(trivial, b.icmp_signed("==", y, self.same(y, -1)))  # x rem -1 may trap
        rest = b.srem(x, b.select(trivial, self.same(y, 1), y))
        wrong = b.and_(b.icmp_signed("!=", rest, zero), b.icmp_signed("<", b.xor(rest, y), zero))
        return b.select(trivial, zero, b.select(wrong, b.add(rest, y), rest))

    def _shift(self, name: str, dtype: DType, x: ir.Value, count: ir.Value) -> ir.Value:
        """Counts of the width and above, for which LLVM promises nothing, shift everything out."""
        b = self.b
        beyond = b.icmp_unsigned(">=", count, self.same(count, dtype.bits))
        if name == "shr" and dtype.is_signed:
            return b.ashr(x, b.select(beyond, self.same(count, dtype.bits - 1), count))
        shifted = (b.shl if name == "shl" else b.lshr)(
            x, b.select(beyond, self.same(count, 0), count)
        )
        return b.select(beyond, self.same(x, 0), shifted)

    def unary(self, name: str, dtype: DType, x: ir.Value) -> ir.Value:
        b = self.b
        if name == "not_":
            return b.xor(x, self.same(x, 1)) if dtype == BOOL else b.not_(x)
        if dtype == BOOL:
            return x  # -x, |x| and max(x, 0) are not 0 where x is not
        if not dtype.is_float:
            zero = self.same(x, 0)
            match name:
                case "neg":
                    return b.sub(zero, x)
                case "abs":
                    return (
                        b.select(b.icmp_signed("<", x, zero), b.sub(zero, x), x)
                        if dtype.is_signed
                        else x
                    )
                case "relu":
                    return self.call("smax", x.type, x, zero) if dtype.is_signed else x
            raise KeyError(name)
        if dtype != FP32:
            return self.narrow(dtype, self.unary(name, FP32, self.widen(dtype, x)))
        one = self.same(x, 1.0)
        match name:
            case "neg":
                return b.fneg(x)
            case "abs":
                return self.call("fabs", x.type, x)
            case "recip":
                return b.fdiv(one, x)
            case "rsqrt":
                return b.fdiv(one, self.call("sqrt", x.type, x))
            case "relu":
                return self.call("maximum", x.type, x, self.same(x, 0.0))
            case "exp":
                return exponential.exp(self, x)
            case "log":
                return exponential.log(self, x)
            case "sin" | "cos":
                return trigonometric.sine(self, x, name == "cos")
        return self.call(name, x.type, x)  # sqrt

    def compare(self, kind: str, dtype: DType, x: ir.Value, y: ir.Value) -> ir.Value:
        """One bit a lane; NaN compares false except `ne`."""
        relation = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}[kind]
        if dtype.is_float:
            x = self.widen(dtype, x)
            y = self.widen(dtype, y) if y.type != x.type else y
            if kind == "ne":
                return self.b.fcmp_unordered("!=", x, y)
            return self.b.fcmp_ordered(relation, x, y)
        compare = self.b.icmp_signed if dtype.is_signed else self.b.icmp_unsigned
        return compare(relation, x, y)

    def number(self, dtype: DType, bit: ir.Value) -> ir.Value:
        """1 or 0 in `dtype`."""
        if dtype.is_float:
            return self.narrow(dtype, self.b.uitofp(bit, self.like(F32, bit)))
        return self.b.zext(bit, self.like(memory_type(dtype), bit))

    def nonzero(self, dtype: DType, x: ir.Value) -> ir.Value:
        zero = self.same(self.widen(dtype, x), 0)
        return self.compare("ne", dtype, x, zero if dtype.is_float else self.same(x, 0))

    # Casts

    def cast(self, source: DType, to: DType, mode: str, x: ir.Value) -> ir.Value:
        if to == BOOL:
            return self.b.zext(self.nonzero(source, x), self.like(I8, x))
        if source == BOOL:
            return self.number(to, self.b.trunc(x, self.like(I1, x)))
        if source.is_float and to.is_float:
            return self.narrow(to, self.widen(source, x), mode)
        if source.is_float:
            return self._float_to_int(self.widen(source, x), to, mode)
        if to.is_float:
            return self._int_to_float(source, to, mode, x)
        return self._int_to_int(source, to, x)

    def _float_to_int(self, x: ir.Value, to: DType, mode: str) -> ir.Value:
        rounding = {"rint": "roundeven", "round": "round", "floor": "floor", "ceil": "ceil"}.get(
            mode
        )
        if rounding is not None:
            x = self.call(rounding, x.type, x)
        # llvm.fptosi.sat is taken apart lane by lane on x86; two compares are not
        b = self.b
        low, high = to.int_range()
        too_low = b.fcmp_ordered("<", x, self.same(x, float(low)))
        too_high = b.fcmp_ordered(">=", x, self.same(x, float(high + 1)))
        inside = b.and_(b.fcmp_ordered("ord", x, x), b.not_(b.or_(too_low, too_high)))
        tame = b.select(inside, x, self.same(x, 0.0))
        kind = self.like(memory_type(to), x)
        via = self.like(I32, x) if to.bits < 32 else kind  # i32 is what vector units convert to
        number = b.fptosi(tame, via) if to.is_signed or to.bits < 32 else b.fptoui(tame, via)
        if via != kind:
            number = b.trunc(number, kind)
        number = b.select(too_low, self.same(number, low), number)
        return b.select(too_high, self.same(number, high), number)

    def _int_to_float(self, source: DType, to: DType, mode: str, x: ir.Value) -> ir.Value:
        """Rounded once. What FP32 cannot hold goes through it rounded to odd, which no second rounding sees."""
        convert = self.b.sitofp if source.is_signed else self.b.uitofp
        if source == INT32 and to == FP16:
            mode = "rint"  # whatever the author says
        nearest = mode in ("rint", "none")
        # beyond 2^24 FP16 is infinite anyway, and FP8 at its end
        if source.bits <= 16 or to == FP16 or to in FP8 or (to == FP32 and nearest):
            return self.narrow(to, convert(x, self.like(F32, x)), mode)
        once = "odd" if to == BF16 else mode
        return self.narrow(
            to, self.to_narrower(self._int_to_double(source, x), F32, I32, once), mode
        )

    def _int_to_double(self, source: DType, x: ir.Value) -> ir.Value:
        """Exact up to 53 bits; longer ones rounded to odd: the last bit says that others were lost."""
        b = self.b
        convert = b.sitofp if source.is_signed else b.uitofp
        wide = self.like(F64, x)
        if source.bits < 64:
            return convert(x, wide)
        lost = b.icmp_signed("!=", b.and_(x, self.same(x, 0x7FF)), self.same(x, 0))
        upper = (b.ashr if source.is_signed else b.lshr)(x, self.same(x, 11))
        long = b.fmul(
            convert(b.or_(upper, b.zext(lost, x.type)), wide), Lanes.constant(wide, 2048.0)
        )
        middle = b.add(x, self.same(x, 1 << 52)) if source.is_signed else x
        short = b.icmp_unsigned("<", middle, self.same(x, 1 << 53))
        return b.select(short, convert(x, wide), long)

    def _int_to_int(self, source: DType, to: DType, x: ir.Value) -> ir.Value:
        """Saturate into a range that is not wider, extend into one that is."""
        low, high = to.int_range()
        source_low, source_high = source.int_range()
        signed = source.is_signed
        if low > source_low:
            x = self.call("smax", x.type, x, self.same(x, low))
        if high < source_high:
            x = self.call("smin" if signed else "umin", x.type, x, self.same(x, high))
        kind = self.like(memory_type(to), x)
        if to.bits == source.bits:
            return x
        if to.bits < source.bits:
            return self.b.trunc(x, kind)
        return self.b.sext(x, kind) if signed else self.b.zext(x, kind)


def _mangle(kind: ir.Type) -> str:
    """`v16f32`, `i32`, as intrinsic names spell types."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{_mangle(kind.element)}"
    if isinstance(kind, ir.IntType):
        return f"i{kind.width}"
    return {ir.HalfType: "f16", ir.FloatType: "f32", ir.DoubleType: "f64"}[type(kind)]
