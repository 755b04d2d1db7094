"""Casts in machine code: every mode, all 65536 patterns of 16-bit floats, and the edges of FP32."""

from __future__ import annotations

import pytest
import torch
from both_ways import INTEGERS, Checks, draw
from ir_programs import dtype_of

from tilewright.dtypes import (
    BF16,
    BOOL,
    FP16,
    FP32,
    INT8,
    INT16,
    INT32,
    INT64,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    DType,
)
from tilewright.ir.ops.elementwise import ROUNDING_MODES

ALL_16_BITS = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).reshape(256, 256)
TO_INTEGERS = (INT8, UINT8, INT16, INT32, INT64)
INSIDE = (UINT16, UINT32, UINT64)  # dtypes that no argument has


def fp32_patterns() -> torch.Tensor:
    """FP32 [n, 65]: exponents with mantissas at, below and above each tie of BF16, FP16 and INT."""
    exponents = torch.cat(
        (torch.arange(4), torch.arange(100, 194), torch.arange(252, 256))
    ).reshape(-1, 1)
    low = torch.tensor([0, 1, 2, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x0FFF, 0x1000, 0x1001, 0x1FFF])
    high = torch.tensor([0, 1, 2, 0x3F, 0x40, 0x7E, 0x7F, 0x55])
    mantissas = (high.reshape(-1, 1) * 65536 + low).reshape(1, -1)
    ties = torch.tensor([(1 << 23) - (1 << shift) for shift in range(23)]).reshape(1, -1)
    mantissas = torch.cat((mantissas, ties), 1)
    bits = (exponents * (1 << 23) + mantissas).reshape(-1)
    bits = torch.cat((bits, bits + (1 << 31)))
    halves = (torch.arange(-600, 600).float() / 2).view(torch.int32).long() & 0xFFFFFFFF
    generator = torch.Generator().manual_seed(3)
    random = torch.randint(0, 1 << 32, (4096,), generator=generator)
    bits = torch.cat((bits, halves, random))
    bits = bits[: len(bits) // 65 * 65]
    return (
        torch.where(bits < 1 << 31, bits, bits - (1 << 32))
        .to(torch.int32)
        .view(torch.float32)
        .reshape(-1, 65)
    )


def integer_patterns(dtype: torch.dtype) -> torch.Tensor:
    """Integers [n, 33] around every power of two and every rounding tie of a float."""
    info = torch.iinfo(dtype)
    numbers = {info.min, info.max, info.min + 1, info.max - 1, 0}
    for shift in range(info.bits):
        for tie in (0, *(1 << max(0, shift - bits) for bits in (8, 9, 11, 12, 24, 25, 53, 54))):
            for near in (-1, 0, 1):
                for sign in (-1, 1):
                    number = sign * ((1 << shift) + tie) + near
                    numbers.add(min(max(number, info.min), info.max))
                    number = sign * ((1 << shift) + 3 * tie) + near
                    numbers.add(min(max(number, info.min), info.max))
    known = torch.tensor(sorted(numbers), dtype=torch.int64)
    known = torch.cat((known, draw((512,), dtype, 4).long()))
    return known[: len(known) // 33 * 33].to(dtype).reshape(-1, 33)


def expect_casts(
    checks: Checks, array: torch.Tensor, targets: tuple[DType, ...], modes=ROUNDING_MODES
) -> None:
    source = dtype_of(array)
    for to in targets:
        for mode in modes:
            if to != source:
                result = checks.op("cast", checks.take(array), to=to, mode=mode)
                if to in INSIDE:
                    back = UINT64 if to == UINT64 else INT64
                    attrs = (
                        {"pattern": "P1111", "to": INT64}
                        if back == UINT64
                        else {"to": INT64, "mode": "none"}
                    )
                    result = checks.op("gather_mask" if back == UINT64 else "cast", result, **attrs)
                checks.expect(result, f"{source} to {to}, {mode}")


@pytest.mark.parametrize("to", [BF16, FP16], ids=str)
def test_fp32_rounds_to_16_bits_as_every_mode_says(to: DType):
    checks = Checks()
    expect_casts(checks, fp32_patterns(), (to,))
    checks.run()


@pytest.mark.parametrize("modes", [ROUNDING_MODES[:4], ROUNDING_MODES[4:]], ids=str)
def test_fp32_rounds_to_integers_as_every_mode_says(modes: tuple[str, ...]):
    checks = Checks()
    expect_casts(checks, fp32_patterns(), (*TO_INTEGERS, *INSIDE, BOOL), modes)
    checks.run()


@pytest.mark.parametrize("source", [torch.float16, torch.bfloat16], ids=str)
def test_every_16_bit_float_converts(source: torch.dtype):
    checks = Checks()
    every = ALL_16_BITS.view(source)
    other = FP16 if source == torch.bfloat16 else BF16
    expect_casts(checks, every, (FP32, *TO_INTEGERS, BOOL), ("none", "rint", "round"))
    expect_casts(checks, every, (other,))
    expect_casts(checks, every, (INT8, INT32), ("floor", "ceil"))
    checks.run()


@pytest.mark.parametrize("source", INTEGERS, ids=str)
def test_integers_convert_to_floats_with_one_rounding(source: torch.dtype):
    checks = Checks()
    expect_casts(checks, integer_patterns(source), (FP32, BF16, FP16))
    checks.run()


@pytest.mark.parametrize("source", INTEGERS, ids=str)
def test_integers_saturate_into_integers(source: torch.dtype):
    checks = Checks()
    array = integer_patterns(source)
    expect_casts(checks, array, (*TO_INTEGERS, *INSIDE, BOOL), ("round",))
    checks.run()


@pytest.mark.parametrize("inside", INSIDE, ids=str)
def test_unsigned_words_convert_to_everything(inside: DType):
    checks = Checks()
    array = integer_patterns(torch.int64)
    if inside == UINT64:
        x = checks.op("gather_mask", checks.take(array), pattern="P1111", to=inside)
    else:
        x = checks.op("cast", checks.take(array), to=inside, mode="none")
    for to in (FP32, BF16, FP16):
        for mode in ROUNDING_MODES:
            checks.expect(checks.op("cast", x, to=to, mode=mode), f"{inside} to {to}, {mode}")
    for to in (*TO_INTEGERS, BOOL):
        checks.expect(checks.op("cast", x, to=to, mode="round"), f"{inside} to {to}")
    checks.run()


def test_bools_convert_to_one_and_zero():
    checks = Checks()
    expect_casts(checks, draw((3, 70), torch.bool, 1), (FP32, BF16, FP16, *TO_INTEGERS), ("round",))
    checks.run()


def test_one_column_converts_like_many():
    checks = Checks()
    numbers = fp32_patterns().reshape(-1, 1)[::7].contiguous()
    for mode in ("rint", "round", "trunc"):
        for to in (BF16, FP16, INT8, INT32):
            checks.expect(checks.op("cast", checks.take(numbers), to=to, mode=mode), f"{to} {mode}")
    checks.run()


def test_the_three_casts_of_int8_quantisation_are_one_rounding():
    checks = Checks()
    values = (torch.arange(-254, 255).float() / 2).reshape(1, -1)
    whole = checks.op("cast", checks.take(values), to=INT32, mode="rint")
    half = checks.op("cast", whole, to=FP16, mode="round")
    codes = checks.op("cast", half, to=INT8, mode="trunc")
    checks.expect(codes, "codes")
    checks.run()


def test_a_narrowed_last_column_writes_no_byte_beside_it():
    """LLVM makes a store of the wide element of a narrowed one under a mask of one lane (see RowEmitter.put)."""
    checks = Checks()
    counts = torch.tensor([1, 17, 33], dtype=torch.int32)
    for width in (1, 17, 33, 65):
        for source, to in (
            (torch.float32, INT8),
            (torch.float32, BF16),
            (torch.int16, INT8),
            (torch.int64, INT8),
        ):
            array = draw((3, width), source, width, plain=True)
            cast = checks.op("cast", checks.take(array), to=to, mode="rint")
            checks.expect(cast, f"{source} to {to}, {width}")
            for number in range(3):
                if int(counts[number]) <= width:
                    columns = checks.scalar(counts, number)
                    checks.expect(
                        cast, f"{source} to {to}, {counts[number]} of {width}", (3, columns)
                    )
    checks.run()
