"""Reductions in machine code: order-free ones bit for bit, sums of floats within a bound."""

from __future__ import annotations

import pytest
import torch
from both_ways import FLOATS, INTEGERS, Checks, draw

from tilewright.ir.ops.reduce import COL, ROW

WIDTHS = (1, 2, 3, 15, 16, 17, 31, 33, 64, 65, 100, 257)


def sum_bound(array: torch.Tensor, axis: int) -> torch.Tensor:
    """How far a sum of FP32 partial sums may be from the exact one, with one rounding to the dtype.

    n additions of at most half a unit each: n * 2^-24 * sum |x|.
    """
    size = array.double().abs().sum(axis, keepdim=True)
    bits = {torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}[array.dtype]
    return size * (array.shape[axis] * 2.0**-24 + (0 if bits == 24 else 2.0**-bits)) + 2.0**-24


def how(name: str, array: torch.Tensor, axis: int) -> dict:
    if name.endswith("sum") and array.dtype.is_floating_point:
        return {"bound": sum_bound(array, axis)}
    return {"signed_zeros": False}  # of -0 and 0 either may be the largest


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS], ids=str)
def test_rows_of_every_width_reduce(dtype: torch.dtype):
    checks = Checks()
    for width in WIDTHS:
        array = draw((3, width), dtype, width, plain=True)
        x = checks.take(array)
        for name in ROW:
            checks.expect(checks.op(name, x, 3, width), f"{name} of {width}", **how(name, array, 1))
    checks.run()


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS], ids=str)
def test_columns_of_every_height_reduce(dtype: torch.dtype):
    checks = Checks()
    for shape in ((1, 33), (2, 1), (7, 1), (5, 17), (100, 3), (64, 16), (2, 3, 20)):
        array = draw(shape, dtype, sum(shape), plain=True)
        x = checks.take(array)
        for name in COL:
            options = how(name, array, -2)
            if (dtype, name) == (torch.float16, "col_sum"):
                options = {}  # adds in FP16, row after row
            checks.expect(checks.op(name, x, *shape), f"{name} of {shape}", **options)
    checks.run()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.int64], ids=str)
def test_only_valid_elements_are_reduced(dtype: torch.dtype):
    checks = Checks()
    counts = torch.tensor([0, 1, 5, 16, 17, 70], dtype=torch.int32)
    array = draw((6, 70), dtype, 1, plain=True)
    array[:, 60:] = 99
    for c in range(6):
        columns = checks.scalar(counts, c)
        width = int(counts[c])
        for tile in (checks.take(array, (checks.scalar(counts, 2), columns)), checks.take(array)):
            for name in ROW:
                options = how(name, array[:, :width], 1)
                checks.expect(
                    checks.op(name, tile, 6, columns), f"{name} {width}", (5, 1), **options
                )
                checks.expect(checks.op(name, tile, 6, width), f"{name} {width}", (5, 1), **options)
    for r in range(3):
        rows = checks.scalar(counts, r)
        height = int(counts[r])
        for name in COL:
            options = how(name, array[:height], 0)
            checks.expect(
                checks.op(name, checks.take(array), rows, 70), f"{name} {height} rows", **options
            )
            narrow = checks.take(array[:, :1].contiguous())
            options = how(name, array[:height, :1], 0)
            checks.expect(
                checks.op(name, narrow, rows, 1), f"{name} {height} of one column", **options
            )
    checks.run()


def test_a_nan_and_infinities_come_through():
    checks = Checks()
    for dtype in FLOATS:
        array = draw((8, 37), dtype, 1, plain=True)
        array[0, 5], array[1, 36], array[2, 0] = float("nan"), float("inf"), float("-inf")
        array[3, 1], array[3, 35] = float("inf"), float("-inf")
        for name in ROW:
            checks.expect(
                checks.op(name, checks.take(array), 8, 37), f"{name} {dtype}", **how(name, array, 1)
            )
        for name in COL:
            checks.expect(
                checks.op(name, checks.take(array), 8, 37), f"{name} {dtype}", **how(name, array, 0)
            )
    checks.run()


def test_a_reduction_can_use_another_one():
    """Softmax-like: maximum, then a sum of what is made with it, then a use of both."""
    checks = Checks()
    for rows, width in ((3, 65), (1, 100), (5, 1), (2, 17)):
        x = checks.take(draw((rows, width), torch.float32, width, plain=True))
        top = checks.op("row_max", x, rows, width)
        shifted = checks.op("sub", x, top)
        square = checks.op("mul", shifted, shifted)
        total = checks.op("row_sum", square, rows, width)
        biggest = checks.op("row_max", checks.op("div", square, total), rows, width)
        checks.expect(top, "top")
        checks.expect(total, "total", bound=1e-2)
        checks.expect(checks.op("mul", shifted, biggest), "scaled", bound=1e-4)
        checks.expect(checks.op("add", biggest, top), "columns", bound=1e-4)
    checks.run()


def test_a_row_has_the_same_sum_in_every_company():
    """One tree per row length: not the rows around it, nor what else is computed, changes a bit."""
    row = draw((1, 257), torch.float32, 3)
    row = torch.where(row.isfinite(), row, 1.0).clamp(-1e30, 1e30)
    results = []
    for rows, position in ((1, 0), (5, 2), (33, 32)):
        from both_ways import compile_native

        array = draw((rows, 257), torch.float32, rows)
        array[position] = row
        checks = Checks()
        x = checks.take(array)
        checks.expect(checks.op("row_sum", x, rows, 257), "sum")
        if rows > 1:
            checks.expect(checks.op("row_max", x, rows, 257), "max")
        arrays = [a.clone() for a in checks.arrays]
        compile_native(checks.function()).run(arrays, 2)
        results.append(arrays[1][position].item())
    assert len(set(results)) == 1
