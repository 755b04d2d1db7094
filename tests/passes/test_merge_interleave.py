"""Even and odd columns, one after the other."""

from __future__ import annotations

import pytest
from pass_programs import assert_native_agrees, assert_pass, assert_unchanged

from tilewright.passes.merge_interleave import merge_interleave

EVEN_THEN_ODD = """
func f(%x: tensor<2x16, FP32>, %z: tensor<2x16, FP32>, %d: tensor<2x32, FP32>, out %y: tensor<2x32, FP32>) {
  %a = load %x[0, 0] valid [2, 16] {shape = [2, 16]} : tile<2x16, FP32>
  %b = load %z[0, 0] valid [2, 16] {shape = [2, 16]} : tile<2x16, FP32>
  %old = load %d[0, 0] valid [2, 32] {shape = [2, 32]} : tile<2x32, FP32>
  %e = scatter_mask %a, %old {pattern = "P0101"} : tile<2x32, FP32>
  %o = scatter_mask %b, %e {pattern = "P1010"} : tile<2x32, FP32>
  store %o to %y[0, 0] valid [2, 32] {shape = [2, 32]}
}"""


def test_even_then_odd_columns_are_one_interleave():
    assert_pass(
        merge_interleave,
        before=EVEN_THEN_ODD,
        after="""
        func f(%x: tensor<2x16, FP32>, %z: tensor<2x16, FP32>, %d: tensor<2x32, FP32>, out %y: tensor<2x32, FP32>) {
          %a = load %x[0, 0] valid [2, 16] {shape = [2, 16]} : tile<2x16, FP32>
          %b = load %z[0, 0] valid [2, 16] {shape = [2, 16]} : tile<2x16, FP32>
          %old = load %d[0, 0] valid [2, 32] {shape = [2, 32]} : tile<2x32, FP32>
          %e = scatter_mask %a, %old {pattern = "P0101"} : tile<2x32, FP32>
          %o = interleave %a, %b : tile<2x32, FP32>
          store %o to %y[0, 0] valid [2, 32] {shape = [2, 32]}
        }
        """,
    )


def test_odd_then_even_columns_give_the_same_order():
    swapped = EVEN_THEN_ODD.replace("P0101", "P?").replace("P1010", "P0101").replace("P?", "P1010")
    assert_pass(
        merge_interleave,
        before=swapped,
        after="""
        func f(%x: tensor<2x16, FP32>, %z: tensor<2x16, FP32>, %d: tensor<2x32, FP32>, out %y: tensor<2x32, FP32>) {
          %a = load %x[0, 0] valid [2, 16] {shape = [2, 16]} : tile<2x16, FP32>
          %b = load %z[0, 0] valid [2, 16] {shape = [2, 16]} : tile<2x16, FP32>
          %old = load %d[0, 0] valid [2, 32] {shape = [2, 32]} : tile<2x32, FP32>
          %e = scatter_mask %a, %old {pattern = "P1010"} : tile<2x32, FP32>
          %o = interleave %b, %a : tile<2x32, FP32>
          store %o to %y[0, 0] valid [2, 32] {shape = [2, 32]}
        }
        """,
    )


@pytest.mark.parametrize(("inner", "outer"), [("P0101", "P0101"), ("P1010", "P1010")])
def test_the_same_columns_twice_leave_the_others_old(inner: str, outer: str):
    text = EVEN_THEN_ODD.replace("P1010", outer).replace("P0101", inner)
    assert_unchanged(merge_interleave, text + "\n")
    assert_native_agrees(text)


def test_a_single_scatter_stays():
    assert_unchanged(
        merge_interleave,
        """
        func f(%x: tensor<2x16, FP32>, %d: tensor<2x32, FP32>, out %y: tensor<2x32, FP32>) {
          %a = load %x[0, 0] valid [2, 16] {shape = [2, 16]} : tile<2x16, FP32>
          %old = load %d[0, 0] valid [2, 32] {shape = [2, 32]} : tile<2x32, FP32>
          %e = scatter_mask %a, %old {pattern = "P0101"} : tile<2x32, FP32>
          store %e to %y[0, 0] valid [2, 32] {shape = [2, 32]}
        }
        """,
    )


def test_patterns_of_stride_four_stay():
    assert_unchanged(
        merge_interleave,
        """
        func f(%x: tensor<2x8, FP32>, %d: tensor<2x32, FP32>, out %y: tensor<2x32, FP32>) {
          %a = load %x[0, 0] valid [2, 8] {shape = [2, 8]} : tile<2x8, FP32>
          %old = load %d[0, 0] valid [2, 32] {shape = [2, 32]} : tile<2x32, FP32>
          %e = scatter_mask %a, %old {pattern = "P0001"} : tile<2x32, FP32>
          %o = scatter_mask %a, %e {pattern = "P0010"} : tile<2x32, FP32>
          store %o to %y[0, 0] valid [2, 32] {shape = [2, 32]}
        }
        """,
    )
