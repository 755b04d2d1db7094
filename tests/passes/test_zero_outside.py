"""Loads that read zeros outside their tensor, spelt out."""

from __future__ import annotations

import pytest
from pass_programs import assert_native_agrees, assert_pass, assert_unchanged

from tilewright.passes.zero_outside import zero_outside

PAST_THE_END = """
func f(%x: tensor<8x16, FP32>, %y: tensor<16x16, FP32>) {
  %v = load %x[0, 0] valid [16, 16] {outside = "zero", shape = [16, 16]} : tile<16x16, FP32>
  store %v to %y[0, 0] valid [16, 16] {shape = [16, 16]}
}
"""

ANYWHERE = """
func f(%x: tensor<8x16, INT32>, %i: INDEX, %y: tensor<4x16, INT32>, %z: tensor<16, INT32>) {
  %v = load %x[%i, 3] valid [4, 16] {outside = "zero", shape = [4, 16]} : tile<4x16, INT32>
  store %v to %y[0, 0] valid [4, 16] {shape = [4, 16]}
  %w = load %x[%i, 0] valid [1, 16] {drop = [0], outside = "zero", shape = [1, 16]} : tile<16, INT32>
  store %w to %z[0] valid [16] {shape = [16]}
}
"""


def test_a_window_past_the_end_loads_what_exists_and_pads_it():
    assert_pass(
        zero_outside,
        PAST_THE_END,
        """
        func f(%x: tensor<8x16, FP32>, %y: tensor<16x16, FP32>) {
          %v.1 = load %x[0, 0] valid [8, 16] {shape = [16, 16]} : tile<16x16, FP32>
          %v.2 = fillpad %v.1 valid [8, 16] {value = 0.0} : tile<16x16, FP32>
          store %v.2 to %y[0, 0] valid [16, 16] {shape = [16, 16]}
        }
        """,
    )


def test_a_window_inside_is_a_plain_load():
    inside = PAST_THE_END.replace("8x16", "16x16")
    assert_pass(zero_outside, inside, inside.replace('outside = "zero", ', ""))


def test_other_loads_are_left_alone():
    inside = PAST_THE_END.replace("8x16", "16x16")
    assert_unchanged(zero_outside, inside.replace('outside = "zero", ', "").lstrip())


@pytest.mark.parametrize("i", [-100, -5, -1, 0, 3, 6, 8, 100])
def test_a_window_at_a_run_time_row_gives_the_bits_of_the_definition(i: int):
    assert_native_agrees(ANYWHERE, i=i)
