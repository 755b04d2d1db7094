"""How each instruction set multiplies: one small class a way, all with the same four answers.

A *group* is the `k_group` neighbouring elements of K that one step consumes; a *part* is one vector
register of accumulators (`part` columns of C in one row). Sixteen columns are `16 // part` parts.

    load_a   one row of A, repeated in every lane
    load_b   `part` columns of the panel
    step     acc + a * b, element-wise over the part

A way takes its group in `phases` turns of these three, so that what a turn unpacks from the panel
need not stay in registers for the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from llvmlite import ir

from tilewright.codegen.llvm.types import (
    BFLOAT,
    F16,
    F32,
    I8,
    I16,
    I32,
    const_splat,
    intrinsic,
    offset,
    shuffle,
    splat,
    vector,
    zero,
)
from tilewright.dtypes import BF16, FP16, FP32, INT8, INT16, INT32, DType


@dataclass(frozen=True, slots=True)
class Isa:
    """What every way of multiplying shares.

    part:   columns of C in one register of accumulators.
    tall:   rows of C in one register.
    xor:    what the panel's bytes are xor-ed with; 0x80 turns signed into unsigned, then the
            accumulators must start at -128 * sum(row of A).
    wide:   what A is widened to, a row tile at a time, before the tile reads it; else it is read as
            it lies in memory.
    phases: turns in which a tile takes one group.
    """

    part: int

    name: ClassVar[str]
    dtype: ClassVar[DType]
    k_group: ClassVar[int]
    xor: ClassVar[int] = 0
    wide: ClassVar[DType | None] = None
    phases: ClassVar[int] = 1
    tall: ClassVar[int] = 1

    @property
    def accumulator(self) -> DType:
        return INT32 if self.dtype == INT8 else FP32

    @property
    def a_dtype(self) -> DType:
        """Of A as a tile reads it."""
        return self.wide or self.dtype

    @property
    def label(self) -> str:
        """The name and the width: part of every function name made from it."""
        return f"{self.name}x{self.part}"

    def acc_type(self) -> ir.VectorType:
        return vector(I32 if self.dtype == INT8 else F32, self.tall * self.part)

    def load_a(self, b: ir.IRBuilder, at: ir.Value, phase: int = 0) -> ir.Value:
        """`at` is where the group begins, as it is for load_b."""
        raise NotImplementedError

    def load_b(self, b: ir.IRBuilder, at: ir.Value, phase: int = 0) -> ir.Value:
        raise NotImplementedError

    def step(self, b: ir.IRBuilder, acc: ir.Value, a: ir.Value, w: ir.Value) -> ir.Value:
        raise NotImplementedError

    def load_rows(self, b: ir.IRBuilder, at: Sequence[ir.Value], phase: int = 0) -> ir.Value:
        """The group of `tall` neighbouring rows of A, or of the last ones."""
        return self.load_a(b, at[0], phase)

    def load_c(self, b: ir.IRBuilder, at: Sequence[ir.Value]) -> ir.Value:
        """Accumulators from what C holds, a place for each of their rows."""
        return b.load(at[0], typ=self.acc_type(), align=4)

    def store_c(self, b: ir.IRBuilder, acc: ir.Value, at: Sequence[ir.Value]) -> None:
        """The other way round."""
        b.store(acc, at[0], align=4)

    def widened(self, b: ir.IRBuilder, x: ir.Value) -> ir.Value:
        """Bits of A <n x i..> as bits of `wide`."""
        raise NotImplementedError

    def load_part(self, b: ir.IRBuilder, at: ir.Value, element: ir.Type) -> ir.Value:
        """One aligned load of [part][k_group] panel elements."""
        nbytes = self.part * self.k_group * self.dtype.nbytes
        return b.load(at, typ=vector(element, self.part * self.k_group), align=nbytes)

    def broadcast(self, b: ir.IRBuilder, at: ir.Value, unit: ir.Type, element: ir.Type) -> ir.Value:
        """One unaligned load of a group as `unit`, repeated and seen as [part][k_group]
        elements.
        """
        group = splat(b, b.load(at, typ=unit, align=self.a_dtype.nbytes), self.part)
        kind = vector(element, self.part * self.k_group)
        return group if group.type == kind else b.bitcast(group, kind)


@dataclass(frozen=True, slots=True)
class Fma(Isa):
    """FP32. `fused` where the machine has a fused multiply-add; else a product and a sum, rounded
    twice.
    """

    fused: bool = True
    name = "f32_fma"
    dtype = FP32
    k_group = 1

    @property
    def label(self) -> str:
        return f"{self.name}x{self.part}{'' if self.fused else '_twice'}"

    def load_a(self, b: ir.IRBuilder, at: ir.Value, phase: int = 0) -> ir.Value:
        return splat(b, b.load(offset(b, at, 4 * phase), typ=F32, align=4), self.part)

    def load_b(self, b: ir.IRBuilder, at: ir.Value, phase: int = 0) -> ir.Value:
        return self.load_part(b, at, F32)

    def step(self, b: ir.IRBuilder, acc: ir.Value, a: ir.Value, w: ir.Value) -> ir.Value:
        if not self.fused:
            return b.fadd(acc, b.fmul(a, w))
        fma = intrinsic(b.module, f"llvm.fma.v{self.part}f32", acc.type, [acc.type] * 3)
        return b.call(fma, [a, w, acc])


@dataclass(frozen=True, slots=True)
class Bf16Wide(Fma):
    """BF16 without a dot instruction. A is FP32; a panel part becomes FP32 by a shift (even k) and by
    a mask (odd k), one after the other.
    """

    name = "bf16_wide"
    dtype = BF16
    wide = FP32
    k_group = 2
    phases = 2

    def load_b(self, b: ir.IRBuilder, at: ir.Value, phase: int = 0) -> ir.Value:
        pair = b.bitcast(self.load_part(b, at, I16), vector(I32, self.part))
        if phase == 0:
            half = b.shl(pair, const_splat(I32, 16, self.part))
        else:
            half = b.and_(pair, const_splat(I32, 0xFFFF0000, self.part))
        return b.bitcast(half, self.acc_type())

    def widened(self, b: ir.IRBuilder, x: ir.Value) -> ir.Value:
        n = x.type.count
        return b.shl(b.zext(x, vector(I32, n)), const_splat(I32, 16, n))


@dataclass(frozen=True, slots=True)
class Fp16Wide(Fma):
    """FP16 with an FP32 A; the panel is widened by the instruction where there is one (`convert`),
    else by integer steps.
    """

    convert: bool = True
    name = "fp16_wide"
    dtype = FP16
    wide = FP32
    k_group = 1

    def load_b(self, b: ir.IRBuilder, at: ir.Value, phase: int = 0) -> ir.Value:
        return self._as_floats(b, self.load_part(b, at, I16))

    def widened(self, b: ir.IRBuilder, x: ir.Value) -> ir.Value:
        return b.bitcast(self._as_floats(b, x), vector(I32, x.type.count))

    def _as_floats(self, b: ir.IRBuilder, bits: ir.Value) -> ir.Value:
        n = bits.type.count
        if self.convert:
            return b.fpext(b.bitcast(bits, vector(F16, n)), vector(F32, n))
        return widen_fp16(b, bits)


def widen_fp16(b: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """FP16 bits <n x i16> as <n x float>, exactly, subnormals and infinities included.

    For targets where LLVM would call a library routine. The exponent is moved by a multiplication
    with 2^112, which also normalises subnormals; the largest exponent is then set by hand.
    """
    n = bits.type.count
    wide, floats = vector(I32, n), vector(F32, n)
    h = b.zext(bits, wide)
    magnitude = b.and_(h, const_splat(I32, 0x7FFF, n))
    placed = b.bitcast(b.shl(magnitude, const_splat(I32, 13, n)), floats)
    power = ir.Constant(floats, [ir.Constant(F32, 2.0**112)] * n)
    scaled = b.bitcast(b.fmul(placed, power), wide)
    special = b.icmp_unsigned(">=", magnitude, const_splat(I32, 0x7C00, n))
    exponent = b.select(special, const_splat(I32, 0x7F800000, n), zero(wide))
    sign = b.shl(b.and_(h, const_splat(I32, 0x8000, n)), const_splat(I32, 16, n))
    return b.bitcast(b.or_(b.or_(scaled, exponent), sign), floats)


@dataclass(frozen=True, slots=True)
class Bf16Dot(Isa):
    """`vdpbf16ps`: two products a lane, rounded to nearest even, subnormals taken as zero."""

    name = "bf16_dot"
    dtype = BF16
    k_group = 2

    def load_a(self, b: ir.IRBuilder, at: ir.Value, phase: int = 0) -> ir.Value:
        return self.broadcast(b, at, I32, BFLOAT)

    def load_b(self, b: ir.IRBuilder, at: ir.Value, phase: int = 0) -> ir.Value:
        return self.load_part(b, at, BFLOAT)

    def step(self, b: ir.IRBuilder, acc: ir.Value, a: ir.Value, w: ir.Value) -> ir.Value:
        name = f"llvm.x86.avx512bf16.dpbf16ps.{self.part * 32}"
        return b.call(intrinsic(b.module, name, acc.type, [acc.type, w.type, a.type]), [acc, w, a])


@dataclass(frozen=True, slots=True)
class Bf16DotArm(Bf16Dot):
    """`bfdot`: two products a lane; its inner rounding is to odd, as Arm defines it."""

    name = "bf16_bfdot"

    def step(self, b: ir.IRBuilder, acc: ir.Value, a: ir.Value, w: ir.Value) -> ir.Value:
        name = "llvm.aarch64.neon.bfdot.v4f32.v8bf16"
        return b.call(intrinsic(b.module, name, acc.type, [acc.type, w.type, a.type]), [acc, w, a])


@dataclass(frozen=True, slots=True)
class Int8Vnni(Isa):
    """`vpdpbusd`: four unsigned x signed products a lane. The panel is the unsigned side, w ^ 0x80
    = w + 128.
    """

    name = "i8_vnni"
    dtype = INT8
    k_group = 4
    xor = 0x80

    def load_a(self, b: ir.IRBuilder, at: ir.Value, phase: int = 0) -> ir.Value:
        return self.broadcast(b, at, I32, I8)

    def load_b(self, b: ir.IRBuilder, at: ir.Value, phase: int = 0) -> ir.Value:
        return self.load_part(b, at, I8)

    def step(self, b: ir.IRBuilder, acc: ir.Value, a: ir.Value, w: ir.Value) -> ir.Value:
        return self.dot(b, acc, w, a)

    def dot(self, b: ir.IRBuilder, acc: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
        name = f"llvm.x86.avx512.vpdpbusd.{self.part * 32}"
        kinds = [acc.type, unsigned.type, signed.type]
        return b.call(intrinsic(b.module, name, acc.type, kinds), [acc, unsigned, signed])


@dataclass(frozen=True, slots=True)
class Int8Dot(Int8Vnni):
    """`sdot` on Arm: four signed x signed products a lane, nothing to compensate."""

    name = "i8_sdot"
    xor = 0

    def dot(self, b: ir.IRBuilder, acc: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        kinds = [acc.type, unsigned.type, signed.type]
        return b.call(intrinsic(b.module, name, acc.type, kinds), [acc, unsigned, signed])


@dataclass(frozen=True, slots=True)
class Int8Madd(Isa):
    """`pmaddwd` on bytes widened to 16 bits: exact, where `pmaddubsw` would saturate."""

    name = "i8_madd"
    dtype = INT8
    wide = INT16
    k_group = 2

    def load_a(self, b: ir.IRBuilder, at: ir.Value, phase: int = 0) -> ir.Value:
        return self.broadcast(b, at, I32, I16)

    def load_b(self, b: ir.IRBuilder, at: ir.Value, phase: int = 0) -> ir.Value:
        return b.sext(self.load_part(b, at, I8), vector(I16, 2 * self.part))

    def widened(self, b: ir.IRBuilder, x: ir.Value) -> ir.Value:
        return b.sext(x, vector(I16, x.type.count))

    def step(self, b: ir.IRBuilder, acc: ir.Value, a: ir.Value, w: ir.Value) -> ir.Value:
        name = {
            4: "llvm.x86.sse2.pmadd.wd",
            8: "llvm.x86.avx2.pmadd.wd",
            16: "llvm.x86.avx512.pmaddw.d.512",
        }[self.part]
        madd = intrinsic(b.module, name, acc.type, [a.type, w.type])
        return b.add(acc, b.call(madd, [a, w]))


@dataclass(frozen=True, slots=True)
class Int8Plain(Isa):
    """Any machine: bytes widened to 32 bits, multiplied and added."""

    name = "i8_plain"
    dtype = INT8
    wide = INT32
    k_group = 1

    def load_a(self, b: ir.IRBuilder, at: ir.Value, phase: int = 0) -> ir.Value:
        return self.broadcast(b, at, I32, I32)

    def load_b(self, b: ir.IRBuilder, at: ir.Value, phase: int = 0) -> ir.Value:
        return b.sext(self.load_part(b, at, I8), self.acc_type())

    def widened(self, b: ir.IRBuilder, x: ir.Value) -> ir.Value:
        return b.sext(x, vector(I32, x.type.count))

    def step(self, b: ir.IRBuilder, acc: ir.Value, a: ir.Value, w: ir.Value) -> ir.Value:
        return b.add(acc, b.mul(a, w))


def interleave(b: ir.IRBuilder, rows: list[ir.Value]) -> ir.Value:
    """Vectors r0, r1, ... of equal length as one: r0[0] r1[0] ... r0[1] r1[1] ...; 1, 2, 4 or 8 of
    them.
    """
    if len(rows) == 1:
        return rows[0]
    n = rows[0].type.count
    if len(rows) == 2:
        return shuffle(b, rows[0], rows[1], [lane for i in range(n) for lane in (i, n + i)])
    half = len(rows) // 2
    element = rows[0].type.element
    unit = vector(ir.IntType(half * element.width), n)
    wide = interleave(b, [b.bitcast(interleave(b, p), unit) for p in (rows[:half], rows[half:])])
    return b.bitcast(wide, vector(element, len(rows) * n))
