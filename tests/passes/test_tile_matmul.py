"""Products in the form that a microkernel eats."""

from __future__ import annotations

import pytest
from pass_programs import assert_native_agrees, assert_pass

from tilewright.passes.tile_matmul import tile_matmul


def test_a_product_becomes_a_pack_and_a_packed_product():
    assert_pass(
        tile_matmul,
        before="""
        func f(%x: tensor<4x8, INT8>, %w: tensor<8x16, INT8>, out %y: tensor<4x16, INT32>) {
          %a = load %x[0, 0] valid [4, 8] {shape = [4, 8]} : tile<4x8, INT8>
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %c = matmul %a, %b, 4, 8, 16 : tile<4x16, INT32>
          store %c to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }""",
        after="""
        func f(%x: tensor<4x8, INT8>, %w: tensor<8x16, INT8>, out %y: tensor<4x16, INT32>) {
          %a = load %x[0, 0] valid [4, 8] {shape = [4, 8]} : tile<4x8, INT8>
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %panel = pack %b, 8, 16 : panel<8x16, INT8>
          %c.1 = matmul_packed %a, %panel, 4 : tile<4x16, INT32>
          store %c.1 to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
    )


def test_a_transposed_right_side_is_turned_by_the_pack_and_a_left_one_by_a_transpose():
    assert_pass(
        tile_matmul,
        before="""
        func f(%x: tensor<8x4, INT8>, %w: tensor<16x8, INT8>, out %y: tensor<4x16, INT32>) {
          %a = load %x[0, 0] valid [8, 4] {shape = [8, 4]} : tile<8x4, INT8>
          %b = load %w[0, 0] valid [16, 8] {shape = [16, 8]} : tile<16x8, INT8>
          %old = load %y[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, INT32>
          %c = matmul_acc %old, %a, %b, 4, 8, 16 {a_trans = true, b_trans = true} : tile<4x16, INT32>
          store %c to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }""",
        after="""
        func f(%x: tensor<8x4, INT8>, %w: tensor<16x8, INT8>, out %y: tensor<4x16, INT32>) {
          %a = load %x[0, 0] valid [8, 4] {shape = [8, 4]} : tile<8x4, INT8>
          %b = load %w[0, 0] valid [16, 8] {shape = [16, 8]} : tile<16x8, INT8>
          %old = load %y[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, INT32>
          %v = transpose %a {axis1 = 0, axis2 = 1} : tile<4x8, INT8>
          %panel = pack %b, 8, 16 {trans = true} : panel<8x16, INT8>
          %c.1 = matmul_packed_acc %old, %v, %panel, 4 : tile<4x16, INT32>
          store %c.1 to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
    )


def test_terms_past_the_valid_k_are_zeroed_on_both_sides():
    assert_pass(
        tile_matmul,
        before="""
        func f(%x: tensor<4x8, INT8>, %w: tensor<8x16, INT8>, %k: INDEX, out %y: tensor<4x16, INT32>) {
          %a = load %x[0, 0] valid [4, %k] {shape = [4, 8]} : tile<4x8, INT8>
          %b = load %w[0, 0] valid [%k, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %c = matmul %a, %b, 4, %k, 16 : tile<4x16, INT32>
          store %c to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }""",
        after="""
        func f(%x: tensor<4x8, INT8>, %w: tensor<8x16, INT8>, %k: INDEX, out %y: tensor<4x16, INT32>) {
          %a = load %x[0, 0] valid [4, %k] {shape = [4, 8]} : tile<4x8, INT8>
          %b = load %w[0, 0] valid [%k, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %a.1 = fillpad %a valid [4, %k] {value = 0} : tile<4x8, INT8>
          %panel = pack %b, %k, 16 : panel<8x16, INT8>
          %c.1 = matmul_packed %a.1, %panel, 4 : tile<4x16, INT32>
          store %c.1 to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
        k=5,
    )


def test_rows_past_the_valid_ones_are_zero():
    assert_pass(
        tile_matmul,
        before="""
        func f(%x: tensor<4x8, INT8>, %w: tensor<8x16, INT8>, %m: INDEX, out %y: tensor<4x16, INT32>) {
          %a = load %x[0, 0] valid [%m, 8] {shape = [4, 8]} : tile<4x8, INT8>
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %c = matmul %a, %b, %m, 8, 16 : tile<4x16, INT32>
          store %c to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }""",
        after="""
        func f(%x: tensor<4x8, INT8>, %w: tensor<8x16, INT8>, %m: INDEX, out %y: tensor<4x16, INT32>) {
          %a = load %x[0, 0] valid [%m, 8] {shape = [4, 8]} : tile<4x8, INT8>
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %panel = pack %b, 8, 16 : panel<8x16, INT8>
          %c.1 = matmul_packed %a, %panel, %m : tile<4x16, INT32>
          %acc = fillpad %c.1 valid [%m, 16] {value = 0} : tile<4x16, INT32>
          store %acc to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
        m=3,
    )


def test_rows_of_an_accumulator_past_the_valid_ones_keep_their_value():
    assert_pass(
        tile_matmul,
        before="""
        func f(%x: tensor<4x8, INT8>, %w: tensor<8x16, INT8>, %m: INDEX, inout %y: tensor<4x16, INT32>) {
          %a = load %x[0, 0] valid [%m, 8] {shape = [4, 8]} : tile<4x8, INT8>
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %old = load %y[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, INT32>
          %c = matmul_acc %old, %a, %b, %m, 8, 16 : tile<4x16, INT32>
          store %c to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }""",
        after="""
        func f(%x: tensor<4x8, INT8>, %w: tensor<8x16, INT8>, %m: INDEX, inout %y: tensor<4x16, INT32>) {
          %a = load %x[0, 0] valid [%m, 8] {shape = [4, 8]} : tile<4x8, INT8>
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %old = load %y[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, INT32>
          %panel = pack %b, 8, 16 : panel<8x16, INT8>
          %c.1 = matmul_packed_acc %old, %a, %panel, %m : tile<4x16, INT32>
          %acc = insert %old, %c.1 at [0, 0] valid [%m, 16] {shape = [4, 16]} : tile<4x16, INT32>
          store %acc to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
        m=3,
    )


def test_batch_axes_are_unrolled_and_those_of_extent_one_are_shared():
    assert_pass(
        tile_matmul,
        before="""
        func f(%x: tensor<2x4x8, INT8>, %w: tensor<1x8x16, INT8>, out %y: tensor<2x4x16, INT32>) {
          %a = load %x[0, 0, 0] valid [2, 4, 8] {shape = [2, 4, 8]} : tile<2x4x8, INT8>
          %b = load %w[0, 0, 0] valid [1, 8, 16] {shape = [1, 8, 16]} : tile<1x8x16, INT8>
          %c = matmul %a, %b, 4, 8, 16 : tile<2x4x16, INT32>
          store %c to %y[0, 0, 0] valid [2, 4, 16] {shape = [2, 4, 16]}
        }""",
        after="""
        func f(%x: tensor<2x4x8, INT8>, %w: tensor<1x8x16, INT8>, out %y: tensor<2x4x16, INT32>) {
          %a = load %x[0, 0, 0] valid [2, 4, 8] {shape = [2, 4, 8]} : tile<2x4x8, INT8>
          %b = load %w[0, 0, 0] valid [1, 8, 16] {shape = [1, 8, 16]} : tile<1x8x16, INT8>
          %v = full {dtype = INT32, shape = [2, 4, 16], value = 0} : tile<2x4x16, INT32>
          %v.1 = extract %a[0, 0, 0] {drop = [0], shape = [1, 4, 8]} : tile<4x8, INT8>
          %v.2 = extract %b[0, 0, 0] {drop = [0], shape = [1, 8, 16]} : tile<8x16, INT8>
          %panel = pack %v.2, 8, 16 : panel<8x16, INT8>
          %c.1 = matmul_packed %v.1, %panel, 4 : tile<4x16, INT32>
          %v.3 = insert %v, %c.1 at [0, 0, 0] valid [1, 4, 16] {drop = [0], shape = [1, 4, 16]} : tile<2x4x16, INT32>
          %v.4 = extract %a[1, 0, 0] {drop = [0], shape = [1, 4, 8]} : tile<4x8, INT8>
          %v.5 = extract %b[0, 0, 0] {drop = [0], shape = [1, 8, 16]} : tile<8x16, INT8>
          %panel.1 = pack %v.5, 8, 16 : panel<8x16, INT8>
          %c.2 = matmul_packed %v.4, %panel.1, 4 : tile<4x16, INT32>
          %v.6 = insert %v.3, %c.2 at [1, 0, 0] valid [1, 4, 16] {drop = [0], shape = [1, 4, 16]} : tile<2x4x16, INT32>
          store %v.6 to %y[0, 0, 0] valid [2, 4, 16] {shape = [2, 4, 16]}
        }
        """,
    )


# Every row count that 13 rows can have, in the middle of a row tile too.
@pytest.mark.parametrize("m", [1, 3, 6, 12, 13])
def test_machine_code_multiplies_just_the_valid_rows(m: int):
    assert_native_agrees(
        """
        func f(%x: tensor<13x8, INT8>, %w: tensor<8x16, INT8>, %m: INDEX, inout %y: tensor<13x16, INT32>) {
          check_window at [0, 0] valid [%m, 8] {access = "read", extents = [13, 8], subject = "x"}
          %a = load %x[0, 0] valid [%m, 8] {shape = [13, 8]} : tile<13x8, INT8>
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %c = matmul %a, %b, %m, 8, 16 : tile<13x16, INT32>
          store %c to %y[0, 0] valid [13, 16] {shape = [13, 16]}
        }""",
        m=m,
    )
