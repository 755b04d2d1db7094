"""Which loads are read in place, and which must be copies because their memory changes under them."""

from __future__ import annotations

import pytest
from pass_programs import assert_native_agrees

from tilewright.ir.aliases import loads_to_copy
from tilewright.ir.parser import parse
from tilewright.ir.verify import verify

X = "%x: tensor<4x16, FP32>"
Y = "inout %y: tensor<4x16, FP32>"
LOAD = "%a = load %y[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>"
ZERO = "%z = full {dtype = FP32, shape = [4, 16], value = 0} : tile<4x16, FP32>"
CLEAR = "store %z to %y[0, 0] valid [4, 16] {shape = [4, 16]}"
USE = "store %a to %out[0, 0] valid [4, 16] {shape = [4, 16]}"


def program(*lines: str) -> str:
    text = "\n          ".join(lines)
    return f"""
        func f({X}, {Y}, %n: INDEX, out %out: tensor<4x16, FP32>, out %more: tensor<4x16, FP32>) {{
          {text}
        }}"""


def copied(text: str) -> list[str]:
    function = parse(text)
    verify(function)
    return sorted(value.name for value in loads_to_copy(function))


IN_PLACE = {
    "nothing writes its tensor": program(ZERO, LOAD, USE),
    "another tensor is written": program(LOAD, "write %more, 1.0 at [0, 0]", USE),
    "its tensor is written after its last reader": program(ZERO, LOAD, USE, CLEAR),
    "its tensor was written before": program(ZERO, CLEAR, LOAD, USE),
    "nobody reads it": program(ZERO, LOAD, CLEAR),
    "each turn of a loop loads again after the store": program(
        "for %i in range(0, 3, 1) {",
        "  " + LOAD,
        "  %b = add %a, 1.0 : tile<4x16, FP32>",
        "  store %b to %out[0, 0] valid [4, 16] {shape = [4, 16]}",
        "  write %y, 5.0 at [%i, 0]",
        "  yield",
        "}",
    ),
}

COPIES = {
    "a store comes before the reader": program(ZERO, LOAD, CLEAR, USE),
    "a single element is written before the reader": program(LOAD, "write %y, 5.0 at [2, 3]", USE),
    "the reader is the op that stores over it": program(
        LOAD,
        "%t = window %y[0, 0] {shape = [3, 16]} : tensor<3x16, FP32>",
        "%low = extract %a[1, 0] {shape = [3, 16]} : tile<3x16, FP32>",
        "%b = neg %low : tile<3x16, FP32>",
        "store %b to %t[0, 0] valid [3, 16] {shape = [3, 16]}",
        USE,
    ),
    "the store goes through a view of the tensor": program(
        "%v = reshape_view %y {shape = [64]} : tensor<64, FP32>",
        LOAD,
        "write %v, 5.0 at [7]",
        USE,
    ),
    "the load went through a view of the tensor": program(
        "%v = transpose_view %y {axis1 = 0, axis2 = 1} : tensor<16x4, FP32, strides 1x16>",
        "%w = transpose_view %v {axis1 = 0, axis2 = 1} : tensor<4x16, FP32>",
        LOAD.replace("%y", "%w"),
        "write %y, 5.0 at [2, 3]",
        USE,
    ),
    "the store stands deep inside loops and regions": program(
        LOAD,
        "for %i in range(0, 2, 1) {",
        "  for %j in range(0, 2, 1) {",
        '    at "write" {',
        "      write %y, 5.0 at [%i, %j]",
        "      yield",
        "    }",
        "    yield",
        "  }",
        "  yield",
        "}",
        USE,
    ),
    "a loop reads it in one turn and stores in the turn before": program(
        LOAD,
        "for %i in range(0, 3, 1) {",
        "  %row = extract %a[1, 0] {shape = [1, 16]} : tile<1x16, FP32>",
        "  store %row to %out[%i, 0] valid [1, 16] {shape = [1, 16]}",
        "  write %y, 5.0 at [1, 3]",
        "  yield",
        "}",
    ),
    "a window of it is read after the store": program(
        ZERO,
        LOAD,
        "%row = extract %a[1, 0] {shape = [1, 16]} : tile<1x16, FP32>",
        CLEAR,
        "store %row to %out[0, 0] valid [1, 16] {shape = [1, 16]}",
    ),
    "a window of a reshape of it leaves a region before the store": program(
        ZERO,
        LOAD,
        'at "look" -> (%row: tile<1x16, FP32>) {',
        "  %deep = reshape %a {shape = [1, 4, 16]} : tile<1x4x16, FP32>",
        "  %r = extract %deep[0, 2, 0] {drop = [0], shape = [1, 1, 16]} : tile<1x16, FP32>",
        "  yield %r",
        "}",
        CLEAR,
        "store %row to %out[0, 0] valid [1, 16] {shape = [1, 16]}",
    ),
    "it leaves nested regions before the store": program(
        ZERO,
        LOAD,
        'at "outer" -> (%b: tile<4x16, FP32>) {',
        '  at "inner" -> (%c: tile<4x16, FP32>) {',
        "    yield %a",
        "  }",
        "  yield %c",
        "}",
        CLEAR,
        "store %b to %out[0, 0] valid [4, 16] {shape = [4, 16]}",
    ),
    "it is made in a region and read behind it, after a store": program(
        ZERO,
        'at "load" -> (%b: tile<4x16, FP32>) {',
        "  " + LOAD,
        "  yield %a",
        "}",
        CLEAR,
        "store %b to %out[0, 0] valid [4, 16] {shape = [4, 16]}",
    ),
    "a loop carries it into the next turn, past a store": program(
        "%first = full {dtype = FP32, shape = [4, 16], value = 2} : tile<4x16, FP32>",
        "for %i in range(0, 3, 1) carry (%old = %first) -> (%last) {",
        "  write %y, 5.0 at [%i, 0]",
        "  " + LOAD,
        "  %b = add %old, %a : tile<4x16, FP32>",
        "  store %b to %out[0, 0] valid [4, 16] {shape = [4, 16]}",
        "  yield %a",
        "}",
        "store %last to %more[0, 0] valid [4, 16] {shape = [4, 16]}",
    ),
}


@pytest.mark.parametrize("why", IN_PLACE)
def test_a_load_is_read_in_place_when(why: str):
    assert copied(IN_PLACE[why]) == []
    assert_native_agrees(IN_PLACE[why], n=2)


@pytest.mark.parametrize("why", COPIES)
def test_a_load_is_a_copy_when(why: str):
    assert copied(COPIES[why]) == ["a"]
    assert_native_agrees(COPIES[why], n=2)
