"""Neighbouring parallel loops as one."""

from __future__ import annotations

import pytest
from pass_programs import assert_native_agrees, assert_pass, assert_unchanged

from tilewright.passes.fuse_loops import fuse_loops

TWO_LOOPS = """
        func f(%x: tensor<16x32, FP32>, inout %t: tensor<16x32, FP32>, out %y: tensor<16x32, FP32>) {
          for %i in parallel(0, 16, 4) {
            %a = load %x[%i, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            store %a to %t[%i, 0] valid [4, 32] {shape = [4, 32]}
            yield
          }
          for %j in parallel(0, 16, 4) {
            %b = load %t[%j, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            %c = neg %b : tile<4x32, FP32>
            store %c to %y[%j, 0] valid [4, 32] {shape = [4, 32]}
            yield
          }
        }
        """


def test_two_loops_whose_turns_need_only_what_the_same_turn_made_are_one():
    assert_pass(
        fuse_loops,
        before=TWO_LOOPS,
        after="""
        func f(%x: tensor<16x32, FP32>, inout %t: tensor<16x32, FP32>, out %y: tensor<16x32, FP32>) {
          for %i in parallel(0, 16, 4) {
            %a = load %x[%i, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            store %a to %t[%i, 0] valid [4, 32] {shape = [4, 32]}
            %b = load %t[%i, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            %c = neg %b : tile<4x32, FP32>
            store %c to %y[%i, 0] valid [4, 32] {shape = [4, 32]}
            yield
          }
        }
        """,
    )


def test_the_other_loops_variable_follows_when_they_count_differently():
    text = changed(
        "%j in parallel(0, 16, 4)",
        "%j in parallel(0, 4, 1)",
        "%b = load %t[%j, 0]",
        "%r = s.mul %j, 4 : INDEX\n            %b = load %t[%r, 0]",
        "%y[%j, 0]",
        "%y[%r, 0]",
    )
    assert_pass(
        fuse_loops,
        before=text,
        after="""
        func f(%x: tensor<16x32, FP32>, inout %t: tensor<16x32, FP32>, out %y: tensor<16x32, FP32>) {
          for %j in parallel(0, 4, 1) {
            %i.1 = s.mul %j, 4 : INDEX
            %a = load %x[%i.1, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            store %a to %t[%i.1, 0] valid [4, 32] {shape = [4, 32]}
            %r = s.mul %j, 4 : INDEX
            %b = load %t[%r, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            %c = neg %b : tile<4x32, FP32>
            store %c to %y[%r, 0] valid [4, 32] {shape = [4, 32]}
            yield
          }
        }
        """,
    )


def changed(*pairs: str) -> str:
    text = TWO_LOOPS
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    return text


LEFT_ALONE = {
    "a turn that reads what a neighbour makes": changed("%t[%j, 0]", "%t[0, 0]"),
    "a window that reaches into the next turn's": changed(
        "%b = load %t[%j, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>",
        "%n = s.sub 12, %j : INDEX\n"
        "            %b = load %t[%n, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>",
    ),
    "an input that the second loop overwrites": changed(
        "%x: tensor",
        "inout %x: tensor",
        "store %c to %y[%j, 0]",
        "%n = s.sub 12, %j : INDEX\n            store %c to %x[%n, 0]",
    ),
    "loops of different lengths": changed("%j in parallel(0, 16, 4)", "%j in parallel(0, 12, 4)"),
    "loops that go on in order": changed("parallel", "range"),
    "work between them": changed(
        "          for %j in",
        "          write %t, 3.0 at [2, 2]\n          for %j in",
    ),
    "an atomic store": changed(
        "store %a to %t[%i, 0] valid [4, 32] {shape",
        'store %a to %t[%i, 0] valid [4, 32] {atomic = "add", shape',
    ),
    "single elements of what the first loop makes": changed(
        "%c = neg %b", "%e = read %t[%j, 3] : FP32\n            %c = mul %b, %e"
    ),
}


@pytest.mark.parametrize("reason", LEFT_ALONE)
def test_loops_stay_two_for(reason: str):
    text = LEFT_ALONE[reason]
    assert_unchanged(fuse_loops, text)
    assert_native_agrees(text)
