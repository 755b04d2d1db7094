"""Moves in machine code: windows, gathers, scatters, reshapes, padding. Always bit for bit."""

from __future__ import annotations

import pytest
import torch
from both_ways import Checks, agree_on_text, draw

from tilewright.dtypes import FP32, INDEX, INT16, INT32, UINT16, UINT32
from tilewright.ir.nodes import Const, index

WIDTHS = (1, 2, 3, 15, 16, 17, 31, 33, 64, 65, 100, 257)
STORAGES = (torch.int8, torch.bfloat16, torch.float32, torch.int64)  # 1, 2, 4 and 8 bytes
PATTERNS = {2: ("P0101", "P1010"), 4: ("P0001", "P0010", "P0100", "P1000"), 1: ("P1111",)}


@pytest.mark.parametrize("dtype", STORAGES, ids=str)
def test_a_mask_gather_keeps_its_columns_and_a_scatter_puts_them_back(dtype: torch.dtype):
    checks = Checks()
    for stride, patterns in PATTERNS.items():
        for number, pattern in enumerate(patterns):
            for width in (1, 2, 5, 16, 17, 33, 80) if number == 0 else (1, 17, 64):
                x = checks.take(draw((3, width * stride), dtype, width))
                kept = checks.op("gather_mask", x, pattern=pattern)
                checks.expect(kept, f"gather {pattern} of {width * stride}")
                new = checks.take(draw((3, width), dtype, width + 1))
                checks.expect(
                    checks.op("scatter_mask", new, x, pattern=pattern), f"scatter {pattern} {width}"
                )
    checks.run()


@pytest.mark.parametrize("dtype", STORAGES, ids=str)
def test_interleave_zips_even_and_odd_columns(dtype: torch.dtype):
    checks = Checks()
    for width in (1, 2, 7, 8, 9, 16, 17, 40, 129):
        even, odd = (checks.take(draw((2, width), dtype, width + i)) for i in range(2))
        both = checks.op("interleave", even, odd)
        checks.expect(both, f"{width}")
        checks.expect(checks.op("gather_mask", both, pattern="P1010"), f"{width} unzipped")
        checks.expect(checks.op("interleave", both, both), f"{width} zipped twice")
    checks.run()


def test_zipped_columns_can_be_cut_anywhere():
    checks = Checks()
    even, odd = (checks.take(draw((3, 40), torch.float32, i)) for i in range(2))
    both = checks.op("interleave", even, odd)
    for first, width in ((0, 80), (1, 79), (3, 33), (7, 16), (63, 1), (16, 64), (79, 1)):
        cut = checks.op("extract", both, 0, first, shape=(3, width))
        checks.expect(cut, f"{first}, {width}")
        if width > 1:
            checks.expect(checks.op("add", cut, cut), f"twice {first}, {width}")
    moved = checks.op(
        "scatter_mask", checks.take(draw((3, 20), torch.float32, 5)), both, pattern="P0010"
    )
    moved = checks.op(
        "scatter_mask", checks.take(draw((3, 40), torch.float32, 6)), moved, pattern="P1010"
    )
    checks.expect(moved, "scattered twice")
    checks.expect(checks.op("gather_mask", moved, pattern="P0100"), "gathered from scattered")
    checks.run()


def test_a_gather_can_read_its_bits_as_another_dtype():
    checks = Checks()
    for dtype, to in (
        (torch.float32, INT32),
        (torch.int16, UINT16),
        (torch.int32, FP32),
        (torch.bfloat16, INT16),
    ):
        x = draw((2, 36), dtype, 3)
        kept = checks.op("gather_mask", checks.take(x), pattern="P1010", to=to)
        if to == UINT16:
            kept = checks.op("cast", kept, to=INT32, mode="none")
        checks.expect(kept, f"{dtype} to {to}")
    checks.run()


@pytest.mark.parametrize("dtype", STORAGES, ids=str)
def test_extract_and_insert_at_literal_and_run_time_offsets(dtype: torch.dtype):
    checks = Checks()
    source = draw((6, 70), dtype, 1)
    x = checks.take(source)
    made = checks.op("maximum", x, x)  # a tile that is computed, not loaded
    at = torch.tensor([2, 37, 1, 0], dtype=torch.int32)
    row, column, one, none = (checks.scalar(at, i) for i in range(4))
    for label, tile in (("loaded", x), ("computed", made)):
        for name, (r, c) in {"literal": (2, 37), "run time": (row, column)}.items():
            for shape in ((3, 33), (1, 1), (4, 1), (1, 16), (2, 17)):
                cut = checks.op("extract", tile, r, c, shape=shape)
                checks.expect(cut, f"{label}, {name}: {shape}")
                checks.expect(checks.op("minimum", cut, cut), f"{label}, {name}: {shape} used")
            whole_rows = checks.op("extract", tile, 0, c, shape=(6, 1))
            checks.expect(whole_rows, f"{label}, {name}: a column")
            wide = checks.op("extract", tile, 0, c, shape=(6, 31))
            checks.expect(checks.op("maximum", wide, wide), f"{label}, {name}: columns")
            checks.expect(
                checks.op("extract", tile, r, c, shape=(1, 5), drop=(0,)), f"{label}, {name}: a row"
            )
            checks.expect(
                checks.op("extract", tile, r, c, shape=(4, 1), drop=(1,)),
                f"{label}, {name}: dropped",
            )
            for shape in ((2, 16), (3, 1), (1, 33), (2, 1)):
                part = checks.take(draw(shape, dtype, 4))
                new = checks.op("insert", tile, part, r, c, *shape, shape=shape)
                checks.expect(new, f"{label}, {name}: {shape} put in")
                new = checks.op("insert", tile, part, r, c, one, none, shape=shape)
                checks.expect(new, f"{label}, {name}: nothing of {shape} put in")
            column_of = checks.take(draw((4,), dtype, 5))
            new = checks.op("insert", tile, column_of, r, c, 4, 1, shape=(4, 1), drop=(1,))
            checks.expect(new, f"{label}, {name}: a vector as a column")
    checks.expect(made, "the tile itself")
    checks.run()


@pytest.mark.parametrize("dtype", STORAGES, ids=str)
def test_reshape_transpose_and_concat(dtype: torch.dtype):
    checks = Checks()
    array = draw((6, 20), dtype, 1)
    x = checks.op("maximum", checks.take(array), checks.take(array))
    for shape in (
        (1, 120),
        (120, 1),
        (120,),
        (2, 3, 20),
        (20, 6),
        (6, 1, 20),
        (1, 6, 20, 1),
        (3, 40),
    ):
        other = checks.op("reshape", x, shape=shape)
        checks.expect(other, f"{shape}")
        checks.expect(
            checks.op("reshape", checks.op("minimum", other, other), shape=(6, 20)),
            f"{shape} and back",
        )
    column = checks.op("extract", x, 0, 7, shape=(6, 1))
    for shape in ((1, 6), (6,), (2, 3)):
        turned = checks.op("reshape", column, shape=shape)
        checks.expect(checks.op("maximum", turned, turned), f"a column as {shape}")
    checks.expect(checks.op("transpose", x, axis1=0, axis2=1), "transposed")
    cube = checks.take(draw((2, 3, 17), dtype, 3))
    for i, j in ((0, 1), (1, 2), (0, 2)):
        checks.expect(checks.op("transpose", cube, axis1=i, axis2=j), f"axes {i} and {j}")
    for width in (1, 15, 33):
        narrow = checks.take(draw((6, width), dtype, width))
        checks.expect(checks.op("concat", x, narrow), f"{width} joined")
        checks.expect(checks.op("concat", narrow, x), f"joined to {width}")
        checks.expect(checks.op("concat", narrow, narrow), f"{width} joined to itself")
    checks.run()


def test_an_index_gather_follows_its_indices_along_every_axis():
    checks = Checks()
    for dtype in (torch.float32, torch.float16, torch.int16, torch.int32):
        source = draw((5, 18), dtype, 1)
        rows = torch.randint(0, 5, (7, 18), generator=torch.Generator().manual_seed(1)).int()
        columns = torch.randint(0, 18, (4, 33), generator=torch.Generator().manual_seed(2)).int()
        tile = checks.op("maximum", checks.take(source), checks.take(source))
        for x, label in ((checks.take(source), "loaded"), (tile, "computed")):
            checks.expect(
                checks.op("gather", x, checks.take(rows), dim=0), f"{dtype} {label}: rows"
            )
            checks.expect(
                checks.op("gather", x, checks.take(columns), dim=1), f"{dtype} {label}: columns"
            )
    cube, where = draw((2, 3, 4), torch.float32, 2), torch.tensor([[[2], [0]], [[1], [1]]]).int()
    checks.expect(checks.op("gather", checks.take(cube), checks.take(where), dim=1), "rank 3")
    checks.run()


def test_full_splat_arange_and_broadcast():
    checks = Checks()
    seven = torch.tensor([7], dtype=torch.int32)
    start = checks.scalar(seven, 0)
    for width in (2, 15, 16, 17, 65, 200):
        for dtype in (INT16, INT32, UINT16, UINT32):
            for down in (None, True):
                counted = checks.op("arange", start, shape=(1, width), dtype=dtype, descending=down)
                if dtype not in (INT16, INT32):
                    counted = checks.op("cast", counted, to=INT32, mode="none")
                checks.expect(counted, f"{width} {dtype} descending {down}")
    counted = checks.op("arange", Const(-3, INDEX), shape=(70,), dtype=INT32)
    checks.expect(counted, "rank 1")
    checks.expect(
        checks.op("gather_mask", checks.op("reshape", counted, shape=(1, 70)), pattern="P1010"),
        "odd ones",
    )
    checks.expect(checks.op("full", shape=(3, 17), dtype=FP32, value=0.1), "full")
    checks.expect(checks.op("full", shape=(4, 1), dtype=INT32, value=-5), "full column")
    checks.expect(checks.op("splat", start, shape=(2, 33), dtype=INT32), "splat")
    for shape in ((3, 1), (1, 17), (1, 1)):
        checks.expect(
            checks.op("broadcast", checks.take(draw(shape, torch.float32, 1)), shape=(3, 17)),
            f"{shape}",
        )
    checks.expect(
        checks.op("broadcast", checks.take(draw((2, 1, 17), torch.int8, 1)), shape=(2, 3, 17)),
        "rank 3",
    )
    checks.run()


@pytest.mark.parametrize("dtype", STORAGES, ids=str)
def test_fillpad_replaces_what_is_not_valid(dtype: torch.dtype):
    checks = Checks()
    counts = torch.tensor([0, 1, 3, 5, 16, 17, 40], dtype=torch.int32)
    source = draw((5, 40), dtype, 1)
    for r in (0, 1, 3):
        for c in (0, 1, 4, 5, 6):
            rows, columns = checks.scalar(counts, r), checks.scalar(counts, c)
            for label, tile in (
                ("of a window", checks.take(source, (rows, columns))),
                ("of a tile", checks.op("maximum", checks.take(source), checks.take(source))),
            ):
                padded = checks.op("fillpad", tile, rows, columns, value=5)
                checks.expect(padded, f"{label}: {counts[r]} x {counts[c]}")
    narrow = checks.take(draw((5, 1), dtype, 2))
    for valid in ((2, 1), (5, 0), (0, 0), (5, 1)):
        checks.expect(checks.op("fillpad", narrow, *valid, value=3), f"one column {valid}")
    checks.expect(
        checks.op("fillpad", checks.take(draw((2, 3, 20), dtype, 3)), 1, 2, 17, value=9), "rank 3"
    )
    if dtype.is_floating_point:
        low = checks.op("fillpad", checks.take(source), 2, 30, value=float("-inf"))
        checks.expect(low, "minus infinity")
    checks.run()


def test_only_the_valid_part_of_a_window_is_stored():
    checks = Checks()
    counts = torch.tensor([0, 1, 3, 16, 17, 33, 40], dtype=torch.int32)
    for dtype in STORAGES:
        source = draw((3, 40), dtype, 1)
        for c in range(7):
            columns = checks.scalar(counts, c)
            for rows in (0, 2, 3):
                tile = checks.op("maximum", checks.take(source), checks.take(source))
                checks.expect(tile, f"{dtype}: {rows} x {counts[c]}", (index(rows), columns))
    checks.run()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32], ids=str)
def test_a_load_of_some_rows_and_of_any_rest_of_columns(dtype: torch.dtype):
    """LLVM 22 dies over masked loads that are known to read two to eight lanes."""
    checks = Checks()
    some = checks.scalar(torch.tensor([3], dtype=torch.int32), 0)
    for width in (2, 5, 8, 18, 24, 33, 40):
        x = checks.take(draw((5, 66), dtype, width), valid=[some, index(width)])
        padded = checks.op("fillpad", x, some, width, value=7)
        checks.expect(padded, f"{width} columns")
    checks.run()


def test_one_element_can_be_read_and_replaced():
    checks = Checks()
    at = torch.tensor([2, 18], dtype=torch.int32)
    for dtype in (*STORAGES, torch.bool, torch.float16):
        source = draw((3, 20), dtype, 1)
        x = checks.take(source)
        i, j = checks.scalar(at, 0), checks.scalar(at, 1)
        element = checks.op("element", x, i, j)
        checks.expect(
            checks.op("splat", element, shape=(1, 3), dtype=x.type.dtype), f"{dtype} read"
        )
        checks.expect(checks.op("with_element", x, element, 0, 3), f"{dtype} replaced")
        checks.expect(
            checks.op("with_element", x, checks.op("element", x, 1, 1), i, j),
            f"{dtype} at run time",
        )
    checks.run()


# A tile that is kept while its memory is written, of a few columns and rows.
KEPT = """
func f(inout %x: tensor<26x64, FP32>) {
  for %j in parallel(0, 64, 32) {
    at "columns" {
      %l = load %x[0, %j] valid [15, COLUMNS] {shape = [26, 32]} : tile<26x32, FP32>
      %v = div %l, -2.0 : tile<26x32, FP32>
      store %v to %x[0, %j] valid [15, COLUMNS] {shape = [26, 32]}
      yield
    }
    yield
  }
}"""


@pytest.mark.parametrize("columns", [1, 2, 4, 8, 9, 17, 20])
def test_a_few_columns_of_a_few_rows_are_kept(columns: int):
    """LLVM aborts on a load under a mask of which it knows that the upper half is off."""
    agree_on_text(KEPT.replace("COLUMNS", str(columns)), draw((26, 64), torch.float32))


@pytest.mark.parametrize("dtype", STORAGES, ids=str)
def test_squares_are_turned_in_registers_and_edges_beside_them(dtype: torch.dtype):
    checks = Checks()
    for shape in ((64, 64), (33, 70), (16, 7), (7, 100), (1, 40), (40, 1)):
        x = checks.take(draw(shape, dtype, shape[1]))
        checks.expect(checks.op("transpose", x, axis1=0, axis2=1), f"{shape}")
    cube = checks.take(draw((18, 3, 35), dtype, 3))
    for i, j in ((0, 1), (1, 2), (0, 2)):
        checks.expect(checks.op("transpose", cube, axis1=i, axis2=j), f"axes {i} and {j}")
    counts = torch.tensor([0, 1, 16, 37, 48], dtype=torch.int32)
    whole = draw((48, 48), dtype, 4)
    for r, c in ((0, 3), (1, 1), (2, 4), (3, 3), (4, 2)):
        rows, columns = checks.scalar(counts, r), checks.scalar(counts, c)
        turned = checks.op("transpose", checks.take(whole, [rows, columns]), axis1=0, axis2=1)
        checks.expect(checks.op("maximum", turned, turned), f"valid {counts[r]}, {counts[c]}")
    checks.run()


@pytest.mark.parametrize("dtype", STORAGES, ids=str)
def test_a_reshape_moves_the_longest_pieces_of_both_shapes(dtype: torch.dtype):
    checks = Checks()
    array = draw((6, 80), dtype, 1)
    x = checks.op("maximum", checks.take(array), checks.take(array))
    for shape in ((10, 48), (4, 120), (2, 5, 48), (160, 3), (3, 2, 80), (15, 32), (480,)):
        made = checks.op("reshape", x, shape=shape)
        checks.expect(checks.op("minimum", made, made), f"{shape}")
        checks.expect(checks.op("reshape", made, shape=(8, 60)), f"{shape} and on")
    checks.run()
