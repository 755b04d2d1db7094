"""The next panel comes closer while this one is used."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pass_programs import MACHINE, assert_pass, assert_unchanged

from tilewright.ir.parser import parse
from tilewright.passes.fetch_ahead import fetch_ahead

PANELS = """
        func f(%x: tensor<24x8, INT8>, %w: tensor<8x256, INT8>, out %y: tensor<24x256, INT32>) {
          %b = load %w[0, 0] valid [8, 256] {shape = [8, 256]} : tile<8x256, INT8>
          %whole = pack %b, 8, 256 : panel<8x256, INT8>
          for %n in parallel(0, 256, 64) {
            %panel = panel_window %whole, 0, %n {k = 8, n = 64} : panel<8x64, INT8>
            for %tile in range(0, 4, 1) {
              %i = s.mul %tile, 6 : INDEX
              %a = load %x[%i, 0] valid [6, 8] {shape = [6, 8]} : tile<6x8, INT8>
              %c = matmul_packed %a, %panel, 6 : tile<6x64, INT32>
              store %c to %y[%i, %n] valid [6, 64] {shape = [6, 64]}
              yield
            }
            yield
          }
        }
        """


def test_each_row_tile_asks_for_a_part_of_the_next_window_and_the_last_one_for_no_window_past_the_end():
    assert_pass(
        fetch_ahead,
        before=PANELS,
        after="""
        func f(%x: tensor<24x8, INT8>, %w: tensor<8x256, INT8>, out %y: tensor<24x256, INT32>) {
          %b = load %w[0, 0] valid [8, 256] {shape = [8, 256]} : tile<8x256, INT8>
          %whole = pack %b, 8, 256 : panel<8x256, INT8>
          for %n in parallel(0, 256, 64) {
            %panel = panel_window %whole, 0, %n {k = 8, n = 64} : panel<8x64, INT8>
            %i.1 = s.add %n, 64 : INDEX
            %next = s.min %i.1, 192 : INDEX
            %ahead = panel_window %whole, 0, %next {k = 8, n = 64} : panel<8x64, INT8>
            for %tile in range(0, 4, 1) {
              %i = s.mul %tile, 6 : INDEX
              %a = load %x[%i, 0] valid [6, 8] {shape = [6, 8]} : tile<6x8, INT8>
              fetch_ahead %ahead, %tile, 4 {share = 1.0}
              %c = matmul_packed %a, %panel, 6 : tile<6x64, INT32>
              store %c to %y[%i, %n] valid [6, 64] {shape = [6, 64]}
              yield
            }
            yield
          }
        }
        """,
    )


def changed(*pairs: str) -> str:
    text = PANELS
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    return text


LEFT_ALONE = {
    "few row tiles": changed("range(0, 4, 1)", "range(0, 3, 1)"),
    "row tiles that are not counted one by one": changed(
        "range(0, 4, 1)", "range(0, 8, 2)", ", 6 : INDEX", ", 3 : INDEX"
    ),
    "a window that does not move": changed("%whole, 0, %n", "%whole, 0, 64"),
    "a loop in order": changed("parallel", "range"),
    "a panel packed on the spot": changed(
        "%panel = panel_window %whole, 0, %n {k = 8, n = 64} : panel<8x64, INT8>",
        "%p = load %w[0, %n] valid [8, 64] {shape = [8, 64]} : tile<8x64, INT8>\n"
        "            %panel = pack %p, 8, 64 : panel<8x64, INT8>",
    ),
}


@pytest.mark.parametrize("reason", LEFT_ALONE)
def test_nothing_is_fetched_for(reason: str):
    assert_unchanged(fetch_ahead, LEFT_ALONE[reason])


def test_nothing_is_fetched_when_the_panel_fills_the_cache_by_itself():
    small = replace(MACHINE, l2=8 * 64)
    program = parse(PANELS)
    assert fetch_ahead(program, small) == program
