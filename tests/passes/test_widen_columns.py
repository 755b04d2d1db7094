"""Narrow column tiles, as wide as the caches like."""

from __future__ import annotations

import pytest
from pass_programs import (
    MACHINE,
    assert_native_agrees,
    assert_pass,
    assert_pass_changes_no_bit,
    assert_same_results,
    assert_unchanged,
)

from tilewright.ir.nodes import index
from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.ir.verify import verify
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
    "columns next to those that are written": changed(
        "%scale = load %s[0, %n]",
        "%q = s.sub %n, 32 : INDEX\n              %scale = load %y[0, %q]",
        "range(0, 128, 32)",
        "range(32, 128, 32)",
    ),
    "a product with the other side transposed": changed(
        "%b = load %w[0, %n] valid [8, 32] {shape = [8, 32]} : tile<8x32, INT8>",
        "%b = load %w[0, %n] valid [32, 32] {shape = [32, 32]} : tile<32x32, INT8>",
        "matmul %a, %b, 4, 8, 32 :",
        "matmul %a, %b, 4, 32, 32 {b_trans = true} :",
        "load %x[0, 0] valid [4, 8] {shape = [4, 8]} : tile<4x8",
        "load %x[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32",
        "%x: tensor<4x8",
        "%x: tensor<4x32",
        "%w: tensor<8x128",
        "%w: tensor<32x128",
    ),
    "columns as the left side of a product": changed(
        "%b = load %w[0, %n] valid [8, 32] {shape = [8, 32]} : tile<8x32, INT8>",
        "%b = load %w[0, 0] valid [32, 32] {shape = [32, 32]} : tile<32x32, INT8>\n"
        "              %e = load %x[0, %n] valid [4, 32] {shape = [4, 32]} : tile<4x32, INT8>",
        "matmul %a, %b, 4, 8, 32 :",
        "matmul %e, %b, 4, 32, 32 :",
        "%x: tensor<4x8",
        "%x: tensor<4x128",
        "%w: tensor<8x128",
        "%w: tensor<32x128",
    ),
    "rows that are others in every turn": changed(
        "%scale = load %s[0, %n]",
        "%r = s.mod %n, 3 : INDEX\n              %scale = load %s[%r, %n]",
        "%s: tensor<1x128",
        "%s: tensor<3x128",
    ),
    "a column that is another one in every turn": changed(
        "%scale = load %s[0, %n] valid [1, 32] {shape = [1, 32]} : tile<1x32, INT32>",
        "%r = s.mod %n, 5 : INDEX\n"
        "              %scale = load %s[0, %r] valid [1, 1] {shape = [1, 1]} : tile<1x1, INT32>",
    ),
    "a number made from the loop's": changed(
        "%d = mul %c, %scale : tile<4x32, INT32>",
        "%r = s.cast %n {to = INT32} : INT32\n              %d = mul %c, %r : tile<4x32, INT32>",
    ),
    "a column made from the loop's number": changed(
        "%d = mul %c, %scale : tile<4x32, INT32>",
        "%r = s.cast %n {to = INT32} : INT32\n"
        "              %e = splat %r {dtype = INT32, shape = [4, 1]} : tile<4x1, INT32>\n"
        "              %d = mul %c, %e : tile<4x32, INT32>",
    ),
    "a view that moves": changed(
        "%scale = load %s[0, %n] valid [1, 32] {shape = [1, 32]} : tile<1x32, INT32>",
        "%v = window %s[0, %n] {shape = [1, 32]} : tensor<1x32, INT32, strides 128x1>\n"
        "              %scale = load %v[0, 0] valid [1, 1] {shape = [1, 1]} : tile<1x1, INT32>",
    ),
    "a product of other rows in every turn": changed(
        "%c = matmul %a, %b, 4,",
        "%m = s.floordiv %n, 32 : INDEX\n              %c = matmul %a, %b, %m,",
    ),
    "a product over more of k in every turn": changed(
        "%c = matmul %a, %b, 4, 8,",
        "%k = s.floordiv %n, 16 : INDEX\n              %c = matmul %a, %b, 4, %k,",
    ),
    "other rows stored in every turn": changed(
        "store %d to %y[0, %n] valid [4, 32]",
        "%m = s.floordiv %n, 32 : INDEX\n              store %d to %y[0, %n] valid [%m, 32]",
    ),
    "padding that grows": changed(
        "%d = mul %c, %scale",
        "%m = s.floordiv %n, 32 : INDEX\n"
        "              %e = load %s[0, 0] valid [%m, 1] {shape = [4, 1]} : tile<4x1, INT32>\n"
        "              %g = fillpad %e valid [%m, 1] {value = 1} : tile<4x1, INT32>\n"
        "              %d = mul %c, %g",
        "%s: tensor<1x128",
        "%s: tensor<4x128",
    ),
    "a branch": changed(
        "store %d to %y[0, %n] valid [4, 32] {shape = [4, 32]}\n",
        "%r = s.lt %n, 64 : BOOL\n              if %r {\n"
        "                store %d to %y[0, %n] valid [4, 32] {shape = [4, 32]}\n"
        "                yield\n              } else {\n                yield\n              }\n",
    ),
    "an element written on the way": changed(
        "%scale = load",
        "%v = read %s[0, %n] : INT32\n              write %y, %v at [0, 3]\n              %scale = load",
    ),
    "a last tile that is narrower": changed("range(0, 128, 32)", "range(0, 112, 32)"),
    "a loop backwards": changed("range(0, 128, 32)", "range(96, -32, -32)"),
}


@pytest.mark.parametrize("reason", LEFT_ALONE)
def test_columns_stay_narrow_for(reason: str):
    assert_unchanged(widen_columns, LEFT_ALONE[reason])
    assert_native_agrees(LEFT_ALONE[reason])


# Two views of one tensor whose columns have the same numbers and are not the same ones.
@pytest.mark.parametrize(
    ("view", "source", "target"),
    [
        (
            "%t = window %y[0, 16] {shape = [4, 112]} : tensor<4x112, INT32, strides 128x1>",
            "y[0",
            "t[0",
        ),
        (
            "%t = window %y[0, 16] {shape = [4, 112]} : tensor<4x112, INT32, strides 128x1>",
            "t[0",
            "y[0",
        ),
        ("%t = reshape_view %y {shape = [8, 64]} : tensor<8x64, INT32>", "y[0", "t[1"),
    ],
    ids=["shifted", "shifted the other way", "reshaped"],
)
def test_columns_of_two_views_of_one_tensor_are_not_compared(view: str, source: str, target: str):
    text = f"""
        func f(%x: tensor<4x128, INT32>, inout %y: tensor<4x128, INT32>) {{
          {view}
          for %n in range(0, 64, 16) {{
            %a = load %{source}, %n] valid [1, 16] {{shape = [1, 16]}} : tile<1x16, INT32>
            %b = load %x[0, %n] valid [1, 16] {{shape = [1, 16]}} : tile<1x16, INT32>
            %c = add %a, %b : tile<1x16, INT32>
            store %c to %{target}, %n] valid [1, 16] {{shape = [1, 16]}}
            yield
          }}
        }}
        """
    assert_unchanged(widen_columns, text)
    assert_native_agrees(text)


def test_a_loop_in_a_loop_is_widened_and_a_carried_value_stops_it():
    text = """
        func f(%x: tensor<8x128, INT32>, out %y: tensor<8x128, INT32>) {{
          for %i in range(0, 8, 4) {{
            for %n in range(0, 128, 32) {carry}{{
              %a = load %x[%i, %n] valid [4, 32] {{shape = [4, 32]}} : tile<4x32, INT32>
              %b = neg %a : tile<4x32, INT32>
              store %b to %y[%i, %n] valid [4, 32] {{shape = [4, 32]}}
              {end}
            }}
            yield
          }}
        }}
        """
    carried = text.format(carry="carry (%c = 0) -> (%d) ", end="yield %c")
    assert_unchanged(widen_columns, carried)
    assert "load %x[%i, %n] valid [4, 128]" in widened(text.format(carry="", end="yield"))


def widened(text: str, **scalars: int) -> str:
    """The program after the pass; the results are the same."""
    program = parse(text)
    verify(program)
    result = widen_columns(program, MACHINE)
    verify(result, after="widen_columns")
    assert_same_results(program, result, **scalars)
    assert_native_agrees(text, **scalars)
    return to_text(result)


def test_columns_may_be_overwritten_where_they_are_and_begin_where_is_known_at_run_time_only():
    text = """
        func f(%o: INDEX, %x: tensor<3x8x140, INT32>, %z: tensor<8x8, INT32>, inout %y: tensor<8x140, INT32>) {
          for %n in range(0, 128, 16) {
            %p = s.mod %o, 7 : INDEX
            %q = s.add %n, %p : INDEX
            %a = load %y[1, %q] valid [2, 16] {shape = [2, 16]} : tile<2x16, INT32>
            %b = load %x[%p, 2, %q] valid [1, 2, 16] {drop = [0], shape = [1, 2, 16]} : tile<2x16, INT32>
            %c = load %z[%p, 0] valid [2, 1] {shape = [2, 1]} : tile<2x1, INT32>
            %d = add %a, %b : tile<2x16, INT32>
            %e = mul %d, %c : tile<2x16, INT32>
            %k = full {dtype = INT32, shape = [2, 16], value = 3} : tile<2x16, INT32>
            %g = sub %e, %k : tile<2x16, INT32>
            store %g to %y[1, %q] valid [2, 16] {shape = [2, 16]}
            %h = load %y[0, %q] valid [2, 16] {shape = [2, 16]} : tile<2x16, INT32>
            store %h to %y[4, %q] valid [2, 16] {shape = [2, 16]}
            yield
          }
        }"""
    assert "load %y[1, %q] valid [2, 128]" in widened(text, o=2)


def test_of_two_stores_to_one_window_the_later_one_still_wins():
    text = NARROW.replace(
        "store %d to %y",
        "store %c to %y[0, %n] valid [4, 32] {shape = [4, 32]}\n              store %d to %y",
    )
    assert widened(text).count("valid [4, 128]") == 2


@pytest.mark.parametrize("dtype", ["BF16", "FP16", "FP32", "INT8"])
def test_machine_code_rounds_wide_columns_like_narrow_ones(dtype: str):
    acc = "INT32" if dtype == "INT8" else "FP32"
    inputs = f"%x: tensor<7x72, {dtype}>, %w: tensor<72x192, {dtype}>, %s: tensor<1x192, {acc}>"
    assert_pass_changes_no_bit(
        widen_columns,
        f"""
        func f({inputs}, out %y: tensor<7x192, {acc}>) {{
          %a = load %x[0, 0] valid [7, 72] {{shape = [7, 72]}} : tile<7x72, {dtype}>
          for %n in range(0, 192, 48) {{
            %b = load %w[0, %n] valid [72, 48] {{shape = [72, 48]}} : tile<72x48, {dtype}>
            %c = matmul %a, %b, 7, 72, 48 : tile<7x48, {acc}>
            %scale = load %s[0, %n] valid [1, 48] {{shape = [1, 48]}} : tile<1x48, {acc}>
            %d = mul %c, %scale : tile<7x48, {acc}>
            store %d to %y[0, %n] valid [7, 48] {{shape = [7, 48]}}
            yield
          }}
        }}""",
    )
