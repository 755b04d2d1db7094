"""Reductions and matrix products: valid parts only, FP32 rounding points, exact integers."""

from __future__ import annotations

import math

import pytest
import torch
from ir_programs import apply, run_text, same_bits

INF = math.inf
X = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])


def test_row_sum_takes_only_valid_columns_of_valid_rows():
    out = apply("row_sum", X, extra=(1, 3), poison=True)
    assert out[0].item() == 6
    assert out[1].isnan()


def test_invalid_elements_never_influence_a_reduction():
    x = X.clone()
    x[0, 3] = x[1, 0] = math.nan
    assert apply("row_max", x, extra=(1, 3))[0].item() == 3
    assert apply("col_sum", x, extra=(1, 3))[0, :3].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("row_sum", 0), ("row_max", -INF), ("row_min", INF)],
)
def test_a_row_without_valid_columns_reduces_to_the_neutral_element(name: str, wanted: float):
    assert apply(name, X, extra=(2, 0)).tolist() == [[wanted], [wanted]]


@pytest.mark.parametrize(("name", "wanted"), [("col_sum", 0), ("col_max", -128), ("col_min", 127)])
def test_a_column_without_valid_rows_reduces_to_the_neutral_element(name: str, wanted: int):
    assert apply(name, X.to(torch.int8), extra=(0, 4)).tolist() == [[wanted] * 4]


def test_reductions_keep_leading_axes():
    x = torch.randint(-50, 50, (3, 4, 5), dtype=torch.int32)
    assert torch.equal(apply("row_max", x, extra=(3, 4, 5)), x.amax(-1, keepdim=True))
    assert torch.equal(apply("col_min", x, extra=(3, 4, 5)), x.amin(-2, keepdim=True))


def test_nan_comes_through_a_reduction():
    x = X.clone()
    x[0, 1] = math.nan
    assert apply("row_max", x, extra=(2, 4)).isnan().tolist() == [[True], [False]]


def test_sixteen_bit_sums_round_once_at_the_end():
    x = torch.full((1, 1024), 1.0, dtype=torch.bfloat16)
    x[0, 0] = 0.001
    out = apply("row_sum", x, extra=(1, 1024))
    assert same_bits(out, torch.tensor([[1024.0]], dtype=torch.bfloat16))


def test_fp16_column_sums_round_after_every_row():
    x = torch.tensor([[2048.0], [1.0], [1.0]], dtype=torch.float16)
    assert apply("col_sum", x, extra=(3, 1)).item() == 2048.0
    assert apply("col_sum", x.flip(0).contiguous(), extra=(3, 1)).item() == 2050.0


def test_int8_sums_wrap_in_their_own_type():
    x = torch.full((1, 3), 100, dtype=torch.int8)
    assert apply("row_sum", x, extra=(1, 3)).item() == 300 - 256


def test_a_row_s_sum_does_not_depend_on_its_neighbours():
    x = torch.randn(33, 4096)
    alone = apply("row_sum", x[20:21].contiguous(), extra=(1, 4096))
    assert same_bits(apply("row_sum", x, extra=(33, 4096))[20:21], alone)


def test_matmul_takes_only_the_valid_part_and_leaves_zeros_outside():
    a, b = X.clone(), torch.ones(4, 1)
    a[0, 3] = a[1, 0] = math.nan
    assert apply("matmul", a, b, extra=(1, 3, 1)).tolist() == [[6], [0]]


def test_int8_products_are_exact():
    a = torch.full((2, 4096), -128, dtype=torch.int8)
    b = torch.full((4096, 3), -128, dtype=torch.int8)
    out = apply("matmul", a, b, extra=(2, 4096, 3))
    assert out.dtype == torch.int32
    assert (out == 4096 * 16384).all()


def test_bf16_products_accumulate_in_fp32():
    a, b = torch.randn(8, 512).bfloat16(), torch.randn(512, 16).bfloat16()
    out = apply("matmul", a, b, extra=(8, 512, 16))
    exact = a.double() @ b.double()
    bound = 512 * 2**-24 * (a.double().abs() @ b.double().abs())
    assert out.dtype == torch.float32
    assert ((out.double() - exact).abs() <= bound).all()


def test_transposed_operands_swap_their_last_axes():
    a, b = torch.randn(5, 3), torch.randn(4, 5)
    out = apply("matmul", a, b, extra=(3, 5, 4), a_trans=True, b_trans=True)
    plain = apply("matmul", a.T.contiguous(), b.T.contiguous(), extra=(3, 5, 4))
    assert same_bits(out, plain)


def test_leading_axes_broadcast():
    a, b = torch.randint(-9, 9, (3, 4)).float(), torch.randint(-9, 9, (2, 4, 5)).float()
    assert torch.equal(apply("matmul", a, b, extra=(3, 4, 5)), a @ b)


def test_matmul_acc_continues_an_accumulator():
    a, b = torch.randint(-9, 9, (3, 4)).float(), torch.randint(-9, 9, (4, 5)).float()
    acc = torch.ones(3, 5)
    out = apply("matmul_acc", acc, a, b, extra=(2, 4, 5))
    assert torch.equal(out[:2], (a @ b + 1)[:2])
    assert torch.equal(out[2:], acc[2:])


def test_a_token_s_product_does_not_depend_on_its_neighbours():
    a, b = torch.randn(65, 1024).bfloat16(), torch.randn(1024, 64).bfloat16()
    alone = apply("matmul", a[40:41].contiguous(), b, extra=(1, 1024, 64))
    assert same_bits(apply("matmul", a, b, extra=(65, 1024, 64))[40:41], alone)


PACKED = """
func f(%a: tensor<4x6, INT8>, %b: tensor<3x6, INT8>, out %y: tensor<4x3, INT32>) {
  %s = load %a[0, 0] valid [4, 6] {shape = [4, 6]} : tile<4x6, INT8>
  %t = load %b[0, 0] valid [3, 6] {shape = [3, 6]} : tile<3x6, INT8>
  %p = pack %t, 6, 2 {trans = true} : panel<6x3, INT8>
  %c = matmul_packed %s, %p, 2 : tile<4x3, INT32>
  %d = matmul_packed_acc %c, %s, %p, 2 : tile<4x3, INT32>
  store %d to %y[0, 0] valid [4, 3] {shape = [4, 3]}
}"""


def test_a_packed_product_computes_its_rows_and_no_others():
    a = torch.randint(-128, 128, (4, 6), dtype=torch.int8)
    b = torch.randint(-128, 128, (3, 6), dtype=torch.int8)
    out = torch.zeros(4, 3, dtype=torch.int32)
    run_text(PACKED, a, b, out, poison=True)
    twice = 2 * (a.long() @ b.long().T)
    assert torch.equal(out[:2, :2].long(), twice[:2, :2])
    assert not out[:2, 2].any()
    assert (out[2:] == 0x4D4D4D4D).all()
