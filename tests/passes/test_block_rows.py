"""Row-wise work row tile by row tile."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pass_programs import MACHINE, assert_native_agrees, assert_pass, assert_unchanged

from tilewright.ir.nodes import Function
from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.machine import Machine
from tilewright.passes import block_rows as module


def block_rows(fn: Function, machine: Machine) -> Function:
    """The pass on a machine whose second-level cache holds six rows of these programs twice: 72 bytes each."""
    return module.block_rows(fn, replace(machine, l2=2 * 6 * 72))


PRODUCT = """
        func f(%x: tensor<13x8, INT8>, %w: tensor<8x16, INT8>, out %y: tensor<13x16, INT32>) {
          %a = load %x[0, 0] valid [13, 8] {shape = [13, 8]} : tile<13x8, INT8>
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %panel = pack %b, 8, 16 : panel<8x16, INT8>
          %c = matmul_packed %a, %panel, 13 : tile<13x16, INT32>
          %d = neg %c : tile<13x16, INT32>
          store %d to %y[0, 0] valid [13, 16] {shape = [13, 16]}
        }
        """


def test_a_product_and_what_follows_it_run_in_balanced_row_tiles():
    assert_pass(
        block_rows,
        before=PRODUCT,
        after="""
        func f(%x: tensor<13x8, INT8>, %w: tensor<8x16, INT8>, out %y: tensor<13x16, INT32>) {
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %panel = pack %b, 8, 16 : panel<8x16, INT8>
          for %row_tile in parallel(0, 4, 1) {
            %i = s.mul %row_tile, 13 : INDEX
            %r0 = s.floordiv %i, 4 : INDEX
            %i.1 = s.add %row_tile, 1 : INDEX
            %i.2 = s.mul %i.1, 13 : INDEX
            %r1 = s.floordiv %i.2, 4 : INDEX
            %m = s.sub %r1, %r0 : INDEX
            %a.1 = load %x[%r0, 0] valid [%m, 8] {shape = [4, 8]} : tile<4x8, INT8>
            %c.1 = matmul_packed %a.1, %panel, %m {sizes = [3, 4]} : tile<4x16, INT32>
            %d.1 = neg %c.1 : tile<4x16, INT32>
            store %d.1 to %y[%r0, 0] valid [%m, 16] {shape = [4, 16]}
            yield
          }
        }
        """,
    )


def test_inside_a_parallel_loop_the_row_loop_stays_on_its_thread():
    assert_pass(
        block_rows,
        before="""
        func f(%x: tensor<12x8, INT8>, %w: tensor<8x32, INT8>, out %y: tensor<12x32, INT32>) {
          for %j in parallel(0, 32, 16) {
            %a = load %x[0, 0] valid [12, 8] {shape = [12, 8]} : tile<12x8, INT8>
            %b = load %w[0, %j] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
            %panel = pack %b, 8, 16 : panel<8x16, INT8>
            %c = matmul_packed %a, %panel, 12 : tile<12x16, INT32>
            store %c to %y[0, %j] valid [12, 16] {shape = [12, 16]}
            yield
          }
        }""",
        after="""
        func f(%x: tensor<12x8, INT8>, %w: tensor<8x32, INT8>, out %y: tensor<12x32, INT32>) {
          for %j in parallel(0, 32, 16) {
            %b = load %w[0, %j] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
            %panel = pack %b, 8, 16 : panel<8x16, INT8>
            for %row_tile in range(0, 2, 1) {
              %r0 = s.mul %row_tile, 6 : INDEX
              %a.1 = load %x[%r0, 0] valid [6, 8] {shape = [6, 8]} : tile<6x8, INT8>
              %c.1 = matmul_packed %a.1, %panel, 6 {sizes = [6]} : tile<6x16, INT32>
              store %c.1 to %y[%r0, %j] valid [6, 16] {shape = [6, 16]}
              yield
            }
            yield
          }
        }
        """,
    )


def test_a_product_of_which_some_rows_are_valid_may_have_any_number_of_them_in_a_tile():
    assert_pass(
        block_rows,
        before="""
        func f(%x: tensor<13x8, INT8>, %w: tensor<8x16, INT8>, %n: INDEX, out %y: tensor<13x16, INT32>) {
          %a = load %x[0, 0] valid [%n, 8] {shape = [13, 8]} : tile<13x8, INT8>
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %panel = pack %b, 8, 16 : panel<8x16, INT8>
          %c = matmul_packed %a, %panel, %n : tile<13x16, INT32>
          store %c to %y[0, 0] valid [%n, 16] {shape = [13, 16]}
        }""",
        after="""
        func f(%x: tensor<13x8, INT8>, %w: tensor<8x16, INT8>, %n: INDEX, out %y: tensor<13x16, INT32>) {
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %panel = pack %b, 8, 16 : panel<8x16, INT8>
          for %row_tile in parallel(0, 4, 1) {
            %i = s.mul %row_tile, 13 : INDEX
            %r0 = s.floordiv %i, 4 : INDEX
            %i.1 = s.add %row_tile, 1 : INDEX
            %i.2 = s.mul %i.1, 13 : INDEX
            %r1 = s.floordiv %i.2, 4 : INDEX
            %m = s.sub %r1, %r0 : INDEX
            %i.3 = s.sub %n, %r0 : INDEX
            %i.4 = s.min %i.3, %m : INDEX
            %valid = s.max 0, %i.4 : INDEX
            %a.1 = load %x[%r0, 0] valid [%valid, 8] {shape = [4, 8]} : tile<4x8, INT8>
            %i.5 = s.sub %n, %r0 : INDEX
            %i.6 = s.min %i.5, %m : INDEX
            %valid.1 = s.max 0, %i.6 : INDEX
            %c.1 = matmul_packed %a.1, %panel, %valid.1 : tile<4x16, INT32>
            %i.7 = s.sub %n, %r0 : INDEX
            %i.8 = s.min %i.7, %m : INDEX
            %valid.2 = s.max 0, %i.8 : INDEX
            store %c.1 to %y[%r0, 0] valid [%valid.2, 16] {shape = [4, 16]}
            yield
          }
        }
        """,
        n=6,
    )


def test_row_wise_work_without_a_product_is_shared_out_when_it_is_large():
    assert_pass(
        block_rows,
        before="""
        func f(%x: tensor<6x8192, FP32>, %g: tensor<1x8192, FP32>, out %y: tensor<6x8192, FP32>) {
          %a = load %x[0, 0] valid [6, 8192] {shape = [6, 8192]} : tile<6x8192, FP32>
          %gamma = load %g[0, 0] valid [1, 8192] {shape = [1, 8192]} : tile<1x8192, FP32>
          %m = row_max %a valid [6, 8192] : tile<6x1, FP32>
          %d = sub %a, %m : tile<6x8192, FP32>
          %s = mul %d, %gamma : tile<6x8192, FP32>
          store %s to %y[0, 0] valid [6, 8192] {shape = [6, 8192]}
        }""",
        after="""
        func f(%x: tensor<6x8192, FP32>, %g: tensor<1x8192, FP32>, out %y: tensor<6x8192, FP32>) {
          %gamma = load %g[0, 0] valid [1, 8192] {shape = [1, 8192]} : tile<1x8192, FP32>
          for %row_tile in parallel(0, 3, 1) {
            %r0 = s.mul %row_tile, 2 : INDEX
            %a.1 = load %x[%r0, 0] valid [2, 8192] {shape = [2, 8192]} : tile<2x8192, FP32>
            %m.1 = row_max %a.1 valid [2, 8192] : tile<2x1, FP32>
            %d.1 = sub %a.1, %m.1 : tile<2x8192, FP32>
            %s.1 = mul %d.1, %gamma : tile<2x8192, FP32>
            store %s.1 to %y[%r0, 0] valid [2, 8192] {shape = [2, 8192]}
            yield
          }
        }
        """,
    )


def test_a_tile_made_before_is_read_in_row_windows():
    assert_pass(
        block_rows,
        before="""
        func f(%x: tensor<12x8, INT8>, %w: tensor<8x16, INT8>, inout %y: tensor<12x16, INT32>) {
          %t = load %x[0, 0] valid [12, 8] {shape = [12, 8]} : tile<12x8, INT8>
          %m = col_max %t valid [12, 8] : tile<1x8, INT8>
          %old = load %y[0, 0] valid [12, 16] {shape = [12, 16]} : tile<12x16, INT32>
          %cols = col_max %old valid [12, 16] : tile<1x16, INT32>
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %panel = pack %b, 8, 16 : panel<8x16, INT8>
          %c = matmul_packed_acc %old, %t, %panel, 12 : tile<12x16, INT32>
          %d = add %c, %cols : tile<12x16, INT32>
          store %d to %y[0, 0] valid [12, 16] {shape = [12, 16]}
        }""",
        after="""
        func f(%x: tensor<12x8, INT8>, %w: tensor<8x16, INT8>, inout %y: tensor<12x16, INT32>) {
          %t = load %x[0, 0] valid [12, 8] {shape = [12, 8]} : tile<12x8, INT8>
          %m = col_max %t valid [12, 8] : tile<1x8, INT8>
          %old = load %y[0, 0] valid [12, 16] {shape = [12, 16]} : tile<12x16, INT32>
          %cols = col_max %old valid [12, 16] : tile<1x16, INT32>
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %panel = pack %b, 8, 16 : panel<8x16, INT8>
          for %row_tile in parallel(0, 3, 1) {
            %r0 = s.mul %row_tile, 4 : INDEX
            %old.1 = extract %old[%r0, 0] {shape = [4, 16]} : tile<4x16, INT32>
            %t.1 = extract %t[%r0, 0] {shape = [4, 8]} : tile<4x8, INT8>
            %c.1 = matmul_packed_acc %old.1, %t.1, %panel, 4 {sizes = [4]} : tile<4x16, INT32>
            %d.1 = add %c.1, %cols : tile<4x16, INT32>
            store %d.1 to %y[%r0, 0] valid [4, 16] {shape = [4, 16]}
            yield
          }
        }
        """,
    )


def test_memory_that_the_loop_writes_is_read_before_it():
    assert_pass(
        block_rows,
        before="""
        func f(%x: tensor<12x8, INT8>, %w: tensor<8x16, INT8>, inout %y: tensor<12x16, INT32>) {
          %a = load %x[0, 0] valid [12, 8] {shape = [12, 8]} : tile<12x8, INT8>
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %panel = pack %b, 8, 16 : panel<8x16, INT8>
          %old = load %y[0, 0] valid [12, 16] {shape = [12, 16]} : tile<12x16, INT32>
          %c = matmul_packed_acc %old, %a, %panel, 12 : tile<12x16, INT32>
          store %c to %y[0, 0] valid [12, 16] {shape = [12, 16]}
        }""",
        after="""
        func f(%x: tensor<12x8, INT8>, %w: tensor<8x16, INT8>, inout %y: tensor<12x16, INT32>) {
          %a = load %x[0, 0] valid [12, 8] {shape = [12, 8]} : tile<12x8, INT8>
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %panel = pack %b, 8, 16 : panel<8x16, INT8>
          %old = load %y[0, 0] valid [12, 16] {shape = [12, 16]} : tile<12x16, INT32>
          for %row_tile in parallel(0, 3, 1) {
            %r0 = s.mul %row_tile, 4 : INDEX
            %old.1 = extract %old[%r0, 0] {shape = [4, 16]} : tile<4x16, INT32>
            %a.1 = extract %a[%r0, 0] {shape = [4, 8]} : tile<4x8, INT8>
            %c.1 = matmul_packed_acc %old.1, %a.1, %panel, 4 {sizes = [4]} : tile<4x16, INT32>
            store %c.1 to %y[%r0, 0] valid [4, 16] {shape = [4, 16]}
            yield
          }
        }
        """,
    )


def test_a_broadcast_number_does_not_count_as_a_tile():
    text = """
    func f(%v: FP32, out %y: tensor<6x8192, FP32>) {
      %a = splat %v {dtype = FP32, shape = [6, 8192]} : tile<6x8192, FP32>
      store %a to %y[0, 0] valid [6, 8192] {shape = [6, 8192]}
    }"""
    assert "row_tile" in to_text(block_rows(parse(text), MACHINE))
    assert_native_agrees(text, v=3)


def changed(old: str, new: str) -> str:
    assert old in PRODUCT
    return PRODUCT.replace(old, new)


STORE = "store %d to %y[0, 0] valid [13, 16] {shape = [13, 16]}"
TO_Y = "out %y: tensor<13x16, INT32>"
LEFT_ALONE = {
    "rows that are needed together afterwards": changed(
        STORE,
        STORE + "\n          %sum = col_sum %d valid [13, 16] : tile<1x16, INT32>"
        "\n          store %sum to %y[0, 0] valid [1, 16] {shape = [1, 16]}",
    ),
    "an atomic store": changed(
        STORE, 'store %d to %y[0, 0] valid [13, 16] {atomic = "add", shape = [13, 16]}'
    ),
    "a single row tile": PRODUCT.replace("13", "4"),
    "stores that put one row into two": changed(
        STORE, STORE + "\n          store %c to %y[3, 0] valid [13, 16] {shape = [13, 16]}"
    ).replace(TO_Y, "out %y: tensor<16x16, INT32>"),
    "stores through two views of one tensor": """
        func f(%x: tensor<13x8, INT8>, %w: tensor<8x16, INT8>, out %y: tensor<208, INT32>) {
          %u = reshape_view %y {shape = [13, 16]} : tensor<13x16, INT32>
          %v = reshape_view %y {shape = [13, 16]} : tensor<13x16, INT32>
          %a = load %x[0, 0] valid [13, 8] {shape = [13, 8]} : tile<13x8, INT8>
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %panel = pack %b, 8, 16 : panel<8x16, INT8>
          %c = matmul_packed %a, %panel, 13 : tile<13x16, INT32>
          %d = neg %c : tile<13x16, INT32>
          store %d to %u[0, 0] valid [13, 16] {shape = [13, 16]}
          store %c to %v[0, 0] valid [13, 16] {shape = [13, 16]}
        }
        """,
    "a check between the product and its store": changed(
        STORE,
        'check_window at [0, 0] valid [1, 1] {access = "read", extents = [4, 4], subject = "z"}\n'
        "          " + STORE,
    ),
    "a store along another axis than the rows": changed(
        STORE,
        "%t = transpose %d {axis1 = 0, axis2 = 1} : tile<16x13, INT32>\n          "
        "store %t to %y[0, 0] valid [16, 13] {shape = [16, 13]}",
    ).replace(TO_Y, "out %y: tensor<16x13, INT32>"),
}  # fmt: skip


@pytest.mark.parametrize("reason", LEFT_ALONE)
def test_rows_stay_together_for(reason: str):
    assert_unchanged(block_rows, LEFT_ALONE[reason])
    assert_native_agrees(LEFT_ALONE[reason])


@pytest.mark.parametrize("n", [0, 1, 5, 6, 12, 13])
def test_machine_code_computes_just_the_valid_rows_of_every_tile(n: int):
    assert_native_agrees(
        """
        func f(%x: tensor<13x8, INT8>, %w: tensor<8x16, INT8>, %n: INDEX, inout %y: tensor<13x16, INT32>) {
          %a = load %x[0, 0] valid [%n, 8] {shape = [13, 8]} : tile<13x8, INT8>
          %b = load %w[0, 0] valid [8, 16] {shape = [8, 16]} : tile<8x16, INT8>
          %c = matmul %a, %b, %n, 8, 16 : tile<13x16, INT32>
          %s = row_sum %c valid [%n, 16] : tile<13x1, INT32>
          %d = add %c, %s : tile<13x16, INT32>
          store %d to %y[0, 0] valid [%n, 16] {shape = [13, 16]}
        }""",
        n=n,
    )
