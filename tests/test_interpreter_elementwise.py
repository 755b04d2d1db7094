"""Element-wise operators: IEEE FP32, one rounding for 16-bit types, wrapping integers."""

from __future__ import annotations

import math

import pytest
import torch
from ir_programs import apply, run_text, same_bits

from tilewright.dtypes import FP32, INDEX, INT32
from tilewright.ir.nodes import Const

INF, NAN = math.inf, math.nan


def row(*values, dtype=torch.float32) -> torch.Tensor:
    return torch.tensor([values], dtype=dtype)


def test_sixteen_bit_arithmetic_computes_in_fp32_and_rounds_once():
    x = row(1.0, 256.0, 3.0, dtype=torch.bfloat16)
    # 0.1 is used as an FP32 number, not as a BF16 one.
    wanted = (x.float() * torch.tensor(0.1)).bfloat16()
    assert same_bits(apply("mul", x, Const(0.1, FP32)), wanted)
    assert apply("add", x, Const(1.0, FP32))[0, 1].item() == 256.0  # 257 is a tie, to even


def test_a_float_scalar_is_rounded_to_fp32_before_it_is_used():
    x = row(1.0)
    assert apply("sub", x, Const(1 + 2**-30, FP32)).item() == 0.0


def test_division_is_ieee_and_not_a_reciprocal_product():
    x, y = torch.rand(64, 64) + 0.5, torch.rand(64, 64) + 0.5
    wanted = torch.from_numpy(x.numpy() / y.numpy())
    assert same_bits(apply("div", x, y), wanted)
    by_zero = apply("div", row(1.0, -1.0, 0.0), Const(0.0, FP32))
    assert by_zero[0, :2].tolist() == [INF, -INF]
    assert by_zero[0, 2].isnan()


def test_products_and_sums_are_not_contracted():
    a = row(1 + 2**-12)
    product = apply("mul", a, a)
    assert apply("sub", product, a).item() != (a.double() * a.double() - a.double()).item()


def test_subnormals_are_kept():
    assert apply("mul", row(2.0**-126), Const(0.5, FP32)).item() == 2.0**-127


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_nan_propagates_from_either_side(name: str):
    assert apply(name, row(NAN, 1.0, 2.0), row(1.0, NAN, 5.0)).isnan().tolist() == [
        [True, True, False]
    ]


def test_int32_wraps():
    big = row(2**31 - 1, -(2**31), 70000, dtype=torch.int32)
    assert apply("add", big, Const(1, INDEX)).tolist() == [[-(2**31), -(2**31) + 1, 70001]]
    assert apply("mul", big, big)[0, 2].item() == 70000 * 70000 - 2**32
    assert apply("neg", big)[0, 1].item() == -(2**31)


def test_integer_division_truncates_toward_zero():
    x = row(7, -7, 7, -(2**31), 9, dtype=torch.int32)
    y = row(2, 2, -2, -1, 0, dtype=torch.int32)
    assert apply("div", x, y).tolist() == [[3, -3, -3, -(2**31), 0]]


def test_narrow_operands_broadcast_on_either_side():
    x, column, line = torch.rand(3, 4), torch.rand(3, 1), torch.rand(1, 4)
    assert same_bits(apply("sub", column, x), column - x)
    assert same_bits(apply("mul", x, line), x * line)


def test_rsqrt_is_recip_of_sqrt_to_the_bit():
    x = torch.rand(64, 64) * 100
    assert same_bits(apply("rsqrt", x), apply("recip", apply("sqrt", x)))
    assert apply("rsqrt", row(0.0)).item() == INF


def test_exp_and_log_meet_their_edges():
    assert apply("exp", row(-200.0, 200.0, 0.0)).tolist() == [[0.0, INF, 1.0]]
    out = apply("log", row(0.0, -1.0, 1.0))
    assert (out[0, 0].item(), out[0, 1].isnan().item(), out[0, 2].item()) == (-INF, True, 0.0)


def test_exp_is_the_rounded_true_value():
    x = torch.linspace(-80, 80, 1000).reshape(1, -1)
    assert same_bits(apply("exp", x), x.double().exp().float())


def test_comparisons_give_ones_in_the_operands_dtype():
    x = row(1.0, 2.0, NAN)
    assert apply("cmp", x, Const(2.0, FP32), kind="lt").tolist() == [[1.0, 0.0, 0.0]]
    assert apply("cmp", x, x, kind="ne").tolist() == [[0.0, 0.0, 1.0]]
    i = row(3, -3, dtype=torch.int32)
    out = apply("cmp", i, Const(0, INT32), kind="ge")
    assert out.tolist() == [[1, 0]]
    assert out.dtype == torch.int32


def test_sel_takes_where_the_mask_is_not_zero():
    out = apply("sel", row(0.0, 0.5, NAN), row(1.0, 2.0, 3.0), row(4.0, 5.0, 6.0))
    assert out.tolist() == [[4.0, 2.0, 3.0]]


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("P0101", [0, 2, 4, 6]),
        ("P1010", [1, 3, 5, 7]),
        ("P0001", [0, 4]),
        ("P0010", [1, 5]),
        ("P0100", [2, 6]),
        ("P1000", [3, 7]),
        ("P1111", [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_mask_gather_keeps_the_columns_of_the_table(pattern: str, kept: list[int]):
    x = torch.arange(8, dtype=torch.float32).reshape(1, 8)
    assert apply("gather_mask", x, pattern=pattern).tolist() == [kept]


def test_mask_gather_reinterprets_bits_and_does_not_convert():
    text = """
    func f(%x: tensor<1x4, FP32>, out %y: tensor<1x2, INT32>) {
      %t = load %x[0, 0] valid [1, 4] {shape = [1, 4]} : tile<1x4, FP32>
      %g = gather_mask %t {pattern = "P1010", to = INT32} : tile<1x2, INT32>
      store %g to %y[0, 0] valid [1, 2] {shape = [1, 2]}
    }"""
    lanes = torch.tensor([[1, 0x7F800001, 2, -1]], dtype=torch.int32)
    out = torch.zeros(1, 2, dtype=torch.int32)
    run_text(text, lanes.view(torch.float32), out)
    assert out.tolist() == [[0x7F800001, -1]]


def test_unsigned_lanes_survive_a_round_trip_through_float_storage():
    text = """
    func f(%x: tensor<1x2, FP32>, out %y: tensor<1x2, INT64>) {
      %t = load %x[0, 0] valid [1, 2] {shape = [1, 2]} : tile<1x2, FP32>
      %g = gather_mask %t {pattern = "P1111", to = UINT32} : tile<1x2, UINT32>
      %w = cast %g {mode = "none", to = INT64} : tile<1x2, INT64>
      store %w to %y[0, 0] valid [1, 2] {shape = [1, 2]}
    }"""
    out = torch.zeros(1, 2, dtype=torch.int64)
    run_text(text, torch.tensor([[-1, 5]], dtype=torch.int32).view(torch.float32), out)
    assert out.tolist() == [[2**32 - 1, 5]]


def test_scatter_and_interleave_undo_mask_gathers():
    x = torch.rand(3, 8)
    even, odd = apply("gather_mask", x, pattern="P0101"), apply("gather_mask", x, pattern="P1010")
    assert same_bits(apply("interleave", even, odd), x)
    zeros = torch.zeros(3, 8)
    half = apply("scatter_mask", even, zeros, pattern="P0101")
    assert same_bits(apply("scatter_mask", odd, half, pattern="P1010"), x)


def test_index_gather_is_the_one_of_torch():
    x, index = torch.rand(4, 8), torch.randint(0, 8, (4, 5), dtype=torch.int32)
    assert same_bits(apply("gather", x, index, dim=1), torch.gather(x, 1, index.long()))


def test_an_index_outside_gives_an_unspecified_element_and_no_crash():
    x, index = torch.ones(1, 3), torch.tensor([[0, 3, -1]], dtype=torch.int32)
    out = apply("gather", x, index, dim=1, poison=True)
    assert out.isnan().tolist() == [[False, True, True]]


def test_arange_counts_both_ways():
    out = apply("arange", Const(5, INT32), shape=(1, 4), dtype=INT32, descending=True)
    assert out.tolist() == [[5, 4, 3, 2]]
