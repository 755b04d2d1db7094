"""The next panel comes closer while this one is used."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pass_programs import (
    MACHINE,
    assert_native_agrees,
    assert_pass,
    assert_pass_changes_no_bit,
    assert_unchanged,
)

from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
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
    "a window that each row tile takes for itself": changed(
        "            %panel = panel_window %whole, 0, %n {k = 8, n = 64} : panel<8x64, INT8>\n",
        "",
        "%a = load",
        "%p = s.mul %tile, 64 : INDEX\n"
        "              %panel = panel_window %whole, 0, %p {k = 8, n = 64} : panel<8x64, INT8>\n"
        "              %a = load",
    ),
    "a window that moves with both loops": changed(
        "            %panel = panel_window %whole, 0, %n {k = 8, n = 64} : panel<8x64, INT8>\n",
        "",
        "(0, 256, 64)",
        "(0, 128, 64)",
        "%a = load",
        "%h = s.floordiv %tile, 2 : INDEX\n"
        "              %p = s.mul %h, 64 : INDEX\n"
        "              %q = s.add %n, %p : INDEX\n"
        "              %panel = panel_window %whole, 0, %q {k = 8, n = 64} : panel<8x64, INT8>\n"
        "              %a = load",
    ),
    "tasks counted backwards": changed("(0, 256, 64)", "(192, -64, -64)"),
    "two products in a row tile": changed(
        "store %c",
        "%d = matmul_packed_acc %c, %a, %panel, 6 : tile<6x64, INT32>\n              store %d",
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


def test_an_offset_that_is_computed_from_the_loop_is_computed_again_for_the_next_turn():
    text = changed(
        "(0, 256, 64)", "(0, 4, 1)",
        "            %panel = panel_window %whole, 0, %n",
        "            %p = s.mul %n, 64 : INDEX\n            %panel = panel_window %whole, 0, %p",
        "to %y[%i, %n]", "to %y[%i, %p]",
    )  # fmt: skip
    after = to_text(fetch_ahead(parse(text), MACHINE))
    assert "s.mul %next, 64" in after
    assert "%ahead = panel_window %whole, 0, %p.1" in after
    assert_native_agrees(text)


# 24 rows are four row tiles; a bound weight is a panel that windows are taken of.
@pytest.mark.parametrize("dtype", ["BF16", "FP32", "INT8"])
def test_machine_code_that_fetches_gives_the_same_bits(dtype: str):
    acc = "INT32" if dtype == "INT8" else "FP32"
    assert_pass_changes_no_bit(
        fetch_ahead,
        f"""
        func f(%x: tensor<48x72, {dtype}>, %w: tensor<72x256, {dtype}>, out %y: tensor<48x256, {acc}>) {{
          for %i in range(0, 48, 24) {{
            for %n in parallel(0, 256, 64) {{
              %a = load %x[%i, 0] valid [24, 72] {{shape = [24, 72]}} : tile<24x72, {dtype}>
              %b = load %w[0, %n] valid [72, 64] {{shape = [72, 64]}} : tile<72x64, {dtype}>
              %c = matmul %a, %b, 24, 72, 64 : tile<24x64, {acc}>
              store %c to %y[%i, %n] valid [24, 64] {{shape = [24, 64]}}
              yield
            }}
            yield
          }}
        }}""",
    )
