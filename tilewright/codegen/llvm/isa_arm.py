"""Arm's matrix instructions: 2 x 2 accumulators in a register, from two rows of A and two columns.

A register of the panel holds the groups of two columns, one of A the groups of two rows, 8 bytes
each; a row without a neighbour is multiplied with an empty one beside it, so that every row is summed
in the same order wherever it lands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from llvmlite import ir

from tilewright.codegen.llvm.isa import Isa
from tilewright.codegen.llvm.types import (
    BFLOAT,
    I8,
    I32,
    I64,
    const,
    intrinsic,
    shuffle,
    vector,
    zero,
)
from tilewright.dtypes import BF16, INT8


@dataclass(frozen=True, slots=True)
class Matrix(Isa):
    """What both dtypes share: places of rows, and halves of accumulators."""

    tall = 2
    element: ClassVar[ir.Type]
    instruction: ClassVar[str]

    def load_rows(self, b: ir.IRBuilder, at: Sequence[ir.Value], phase: int = 0) -> ir.Value:
        pair = zero(vector(I64, 2))
        for i, place in enumerate(at):
            group = b.load(place, typ=I64, align=self.dtype.nbytes)
            pair = b.insert_element(pair, group, const(I32, i))
        return b.bitcast(pair, vector(self.element, 2 * self.k_group))

    def load_a(self, b: ir.IRBuilder, at: ir.Value, phase: int = 0) -> ir.Value:
        return self.load_rows(b, [at, at])

    def load_b(self, b: ir.IRBuilder, at: ir.Value, phase: int = 0) -> ir.Value:
        return self.load_part(b, at, self.element)

    def load_c(self, b: ir.IRBuilder, at: Sequence[ir.Value]) -> ir.Value:
        row = vector(self.acc_type().element, self.part)
        halves = [b.load(place, typ=row, align=4) for place in at]
        return shuffle(b, halves[0], halves[1] if len(halves) > 1 else zero(row), range(4))

    def store_c(self, b: ir.IRBuilder, acc: ir.Value, at: Sequence[ir.Value]) -> None:
        for i, place in enumerate(at):
            b.store(shuffle(b, acc, acc, range(2 * i, 2 * i + 2)), place, align=4)

    def step(self, b: ir.IRBuilder, acc: ir.Value, a: ir.Value, w: ir.Value) -> ir.Value:
        kinds = [acc.type, a.type, w.type]
        return b.call(intrinsic(b.module, self.instruction, acc.type, kinds), [acc, a, w])


@dataclass(frozen=True, slots=True)
class Int8Matrix(Matrix):
    """`smmla`: eight products for each of four sums, twice as many as `sdot`."""

    name = "i8_smmla"
    dtype = INT8
    k_group = 8
    element = I8
    instruction = "llvm.aarch64.neon.smmla.v4i32.v16i8"


@dataclass(frozen=True, slots=True)
class Bf16Matrix(Matrix):
    """`bfmmla`: four products for each of four sums, added in two pairs, each as `bfdot` adds one:
    both give the same bits.
    """

    name = "bf16_bfmmla"
    dtype = BF16
    k_group = 4
    element = BFLOAT
    instruction = "llvm.aarch64.neon.bfmmla"
