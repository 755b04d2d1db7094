"""Whole matrices packed once."""

from __future__ import annotations

from textwrap import dedent

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
from tilewright.ir.verify import verify
from tilewright.passes.share_panels import share_panels


def test_a_matrix_packed_again_in_every_turn_of_an_outer_loop_is_packed_at_the_beginning():
    assert_pass(
        share_panels,
        before="""
        func f(%x: tensor<8x4, INT8>, %w: tensor<4x128, INT8>, out %y: tensor<8x128, INT32>) {
          for %i in range(0, 8, 4) {
            for %j in parallel(0, 128, 64) {
              %a = load %x[%i, 0] valid [4, 4] {shape = [4, 4]} : tile<4x4, INT8>
              %b = load %w[0, %j] valid [4, 64] {shape = [4, 64]} : tile<4x64, INT8>
              %panel = pack %b, 4, 64 : panel<4x64, INT8>
              %c = matmul_packed %a, %panel, 4 : tile<4x64, INT32>
              store %c to %y[%i, %j] valid [4, 64] {shape = [4, 64]}
              yield
            }
            yield
          }
        }""",
        after="""
        func f(%x: tensor<8x4, INT8>, %w: tensor<4x128, INT8>, out %y: tensor<8x128, INT32>) {
          %w.1 = load %w[0, 0] valid [4, 128] {shape = [4, 128]} : tile<4x128, INT8>
          %panel.1 = pack %w.1, 4, 128 : panel<4x128, INT8>
          for %i in range(0, 8, 4) {
            for %j in parallel(0, 128, 64) {
              %a = load %x[%i, 0] valid [4, 4] {shape = [4, 4]} : tile<4x4, INT8>
              %b = load %w[0, %j] valid [4, 64] {shape = [4, 64]} : tile<4x64, INT8>
              %panel.2 = panel_window %panel.1, 0, %j {k = 4, n = 64} : panel<4x64, INT8>
              %c = matmul_packed %a, %panel.2, 4 : tile<4x64, INT32>
              store %c to %y[%i, %j] valid [4, 64] {shape = [4, 64]}
              yield
            }
            yield
          }
        }
        """,
    )


def test_a_frozen_weight_becomes_a_parameter_that_the_caller_packs():
    program = parse("""
    func f(%x: tensor<4x8, INT8>, frozen %w: tensor<8x100, INT8>, out %y: tensor<4x36, INT32>) {
      %a = load %x[0, 0] valid [4, 4] {shape = [4, 4]} : tile<4x4, INT8>
      %b = load %w[0, 64] valid [8, 36] {shape = [8, 36]} : tile<8x36, INT8>
      %panel = pack %b, 8, 36 : panel<8x36, INT8>
      %wide = load %x[0, 0] valid [4, 8] {shape = [4, 8]} : tile<4x8, INT8>
      %c = matmul_packed %wide, %panel, 4 : tile<4x36, INT32>
      store %c to %y[0, 0] valid [4, 36] {shape = [4, 36]}
    }""")
    verify(program)
    assert to_text(share_panels(program, MACHINE)) == dedent("""\
    func f(%x: tensor<4x8, INT8>, frozen %w: panel<8x100, INT8>, out %y: tensor<4x36, INT32>) {
      %a = load %x[0, 0] valid [4, 4] {shape = [4, 4]} : tile<4x4, INT8>
      %panel.1 = panel_window %w, 0, 64 {k = 8, n = 36} : panel<8x36, INT8>
      %wide = load %x[0, 0] valid [4, 8] {shape = [4, 8]} : tile<4x8, INT8>
      %c = matmul_packed %wide, %panel.1, 4 : tile<4x36, INT32>
      store %c to %y[0, 0] valid [4, 36] {shape = [4, 36]}
    }
    """)


# {load} and {pack} read %w in a loop that would pack it twice.
TWICE = """
        func f(%x: tensor<8x16, INT8>, {w}, out %y: tensor<8x128, INT32>) {{
          for %i in range(0, {turns}, 4) {{
            for %j in range(0, 128, 64) {{
              %a = load %x[%i, {k0}] valid [4, {k}] {{shape = [4, {k}]}} : tile<4x{k}, INT8>
              {b}
              %panel = pack %b, {valid}{trans} : panel<{k}x64, INT8>
              %c = matmul_packed %a, %panel, 4 : tile<4x64, INT32>
              store %c to %y[%i, %j] valid [4, 64] {{shape = [4, 64]}}
              yield
            }}
            yield
          }}
        }}
        """


def twice(
    w: str = "%w: tensor<8x128, INT8>",
    b: str = "%b = load %w[0, %j] valid [8, 64] {shape = [8, 64]} : tile<8x64, INT8>",
    valid: str = "8, 64",
    trans: str = "",
    turns: int = 8,
    k0: int = 0,
    k: int = 8,
) -> str:
    return TWICE.format(w=w, b=b, valid=valid, trans=trans, turns=turns, k0=k0, k=k)


def test_windows_in_the_middle_of_k_are_shared_when_they_start_at_a_group():
    text = twice(
        w="%w: tensor<16x128, INT8>",
        b="%b = load %w[8, %j] valid [8, 64] {shape = [8, 64]} : tile<8x64, INT8>",
        k0=8,
    )
    assert "panel_window" in to_text(share_panels(parse(text), MACHINE))
    assert_native_agrees(text)


def test_windows_of_a_matrix_in_transposed_storage_are_shared_too():
    text = twice(
        w="%w: tensor<128x16, INT8>",
        b="%b = load %w[%j, 8] valid [64, 8] {shape = [64, 8]} : tile<64x8, INT8>",
        trans=" {trans = true}",
        k0=8,
    )
    after = to_text(share_panels(parse(text), MACHINE))
    assert "pack %w.1, 16, 128 {trans = true} : panel<16x128, INT8>" in after
    assert "panel_window %panel.1, 8, %j {k = 8, n = 64}" in after
    assert_pass_changes_no_bit(share_panels, text.replace("INT8", "BF16").replace("INT32", "FP32"))
    assert_native_agrees(text)


LEFT_ALONE = {
    "a matrix that is packed in two ways": twice(
        w="%w: tensor<64x64, INT8>",
        b="%b = load %w[0, 0] valid [64, 64] {shape = [64, 64]} : tile<64x64, INT8>\n"
        "              %turned = pack %b, 64, 64 {trans = true} : panel<64x64, INT8>",
        valid="64, 64",
        k=64,
    ).replace("%x: tensor<8x16", "%x: tensor<8x64"),
    "windows that start inside a column block": twice(
        w="%w: tensor<8x136, INT8>",
        b="%jj = s.add %j, 8 : INDEX\n              "
        "%b = load %w[0, %jj] valid [8, 64] {shape = [8, 64]} : tile<8x64, INT8>",
    ),
    "windows that start inside a group of k": twice(
        b="%b = load %w[4, %j] valid [4, 64] {shape = [4, 64]} : tile<4x64, INT8>",
        valid="4, 64",
        k0=4,
        k=4,
    ),
    "a window of which only a part is valid": twice(
        b="%b = load %w[0, %j] valid [6, 64] {shape = [8, 64]} : tile<8x64, INT8>",
        valid="6, 64",
    ),
    "a matrix that is read in another way too": twice(
        b="%b = load %w[0, %j] valid [8, 64] {shape = [8, 64]} : tile<8x64, INT8>\n"
        "              %row = load %w[0, 0] valid [1, 64] {shape = [1, 64]} : tile<1x64, INT8>",
    ),
    "a matrix that would be packed just once anyway": twice(turns=4),
    "a page of a cache": """
        func f(%x: tensor<8x8, INT8>, %w: tensor<32x64, INT8>, %table: tensor<4, INT32>, out %y: tensor<32x64, INT32>) {
          for %i in range(0, 8, 4) {
            for %p in range(0, 4, 1) {
              %s = read %table[%p] : INT32
              %s.1 = s.min %s, 3 : INDEX
              %s.2 = s.max %s.1, 0 : INDEX
              %at = s.mul %s.2, 8 : INDEX
              %a = load %x[%i, 0] valid [4, 8] {shape = [4, 8]} : tile<4x8, INT8>
              %b = load %w[%at, 0] valid [8, 64] {shape = [8, 64]} : tile<8x64, INT8>
              %panel = pack %b, 8, 64 : panel<8x64, INT8>
              %c = matmul_packed %a, %panel, 4 : tile<4x64, INT32>
              %row = s.mul %p, 8 : INDEX
              %row.1 = s.add %row, %i : INDEX
              store %c to %y[%row.1, 0] valid [4, 64] {shape = [4, 64]}
              yield
            }
            yield
          }
        }
        """,
    "experts whose tokens are counted in memory": """
        func f(%x: tensor<8x8, INT8>, %w: tensor<32x64, INT8>, %table: tensor<4, INT32>, out %y: tensor<8x64, INT32>) {
          for %e in range(0, 4, 1) {
            %s = read %table[%e] : INT32
            %s.1 = s.min %s, 2 : INDEX
            for %t in range(0, %s.1, 1) {
              %at = s.mul %e, 8 : INDEX
              %row = s.mul %t, 4 : INDEX
              %a = load %x[%row, 0] valid [4, 8] {shape = [4, 8]} : tile<4x8, INT8>
              %b = load %w[%at, 0] valid [8, 64] {shape = [8, 64]} : tile<8x64, INT8>
              %panel = pack %b, 8, 64 : panel<8x64, INT8>
              %c = matmul_packed %a, %panel, 4 : tile<4x64, INT32>
              store %c to %y[%row, 0] valid [4, 64] {shape = [4, 64]}
              yield
            }
            yield
          }
        }
        """,
    "experts that memory turns on": """
        func f(%x: tensor<8x8, INT8>, %w: tensor<32x64, INT8>, %table: tensor<4, INT32>, out %y: tensor<8x64, INT32>) {
          for %t in range(0, 8, 4) {
            for %e in range(0, 4, 1) {
              %s = read %table[%e] : INT32
              %on = s.gt %s, 0 : BOOL
              if %on {
                %at = s.mul %e, 8 : INDEX
                %a = load %x[%t, 0] valid [4, 8] {shape = [4, 8]} : tile<4x8, INT8>
                %b = load %w[%at, 0] valid [8, 64] {shape = [8, 64]} : tile<8x64, INT8>
                %panel = pack %b, 8, 64 : panel<8x64, INT8>
                %c = matmul_packed %a, %panel, 4 : tile<4x64, INT32>
                store %c to %y[%t, 0] valid [4, 64] {shape = [4, 64]}
                yield
              } else {
                yield
              }
              yield
            }
            yield
          }
        }
        """,
    "a matrix that the kernel may change": twice(w="inout %w: tensor<8x128, INT8>"),
}


@pytest.mark.parametrize("reason", LEFT_ALONE)
def test_panels_are_left_where_they_are_for(reason: str):
    assert_unchanged(share_panels, LEFT_ALONE[reason])
    assert_native_agrees(LEFT_ALONE[reason])


def test_a_matrix_of_as_many_visits_as_the_caller_says_is_packed_at_the_beginning():
    text = (
        twice().replace("out %y", "%n: INDEX, out %y").replace("range(0, 8, 4)", "range(0, %n, 4)")
    )
    assert "panel_window" in to_text(share_panels(parse(text), MACHINE))
    assert_native_agrees(text, n=8)
