"""`cast` bit for bit: the tables of the conformance vectors, and an oracle in exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ir_programs import apply, same_bits

from tilewright.dtypes import BF16, FP16, FP32, INT8, INT16, INT32, INT64, UINT8, DType
from tilewright.interpreter.casts import cast_scalar

MODES = ("none", "rint", "round", "floor", "ceil", "trunc", "odd")


def cast_one(x: float, target: DType, mode: str, source: torch.dtype = torch.float32):
    return apply("cast", torch.tensor([[x]], dtype=source), to=target, mode=mode).item()


TO_INT32 = {
    #             none rint round floor ceil trunc
    -2.5: (-2, -2, -3, -3, -2, -2),
    -1.5: (-1, -2, -2, -2, -1, -1),
    -0.5: (0, 0, -1, -1, 0, 0),
    0.4999999: (0, 0, 0, 0, 1, 0),
    0.5: (0, 0, 1, 0, 1, 0),
    1.5: (1, 2, 2, 1, 2, 1),
    2.5: (2, 2, 3, 2, 3, 2),
    2.6: (2, 3, 3, 2, 3, 2),
    3e9: (2147483647,) * 6,
}


@pytest.mark.parametrize("x", TO_INT32)
def test_the_table_of_casts_to_int32_holds(x: float):
    assert tuple(cast_one(x, INT32, mode) for mode in MODES[:6]) == TO_INT32[x]


TO_BF16 = {
    #                       rint, none  round        trunc
    1 + 2**-8: (1.0, 1.0078125, 1.0),
    1 + 3 * 2**-8: (1.015625, 1.015625, 1.0078125),
    1 + 2**-8 + 2**-20: (1.0078125, 1.0078125, 1.0),
    -1 - 2**-8: (-1.0, -1.0078125, -1.0),
    3.4e38: (math.inf, math.inf, 3.3895313892515355e38),
}


@pytest.mark.parametrize("x", TO_BF16)
def test_the_table_of_casts_to_bf16_holds(x: float):
    rint, away, trunc = TO_BF16[x]
    assert [cast_one(x, BF16, mode) for mode in ("rint", "none", "round", "trunc")] == [
        rint,
        rint,
        away,
        trunc,
    ]


def test_fp16_overflows_from_65520_on():
    assert cast_one(65519.0, FP16, "rint") == 65504
    assert cast_one(65520.0, FP16, "rint") == math.inf
    assert cast_one(65519.0, FP16, "round") == 65504


GRID = {"BF16": (8, -126, 127), "FP16": (11, -14, 15), "FP32": (24, -126, 127)}


def oracle(x: Fraction, target: DType, mode: str) -> Fraction | float:
    """The definition, in exact arithmetic: candidates below and above, then the mode chooses."""
    bits, low, high = GRID[target.name]
    if x == 0:
        return Fraction(0)
    size = abs(x)
    exponent = max(low, math.floor(math.log2(size)))
    while Fraction(2) ** exponent > size and exponent > low:
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= size:
        exponent += 1
    step = Fraction(2) ** (exponent - bits + 1)
    down = math.floor(size / step)
    rest = size / step - down
    nearest = mode in ("rint", "none") or (mode == "odd" and target == BF16)
    if nearest:
        up = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and down % 2 == 1)
    else:
        up = {
            "round": rest >= Fraction(1, 2),
            "trunc": False,
            "floor": rest > 0 and x < 0,
            "ceil": rest > 0 and x > 0,
            "odd": rest > 0 and down % 2 == 0,
        }[mode]
    out = (down + up) * step
    limit = (2**bits - 1) * Fraction(2) ** (high - bits + 1)
    if out > limit:
        toward_zero = mode == "trunc" or (mode == "floor" and x > 0) or (mode == "ceil" and x < 0)
        toward_zero = toward_zero or (mode == "odd" and not nearest)
        out = limit if toward_zero else math.inf
    return out if x > 0 else -out


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=300, deadline=None)
@given(FLOATS, st.sampled_from(MODES), st.sampled_from([BF16, FP16]))
@example(5.960464477539063e-08 / 2, "rint", FP16)  # half the smallest FP16
@example(1e-45, "ceil", BF16)
@example(-65536.0, "ceil", FP16)
@example(-65536.0, "floor", FP16)
@example(65519.999, "odd", FP16)
def test_narrowing_agrees_with_exact_arithmetic(x: float, mode: str, target: DType):
    assert cast_one(x, target, mode) == oracle(Fraction(x), target, mode)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(-(2**63), 2**63 - 1) | st.integers(-(2**26), 2**26),
    st.sampled_from([m for m in MODES if m != "odd"]),
    st.sampled_from([BF16, FP16, FP32]),
)
@example(2**24 + 1, "rint", FP32)
@example(2**53 + 1, "ceil", FP32)
@example((1 << 62) + (1 << 38) + 1, "rint", FP32)  # a tie, but for the last bit
def test_integers_round_once_to_any_float(x: int, mode: str, target: DType):
    assert cast_one(x, target, mode, torch.int64) == oracle(Fraction(x), target, mode)


def test_the_mode_is_ignored_from_int32_to_fp16():
    for mode in MODES:
        assert cast_one(2049, FP16, mode, torch.int32) == 2048
        assert cast_one(70000, FP16, mode, torch.int32) == math.inf


@pytest.mark.parametrize("mode", ["rint", "round", "trunc", "odd"])
@pytest.mark.parametrize("target", [BF16, FP16])
def test_nan_stays_a_quiet_nan_and_infinity_an_infinity(mode: str, target: DType):
    nans = torch.tensor([[0x7F800001, 0x7FFFFFFF, -1]], dtype=torch.int32).view(torch.float32)
    assert apply("cast", nans, to=target, mode=mode).isnan().all()
    assert cast_one(math.inf, target, mode) == math.inf
    assert cast_one(-math.inf, target, mode) == -math.inf


def test_every_16_bit_float_widens_exactly():
    patterns = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).reshape(256, 256)
    for kind in (torch.bfloat16, torch.float16):
        x = patterns.view(kind)
        out = apply("cast", x, to=FP32, mode="floor")
        finite = ~x.isnan()
        assert torch.equal(out[finite], x.float()[finite])
        assert out[~finite].isnan().all()


def test_minus_zero_keeps_its_sign_in_every_mode():
    for mode in MODES:
        assert math.copysign(1, cast_one(-0.0, BF16, mode)) == -1
        assert math.copysign(1, cast_one(-1e-45, FP16, "trunc")) == -1


@pytest.mark.parametrize("target", [INT8, UINT8, INT16, INT32, INT64])
def test_floats_saturate_into_integers_and_nan_gives_zero(target: DType):
    low, high = target.int_range()
    assert cast_one(math.inf, target, "rint") == high
    assert cast_one(-math.inf, target, "trunc") == low
    assert cast_one(1e30, target, "none") == high
    assert cast_one(-1e30, target, "ceil") == low
    assert cast_one(math.nan, target, "rint") == 0


def test_the_largest_float_below_2_to_63_is_not_saturated():
    assert cast_one(2.0**63 - 2**39, INT64, "trunc") == 2**63 - 2**39
    assert cast_one(2.0**63, INT64, "trunc") == 2**63 - 1


@pytest.mark.parametrize(
    ("x", "source", "target", "wanted"),
    [
        (300, torch.int32, INT8, 127),
        (-300, torch.int32, INT8, -128),
        (-1, torch.int8, UINT8, 0),
        (255, torch.uint8, INT8, 127),
        (2**40, torch.int64, INT32, 2**31 - 1),
        (40000, torch.int32, INT16, 32767),
        (-5, torch.int8, INT64, -5),
    ],
)
def test_integers_saturate_into_narrower_ones(x, source, target, wanted):
    assert cast_one(x, target, "none", source) == wanted


def test_the_three_casts_of_int8_quantisation_are_one_rounding():
    x = torch.linspace(-127, 127, 4096).reshape(16, 256)
    x[0, :6] = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 126.5])
    as_int = apply("cast", x, to=INT32, mode="rint")
    as_half = apply("cast", as_int, to=FP16, mode="round")
    assert same_bits(apply("cast", as_half, to=INT8, mode="trunc"), torch.round(x).to(torch.int8))


def test_scalars_truncate_saturate_and_round_to_even():
    assert cast_scalar(-2.9, INT32) == -2
    assert cast_scalar(1e30, INT32) == 2**31 - 1
    assert cast_scalar(math.nan, INT64) == 0
    assert cast_scalar(2**40, INT8) == 127
    assert cast_scalar(2**24 + 1, FP32) == 2**24
    assert cast_scalar((1 << 62) + (1 << 38) + 1, FP32) == (1 << 62) + (1 << 39)
    assert cast_scalar(1 + 2**-8, BF16) == 1.0
