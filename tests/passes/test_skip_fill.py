"""Fresh tensors that need no zeros."""

from __future__ import annotations

import pytest
from pass_programs import assert_native_agrees, assert_pass, assert_unchanged

from tilewright.passes.skip_fill import skip_fill


def test_a_tensor_that_one_store_covers_needs_no_zeros():
    assert_pass(
        skip_fill,
        before="""
        func f(%x: tensor<4x16, FP32>, out %y: tensor<4x16, FP32>) {
          %t = create {dtype = FP32, shape = [4, 16]} : tensor<4x16, FP32>
          at "fill" {
            %a = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
            store %a to %t[0, 0] valid [4, 16] {shape = [4, 16]}
            yield
          }
          %b = load %t[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          store %b to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }""",
        after="""
        func f(%x: tensor<4x16, FP32>, out %y: tensor<4x16, FP32>) {
          %t = create {dtype = FP32, fill = false, shape = [4, 16]} : tensor<4x16, FP32>
          at "fill" {
            %a = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
            store %a to %t[0, 0] valid [4, 16] {shape = [4, 16]}
            yield
          }
          %b = load %t[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          store %b to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
    )


def test_a_loop_whose_windows_tile_one_axis_covers_the_tensor():
    assert_pass(
        skip_fill,
        before="""
        func f(%x: tensor<16x16, FP32>, out %y: tensor<16x16, FP32>) {
          %t = create {dtype = FP32, shape = [16, 16]} : tensor<16x16, FP32>
          for %i in parallel(0, 16, 4) {
            at "part" {
              %a = load %x[%i, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
              store %a to %t[%i, 0] valid [4, 16] {shape = [4, 16]}
              %same = load %t[%i, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
              store %same to %y[%i, 0] valid [4, 16] {shape = [4, 16]}
              yield
            }
            yield
          }
          %b = load %t[0, 0] valid [16, 16] {shape = [16, 16]} : tile<16x16, FP32>
          store %b to %y[0, 0] valid [16, 16] {shape = [16, 16]}
        }""",
        after="""
        func f(%x: tensor<16x16, FP32>, out %y: tensor<16x16, FP32>) {
          %t = create {dtype = FP32, fill = false, shape = [16, 16]} : tensor<16x16, FP32>
          for %i in parallel(0, 16, 4) {
            at "part" {
              %a = load %x[%i, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
              store %a to %t[%i, 0] valid [4, 16] {shape = [4, 16]}
              %same = load %t[%i, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
              store %same to %y[%i, 0] valid [4, 16] {shape = [4, 16]}
              yield
            }
            yield
          }
          %b = load %t[0, 0] valid [16, 16] {shape = [16, 16]} : tile<16x16, FP32>
          store %b to %y[0, 0] valid [16, 16] {shape = [16, 16]}
        }
        """,
    )


# What fills %t, in place of {fill}. In each a zero of the fresh tensor shows in %y.
USED = """
        func f(%x: tensor<16x16, FP32>, %n: INDEX, out %y: tensor<16x16, FP32>) {{
          %t = create {{dtype = FP32, shape = [16, 16], value = 0}} : tensor<16x16, FP32>
          {fill}
          %b = load %t[0, 0] valid [16, 16] {{shape = [16, 16]}} : tile<16x16, FP32>
          store %b to %y[0, 0] valid [16, 16] {{shape = [16, 16]}}
        }}
        """
LOADED = "%a = load %x[{0}, 0] valid [4, 16] {{shape = [4, 16]}} : tile<4x16, FP32>"
STORED = "store %a to %t[{0}, 0] valid [4, 16] {{shape = [4, 16]}}"
HOLES = {
    "a store of a part": [LOADED.format(0), STORED.format(0)],
    "a loop that stops early": [
        "for %i in range(0, 12, 4) {",
        "  " + LOADED.format("%i"),
        "  " + STORED.format("%i"),
        "  yield",
        "}",
    ],
    "a loop that steps over rows": [
        "for %i in range(0, 12, 8) {",
        "  " + LOADED.format("%i"),
        "  " + STORED.format("%i"),
        "  yield",
        "}",
    ],
    "a loop of run-time bounds": [
        "for %i in range(0, %n, 4) {",
        "  " + LOADED.format("%i"),
        "  " + STORED.format("%i"),
        "  yield",
        "}",
    ],
    "a store behind a branch": [
        "%c = s.gt %n, 100 : BOOL",
        "if %c {",
        "  %a = load %x[0, 0] valid [16, 16] {{shape = [16, 16]}} : tile<16x16, FP32>",
        "  store %a to %t[0, 0] valid [16, 16] {{shape = [16, 16]}}",
        "  yield",
        "} else {",
        "  yield",
        "}",
    ],
    "a store of run-time valid rows": [
        "%a = load %x[0, 0] valid [%n, 16] {{shape = [16, 16]}} : tile<16x16, FP32>",
        "store %a to %t[0, 0] valid [%n, 16] {{shape = [16, 16]}}",
    ],
    "an atomic add": [
        "%a = load %x[0, 0] valid [16, 16] {{shape = [16, 16]}} : tile<16x16, FP32>",
        'store %a to %t[0, 0] valid [16, 16] {{atomic = "add", shape = [16, 16]}}',
    ],
    "a read before the store": [
        "%zero = load %t[0, 0] valid [16, 16] {{shape = [16, 16]}} : tile<16x16, FP32>",
        "store %zero to %t[0, 0] valid [16, 16] {{shape = [16, 16]}}",
    ],
    "a loop that reads what a later turn stores": [
        "for %i in range(0, 16, 4) {",
        "  " + LOADED.format("%i"),
        "  " + STORED.format("%i"),
        "  %all = load %t[0, 0] valid [16, 16] {{shape = [16, 16]}} : tile<16x16, FP32>",
        '  store %all to %y[0, 0] valid [16, 16] {{atomic = "add", shape = [16, 16]}}',
        "  yield",
        "}",
    ],
    "a read through a view": [
        "%v = reshape_view %t {{shape = [256]}} : tensor<256, FP32>",
        "%a = load %v[0] valid [256] {{shape = [256]}} : tile<256, FP32>",
        "%r = reshape %a {{shape = [16, 16]}} : tile<16x16, FP32>",
        "store %r to %t[0, 0] valid [16, 16] {{shape = [16, 16]}}",
    ],
}


@pytest.mark.parametrize("hole", HOLES)
def test_zeros_that_can_show_stay(hole: str):
    lines = [line.replace("{{", "{").replace("}}", "}") for line in HOLES[hole]]
    text = USED.format(fill="\n          ".join(lines))
    assert_unchanged(skip_fill, text, n=5)
    assert_native_agrees(text, n=5)
