"""What one region stores and the next loads stays a tile."""

from __future__ import annotations

import pytest
from pass_programs import MACHINE, assert_native_agrees, assert_pass

from tilewright.ir.parser import parse
from tilewright.ir.walk import ops_in
from tilewright.passes.forward_stores import forward_stores

TWO_REGIONS = """
        func f(%x: tensor<4x32, FP32>, %n: INDEX, inout %t: tensor<8x32, FP32>, out %y: tensor<4x32, FP32>) {
          at "first" {
            %a = load %x[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            %b = neg %a : tile<4x32, FP32>
            store %b to %t[0, 0] valid [4, 32] {shape = [4, 32]}
            yield
          }
          at "second" {
            %c = load %t[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            store %c to %y[0, 0] valid [4, 32] {shape = [4, 32]}
            yield
          }
        }
        """
LOAD = "%c = load %t[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>"


def test_neighbouring_regions_are_one_and_the_load_is_the_stored_tile():
    assert_pass(
        forward_stores,
        before=TWO_REGIONS,
        after="""
        func f(%x: tensor<4x32, FP32>, %n: INDEX, inout %t: tensor<8x32, FP32>, out %y: tensor<4x32, FP32>) {
          at "first_second" {
            %a = load %x[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            %b = neg %a : tile<4x32, FP32>
            store %b to %t[0, 0] valid [4, 32] {shape = [4, 32]}
            store %b to %y[0, 0] valid [4, 32] {shape = [4, 32]}
            yield
          }
        }
        """,
        n=0,
    )


def test_a_load_of_some_of_its_columns_is_an_extract():
    text = changed(
        LOAD,
        "%c = load %t[0, 8] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>",
        "store %c to %y[0, 0] valid [4, 32] {shape = [4, 32]}",
        "store %c to %y[0, 0] valid [4, 16] {shape = [4, 16]}",
    )
    assert_pass(
        forward_stores,
        before=text,
        after="""
        func f(%x: tensor<4x32, FP32>, %n: INDEX, inout %t: tensor<8x32, FP32>, out %y: tensor<4x32, FP32>) {
          at "first_second" {
            %a = load %x[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            %b = neg %a : tile<4x32, FP32>
            store %b to %t[0, 0] valid [4, 32] {shape = [4, 32]}
            %c.1 = extract %b[0, 8] {shape = [4, 16]} : tile<4x16, FP32>
            store %c.1 to %y[0, 0] valid [4, 16] {shape = [4, 16]}
            yield
          }
        }
        """,
        n=0,
    )


def changed(*pairs: str) -> str:
    text = TWO_REGIONS
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    return text


STILL_LOADS = {
    "of other rows": changed("%c = load %t[0, 0]", "%c = load %t[1, 0]"),
    "of rows that nobody knows": changed("%c = load %t[0, 0]", "%c = load %t[%n, 0]"),
    "after an element was written": changed(LOAD, "write %t, 3.0 at [%n, 5]\n            " + LOAD),
    "after a loop wrote": changed(
        LOAD,
        "for %i in range(0, 2, 1) {\n              write %t, 3.0 at [%i, 5]\n"
        "              yield\n            }\n            " + LOAD,
    ),
    "of a store that was valid in part": changed(
        "store %b to %t[0, 0] valid [4, 32]", "store %b to %t[0, 0] valid [3, 32]"
    ),
    "of a store that added": changed(
        "store %b to %t[0, 0] valid [4, 32] {shape", 'store %b to %t[0, 0] valid [4, 32] {atomic = "add", shape'
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", STILL_LOADS)
def test_memory_is_read_again_by_a_load(what: str):
    text = STILL_LOADS[what]
    after = forward_stores(parse(text), MACHINE)
    assert "t" in [op.operands[0].name for op in ops_in(after) if op.name == "load"]
    assert_native_agrees(text, n=1)


def test_columns_that_were_stored_twice_are_those_of_the_later_store():
    text = """
        func f(%x: tensor<4x32, FP32>, inout %t: tensor<4x32, FP32>, out %y: tensor<4x8, FP32>) {
          at "both" {
            %a = load %x[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            store %a to %t[0, 0] valid [4, 32] {shape = [4, 32]}
            %b = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
            store %b to %t[0, 16] valid [4, 16] {shape = [4, 16]}
            %c = load %t[0, 24] valid [4, 8] {shape = [4, 8]} : tile<4x8, FP32>
            store %c to %y[0, 0] valid [4, 8] {shape = [4, 8]}
            yield
          }
        }"""
    assert_pass(
        forward_stores,
        before=text,
        after="""
        func f(%x: tensor<4x32, FP32>, inout %t: tensor<4x32, FP32>, out %y: tensor<4x8, FP32>) {
          at "both" {
            %a = load %x[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            store %a to %t[0, 0] valid [4, 32] {shape = [4, 32]}
            %b = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
            store %b to %t[0, 16] valid [4, 16] {shape = [4, 16]}
            %c.1 = extract %b[0, 8] {shape = [4, 8]} : tile<4x8, FP32>
            store %c.1 to %y[0, 0] valid [4, 8] {shape = [4, 8]}
            yield
          }
        }
        """,
    )
    assert_native_agrees(text)
