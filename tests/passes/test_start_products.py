"""The accumulator idiom without its branch."""

from __future__ import annotations

from pass_programs import MACHINE, assert_pass, assert_unchanged

from tilewright.ir.parser import parse
from tilewright.passes.start_products import start_products


def test_first_matmul_then_matmul_acc_is_an_accumulator_that_starts_at_zero():
    assert_pass(
        start_products,
        before="""
        func f(%x: tensor<4x32, BF16>, %w: tensor<32x16, BF16>, out %y: tensor<4x16, FP32>) {
          %acc = full {dtype = FP32, shape = [4, 16], value = 5.0} : tile<4x16, FP32>
          for %k in range(0, 32, 8) carry (%c = %acc) -> (%last) {
            %a = load %x[0, %k] valid [4, 8] {shape = [4, 8]} : tile<4x8, BF16>
            %b = load %w[%k, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, BF16>
            %first = s.eq %k, 0 : BOOL
            if %first -> (%r: tile<4x16, FP32>) {
              %p = matmul %a, %b, 4, 8, 16 : tile<4x16, FP32>
              yield %p
            } else {
              %q = matmul_acc %c, %a, %b, 4, 8, 16 : tile<4x16, FP32>
              yield %q
            }
            yield %r
          }
          store %last to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }""",
        after="""
        func f(%x: tensor<4x32, BF16>, %w: tensor<32x16, BF16>, out %y: tensor<4x16, FP32>) {
          %acc = full {dtype = FP32, shape = [4, 16], value = 5.0} : tile<4x16, FP32>
          %zero = full {dtype = FP32, shape = [4, 16], value = 0} : tile<4x16, FP32>
          for %k in range(0, 32, 8) carry (%c = %zero) -> (%last) {
            %a = load %x[0, %k] valid [4, 8] {shape = [4, 8]} : tile<4x8, BF16>
            %b = load %w[%k, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, BF16>
            %first = s.eq %k, 0 : BOOL
            %r = matmul_acc %c, %a, %b, 4, 8, 16 : tile<4x16, FP32>
            yield %r
          }
          store %last to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
    )


PRODUCTS = """
        func f(%x: tensor<4x32, BF16>, %w: tensor<32x16, BF16>, %n: INDEX, out %y: tensor<4x16, FP32>) {{
          %acc = full {{dtype = FP32, shape = [4, 16], value = 5.0}} : tile<4x16, FP32>
          for %k in range({bounds}) carry (%c = %acc) -> (%last) {{
            %a = load %x[0, 8] valid [4, 8] {{shape = [4, 8]}} : tile<4x8, BF16>
            %b = load %w[8, 0] valid [8, 16] {{shape = [8, 16]}} : tile<8x16, BF16>
            %first = s.eq %k, {first} : BOOL
            if %first -> (%r: tile<4x16, FP32>) {{
              %p = matmul %a, {b}, 4, 8, 16 : tile<4x16, FP32>
              yield %p
            }} else {{
              %q = matmul_acc %c, %a, %b, 4, 8, 16 : tile<4x16, FP32>
              yield %q
            }}
            {end}
          }}
          store %last to %y[0, 0] valid [4, 16] {{shape = [4, 16]}}
        }}
        """


def program(bounds: str = "0, 4, 1", first: str = "0", b: str = "%b", end: str = "yield %r") -> str:
    return PRODUCTS.format(bounds=bounds, first=first, b=b, end=end)


def test_the_program_that_the_next_tests_change_is_one_that_the_pass_rewrites():
    before = parse(program())
    assert start_products(before, MACHINE) != before


def test_a_loop_that_may_not_run_keeps_its_first_accumulator():
    assert_unchanged(start_products, program(bounds="0, %n, 1"), n=0)
    assert_unchanged(start_products, program(bounds="0, 4, -1"), n=0)
    assert_unchanged(start_products, program(bounds="0, 0, 1"), n=0)


def test_a_branch_on_another_iteration_than_the_first_stays():
    assert_unchanged(start_products, program(first="1"), n=0)


def test_an_accumulator_that_something_else_reads_stays():
    assert_unchanged(
        start_products,
        program(end="%m = maximum %c, %r : tile<4x16, FP32>\n            yield %m"),
        n=0,
    )


def test_arms_that_multiply_different_things_stay():
    assert_unchanged(
        start_products,
        program(b="%d").replace(
            "            %first",
            "            %d = neg %b : tile<8x16, BF16>\n            %first",
        ),
        n=0,
    )
