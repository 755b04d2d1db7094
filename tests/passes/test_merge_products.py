"""A walk over K becomes one product."""

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
from tilewright.ir.walk import ops_in
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
    "slices in the other order": changed("range(0, 32, 8)", "range(24, -8, -8)"),
    "a side that is taken backwards": changed(
        "%b = load %w[%k, 0]", "%h = s.sub 24, %k : INDEX\n            %b = load %w[%h, 0]"
    ),
    "slices that start over": changed(
        "%a = load %x[0, %k]", "%h = s.mod %k, 16 : INDEX\n            %a = load %x[0, %h]"
    ),
    "slices that skip now and then": changed(
        "%a = load %x[0, %k]",
        "%h = s.floordiv %k, 16 : INDEX\n"
        "            %q = s.add %k, %h : INDEX\n            %a = load %x[0, %q]",
        "%x: tensor<4x32",
        "%x: tensor<4x33",
    ),
    "rows that change from slice to slice": changed(
        "%a = load %x[0, %k]",
        "%r = s.mod %k, 3 : INDEX\n            %a = load %x[%r, %k]",
        "%x: tensor<4x32",
        "%x: tensor<6x32",
    ),
    "rows of which another number counts in every slice": changed(
        "%a = load",
        "%m = s.floordiv %k, 8 : INDEX\n            %a = load",
        "%a, %b, 4, 8, 16",
        "%a, %b, %m, 8, 16",
    ),
    "columns of which another number counts in every slice": changed(
        "%a = load",
        "%n = s.sub 32, %k : INDEX\n            %h = s.min %n, 16 : INDEX\n            %a = load",
        "%a, %b, 4, 8, 16",
        "%a, %b, 4, 8, %h",
    ),
    "rows that are loaded in another number every time": changed(
        "%a = load %x[0, %k] valid [4, 8]",
        "%m = s.floordiv %k, 8 : INDEX\n            %a = load %x[0, %k] valid [%m, 8]",
        "%a, %b, 4, 8, 16",
        "%a, %b, %m, 8, 16",
    ),
    "slices whose width no group of k divides": changed(
        "range(0, 32, 8)", "range(0, 30, 6)", "[4, 8]", "[4, 6]", "[8, 16]", "[6, 16]",
        "<4x8,", "<4x6,", "<8x16,", "<6x16,", "%b, 4, 8, 16", "%b, 4, 6, 16",
    ),
    "a matrix of a stack for every slice": changed(
        "%x: tensor<4x32", "%x: tensor<32x4x32",
        "load %x[0, %k] valid [4, 8] {shape = [4, 8]}",
        "load %x[%k, 0, %k] valid [1, 4, 8] {drop = [0], shape = [1, 4, 8]}",
    ),
    "one accumulator with two products": changed(
        "yield %c",
        "%d = matmul_acc %c, %a, %b, 4, 8, 16 : tile<4x16, INT32>\n            yield %d",
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", LEFT_ALONE)
def test_products_stay_apart_for(reason: str):
    assert_unchanged(merge_products, LEFT_ALONE[reason])
    assert_native_agrees(LEFT_ALONE[reason])


def test_the_length_of_the_walk_must_be_known():
    text = changed("range(0, 32, 8)", "range(0, %n, 8)", "out %y", "%n: INDEX, out %y")
    assert_unchanged(merge_products, text, n=24)
    assert_native_agrees(text, n=24)


def merged(text: str, **scalars: int) -> str:
    """The program with its products merged, none of them in a loop; the results are the same."""
    program = parse(text)
    verify(program)
    result = merge_products(program, MACHINE)
    verify(result, after="merge_products")
    assert "for" not in [op.name for op in ops_in(result)]
    assert_same_results(program, result, **scalars)
    assert_native_agrees(text, **scalars)
    return to_text(result)


def test_the_two_sides_may_start_anywhere_and_where_is_known_at_run_time_only():
    text = merged(
        changed(
            "%a = load %x[0, %k]",
            "%p = s.mul %o, 3 : INDEX\n            %q = s.add %p, %k : INDEX\n            %a = load %x[%o, %q]",
            "%b = load %w[%k, 0]",
            "%r = s.add 2, %k : INDEX\n            %b = load %w[%r, %o]",
            "%x: tensor<4x32",
            "%o: INDEX, %x: tensor<6x40",
            "%w: tensor<32x16",
            "%w: tensor<34x18",
        ),
        o=2,
    )
    assert "load %w[2, %o] valid [32, 16]" in text


def test_rows_past_the_valid_ones_keep_what_the_accumulator_began_with():
    valid = (
        "valid [4, 8] {shape = [4, 8]}",
        "valid [%m, 8] {shape = [4, 8]}",
        "%b, 4, 8,",
        "%b, %m, 8,",
    )
    text = changed(*valid, "%z: tensor", "%m: INDEX, %z: tensor")
    for m in (1, 3, 4):
        merged(text, m=m)


def test_two_accumulators_of_one_walk_become_two_products():
    text = merged("""
        func f(%x: tensor<4x32, INT8>, %w: tensor<32x32, INT8>, out %y: tensor<4x16, INT32>) {
          %one = full {dtype = INT32, shape = [4, 16], value = 3} : tile<4x16, INT32>
          %other = full {dtype = INT32, shape = [4, 16], value = 0} : tile<4x16, INT32>
          for %k in range(0, 32, 8) carry (%p = %one, %q = %other) -> (%u, %v) {
            %a = load %x[0, %k] valid [4, 8] {shape = [4, 8]} : tile<4x8, INT8>
            %b = load %w[%k, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
            %c = load %w[%k, 16] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
            %d = matmul_acc %p, %a, %b, 4, 8, 16 : tile<4x16, INT32>
            %e = matmul_acc %q, %a, %c, 4, 8, 16 : tile<4x16, INT32>
            yield %d, %e
          }
          %r = mul %u, %v : tile<4x16, INT32>
          store %r to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }""")
    assert (text.count("= matmul_acc"), text.count("= matmul ")) == (1, 1)


def sides(dtype: str, a_trans: bool, b_trans: bool) -> str:
    """A [7, 96] times B [96, 80] in three slices of K, either side stored the other way round."""
    acc = "INT32" if dtype == "INT8" else "FP32"
    x, a, a0 = ("96x7", "32, 7", "%k, 0") if a_trans else ("7x96", "7, 32", "0, %k")
    w, b, b0 = ("80x96", "80, 32", "0, %k") if b_trans else ("96x80", "32, 80", "%k, 0")
    flags = [f"{side}_trans = true" for side, on in (("a", a_trans), ("b", b_trans)) if on]
    how = f" {{{', '.join(flags)}}}" if flags else ""
    inputs = f"%x: tensor<{x}, {dtype}>, %w: tensor<{w}, {dtype}>, %z: tensor<7x80, {acc}>"
    return f"""
        func f({inputs}, out %y: tensor<7x80, {acc}>) {{
          %start = load %z[0, 0] valid [7, 80] {{shape = [7, 80]}} : tile<7x80, {acc}>
          for %k in pipeline(0, 96, 32) carry (%acc = %start) -> (%all) {{
            %a = load %x[{a0}] valid [{a}] {{shape = [{a}]}} : tile<{a.replace(", ", "x")}, {dtype}>
            %b = load %w[{b0}] valid [{b}] {{shape = [{b}]}} : tile<{b.replace(", ", "x")}, {dtype}>
            %c = matmul_acc %acc, %a, %b, 7, 32, 80{how} : tile<7x80, {acc}>
            yield %c
          }}
          store %all to %y[0, 0] valid [7, 80] {{shape = [7, 80]}}
        }}"""


@pytest.mark.parametrize(("a_trans", "b_trans"), [(True, False), (False, True), (True, True)])
def test_sides_that_are_stored_transposed_walk_along_their_other_axis(a_trans: bool, b_trans: bool):
    merged(sides("INT8", a_trans, b_trans))


@pytest.mark.parametrize("b_trans", [False, True], ids=["b", "b transposed"])
@pytest.mark.parametrize("dtype", ["BF16", "FP16", "FP32", "INT8"])
def test_machine_code_rounds_a_merged_sum_like_the_slices(dtype: str, b_trans: bool):
    assert_pass_changes_no_bit(merge_products, sides(dtype, False, b_trans))


def test_slices_of_one_matrix_of_a_stack_are_one_product():
    assert_pass(
        merge_products,
        before="""
        func f(%x: tensor<4x32, INT8>, %w: tensor<3x16x32, INT8>, %e: INDEX, out %y: tensor<4x16, INT32>) {
          %start = full {dtype = INT32, shape = [4, 16], value = 0} : tile<4x16, INT32>
          for %k in range(0, 32, 8) carry (%acc = %start) -> (%all) {
            %a = load %x[0, %k] valid [4, 8] {shape = [4, 8]} : tile<4x8, INT8>
            %b = load %w[%e, 0, %k] valid [1, 16, 8] {drop = [0], shape = [1, 16, 8]} : tile<16x8, INT8>
            %c = matmul_acc %acc, %a, %b, 4, 8, 16 {b_trans = true} : tile<4x16, INT32>
            yield %c
          }
          store %all to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
        after="""
        func f(%x: tensor<4x32, INT8>, %w: tensor<3x16x32, INT8>, %e: INDEX, out %y: tensor<4x16, INT32>) {
          %start = full {dtype = INT32, shape = [4, 16], value = 0} : tile<4x16, INT32>
          %a.1 = load %x[0, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, INT8>
          %b.1 = load %w[%e, 0, 0] valid [1, 16, 32] {drop = [0], shape = [1, 16, 32]} : tile<16x32, INT8>
          %all.1 = matmul %a.1, %b.1, 4, 32, 16 {b_trans = true} : tile<4x16, INT32>
          store %all.1 to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
        e=1,
    )
