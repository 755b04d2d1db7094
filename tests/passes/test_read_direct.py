"""Products of transposes, and loads that are only read without their unit axes."""

from __future__ import annotations

from textwrap import dedent

from pass_programs import MACHINE, assert_native_agrees, assert_pass, assert_unchanged

from tilewright.ir.parser import parse
from tilewright.passes.read_direct import read_direct

TURNED = """
    func f(%x: tensor<8x4, INT8>, %w: tensor<16x8, INT8>, out %y: tensor<4x16, INT32>) {
      %a = load %x[0, 0] valid [8, 4] {shape = [8, 4]} : tile<8x4, INT8>
      %at = transpose %a {axis1 = 0, axis2 = 1} : tile<4x8, INT8>
      %b = load %w[0, 0] valid [16, 8] {shape = [16, 8]} : tile<16x8, INT8>
      %bt = transpose %b {axis1 = 0, axis2 = 1} : tile<8x16, INT8>
      %c = matmul %at, %bt, 4, 8, 16 : tile<4x16, INT32>
      %d = matmul_acc %c, %at, %b, 4, 8, 16 {b_trans = true} : tile<4x16, INT32>
      store %d to %y[0, 0] valid [4, 16] {shape = [4, 16]}
    }"""


def test_a_product_of_transposes_reads_what_they_were_made_from():
    assert_pass(
        read_direct,
        before=TURNED,
        after="""
        func f(%x: tensor<8x4, INT8>, %w: tensor<16x8, INT8>, out %y: tensor<4x16, INT32>) {
          %a = load %x[0, 0] valid [8, 4] {shape = [8, 4]} : tile<8x4, INT8>
          %at = transpose %a {axis1 = 0, axis2 = 1} : tile<4x8, INT8>
          %b = load %w[0, 0] valid [16, 8] {shape = [16, 8]} : tile<16x8, INT8>
          %bt = transpose %b {axis1 = 0, axis2 = 1} : tile<8x16, INT8>
          %c = matmul %a, %b, 4, 8, 16 {a_trans = true, b_trans = true} : tile<4x16, INT32>
          %d = matmul_acc %c, %a, %b, 4, 8, 16 {a_trans = true, b_trans = true} : tile<4x16, INT32>
          store %d to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
    )
    assert_native_agrees(TURNED)


def test_what_was_turned_twice_is_not_turned():
    assert_pass(
        read_direct,
        before="""
        func f(%x: tensor<4x8, FP32>, %w: tensor<16x8, FP32>, out %y: tensor<4x16, FP32>, out %z: tensor<8x16, FP32>) {
          %a = load %x[0, 0] valid [4, 8] {shape = [4, 8]} : tile<4x8, FP32>
          %b = load %w[0, 0] valid [16, 8] {shape = [16, 8]} : tile<16x8, FP32>
          %bt = transpose %b {axis1 = 0, axis2 = 1} : tile<8x16, FP32>
          %btt = transpose %bt {axis1 = 0, axis2 = 1} : tile<16x8, FP32>
          %c = matmul %a, %btt, 4, 8, 16 {b_trans = true} : tile<4x16, FP32>
          store %c to %y[0, 0] valid [4, 16] {shape = [4, 16]}
          store %bt to %z[0, 0] valid [8, 16] {shape = [8, 16]}
        }
        """,
        after="""
        func f(%x: tensor<4x8, FP32>, %w: tensor<16x8, FP32>, out %y: tensor<4x16, FP32>, out %z: tensor<8x16, FP32>) {
          %a = load %x[0, 0] valid [4, 8] {shape = [4, 8]} : tile<4x8, FP32>
          %b = load %w[0, 0] valid [16, 8] {shape = [16, 8]} : tile<16x8, FP32>
          %bt = transpose %b {axis1 = 0, axis2 = 1} : tile<8x16, FP32>
          %btt = transpose %bt {axis1 = 0, axis2 = 1} : tile<16x8, FP32>
          %c = matmul %a, %b, 4, 8, 16 {b_trans = true} : tile<4x16, FP32>
          store %c to %y[0, 0] valid [4, 16] {shape = [4, 16]}
          store %bt to %z[0, 0] valid [8, 16] {shape = [8, 16]}
        }
        """,
    )


def of_a_stack(load: str = "valid [1, 8, 16]", reshape: str = "[8, 16]", tile: str = "8x16") -> str:
    return dedent(f"""
        func f(%w: tensor<4x8x16, FP32>, %e: INDEX, out %y: tensor<{tile}, FP32>) {{
          %b = load %w[%e, 0, 0] {load} {{shape = [1, 8, 16]}} : tile<1x8x16, FP32>
          %m = reshape %b {{shape = {reshape}}} : tile<{tile}, FP32>
          store %m to %y[0, 0] valid {reshape} {{shape = {reshape}}}
        }}
        """).lstrip()


def test_a_window_read_through_a_reshape_of_unit_axes_is_loaded_without_them():
    assert_pass(
        read_direct,
        before=of_a_stack(),
        after="""
        func f(%w: tensor<4x8x16, FP32>, %e: INDEX, out %y: tensor<8x16, FP32>) {
          %b = load %w[%e, 0, 0] valid [1, 8, 16] {drop = [0], shape = [1, 8, 16]} : tile<8x16, FP32>
          store %b to %y[0, 0] valid [8, 16] {shape = [8, 16]}
        }
        """,
        e=2,
    )


def test_a_reshape_that_moves_rows_stays():
    assert_unchanged(read_direct, of_a_stack(reshape="[16, 8]", tile="16x8"), e=1)


def test_a_window_of_which_a_part_is_valid_stays():
    program = parse(of_a_stack("valid [1, %e, 16]"))
    assert read_direct(program, MACHINE) == program
