"""The order of the passes keeps the reasons that pipeline.py gives."""

from __future__ import annotations

import inspect

import pytest
from pass_programs import MACHINE

from tilewright.ir.nodes import Function
from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.ir.verify import verify
from tilewright.passes.block_rows import block_rows
from tilewright.passes.check_windows import check_windows
from tilewright.passes.drop_dead import drop_dead
from tilewright.passes.fold_constants import fold_constants
from tilewright.passes.fuse_sweeps import fuse_sweeps
from tilewright.passes.merge_interleave import merge_interleave
from tilewright.passes.parallelize import parallelize
from tilewright.passes.pipeline import PIPELINE, PREPARE, Pass
from tilewright.passes.share_panels import share_panels
from tilewright.passes.skip_fill import skip_fill
from tilewright.passes.start_products import start_products
from tilewright.passes.tile_matmul import tile_matmul

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

FIRST_PRODUCT_IN_A_BRANCH = """
    func f(%x: tensor<4x8, INT8>, %w: tensor<8x64, INT8>, out %y: tensor<4x64, INT32>) {
      %start = full {dtype = INT32, shape = [4, 64], value = 0} : tile<4x64, INT32>
      for %k in range(0, 8, 4) carry (%acc = %start) -> (%all) {
        %a = load %x[0, %k] valid [4, 4] {shape = [4, 4]} : tile<4x4, INT8>
        %b = load %w[%k, 0] valid [4, 64] {shape = [4, 64]} : tile<4x64, INT8>
        %first = s.eq %k, 0 : BOOL
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

# first pass, second pass, a program, what is in its text in this order only (or, after `not`, in the other only)
REASONS = [
    (fold_constants, check_windows, OFFSET_BY_SHIFTING, "not check_window"),
    (start_products, tile_matmul, FIRST_PRODUCT_IN_A_BRANCH, "not if "),
    (merge_interleave, drop_dead, EVEN_AND_ODD, "not scatter_mask"),
    (tile_matmul, share_panels, WEIGHT_READ_TWICE, "panel_window"),
    (tile_matmul, block_rows, ROWS_THROUGH_A_TEMPORARY, "row_tile"),
    (block_rows, fuse_sweeps, ROWS_THROUGH_A_TEMPORARY, "row_tile"),
]


def after(program: str, *passes: Pass) -> Function:
    function = parse(program)
    for step in passes:
        function = step(function, MACHINE)
        verify(function, after=step.__name__)
    return function


@pytest.mark.parametrize(
    ("first", "second", "program", "shows"),
    REASONS,
    ids=[f"{first.__name__} before {second.__name__}" for first, second, *_ in REASONS],
)
def test_two_passes_the_other_way_round_lose_what_their_order_is_for(
    first: Pass, second: Pass, program: str, shows: str
):
    # tile_matmul is what row tiles need in any case
    lead = [tile_matmul] if (first, second) == (block_rows, fuse_sweeps) else []
    missing, word = shows.startswith("not "), shows.removeprefix("not ")
    right = word in to_text(after(program, *lead, first, second))
    wrong = word in to_text(after(program, *lead, second, first))
    assert (right, wrong) == (not missing, missing)
    names = [step.__name__ for step in PREPARE + PIPELINE]
    assert second.__name__ in names[names.index(first.__name__) + 1 :]


def test_zeros_are_skipped_while_stores_still_cover_whole_windows():
    early = after(ROWS_THROUGH_A_TEMPORARY, skip_fill, tile_matmul, block_rows)
    late = after(ROWS_THROUGH_A_TEMPORARY, tile_matmul, block_rows, skip_fill)
    assert "fill = false" in to_text(early)
    assert "fill = false" not in to_text(late)
    assert PIPELINE.index(skip_fill) < PIPELINE.index(block_rows)


def test_row_loops_are_shared_out_because_threads_are_told_apart_last():
    early = after(ROWS_THROUGH_A_TEMPORARY, tile_matmul, block_rows, parallelize)
    assert "parallel" in [op.attr("kind") for op in early.body.ops if op.name == "for"]
    late = after(ROWS_THROUGH_A_TEMPORARY, tile_matmul, parallelize, block_rows)
    assert not [op for op in late.body.ops if op.name == "for"]
    assert PIPELINE[-1] is parallelize


@pytest.mark.parametrize("step", dict.fromkeys(PREPARE + PIPELINE), ids=lambda step: step.__name__)
def test_every_pass_says_what_it_takes_gives_and_leaves(step: Pass):
    text = inspect.getdoc(step) or ""
    places = [text.find(f"\n{word}") for word in ("Takes:", "Gives:", "Leaves:")]
    assert -1 < places[0] < places[1] < places[2]
    assert step.__module__ == f"tilewright.passes.{step.__name__}"
