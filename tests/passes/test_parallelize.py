"""Which thread runs what."""

from __future__ import annotations

from textwrap import dedent

from pass_programs import MACHINE, assert_native_agrees, assert_pass, assert_unchanged

from tilewright.ir.parser import parse
from tilewright.passes.parallelize import parallelize

BETWEEN_LOOPS = """
        func f(%x: tensor<4x16, FP32>, %n: INDEX, out %y: tensor<4x16, FP32>, out %z: tensor<4x16, FP32>) {
          %t = create {dtype = FP32, shape = [64], value = 0} : tensor<64, FP32>
          %a = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          %b = exp %a : tile<4x16, FP32>
          %v = reshape_view %t {shape = [4, 16]} : tensor<4x16, FP32>
          store %a to %v[0, 0] valid [4, 16] {shape = [4, 16]}
          %last = s.add %n, 1 : INDEX
          for %i in parallel(0, %last, 1) {
            %r = extract %b[%i, 0] {shape = [1, 16]} : tile<1x16, FP32>
            store %r to %y[%i, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
          %c = load %v[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          store %c to %z[0, 0] valid [4, 16] {shape = [4, 16]}
        }"""


def test_what_stands_between_parallel_loops_is_one_threads_and_addresses_and_bounds_are_everyones():
    assert_pass(
        parallelize,
        before=BETWEEN_LOOPS,
        after="""
        func f(%x: tensor<4x16, FP32>, %n: INDEX, out %y: tensor<4x16, FP32>, out %z: tensor<4x16, FP32>) {
          %t = create {dtype = FP32, shape = [64], value = 0} : tensor<64, FP32>
          %v = reshape_view %t {shape = [4, 16]} : tensor<4x16, FP32>
          %last = s.add %n, 1 : INDEX
          serial -> (%b: tile<4x16, FP32>) {
            %a = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
            %b.1 = exp %a : tile<4x16, FP32>
            store %a to %v[0, 0] valid [4, 16] {shape = [4, 16]}
            yield %b.1
          }
          for %i in parallel(0, %last, 1) {
            %r = extract %b[%i, 0] {shape = [1, 16]} : tile<1x16, FP32>
            store %r to %y[%i, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
          serial {
            %c = load %v[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
            store %c to %z[0, 0] valid [4, 16] {shape = [4, 16]}
            yield
          }
        }
        """,
        n=3,
    )


def test_the_inside_of_a_parallel_loop_is_left_alone():
    assert_unchanged(
        parallelize,
        """
        func f(%x: tensor<4x16, FP32>, out %y: tensor<4x16, FP32>) {
          for %i in parallel(0, 4, 1) {
            %a = load %x[%i, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            for %j in spmd(0, 16, 4) {
              %b = extract %a[0, %j] {shape = [1, 4]} : tile<1x4, FP32>
              store %b to %y[%i, %j] valid [1, 4] {shape = [1, 4]}
              yield
            }
            yield
          }
        }
        """,
    )


def test_a_loop_or_branch_around_a_parallel_loop_is_walked_by_all_threads():
    assert_pass(
        parallelize,
        before="""
        func f(%x: tensor<4x16, FP32>, %flags: tensor<2, INT32>, inout %y: tensor<4x16, FP32>) {
          for %k in range(0, 2, 1) {
            %flag = read %flags[%k] : INT32
            %on = s.ne %flag, 0 : BOOL
            if %on {
              for %i in parallel(0, 4, 1) {
                %a = load %x[%i, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
                store %a to %y[%i, 0] valid [1, 16] {shape = [1, 16]}
                yield
              }
              yield
            } else {
              write %y, 7.0 at [%k, 2]
              yield
            }
            yield
          }
        }""",
        after="""
        func f(%x: tensor<4x16, FP32>, %flags: tensor<2, INT32>, inout %y: tensor<4x16, FP32>) {
          for %k in range(0, 2, 1) {
            serial -> (%flag: INT32) {
              %flag.1 = read %flags[%k] : INT32
              yield %flag.1
            }
            %on = s.ne %flag, 0 : BOOL
            if %on {
              for %i in parallel(0, 4, 1) {
                %a = load %x[%i, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
                store %a to %y[%i, 0] valid [1, 16] {shape = [1, 16]}
                yield
              }
              yield
            } else {
              serial {
                write %y, 7.0 at [%k, 2]
                yield
              }
              yield
            }
            yield
          }
        }
        """,
    )


def test_a_load_that_all_threads_repeat_comes_after_the_stores_before_it():
    text = """
        func f(%x: tensor<4x16, FP32>, out %y: tensor<4x16, FP32>, inout %z: tensor<4x16, FP32>) {
          %a = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          store %a to %z[0, 0] valid [4, 16] {shape = [4, 16]}
          %b = load %z[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          for %i in parallel(0, 4, 1) {
            %r = extract %b[%i, 0] {shape = [1, 16]} : tile<1x16, FP32>
            store %r to %y[%i, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
        }"""
    assert_pass(
        parallelize,
        before=text,
        after="""
        func f(%x: tensor<4x16, FP32>, out %y: tensor<4x16, FP32>, inout %z: tensor<4x16, FP32>) {
          serial {
            %a = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
            store %a to %z[0, 0] valid [4, 16] {shape = [4, 16]}
            yield
          }
          %b = load %z[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          for %i in parallel(0, 4, 1) {
            %r = extract %b[%i, 0] {shape = [1, 16]} : tile<1x16, FP32>
            store %r to %y[%i, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
        }
        """,
    )
    assert_native_agrees(text)


def test_a_panel_that_a_parallel_loop_reads_is_packed_by_all_threads():
    assert_pass(
        parallelize,
        before="""
        func f(%x: tensor<8x8, INT8>, %w: tensor<8x16, INT8>, out %y: tensor<8x16, INT32>) {
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %panel = pack %b, 8, 16 : panel<8x16, INT8>
          for %i in parallel(0, 8, 4) {
            %a = load %x[%i, 0] valid [4, 8] {shape = [4, 8]} : tile<4x8, INT8>
            %c = matmul_packed %a, %panel, 4 : tile<4x16, INT32>
            store %c to %y[%i, 0] valid [4, 16] {shape = [4, 16]}
            yield
          }
        }""",
        after="""
        func f(%x: tensor<8x8, INT8>, %w: tensor<8x16, INT8>, out %y: tensor<8x16, INT32>) {
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %panel = pack %b, 8, 16 : panel<8x16, INT8>
          for %i in parallel(0, 8, 4) {
            %a = load %x[%i, 0] valid [4, 8] {shape = [4, 8]} : tile<4x8, INT8>
            %c = matmul_packed %a, %panel, 4 : tile<4x16, INT32>
            store %c to %y[%i, 0] valid [4, 16] {shape = [4, 16]}
            yield
          }
        }
        """,
    )


def test_checks_are_everyones_and_wait_for_what_they_look_at():
    assert_pass(
        parallelize,
        before="""
        func f(%at: tensor<1, INT32>, %x: tensor<4x16, FP32>, out %y: tensor<4x16, FP32>) {
          %i = read %at[0] : INT32
          %row = s.min %i, 3 : INDEX
          %up = s.max %row, 0 : INDEX
          check_window at [%up, 0] valid [1, 16] {access = "read", extents = [4, 16], subject = "x"}
          %a = load %x[%up, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
          store %a to %y[0, 0] valid [1, 16] {shape = [1, 16]}
        }""",
        after="""
        func f(%at: tensor<1, INT32>, %x: tensor<4x16, FP32>, out %y: tensor<4x16, FP32>) {
          serial -> (%i: INT32) {
            %i.1 = read %at[0] : INT32
            yield %i.1
          }
          %row = s.min %i, 3 : INDEX
          %up = s.max %row, 0 : INDEX
          check_window at [%up, 0] valid [1, 16] {access = "read", extents = [4, 16], subject = "x"}
          serial {
            %a = load %x[%up, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %a to %y[0, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
        }
        """,
    )


def test_a_region_that_hands_out_a_tensor_is_walked_by_all_threads():
    text = """
        func f(%x: tensor<4x16, FP32>, out %y: tensor<4x16, FP32>) {
          at "make" -> (%t: tensor<4x16, FP32>) {
            %u = create {dtype = FP32, shape = [4, 16], value = 0} : tensor<4x16, FP32>
            %a = load %x[0, 0] valid [2, 16] {shape = [2, 16]} : tile<2x16, FP32>
            store %a to %u[1, 0] valid [2, 16] {shape = [2, 16]}
            yield %u
          }
          for %i in parallel(0, 4, 1) {
            %b = load %t[%i, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %b to %y[%i, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
        }"""
    assert_pass(
        parallelize,
        before=text,
        after="""
        func f(%x: tensor<4x16, FP32>, out %y: tensor<4x16, FP32>) {
          at "make" -> (%t: tensor<4x16, FP32>) {
            %u = create {dtype = FP32, shape = [4, 16], value = 0} : tensor<4x16, FP32>
            serial {
              %a = load %x[0, 0] valid [2, 16] {shape = [2, 16]} : tile<2x16, FP32>
              store %a to %u[1, 0] valid [2, 16] {shape = [2, 16]}
              yield
            }
            yield %u
          }
          for %i in parallel(0, 4, 1) {
            %b = load %t[%i, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %b to %y[%i, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
        }
        """,
    )
    assert_native_agrees(text)


def test_a_loop_that_adds_to_memory_its_turns_share_is_one_threads():
    lowered = parallelize(
        parse(
            dedent("""
            func f(%x: tensor<4x8, FP32>, out %y: tensor<1x8, FP32>) {
              for %i in spmd(0, 4, 1) {
                at "add" {
                  %v = load %x[%i, 0] valid [1, 8] {shape = [1, 8]} : tile<1x8, FP32>
                  store %v to %y[0, 0] valid [1, 8] {atomic = "add", shape = [1, 8]}
                  yield
                }
                yield
              }
            }""")
        ),
        MACHINE,
    )
    assert [op.name for op in lowered.body.ops if op.name != "return"] == ["serial"]


def test_a_loop_inside_one_that_adds_atomically_is_still_shared_and_that_one_is_not():
    text = """
        func f(%x: tensor<64x16, FP32>, out %y: tensor<1x16, FP32>, out %z: tensor<64x16, FP32>) {
          for %e in parallel(0, 4, 1) {
            %first = s.mul %e, 16 : INDEX
            for %i in parallel(0, 16, 1) {
              %row = s.add %first, %i : INDEX
              %v = load %x[%row, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
              store %v to %z[%row, 0] valid [1, 16] {shape = [1, 16]}
              yield
            }
            %w = load %x[%first, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %w to %y[0, 0] valid [1, 16] {atomic = "add", shape = [1, 16]}
            yield
          }
        }"""
    (outer,) = [op for op in parallelize(parse(dedent(text)), MACHINE).body.ops if op.name == "for"]
    (inner,) = [op for op in outer.blocks[0].ops if op.name == "for"]
    assert (outer.attr("kind"), inner.attr("kind")) == ("range", "parallel")
    assert [op.name for op in outer.blocks[0].ops].count("serial") == 1
