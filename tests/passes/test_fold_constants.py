"""Scalar arithmetic that is known once shapes are."""

from __future__ import annotations

from pass_programs import MACHINE, assert_pass, assert_unchanged

from tilewright.ir.parser import parse
from tilewright.passes.fold_constants import fold_constants


def test_offsets_of_literals_become_literals():
    assert_pass(
        fold_constants,
        before="""
        func f(%x: tensor<8x16, FP32>, out %y: tensor<4x16, FP32>) {
          %half = s.floordiv 8, 2 : INDEX
          %start = s.sub %half, 1 : INDEX
          %a = load %x[%start, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          store %a to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }""",
        after="""
        func f(%x: tensor<8x16, FP32>, out %y: tensor<4x16, FP32>) {
          %a = load %x[3, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          store %a to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
    )


def test_adding_zero_and_multiplying_by_one_go_away():
    assert_pass(
        fold_constants,
        before="""
        func f(%x: tensor<8x16, FP32>, %n: INDEX, out %y: tensor<4x16, FP32>) {
          %same = s.add %n, 0 : INDEX
          %again = s.mul %same, 1 : INDEX
          %a = load %x[%again, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          store %a to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }""",
        after="""
        func f(%x: tensor<8x16, FP32>, %n: INDEX, out %y: tensor<4x16, FP32>) {
          %a = load %x[%n, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          store %a to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
        n=3,
    )


def test_a_branch_on_a_literal_becomes_its_arm():
    assert_pass(
        fold_constants,
        before="""
        func f(%x: tensor<4x16, FP32>, out %y: tensor<4x16, FP32>) {
          %small = s.lt 4, 3 : BOOL
          %a = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          if %small -> (%r: tile<4x16, FP32>) {
            %b = neg %a : tile<4x16, FP32>
            yield %b
          } else {
            %c = abs %a : tile<4x16, FP32>
            yield %c
          }
          store %r to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }""",
        after="""
        func f(%x: tensor<4x16, FP32>, out %y: tensor<4x16, FP32>) {
          %a = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          %c = abs %a : tile<4x16, FP32>
          store %c to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
    )


def test_an_integer_cast_of_a_literal_saturates():
    assert_pass(
        fold_constants,
        before="""
        func f(out %y: tensor<1x16, INT32>) {
          %most = s.cast 300 {to = INT8} : INT8
          %as_word = s.cast %most {to = INT32} : INT32
          write %y, %as_word at [0, 0]
        }""",
        after="""
        func f(out %y: tensor<1x16, INT32>) {
          write %y, 127:INT32 at [0, 0]
        }
        """,
    )


def test_of_two_equal_scalars_the_second_reads_the_first_where_that_has_surely_run():
    assert_pass(
        fold_constants,
        before="""
        func f(%x: tensor<64x16, FP32>, %n: INDEX, out %y: tensor<64x16, FP32>) {
          %big = s.gt %n, 2 : BOOL
          if %big {
            %p = s.mul %n, 3 : INDEX
            %a = load %x[%p, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %a to %y[0, 0] valid [1, 16] {shape = [1, 16]}
            yield
          } else {
            yield
          }
          %q = s.mul %n, 3 : INDEX
          for %i in range(0, 2, 1) {
            %r = s.mul %n, 3 : INDEX
            %b = load %x[%r, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %b to %y[%q, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
        }""",
        after="""
        func f(%x: tensor<64x16, FP32>, %n: INDEX, out %y: tensor<64x16, FP32>) {
          %big = s.gt %n, 2 : BOOL
          if %big {
            %p = s.mul %n, 3 : INDEX
            %a = load %x[%p, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %a to %y[0, 0] valid [1, 16] {shape = [1, 16]}
            yield
          } else {
            yield
          }
          %q = s.mul %n, 3 : INDEX
          for %i in range(0, 2, 1) {
            %b = load %x[%q, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %b to %y[%q, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
        }
        """,
        n=3,
    )


def test_floating_scalars_are_left_to_run_time_where_they_compute_in_fp32():
    assert_unchanged(
        fold_constants,
        """
        func f(%x: tensor<1x16, FP32>, out %y: tensor<1x16, FP32>) {
          %third = s.div 1.0, 3.0 : FP32
          %a = load %x[0, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
          %b = mul %a, %third : tile<1x16, FP32>
          store %b to %y[0, 0] valid [1, 16] {shape = [1, 16]}
        }
        """,
    )


def test_a_division_by_a_literal_zero_is_left_for_the_run_to_report():
    program = parse("""
    func f(inout %y: tensor<8, FP32>) {
      %q = s.floordiv 4, 0 : INDEX
      write %y, 1.0 at [%q]
    }""")
    assert fold_constants(program, MACHINE) == program


def test_a_while_loop_that_never_begins_hands_on_what_it_carries():
    assert_pass(
        fold_constants,
        before="""
        func f(%n: INDEX, out %y: tensor<2, FP32>) {
          %c = s.lt 5, 3 : BOOL
          while carry (%go = %c, %i = %n) -> (%g, %j) {
            %next = s.add %i, 1 : INDEX
            yield %go, %next
          }
          %r = s.cast %j {to = FP32} : FP32
          write %y, %r at [0]
        }""",
        after="""
        func f(%n: INDEX, out %y: tensor<2, FP32>) {
          %r = s.cast %n {to = FP32} : FP32
          write %y, %r at [0]
        }
        """,
        n=3,
    )
