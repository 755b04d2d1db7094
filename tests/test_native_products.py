"""Matrix products in machine code: INT8 exact, floats within a bound, and the same bits for every M, N
and cut of the rows.
"""

from __future__ import annotations

import pytest
import torch
from both_ways import Checks, compile_native, draw

from tilewright.dtypes import FP32, INT32
from tilewright.ir.nodes import Value, index

DTYPES = (torch.int8, torch.bfloat16, torch.float16, torch.float32)


def numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Every INT8; floats around 1."""
    return draw(shape, dtype, seed, plain=dtype != torch.int8)


def product_bound(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor | float:
    """K fused multiply-adds of half a unit each, twice that for BF16 pairs: K * 2^-23 * |a| |b|."""
    if a.dtype == torch.int8:
        return 0.0
    return a.double().abs() @ b.double().abs() * (a.shape[-1] * 2.0**-23) + 1e-30


def expect_product(
    checks: Checks, a: torch.Tensor, b: torch.Tensor, label: str, valid=None, made=False, **attrs
) -> Value:
    left, right = checks.take(a), checks.take(b)
    if made:  # tiles that are computed lie in an arena, with whatever behind their rows
        left, right = (checks.op("maximum", x, x) for x in (left, right))
    op_a = a.transpose(-1, -2) if attrs.get("a_trans") else a
    op_b = b.transpose(-1, -2) if attrs.get("b_trans") else b
    m, k, n = op_a.shape[-2], op_a.shape[-1], op_b.shape[-1]
    result = checks.op("matmul", left, right, *(valid or (m, k, n)), **attrs)
    checks.expect(result, label, bound=product_bound(op_a, op_b))
    return result


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_number_of_rows_and_many_of_columns(dtype: torch.dtype):
    checks = Checks()
    for m in range(1, 14):
        n = (1, 15, 16, 17, 65, 2, 33, 64, 128, 100, 31, 48, 3)[m - 1]
        k = (64, 33, 32, 7, 1, 2, 65, 3, 130, 31, 5, 4, 6)[m - 1]
        a, b = numbers((m, k), dtype, m), numbers((k, n), dtype, n)
        expect_product(checks, a, b, f"{m} x {k} x {n}", made=m % 2 == 0)
    checks.run()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_operands_that_lie_the_other_way_round(dtype: torch.dtype):
    checks = Checks()
    for m, k, n in ((5, 33, 17), (1, 4, 1), (13, 64, 65), (3, 1, 16)):
        for a_trans in (None, True):
            for b_trans in (None, True):
                a = numbers((k, m) if a_trans else (m, k), dtype, 1)
                b = numbers((n, k) if b_trans else (k, n), dtype, 2)
                label = f"{m} x {k} x {n}, {a_trans}, {b_trans}"
                expect_product(checks, a, b, label, a_trans=a_trans, b_trans=b_trans, made=k == 33)
    checks.run()


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32], ids=str)
def test_only_the_valid_part_takes_part(dtype: torch.dtype):
    """Outside of it lies NaN, or the largest code."""
    checks = Checks()
    counts = torch.tensor([0, 1, 3, 4, 9, 13, 17, 30], dtype=torch.int32)
    bad = 127 if dtype == torch.int8 else float("nan")
    for rows, m, k, n in (
        (13, 9, 17, 3),
        (13, 13, 30, 30),
        (13, 0, 17, 17),
        (5, 3, 1, 17),
        (13, 1, 30, 9),
        (4, 4, 0, 30),
    ):
        a, b = numbers((rows, 30), dtype, m), numbers((30, 30), dtype, n)
        a[m:], a[:, k:], b[k:], b[:, n:] = bad, bad, bad, bad
        clean_a, clean_b = a.clone(), b.clone()
        clean_a[m:], clean_a[:, k:], clean_b[k:], clean_b[:, n:] = 0, 0, 0, 0
        bound = product_bound(clean_a, clean_b)
        where = [(counts == x).nonzero().item() for x in (m, k, n)]
        at_run_time = [checks.scalar(counts, int(i)) for i in where]
        for label, valid in (("literal", (m, k, n)), ("run time", at_run_time)):
            left, right = checks.take(a), checks.take(b)
            checks.expect(
                checks.op("matmul", left, right, *valid), f"{label} {m} {k} {n}", bound=bound
            )
            kind = INT32 if dtype == torch.int8 else FP32
            acc = checks.op("full", shape=(rows, 30), dtype=kind, value=3)
            more = checks.op("matmul_acc", acc, left, right, *valid)
            checks.expect(
                more,
                f"{label} {m} {k} {n} on top",
                (m, n),
                bound=bound + 1e-6 if dtype != torch.int8 else 0.0,
            )
    checks.run()


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16], ids=str)
def test_leading_axes_are_batches_and_broadcast(dtype: torch.dtype):
    checks = Checks()
    for left, right in (
        ((2, 3, 33), (2, 33, 17)),
        ((3, 33), (2, 33, 17)),
        ((2, 1, 3, 8), (1, 2, 8, 16)),
        ((2, 3, 8), (8, 5)),
    ):
        a, b = numbers(left, dtype, 1), numbers(right, dtype, 2)
        expect_product(checks, a, b, f"{left} x {right}")
    a, b = numbers((2, 5, 3), dtype, 3), numbers((2, 4, 5), dtype, 4)
    expect_product(checks, a, b, "both transposed", a_trans=True, b_trans=True)
    checks.run()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_accumulator_continues(dtype: torch.dtype):
    checks = Checks()
    kind = torch.int32 if dtype == torch.int8 else torch.float32
    for m, k, n in ((1, 32, 17), (7, 33, 65), (13, 8, 16)):
        a, b = numbers((m, k), dtype, 1), numbers((k, n), dtype, 2)
        start = draw((m, n), kind, 3, plain=True)
        acc = checks.take(start)
        once = checks.op("matmul_acc", acc, checks.take(a), checks.take(b), m, k, n)
        twice = checks.op("matmul_acc", once, checks.take(a), checks.take(b), m, k, n)
        bound = 2 * product_bound(a, b)
        slack = 0.0 if kind == torch.int32 else start.double().abs() * 2.0**-22 + 2.0**-20
        checks.expect(once, f"{m} {k} {n} once", bound=bound + slack)
        checks.expect(twice, f"{m} {k} {n} twice", bound=bound + slack)
        checks.expect(acc, f"{m} {k} {n}: what it started from stays")
    checks.run()


def test_nan_behind_a_row_stays_behind_it():
    """K ends inside a group of the microkernel; what is computed behind it is 1 / 0."""
    checks = Checks()
    for dtype in (torch.bfloat16, torch.float16):
        for k in (1, 3, 17, 33):
            a, b = torch.ones(5, k).to(dtype), numbers((k, 20), dtype, k)
            inverse = checks.op("recip", checks.take(a))
            product = checks.op("matmul", inverse, checks.take(b), 5, k, 20)
            checks.expect(product, f"{dtype} {k}", bound=product_bound(a, b))
    a = torch.tensor([[1.0], [0.0], [1.0]]).bfloat16()
    column = checks.op("recip", checks.take(a))
    checks.expect(
        checks.op("matmul", column, checks.take(torch.ones(1, 4).bfloat16()), 3, 1, 4),
        "a column with inf",
    )
    checks.run()


def test_windows_of_a_tile_are_operands_too():
    checks = Checks()
    whole, other = numbers((9, 70), torch.bfloat16, 1), numbers((40, 50), torch.bfloat16, 2)
    for made in (False, True):
        x, w = checks.take(whole), checks.take(other)
        if made:
            x, w = checks.op("abs", x), checks.op("neg", w)
        a = checks.op("extract", x, 2, 5, shape=(6, 31))
        b = checks.op("extract", w, 3, 7, shape=(31, 33))
        bound = product_bound(whole[2:8, 5:36], other[3:34, 7:40])
        checks.expect(checks.op("matmul", a, b, 6, 31, 33), f"made {made}", bound=bound)
        column = checks.op("extract", w, 0, 7, shape=(31, 1))
        bound = product_bound(whole[2:8, 5:36], other[0:31, 7:8])
        checks.expect(
            checks.op("matmul", a, column, 6, 31, 1), f"a column, made {made}", bound=bound
        )
        by_row = checks.op("extract", w, 3, 7, shape=(33, 31))
        bound = product_bound(whole[2:8, 5:36], other[3:36, 7:38].T)
        product = checks.op("matmul", a, by_row, 6, 31, 33, b_trans=True)
        checks.expect(product, f"transposed, made {made}", bound=bound)
    checks.run()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_has_the_same_bits_in_every_company(dtype: torch.dtype):
    """Not M, not N, not the number of threads, not the row's place change a bit of it."""
    k = 100
    a, b = numbers((40, k), dtype, 1), numbers((k, 80), dtype, 2)
    results = []
    for rows, columns in (
        (slice(0, 40), 80),
        (slice(7, 8), 80),
        (slice(3, 16), 80),
        (slice(7, 13), 17),
        (slice(0, 8), 64),
    ):
        checks = Checks()
        left, right = a[rows].contiguous(), b[:, :columns].contiguous()
        expect_product(checks, left, right, "product")
        for threads in (1, 2, 3):
            arrays = [x.clone() for x in checks.arrays]
            compile_native(checks.function()).run(arrays, threads)
            results.append(arrays[2][7 - rows.start, :17])
    assert all(torch.equal(x, results[0]) for x in results)


def test_what_follows_a_product_is_done_row_by_row_and_comes_out_whole():
    """An epilogue with a reduction, over more rows than a register tile has, some of them not valid."""
    checks = Checks()
    counts = torch.tensor([0, 5, 23, 29], dtype=torch.int32)
    a, b = numbers((29, 64), torch.int8, 1), numbers((64, 50), torch.int8, 2)
    scale, gain = (
        draw((29, 1), torch.float32, 3, plain=True),
        draw((1, 50), torch.float32, 4, plain=True),
    )
    for position in range(4):
        m = checks.scalar(counts, position)
        product = checks.op("matmul", checks.take(a), checks.take(b), m, 64, 50)
        x = checks.op("mul", checks.op("cast", product, to=FP32, mode="rint"), checks.take(scale))
        x = checks.op("mul", x, checks.take(gain))
        top = checks.op("row_max", x, 29, 50)
        checks.expect(checks.op("sub", x, top), f"{counts[position]} rows")
        checks.expect(top, f"{counts[position]} rows, largest", signed_zeros=False)
        checks.expect(product, f"{counts[position]} rows, product", (index(29), index(33)))
    checks.run()
