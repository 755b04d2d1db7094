"""Narrow column tiles, as wide as the caches like."""

from __future__ import annotations

import pytest
from pass_programs import MACHINE, assert_native_agrees, assert_pass, assert_unchanged

from tilewright.ir.nodes import index
from tilewright.ir.parser import parse
from tilewright.passes.widen_columns import MOST_COLUMNS, TASKS, widen_columns

NARROW = """
        func f(%x: tensor<4x8, INT8>, %w: tensor<8x128, INT8>, %s: tensor<1x128, INT32>, out %y: tensor<4x128, INT32>) {
          %a = load %x[0, 0] valid [4, 8] {shape = [4, 8]} : tile<4x8, INT8>
          for %n in range(0, 128, 32) {
            at "part" {
              %b = load %w[0, %n] valid [8, 32] {shape = [8, 32]} : tile<8x32, INT8>
              %c = matmul %a, %b, 4, 8, 32 : tile<4x32, INT32>
              %scale = load %s[0, %n] valid [1, 32] {shape = [1, 32]} : tile<1x32, INT32>
              %d = mul %c, %scale : tile<4x32, INT32>
              store %d to %y[0, %n] valid [4, 32] {shape = [4, 32]}
              yield
            }
            yield
          }
        }
        """


def test_columns_that_are_work_of_their_own_are_taken_together():
    assert_pass(
        widen_columns,
        before=NARROW,
        after="""
        func f(%x: tensor<4x8, INT8>, %w: tensor<8x128, INT8>, %s: tensor<1x128, INT32>, out %y: tensor<4x128, INT32>) {
          %a = load %x[0, 0] valid [4, 8] {shape = [4, 8]} : tile<4x8, INT8>
          for %n in range(0, 128, 128) {
            at "part" {
              %b = load %w[0, %n] valid [8, 128] {shape = [8, 128]} : tile<8x128, INT8>
              %c = matmul %a, %b, 4, 8, 128 : tile<4x128, INT32>
              %scale = load %s[0, %n] valid [1, 128] {shape = [1, 128]} : tile<1x128, INT32>
              %d = mul %c, %scale : tile<4x128, INT32>
              store %d to %y[0, %n] valid [4, 128] {shape = [4, 128]}
              yield
            }
            yield
          }
        }
        """,
    )


NEGATION = """
        func f(%x: tensor<4x16384, INT32>, out %y: tensor<4x16384, INT32>) {{
          for %n in {kind}(0, {columns}, 32) {{
            %a = load %x[0, %n] valid [4, 32] {{shape = [4, 32]}} : tile<4x32, INT32>
            %b = neg %a : tile<4x32, INT32>
            store %b to %y[0, %n] valid [4, 32] {{shape = [4, 32]}}
            yield
          }}
        }}"""


@pytest.mark.parametrize(
    ("kind", "columns", "step"),
    [
        ("parallel", 32 * 2 * TASKS, 2 * 32),  # so many turns stay to share out
        ("parallel", 16384, MOST_COLUMNS),
        ("range", 32 * 2 * TASKS, MOST_COLUMNS),
    ],
)
def test_widening_stops_at(kind: str, columns: int, step: int):
    program = widen_columns(parse(NEGATION.format(kind=kind, columns=columns)), MACHINE)
    (loop,) = (op for op in program.body.ops if op.name == "for")
    assert loop.operands[2] == index(step)


def changed(*pairs: str) -> str:
    text = NARROW
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    return text


LEFT_ALONE = {
    "a reduction along the row": changed(
        "%d = mul %c, %scale : tile<4x32, INT32>",
        "%m = row_max %c valid [4, 32] : tile<4x1, INT32>\n"
        "              %d = sub %c, %m : tile<4x32, INT32>",
    ),
    "columns that change places": changed(
        "%d = mul %c, %scale : tile<4x32, INT32>",
        '%e = gather_mask %c {pattern = "P1010"} : tile<4x16, INT32>\n'
        "              %d = interleave %e, %e : tile<4x32, INT32>",
    ),
    "windows with gaps between them": changed("range(0, 128, 32)", "range(0, 96, 48)"),
    "windows that overlap": changed("range(0, 128, 32)", "range(0, 96, 16)"),
    "windows at another pace": changed(
        "%scale = load %s[0, %n]",
        "%h = s.floordiv %n, 2 : INDEX\n              %scale = load %s[0, %h]",
    ),
    "a window that every turn writes": changed("store %d to %y[0, %n]", "store %d to %y[0, 0]"),
    "a window of which a part is valid": changed(
        "store %d to %y[0, %n] valid [4, 32]", "store %d to %y[0, %n] valid [4, 31]"
    ),
    "an atomic store": changed(
        "valid [4, 32] {shape = [4, 32]}\n              yield",
        'valid [4, 32] {atomic = "add", shape = [4, 32]}\n              yield',
    ),
    "columns of the same tensor that another turn writes": changed(
        "load %s[0, %n]",
        "load %y[0, 0]",
    ),
}


@pytest.mark.parametrize("reason", LEFT_ALONE)
def test_columns_stay_narrow_for(reason: str):
    assert_unchanged(widen_columns, LEFT_ALONE[reason])
    assert_native_agrees(LEFT_ALONE[reason])
