"""Neighbouring parallel loops as one."""

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

from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.ir.verify import verify
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
    "a turn that overwrites what the neighbour still reads": changed(
        "%a = load %x[%i, 0]",
        "%n = s.sub 12, %i : INDEX\n            %a = load %y[%n, 0]",
        "out %y",
        "inout %y",
    ),
    "another view of what the first loop makes": changed(
        "          for %j in",
        "          %v = window %t[1, 0] {shape = [15, 32]} : tensor<15x32, FP32>\n          for %j in",
        "%b = load %t[%j, 0]",
        "%n = s.min %j, 11 : INDEX\n            %b = load %v[%n, 0]",
    ),
    "views that each turn takes for itself": changed(
        "store %a to %t[%i, 0]",
        "%v = window %t[%i, 0] {shape = [4, 32]} : tensor<4x32, FP32>\n            store %a to %v[0, 0]",
        "%b = load %t[%j, 0]",
        "%n = s.sub 12, %j : INDEX\n"
        "            %w = window %t[%n, 0] {shape = [4, 32]} : tensor<4x32, FP32>\n"
        "            %b = load %w[0, 0]",
    ),
    "an inner loop that walks into the neighbour's rows": changed(
        "            %b = load %t[%j, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>\n"
        "            %c = neg %b : tile<4x32, FP32>\n"
        "            store %c to %y[%j, 0] valid [4, 32] {shape = [4, 32]}\n",
        "            for %k in range(0, 8, 4) {\n"
        "              %h = s.add %j, %k : INDEX\n"
        "              %m = s.min %h, 12 : INDEX\n"
        "              %b = load %t[%m, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>\n"
        "              %c = neg %b : tile<4x32, FP32>\n"
        "              store %c to %y[%j, 0] valid [4, 32] {shape = [4, 32]}\n"
        "              yield\n"
        "            }\n",
    ),
    "a branch that reads what the first turn makes": changed(
        "            %b = load %t[%j, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>\n"
        "            %c = neg %b : tile<4x32, FP32>\n"
        "            store %c to %y[%j, 0] valid [4, 32] {shape = [4, 32]}\n",
        "            %h = s.lt %j, 8 : BOOL\n"
        "            if %h {\n"
        "              %b = load %t[12, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>\n"
        "              store %b to %y[%j, 0] valid [4, 32] {shape = [4, 32]}\n"
        "              yield\n"
        "            } else {\n"
        "              yield\n"
        "            }\n",
    ),
    "turns in the other order": changed("%j in parallel(0, 16, 4)", "%j in parallel(12, -4, -4)"),
    "loops of one turn": changed("parallel(0, 16, 4)", "parallel(0, 4, 4)"),
    "something that reads memory between them": changed(
        "          for %j in", "          %e = read %t[0, 0] : FP32\n          for %j in"
    ),
}


@pytest.mark.parametrize("reason", LEFT_ALONE)
def test_loops_stay_two_for(reason: str):
    text = LEFT_ALONE[reason]
    assert_unchanged(fuse_loops, text)
    assert_native_agrees(text)


def test_the_number_of_turns_must_be_known():
    text = changed("(0, 16, 4)", "(0, %n, 4)", "out %y", "%n: INDEX, out %y")
    assert_unchanged(fuse_loops, text, n=16)


def fused(text: str, loops: int = 1, **scalars: int) -> str:
    """The program after the pass, with so many parallel loops; the results are the same."""
    program = parse(text)
    verify(program)
    result = fuse_loops(program, MACHINE)
    verify(result, after="fuse_loops")
    after = to_text(result)
    assert after.count(" in parallel(") == loops
    assert_same_results(program, result, **scalars)
    assert_native_agrees(text, **scalars)
    return after


def test_loops_that_begin_elsewhere_and_shift_their_windows_back_are_one():
    text = changed(
        "%j in parallel(0, 16, 4)", "%j in parallel(40, 56, 4)",
        "%b = load %t[%j, 0]", "%r = s.sub %j, 40 : INDEX\n            %b = load %t[%r, 0]",
        "%y[%j, 0]", "%y[%r, 0]",
    )  # fmt: skip
    assert "s.sub %i, -40" not in fused(text)


def test_what_stands_between_the_loops_moves_before_them_unless_it_is_memory():
    text = changed(
        "          for %j in",
        "          %p = s.add %n, 3 : INDEX\n"
        "          %v = window %t[0, %p] {shape = [16, 8]} : tensor<16x8, FP32, strides 32x1>\n"
        "          %u = create {dtype = FP32, shape = [16, 32]} : tensor<16x32, FP32>\n"
        "          for %j in",
        "out %y",
        "%n: INDEX, out %y",
    )
    after = fused(text, n=5)
    assert after.index("%u = create") < after.index("for %i")


def test_windows_that_begin_where_is_known_at_run_time_only_stay_apart_all_the_same():
    text = changed(
        "          for %i",
        "          %o = s.mod %n, 7 : INDEX\n          for %i",
        "store %a to %t[%i, 0]",
        "%p = s.add %i, %o : INDEX\n            store %a to %t[%p, 0]",
        "%b = load %t[%j, 0]",
        "%q = s.add %o, %j : INDEX\n            %b = load %t[%q, 0]",
        "%t: tensor<16x32",
        "%t: tensor<24x32",
        "out %y",
        "%n: INDEX, out %y",
    )
    fused(text, n=12)


def test_inner_loops_within_the_stretch_of_a_turn_do_not_matter():
    text = changed(
        "            store %a to %t[%i, 0] valid [4, 32] {shape = [4, 32]}\n",
        "            for %k in range(0, 4, 1) {\n"
        "              %h = s.add %i, %k : INDEX\n"
        "              %e = extract %a[%k, 0] {shape = [1, 32]} : tile<1x32, FP32>\n"
        "              store %e to %t[%h, 0] valid [1, 32] {shape = [1, 32]}\n"
        "              yield\n"
        "            }\n",
    )
    fused(text)


def test_columns_keep_turns_apart_as_well_as_rows():
    fused("""
        func f(%x: tensor<4x64, FP32>, inout %t: tensor<4x64, FP32>, out %y: tensor<4x64, FP32>) {
          for %i in parallel(0, 64, 16) {
            %a = load %x[0, %i] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
            store %a to %t[0, %i] valid [4, 16] {shape = [4, 16]}
            yield
          }
          for %j in spmd(0, 4, 1) {
            %c = s.mul %j, 16 : INDEX
            %d = s.add %c, 8 : INDEX
            %b = load %t[0, %d] valid [4, 8] {shape = [4, 8]} : tile<4x8, FP32>
            store %b to %y[0, %c] valid [4, 8] {shape = [4, 8]}
            yield
          }
        }""", loops=0)  # the loop with the smaller step is the spmd one  # fmt: skip


# What a third loop reads the second has made; what it writes the first has read.
THREE = """
        func f(inout %x: tensor<16x32, FP32>, inout %t: tensor<16x32, FP32>, inout %u: tensor<16x32, FP32>) {{
          for %i in parallel(0, 16, 4) {{
            %a = load %x[%i, 0] valid [4, 32] {{shape = [4, 32]}} : tile<4x32, FP32>
            store %a to %t[%i, 0] valid [4, 32] {{shape = [4, 32]}}
            yield
          }}
          for %j in parallel(0, 16, 4) {{
            %b = load %t[%j, 0] valid [4, 32] {{shape = [4, 32]}} : tile<4x32, FP32>
            %c = neg %b : tile<4x32, FP32>
            store %c to %u[%j, 0] valid [4, 32] {{shape = [4, 32]}}
            yield
          }}
          for %k in parallel(0, 16, 4) {{
            %q = s.sub 12, %k : INDEX
            %d = load %u[%{read}, 0] valid [4, 32] {{shape = [4, 32]}} : tile<4x32, FP32>
            store %d to %x[%{write}, 0] valid [4, 32] {{shape = [4, 32]}}
            yield
          }}
        }}"""


@pytest.mark.parametrize(("read", "write", "loops"), [("k", "k", 1), ("q", "k", 2), ("k", "q", 2)])
def test_a_third_loop_is_held_against_both_that_were_fused(read: str, write: str, loops: int):
    fused(THREE.format(read=read, write=write), loops)


def test_of_two_stores_to_one_window_the_later_loop_still_wins():
    fused(changed("store %c to %y[%j, 0]", "store %c to %t[%j, 0]"))


@pytest.mark.parametrize("dtype", ["BF16", "FP32", "INT8"])
def test_machine_code_gives_the_same_bits_from_one_loop_as_from_two(dtype: str):
    acc = "INT32" if dtype == "INT8" else "FP32"
    inputs = f"%x: tensor<7x72, {dtype}>, %w: tensor<72x192, {dtype}>, %s: tensor<1x192, {acc}>"
    assert_pass_changes_no_bit(
        fuse_loops,
        f"""
        func f({inputs}, out %y: tensor<7x192, {acc}>) {{
          %t = create {{dtype = {acc}, shape = [7, 192]}} : tensor<7x192, {acc}>
          for %n in parallel(0, 192, 64) {{
            %a = load %x[0, 0] valid [7, 72] {{shape = [7, 72]}} : tile<7x72, {dtype}>
            %b = load %w[0, %n] valid [72, 64] {{shape = [72, 64]}} : tile<72x64, {dtype}>
            %c = matmul %a, %b, 7, 72, 64 : tile<7x64, {acc}>
            store %c to %t[0, %n] valid [7, 64] {{shape = [7, 64]}}
            yield
          }}
          for %m in parallel(0, 192, 64) {{
            %d = load %t[0, %m] valid [7, 64] {{shape = [7, 64]}} : tile<7x64, {acc}>
            %e = load %s[0, %m] valid [1, 64] {{shape = [1, 64]}} : tile<1x64, {acc}>
            %g = mul %d, %e : tile<7x64, {acc}>
            store %g to %y[0, %m] valid [7, 64] {{shape = [7, 64]}}
            yield
          }}
        }}""",
    )


def test_a_third_loop_joins_the_two_that_were_joined():
    third = """          for %k in parallel(0, 16, 4) {
            %d = load %y[%k, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
            %e = abs %d : tile<4x32, FP32>
            store %e to %x[%k, 0] valid [4, 32] {shape = [4, 32]}
            yield
          }
        }
        """
    text = TWO_LOOPS.rstrip().removesuffix("}").rstrip() + "\n" + third
    text = text.replace("%x: tensor", "inout %x: tensor").replace("%j", "%r")
    text = text.replace(
        "for %r in parallel(0, 16, 4) {",
        "for %j in parallel(0, 4, 1) {\n            %r = s.mul %j, 4 : INDEX",
    )
    program = parse(text)
    verify(program)
    after = fuse_loops(program, MACHINE)
    verify(after)
    assert to_text(after).count("parallel(") == 1
    assert_same_results(program, after)
    assert_native_agrees(text)
