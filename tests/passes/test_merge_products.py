"""A walk over K becomes one product."""

from __future__ import annotations

import pytest
from pass_programs import assert_native_agrees, assert_pass, assert_unchanged

from tilewright.passes.merge_products import merge_products

WALK = """
        func f(%x: tensor<4x32, INT8>, %w: tensor<32x16, INT8>, %z: tensor<4x16, INT32>, out %y: tensor<4x16, INT32>) {
          %start = load %z[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, INT32>
          for %k in range(0, 32, 8) carry (%acc = %start) -> (%all) {
            %a = load %x[0, %k] valid [4, 8] {shape = [4, 8]} : tile<4x8, INT8>
            %b = load %w[%k, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
            %c = matmul_acc %acc, %a, %b, 4, 8, 16 : tile<4x16, INT32>
            yield %c
          }
          store %all to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """


def test_slices_of_k_that_lie_next_to_each_other_are_one_product():
    assert_pass(
        merge_products,
        before=WALK,
        after="""
        func f(%x: tensor<4x32, INT8>, %w: tensor<32x16, INT8>, %z: tensor<4x16, INT32>, out %y: tensor<4x16, INT32>) {
          %start = load %z[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, INT32>
          %a.1 = load %x[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, INT8>
          %b.1 = load %w[0, 0] valid [32, 16] {shape = [32, 16]} : tile<32x16, INT8>
          %all.1 = matmul_acc %start, %a.1, %b.1, 4, 32, 16 : tile<4x16, INT32>
          store %all.1 to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
    )


def test_an_accumulator_of_zeros_is_the_start_of_a_plain_product():
    zeros = "%start = full {dtype = INT32, shape = [4, 16], value = 0} : tile<4x16, INT32>"
    text = changed(
        "%start = load %z[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, INT32>", zeros
    )
    assert_pass(
        merge_products,
        before=text,
        after="""
        func f(%x: tensor<4x32, INT8>, %w: tensor<32x16, INT8>, %z: tensor<4x16, INT32>, out %y: tensor<4x16, INT32>) {
          %start = full {dtype = INT32, shape = [4, 16], value = 0} : tile<4x16, INT32>
          %a.1 = load %x[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, INT8>
          %b.1 = load %w[0, 0] valid [32, 16] {shape = [32, 16]} : tile<32x16, INT8>
          %all.1 = matmul %a.1, %b.1, 4, 32, 16 : tile<4x16, INT32>
          store %all.1 to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
    )


def changed(*pairs: str) -> str:
    text = WALK
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    return text


LEFT_ALONE = {
    "slices with gaps between them": changed("range(0, 32, 8)", "range(0, 24, 12)"),
    "slices that overlap": changed("range(0, 32, 8)", "range(0, 24, 4)"),
    "sides that walk at different speeds": changed(
        "%b = load %w[%k, 0]", "%h = s.floordiv %k, 2 : INDEX\n            %b = load %w[%h, 0]"
    ),
    "a side that does not walk": changed("%w[%k, 0]", "%w[8, 0]"),
    "a loop that stores on its way": changed(
        "yield %c", "store %c to %y[0, 0] valid [4, 16] {shape = [4, 16]}\n            yield %c"
    ),
    "a loop that looks at its accumulator": changed(
        "yield %c", "%d = neg %c : tile<4x16, INT32>\n            yield %d"
    ),
    "slices that are only partly valid": changed("%b, 4, 8, 16", "%b, 4, 6, 16"),
}


@pytest.mark.parametrize("reason", LEFT_ALONE)
def test_products_stay_apart_for(reason: str):
    assert_unchanged(merge_products, LEFT_ALONE[reason])
    assert_native_agrees(LEFT_ALONE[reason])
