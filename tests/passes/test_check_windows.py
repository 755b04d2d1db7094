"""Where bounds are checked, and where they are proved."""

from __future__ import annotations

import pytest
from pass_programs import MACHINE, arguments, assert_pass, assert_unchanged

from tilewright.errors import BoundsError
from tilewright.interpreter import run
from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.passes.check_windows import check_windows


def test_a_window_that_is_provably_inside_is_not_checked():
    assert_unchanged(
        check_windows,
        """
        func f(%x: tensor<64x16, FP32>, %n: INDEX, out %y: tensor<64x16, FP32>) {
          %most = s.max %n, 0 : INDEX
          %row = s.min %most, 60 : INDEX
          for %i in range(0, 64, 4) {
            %a = load %x[%i, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
            store %a to %y[%row, 0] valid [4, 16] {shape = [4, 16]}
            yield
          }
        }
        """,
        n=70,
    )


def test_the_last_window_of_a_loop_that_does_not_divide_is_proved_by_its_valid_rows():
    assert_unchanged(
        check_windows,
        """
        func f(%x: tensor<13x16, FP32>, out %y: tensor<13x16, FP32>) {
          for %i in range(0, 13, 13) {
            %a = load %x[%i, 0] valid [13, 16] {shape = [13, 16]} : tile<13x16, FP32>
            store %a to %y[%i, 0] valid [13, 16] {shape = [13, 16]}
            yield
          }
        }
        """,
    )


def test_what_a_scalar_parameter_places_is_checked_at_the_beginning():
    assert_pass(
        check_windows,
        before="""
        func f(%x: tensor<64x16, FP32>, %n: INDEX, out %y: tensor<4x16, FP32>) {
          %z = full {dtype = FP32, shape = [4, 16], value = 0.0} : tile<4x16, FP32>
          store %z to %y[0, 0] valid [4, 16] {shape = [4, 16]}
          at "read" {
            %row = s.add %n, 1 : INDEX
            %a = load %x[%row, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
            store %a to %y[0, 0] valid [4, 16] {shape = [4, 16]}
            yield
          }
        }""",
        after="""
        func f(%x: tensor<64x16, FP32>, %n: INDEX, out %y: tensor<4x16, FP32>) {
          %row.1 = s.add %n, 1 : INDEX
          check_window at [%row.1, 0] valid [4, 16] {access = "read", extents = [64, 16], subject = "x"}
          %z = full {dtype = FP32, shape = [4, 16], value = 0.0} : tile<4x16, FP32>
          store %z to %y[0, 0] valid [4, 16] {shape = [4, 16]}
          at "read" {
            %row = s.add %n, 1 : INDEX
            %a = load %x[%row, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
            store %a to %y[0, 0] valid [4, 16] {shape = [4, 16]}
            yield
          }
        }
        """,
        n=7,
    )


def test_a_check_in_constant_loops_moves_to_the_beginning_with_their_first_and_last_values():
    assert_pass(
        check_windows,
        before="""
        func f(%x: tensor<64x16, FP32>, %n: INDEX, out %y: tensor<64x16, FP32>) {
          for %i in range(0, 8, 3) {
            for %j in parallel(1, 3, 1) {
              %four = s.mul %i, 4 : INDEX
              %row = s.add %four, %j : INDEX
              %from = s.add %n, %row : INDEX
              %a = load %x[%from, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
              store %a to %y[%row, 0] valid [1, 16] {shape = [1, 16]}
              yield
            }
            yield
          }
        }""",
        after="""
        func f(%x: tensor<64x16, FP32>, %n: INDEX, out %y: tensor<64x16, FP32>) {
          %from.1 = s.add %n, 1 : INDEX
          check_window at [%from.1, 0] valid [1, 16] {access = "read", extents = [64, 16], subject = "x"}
          %from.2 = s.add %n, 26 : INDEX
          check_window at [%from.2, 0] valid [1, 16] {access = "read", extents = [64, 16], subject = "x"}
          for %i in range(0, 8, 3) {
            for %j in parallel(1, 3, 1) {
              %four = s.mul %i, 4 : INDEX
              %row = s.add %four, %j : INDEX
              %from = s.add %n, %row : INDEX
              %a = load %x[%from, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
              store %a to %y[%row, 0] valid [1, 16] {shape = [1, 16]}
              yield
            }
            yield
          }
        }
        """,
        n=5,
    )


def test_a_failing_check_at_the_beginning_leaves_the_outputs_alone():
    program = parse("""
    func f(%x: tensor<8x16, FP32>, %n: INDEX, out %y: tensor<8x16, FP32>) {
      for %i in range(0, 4, 1) {
        %row = s.add %n, %i : INDEX
        %a = load %x[%row, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
        store %a to %y[%i, 0] valid [1, 16] {shape = [1, 16]}
        yield
      }
    }""")
    checked = check_windows(program, MACHINE)
    for start in (-1, 5, 1 << 62):  # the first row, the last row, a sum that does not fit 64 bits
        args = arguments(program, {"n": start})
        before = args["y"].clone()
        with pytest.raises(BoundsError, match="x"):
            run(checked, list(args.values()))
        assert args["y"].equal(before)


def test_a_check_under_a_loop_of_run_time_bounds_stays_in_front_of_its_access():
    assert_pass(
        check_windows,
        before="""
        func f(%x: tensor<64x16, FP32>, %n: INDEX, out %y: tensor<1x16, FP32>) {
          for %i in range(0, %n, 1) {
            %a = load %x[%i, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %a to %y[0, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
        }""",
        after="""
        func f(%x: tensor<64x16, FP32>, %n: INDEX, out %y: tensor<1x16, FP32>) {
          for %i in range(0, %n, 1) {
            check_window at [%i, 0] valid [1, 16] {access = "read", extents = [64, 16], subject = "x"}
            %a = load %x[%i, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %a to %y[0, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
        }
        """,
        n=5,
    )


def test_a_loop_that_never_runs_needs_no_check():
    assert_unchanged(
        check_windows,
        """
        func f(%x: tensor<8x16, FP32>, %n: INDEX, out %y: tensor<8x16, FP32>) {
          for %i in range(0, 0, 1) {
            %a = load %x[%n, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %a to %y[%n, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
        }
        """,
        n=100,
    )


def test_offsets_that_decrease_with_a_loop_are_checked_in_place():
    assert_pass(
        check_windows,
        before="""
        func f(%x: tensor<64x16, FP32>, %n: INDEX, out %y: tensor<1x16, FP32>) {
          for %i in range(0, 4, 1) {
            %row = s.sub %n, %i : INDEX
            %a = load %x[%row, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %a to %y[0, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
        }""",
        after="""
        func f(%x: tensor<64x16, FP32>, %n: INDEX, out %y: tensor<1x16, FP32>) {
          for %i in range(0, 4, 1) {
            %row = s.sub %n, %i : INDEX
            check_window at [%row, 0] valid [1, 16] {access = "read", extents = [64, 16], subject = "x"}
            %a = load %x[%row, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %a to %y[0, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
        }
        """,
        n=5,
    )


def test_offsets_that_fold_back_in_a_loop_are_checked_in_place():
    assert_pass(
        check_windows,
        before="""
        func f(%x: tensor<8x16, FP32>, %n: INDEX, out %y: tensor<1x16, FP32>) {
          for %i in range(0, 12, 1) {
            %turn = s.mod %i, 5 : INDEX
            %row = s.add %n, %turn : INDEX
            %a = load %x[%row, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %a to %y[0, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
        }""",
        after="""
        func f(%x: tensor<8x16, FP32>, %n: INDEX, out %y: tensor<1x16, FP32>) {
          for %i in range(0, 12, 1) {
            %turn = s.mod %i, 5 : INDEX
            %row = s.add %n, %turn : INDEX
            check_window at [%row, 0] valid [1, 16] {access = "read", extents = [8, 16], subject = "x"}
            %a = load %x[%row, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %a to %y[0, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
        }
        """,
        n=3,
    )


def test_a_check_guarded_by_a_branch_stays_behind_it():
    assert_pass(
        check_windows,
        before="""
        func f(%x: tensor<8x16, FP32>, %n: INDEX, out %y: tensor<1x16, FP32>) {
          %inside = s.lt %n, 8 : BOOL
          if %inside {
            %a = load %x[%n, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %a to %y[0, 0] valid [1, 16] {shape = [1, 16]}
            yield
          } else {
            yield
          }
        }""",
        after="""
        func f(%x: tensor<8x16, FP32>, %n: INDEX, out %y: tensor<1x16, FP32>) {
          %inside = s.lt %n, 8 : BOOL
          if %inside {
            check_window at [%n, 0] valid [1, 16] {access = "read", extents = [8, 16], subject = "x"}
            %a = load %x[%n, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %a to %y[0, 0] valid [1, 16] {shape = [1, 16]}
            yield
          } else {
            yield
          }
        }
        """,
        n=100,
    )


def test_an_offset_read_from_memory_is_checked_where_it_is_known():
    assert_pass(
        check_windows,
        before="""
        func f(%x: tensor<8x16, FP32>, %at: tensor<1, INT32>, %n: INDEX, out %y: tensor<1x16, FP32>) {
          %i = read %at[0] : INT32
          %row = s.add %i, 9 : INDEX
          %half = s.floordiv %row, 3 : INDEX
          %a = load %x[%half, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
          store %a to %y[0, 0] valid [1, 16] {shape = [1, 16]}
        }""",
        after="""
        func f(%x: tensor<8x16, FP32>, %at: tensor<1, INT32>, %n: INDEX, out %y: tensor<1x16, FP32>) {
          %i = read %at[0] : INT32
          %row = s.add %i, 9 : INDEX
          %half = s.floordiv %row, 3 : INDEX
          check_window at [%half, 0] valid [1, 16] {access = "read", extents = [8, 16], subject = "x"}
          %a = load %x[%half, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
          store %a to %y[0, 0] valid [1, 16] {shape = [1, 16]}
        }
        """,
        n=0,
    )


def test_a_cast_that_saturates_proves_no_more_than_its_range():
    # INT8 of 200 ... 300 is 127: the row is 173, not 0 ... 100.
    program = parse("""
    func f(%x: tensor<101x16, FP32>, out %y: tensor<1x16, FP32>) {
      for %i in range(200, 301, 100) {
        %code = s.cast %i {to = INT8} : INT8
        %row = s.sub 300, %code : INDEX
        %a = load %x[%row, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
        store %a to %y[0, 0] valid [1, 16] {shape = [1, 16]}
        yield
      }
    }""")
    assert "check_window at [%row, 0]" in to_text(check_windows(program, MACHINE))


def test_windows_of_tiles_and_single_elements_are_checked_too():
    assert_pass(
        check_windows,
        before="""
        func f(%x: tensor<8x16, FP32>, %n: INDEX, out %y: tensor<8x16, FP32>) {
          %a = load %x[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, FP32>
          %row = extract %a[%n, 0] {shape = [1, 16]} : tile<1x16, FP32>
          store %row to %y[0, 0] valid [1, 16] {shape = [1, 16]}
          %first = element %a[%n, 3] : FP32
          write %y, %first at [%n, 4]
        }""",
        after="""
        func f(%x: tensor<8x16, FP32>, %n: INDEX, out %y: tensor<8x16, FP32>) {
          check_window at [%n, 0] valid [1, 16] {access = "read", extents = [8, 16], subject = "a"}
          check_window at [%n, 3] valid [1, 1] {access = "read", extents = [8, 16], subject = "a"}
          check_window at [%n, 4] valid [1, 1] {access = "write", extents = [8, 16], subject = "y"}
          %a = load %x[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, FP32>
          %row = extract %a[%n, 0] {shape = [1, 16]} : tile<1x16, FP32>
          store %row to %y[0, 0] valid [1, 16] {shape = [1, 16]}
          %first = element %a[%n, 3] : FP32
          write %y, %first at [%n, 4]
        }
        """,
        n=2,
    )
