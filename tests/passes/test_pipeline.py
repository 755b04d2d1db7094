"""The order of the passes keeps the reasons that pipeline.py gives."""

from __future__ import annotations

import inspect

import pytest
from pass_programs import MACHINE

from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.ir.verify import verify
from tilewright.passes.block_rows import block_rows
from tilewright.passes.drop_dead import drop_dead
from tilewright.passes.fold_constants import fold_constants
from tilewright.passes.forward_stores import forward_stores
from tilewright.passes.fuse_loops import fuse_loops
from tilewright.passes.fuse_sweeps import fuse_sweeps
from tilewright.passes.merge_interleave import merge_interleave
from tilewright.passes.merge_products import merge_products
from tilewright.passes.parallelize import parallelize
from tilewright.passes.pipeline import PIPELINE, PREPARE, Pass
from tilewright.passes.read_direct import read_direct
from tilewright.passes.share_panels import share_panels
from tilewright.passes.skip_fill import skip_fill
from tilewright.passes.start_products import start_products
from tilewright.passes.tile_matmul import tile_matmul
from tilewright.passes.widen_columns import widen_columns

ROWS_THROUGH_A_TEMPORARY = """
    func f(%x: tensor<13x8, INT8>, %w: tensor<8x64, INT8>, out %y: tensor<13x64, INT32>) {
      %t = create {dtype = INT32, shape = [13, 64]} : tensor<13x64, INT32>
      %a = load %x[0, 0] valid [13, 8] {shape = [13, 8]} : tile<13x8, INT8>
      %b = load %w[0, 0] valid [8, 64] {shape = [8, 64]} : tile<8x64, INT8>
      %c = matmul %a, %b, 13, 8, 64 : tile<13x64, INT32>
      store %c to %t[0, 0] valid [13, 64] {shape = [13, 64]}
      %d = load %t[0, 0] valid [13, 64] {shape = [13, 64]} : tile<13x64, INT32>
      %s = col_sum %d valid [13, 64] : tile<1x64, INT32>
      store %s to %y[0, 0] valid [1, 64] {shape = [1, 64]}
    }"""

OFFSET_BY_SHIFTING = """
    func f(%x: tensor<16x16, FP32>, out %y: tensor<1x16, FP32>) {
      %row = s.shl 1, 3 : INDEX
      %a = load %x[%row, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
      store %a to %y[0, 0] valid [1, 16] {shape = [1, 16]}
    }"""

TRANSPOSES_ON_A_WALK_OVER_K = """
    func f(%x: tensor<4x32, INT8>, %w: tensor<16x32, INT8>, out %y: tensor<4x16, INT32>) {
      %zero = full {dtype = INT32, shape = [4, 16], value = 0} : tile<4x16, INT32>
      for %k in range(0, 32, 8) carry (%acc = %zero) -> (%all) {
        %a = load %x[0, %k] valid [4, 8] {shape = [4, 8]} : tile<4x8, INT8>
        %b = load %w[0, %k] valid [16, 8] {shape = [16, 8]} : tile<16x8, INT8>
        %bt = transpose %b {axis1 = 0, axis2 = 1} : tile<8x16, INT8>
        %c = matmul_acc %acc, %a, %bt, 4, 8, 16 : tile<4x16, INT32>
        yield %c
      }
      store %all to %y[0, 0] valid [4, 16] {shape = [4, 16]}
    }"""

LOOPS_THAT_COUNT_DIFFERENTLY = """
    func f(%x: tensor<16x32, FP32>, out %y: tensor<16x32, FP32>) {
      %t = create {dtype = FP32, shape = [16, 32]} : tensor<16x32, FP32>
      for %i in parallel(0, 16, 4) {
        at "first" {
          %a = load %x[%i, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
          store %a to %t[%i, 0] valid [4, 32] {shape = [4, 32]}
          yield
        }
        yield
      }
      for %j in parallel(0, 4, 1) {
        %r = s.mul %j, 4 : INDEX
        at "second" {
          %b = load %t[%r, 0] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
          %c = neg %b : tile<4x32, FP32>
          store %c to %y[%r, 0] valid [4, 32] {shape = [4, 32]}
          yield
        }
        yield
      }
    }"""

NARROW_COLUMNS_OF_A_WALK_OVER_K = """
    func f(%x: tensor<4x32, INT8>, %w: tensor<32x128, INT8>, out %y: tensor<4x128, INT32>) {
      %start = full {dtype = INT32, shape = [4, 32], value = 0} : tile<4x32, INT32>
      for %n in range(0, 128, 32) {
        for %k in range(0, 32, 8) carry (%acc = %start) -> (%all) {
          %a = load %x[0, %k] valid [4, 8] {shape = [4, 8]} : tile<4x8, INT8>
          %b = load %w[%k, %n] valid [8, 32] {shape = [8, 32]} : tile<8x32, INT8>
          %c = matmul_acc %acc, %a, %b, 4, 8, 32 : tile<4x32, INT32>
          yield %c
        }
        store %all to %y[0, %n] valid [4, 32] {shape = [4, 32]}
        yield
      }
    }"""

A_PRODUCT_AND_WHAT_FOLLOWS_IT = """
    func f(%x: tensor<4x8192, INT8>, %w: tensor<8192x4096, INT8>, out %y: tensor<4x4096, INT32>) {
      %t = create {dtype = INT32, shape = [4, 4096]} : tensor<4x4096, INT32>
      for %i in parallel(0, 4096, 64) {
        %a = load %x[0, 0] valid [4, 8192] {shape = [4, 8192]} : tile<4x8192, INT8>
        %b = load %w[0, %i] valid [8192, 64] {shape = [8192, 64]} : tile<8192x64, INT8>
        %c = matmul %a, %b, 4, 8192, 64 : tile<4x64, INT32>
        store %c to %t[0, %i] valid [4, 64] {shape = [4, 64]}
        yield
      }
      for %j in parallel(0, 4096, 64) {
        %d = load %t[0, %j] valid [4, 64] {shape = [4, 64]} : tile<4x64, INT32>
        %e = neg %d : tile<4x64, INT32>
        store %e to %y[0, %j] valid [4, 64] {shape = [4, 64]}
        yield
      }
    }"""

COLUMNS_OF_TWO_WIDTHS = """
    func f(%x: tensor<4x2048, FP32>, out %y: tensor<4x2048, FP32>) {
      %t = create {dtype = FP32, shape = [4, 2048]} : tensor<4x2048, FP32>
      for %i in parallel(0, 2048, 32) {
        at "first" {
          %a = load %x[0, %i] valid [4, 32] {shape = [4, 32]} : tile<4x32, FP32>
          store %a to %t[0, %i] valid [4, 32] {shape = [4, 32]}
          yield
        }
        yield
      }
      for %j in parallel(0, 2048, 64) {
        at "second" {
          %b = load %t[0, %j] valid [4, 64] {shape = [4, 64]} : tile<4x64, FP32>
          %c = neg %b : tile<4x64, FP32>
          store %c to %y[0, %j] valid [4, 64] {shape = [4, 64]}
          yield
        }
        yield
      }
    }"""

ROWS_THAT_A_DEAD_TEMPORARY_SHIFTS = """
    func f(%x: tensor<13x8, INT8>, %w: tensor<8x64, INT8>, out %y: tensor<13x64, INT32>) {
      %t = create {dtype = INT32, shape = [14, 64]} : tensor<14x64, INT32>
      at "product" {
        %a = load %x[0, 0] valid [13, 8] {shape = [13, 8]} : tile<13x8, INT8>
        %b = load %w[0, 0] valid [8, 64] {shape = [8, 64]} : tile<8x64, INT8>
        %c = matmul %a, %b, 13, 8, 64 : tile<13x64, INT32>
        store %c to %t[0, 0] valid [13, 64] {shape = [13, 64]}
        %d = load %t[0, 0] valid [13, 64] {shape = [13, 64]} : tile<13x64, INT32>
        store %c to %t[1, 0] valid [13, 64] {shape = [13, 64]}
        store %d to %y[0, 0] valid [13, 64] {shape = [13, 64]}
        yield
      }
    }"""

FIRST_PRODUCT_IN_A_BRANCH = """
    func f(%x: tensor<4x8, INT8>, %w: tensor<8x64, INT8>, out %y: tensor<4x64, INT32>) {
      %start = full {dtype = INT32, shape = [4, 64], value = 0} : tile<4x64, INT32>
      for %k in range(0, 8, 4) carry (%acc = %start) -> (%all) {
        %a = load %x[0, %k] valid [4, 4] {shape = [4, 4]} : tile<4x4, INT8>
        %b = load %w[%k, 0] valid [4, 64] {shape = [4, 64]} : tile<4x64, INT8>
        %zero = s.sub 4, 4 : INDEX
        %first = s.eq %k, %zero : BOOL
        if %first -> (%r: tile<4x64, INT32>) {
          %p = matmul %a, %b, 4, 4, 64 : tile<4x64, INT32>
          yield %p
        } else {
          %q = matmul_acc %acc, %a, %b, 4, 4, 64 : tile<4x64, INT32>
          yield %q
        }
        yield %r
      }
      store %all to %y[0, 0] valid [4, 64] {shape = [4, 64]}
    }"""

WEIGHT_READ_TWICE = """
    func f(%x: tensor<8x8, INT8>, %w: tensor<8x64, INT8>, out %y: tensor<8x64, INT32>) {
      for %i in range(0, 8, 4) {
        %a = load %x[%i, 0] valid [4, 8] {shape = [4, 8]} : tile<4x8, INT8>
        %b = load %w[0, 0] valid [8, 64] {shape = [8, 64]} : tile<8x64, INT8>
        %c = matmul %a, %b, 4, 8, 64 : tile<4x64, INT32>
        store %c to %y[%i, 0] valid [4, 64] {shape = [4, 64]}
        yield
      }
    }"""

EVEN_AND_ODD = """
    func f(%x: tensor<2x16, FP32>, %d: tensor<2x32, FP32>, out %y: tensor<2x32, FP32>) {
      %a = load %x[0, 0] valid [2, 16] {shape = [2, 16]} : tile<2x16, FP32>
      %old = load %d[0, 0] valid [2, 32] {shape = [2, 32]} : tile<2x32, FP32>
      %e = scatter_mask %a, %old {pattern = "P0101"} : tile<2x32, FP32>
      %o = scatter_mask %a, %e {pattern = "P1010"} : tile<2x32, FP32>
      store %o to %y[0, 0] valid [2, 32] {shape = [2, 32]}
    }"""

# A pass (and which one of that name), the pass that it is put behind (or before) instead, a program, and how
# often a word is in the lowered text then and as it should be.
MOVES = [
    (fold_constants, 0, "behind", start_products, FIRST_PRODUCT_IN_A_BRANCH, "if ", 1, 0),
    (
        start_products,
        0,
        "behind",
        merge_products,
        FIRST_PRODUCT_IN_A_BRANCH,
        "matmul_packed_acc",
        1,
        0,
    ),
    (read_direct, 0, "behind", merge_products, TRANSPOSES_ON_A_WALK_OVER_K, "for %k", 1, 0),
    (drop_dead, 0, "behind", merge_products, TRANSPOSES_ON_A_WALK_OVER_K, "for %k", 1, 0),
    (
        merge_products,
        0,
        "behind",
        widen_columns,
        NARROW_COLUMNS_OF_A_WALK_OVER_K,
        "for %n",
        1,
        0,
    ),
    (
        merge_products,
        0,
        "before",
        start_products,
        FIRST_PRODUCT_IN_A_BRANCH,
        "matmul_packed_acc",
        1,
        0,
    ),
    (widen_columns, 0, "behind", forward_stores, NARROW_COLUMNS_OF_A_WALK_OVER_K, "for %n", 1, 0),
    (fuse_loops, 0, "behind", widen_columns, A_PRODUCT_AND_WHAT_FOLLOWS_IT, "parallel(", 2, 1),
    (fuse_loops, 1, "behind", forward_stores, COLUMNS_OF_TWO_WIDTHS, "create", 1, 0),
    (fold_constants, 1, "before", fuse_loops, LOOPS_THAT_COUNT_DIFFERENTLY, "create", 1, 0),
    (fold_constants, 1, "behind", forward_stores, LOOPS_THAT_COUNT_DIFFERENTLY, "create", 1, 0),
    (forward_stores, 0, "before", fuse_loops, LOOPS_THAT_COUNT_DIFFERENTLY, "create", 1, 0),
    (drop_dead, 1, "behind", block_rows, ROWS_THAT_A_DEAD_TEMPORARY_SHIFTS, "for %row_tile", 0, 1),
    (merge_interleave, 0, "behind", parallelize, EVEN_AND_ODD, "scatter_mask", 1, 0),
    (skip_fill, 0, "behind", block_rows, ROWS_THROUGH_A_TEMPORARY, "fill = false", 0, 1),
    (tile_matmul, 0, "behind", block_rows, ROWS_THROUGH_A_TEMPORARY, "for %row_tile", 0, 1),
    (share_panels, 0, "before", tile_matmul, WEIGHT_READ_TWICE, "panel_window", 0, 1),
    (block_rows, 0, "behind", fuse_sweeps, ROWS_THROUGH_A_TEMPORARY, "for %row_tile", 0, 1),
    (fuse_sweeps, 0, "before", block_rows, ROWS_THROUGH_A_TEMPORARY, "for %row_tile", 0, 1),
    (drop_dead, 2, "before", merge_interleave, EVEN_AND_ODD, "scatter_mask", 1, 0),
    (parallelize, 0, "before", block_rows, ROWS_THROUGH_A_TEMPORARY, "\n  for %row_tile", 0, 1),
]


def place(step: Pass, occurrence: int, passes: tuple[Pass, ...] = PIPELINE) -> int:
    return [i for i, other in enumerate(passes) if other is step][occurrence]


def moved(step: Pass, occurrence: int, side: str, anchor: Pass) -> tuple[Pass, ...]:
    """The pipeline with one pass elsewhere, as far as it needs to go."""
    at = place(step, occurrence)
    rest = PIPELINE[:at] + PIPELINE[at + 1 :]
    to = place(anchor, 0, rest) + (side == "behind")
    assert to != at, "it stands there already"
    return (*rest[:to], step, *rest[to:])


def lowered(program: str, passes: tuple[Pass, ...]) -> str:
    """The program after these passes; it is valid after each."""
    function = parse(program)
    for step in passes:
        function = step(function, MACHINE)
        verify(function, after=step.__name__)
    return to_text(function)


@pytest.mark.parametrize(
    ("step", "occurrence", "side", "anchor", "program", "word", "elsewhere", "here"),
    MOVES,
    ids=[f"{m[0].__name__}-{m[1]}-{m[2]}-{m[3].__name__}" for m in MOVES],
)
def test_a_pass_that_stands_elsewhere_loses_what_its_place_is_for(
    step: Pass,
    occurrence: int,
    side: str,
    anchor: Pass,
    program: str,
    word: str,
    elsewhere: int,
    here: int,
):
    wrong = lowered(program, moved(step, occurrence, side, anchor)).count(word)
    assert (wrong, lowered(program, PIPELINE).count(word)) == (elsewhere, here)


def test_every_place_in_the_pipeline_has_a_reason_that_is_tested():
    tested = {(step, occurrence) for step, occurrence, *_ in MOVES}
    assert tested == {(step, PIPELINE[:i].count(step)) for i, step in enumerate(PIPELINE)}


def test_offsets_are_literals_before_windows_are_checked():
    assert "check_window" not in lowered(OFFSET_BY_SHIFTING, PREPARE)
    assert "check_window" in lowered(OFFSET_BY_SHIFTING, PREPARE[::-1])


@pytest.mark.parametrize("step", dict.fromkeys(PREPARE + PIPELINE), ids=lambda step: step.__name__)
def test_every_pass_says_what_it_takes_gives_and_leaves(step: Pass):
    text = inspect.getdoc(step) or ""
    places = [text.find(f"\n{word}") for word in ("Takes:", "Gives:", "Leaves:")]
    assert -1 < places[0] < places[1] < places[2]
    assert step.__module__ == f"tilewright.passes.{step.__name__}"
