"""Element-wise operators in machine code, every dtype and broadcast form, bit for bit."""

from __future__ import annotations

import pytest
import torch
from both_ways import FLOATS, INTEGERS, Checks, draw, literal

from tilewright.dtypes import FP32, INT8, INT32, INT64, UINT16, UINT32, UINT64
from tilewright.ir.nodes import Const
from tilewright.ir.ops.elementwise import ARITHMETIC, BINARY, INTEGER_ONLY, UNARY

WIDTHS = (1, 2, 3, 15, 16, 17, 31, 33, 64, 65, 100, 257)
DTYPES = (*FLOATS, *INTEGERS)
ABOUT = {"exp": 2, "log": 2, "sin": 2, "cos": 2}  # ulp that a library function may be off


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_two_operands_of_every_form_give_the_interpreters_bits(dtype: torch.dtype):
    checks = Checks()
    shape = (3, 37)
    a, b = draw(shape, dtype, 1), draw(shape, dtype, 2)
    column, row, one = draw((3, 1), dtype, 3), draw((1, 37), dtype, 4), draw((1, 1), dtype, 5)
    vector = draw((37,), dtype, 6)
    x = checks.take(a)
    names = ARITHMETIC if dtype.is_floating_point else BINARY
    for name in (*names, *(f"cmp {kind}" for kind in ("eq", "ne", "lt", "le", "gt", "ge"))):
        op, _, kind = name.partition(" ")
        attrs = {"kind": kind} if kind else {}
        for form, y in {
            "tile": b,
            "column": column,
            "row": row,
            "one": one,
            "vector": vector,
        }.items():
            result = checks.op(op, x, checks.take(y), **attrs)
            checks.expect(result, f"{name} with a {form}")
        left = checks.op(op, checks.take(column), checks.take(row), **attrs)
        checks.expect(left, f"{name} of a column and a row")
        checks.expect(checks.op(op, x, literal(3, a), **attrs), f"{name} with a literal")
        scalar = checks.scalar(one, 0, 0)
        checks.expect(checks.op(op, x, scalar, **attrs), f"{name} with a scalar")
    checks.run()


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_one_operand_gives_the_interpreters_bits(dtype: torch.dtype):
    checks = Checks()
    array = draw((5, 67), dtype, 7)
    x = checks.take(array)
    names = [name for name in UNARY if name not in INTEGER_ONLY]
    if not dtype.is_floating_point:
        names = ["neg", "abs", "relu", "not_"]
    for name in names:
        if dtype == torch.float32 or name not in ABOUT:
            checks.expect(checks.op(name, x), name, ulp=ABOUT.get(name, 0))
    narrow = draw((5, 1), dtype, 8)
    for name in names:
        if name not in ABOUT:
            checks.expect(checks.op(name, checks.take(narrow)), f"{name} of one column")
    checks.run()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=name_of)
def test_library_functions_of_16_bit_floats_are_within_one_of_their_units(dtype: torch.dtype):
    checks = Checks()
    x = draw((4, 40), dtype, 9, plain=True)
    unit = 2.0**-10 if dtype == torch.float16 else 2.0**-7
    for name, function in {
        "exp": torch.exp,
        "log": torch.log,
        "sin": torch.sin,
        "cos": torch.cos,
    }.items():
        size = function(x.double()).abs()
        checks.expect(checks.op(name, checks.take(x)), name, bound=size * unit + 1e-7)
    checks.run()


@pytest.mark.parametrize("rows", [(), (1,), (3,), (2, 2), (2, 1, 3)], ids=str)
def test_every_width_and_rank_is_covered_to_its_last_element_and_no_further(rows: tuple[int, ...]):
    checks = Checks()
    for number, width in enumerate(WIDTHS):
        dtype = (torch.float32, torch.bfloat16, torch.int8, torch.int64, torch.float16)[number % 5]
        a, b = draw((*rows, width), dtype, number), draw((*rows, width), dtype, number + 50)
        total = checks.op("add", checks.take(a), checks.take(b))
        checks.expect(checks.op("sub", total, literal(2, a)), f"{dtype} {width}")
    checks.run()


def test_all_products_of_two_8_bit_numbers_wrap():
    codes = torch.arange(-128, 128).to(torch.int8)
    checks = Checks()
    column, row = checks.take(codes.reshape(256, 1)), checks.take(codes.reshape(1, 256))
    for name in BINARY:
        checks.expect(checks.op(name, column, row), name)
    checks.run()


def test_sel_takes_the_first_where_the_mask_is_not_zero():
    checks = Checks()
    for dtype in (*DTYPES, torch.bool):
        mask, a, b = (
            draw((3, 19), dtype, 1),
            draw((3, 19), torch.float32, 2),
            draw((3, 19), torch.float32, 3),
        )
        label = f"mask of {dtype}"
        checks.expect(checks.op("sel", checks.take(mask), checks.take(a), checks.take(b)), label)
        narrow = checks.op(
            "sel", checks.take(draw((3, 1), dtype, 4)), checks.take(a), checks.take(b)
        )
        checks.expect(narrow, label + ", one column")
    checks.run()


def test_a_bool_stays_one_or_zero_through_arithmetic():
    checks = Checks()
    a, b = draw((4, 33), torch.bool, 1), draw((4, 33), torch.bool, 2)
    for name in ("add", "sub", "mul", "maximum", "minimum", "and_", "or_", "xor"):
        result = checks.op(name, checks.take(a), checks.take(b))
        checks.expect(checks.op("cast", result, to=INT32, mode="none"), name)
        checks.expect(result, f"{name} as BOOL")
    checks.expect(checks.op("not_", checks.take(a)), "not_ as BOOL")
    checks.run()


def test_unsigned_words_that_live_inside_kernels_only():
    """UINT16, UINT32 and UINT64 come from casts and leave as INT64."""
    checks = Checks()
    a, b = draw((3, 35), torch.int64, 1), draw((3, 35), torch.int64, 2)
    for dtype in (UINT16, UINT32, UINT64):
        if dtype == UINT64:
            x, y = (
                checks.op("gather_mask", checks.take(v), pattern="P1111", to=dtype) for v in (a, b)
            )
        else:
            x, y = (checks.op("cast", checks.take(v), to=dtype, mode="none") for v in (a, b))
        for name in BINARY:
            result = checks.op(name, x, y)
            if dtype == UINT64:
                result = checks.op("gather_mask", result, pattern="P1111", to=INT64)
            else:
                result = checks.op("cast", result, to=INT64, mode="none")
            checks.expect(result, f"{name} on {dtype}")
        for kind in ("lt", "ge"):
            result = checks.op("cmp", x, y, kind=kind)
            checks.expect(checks.op("cast", result, to=INT8, mode="none"), f"{kind} on {dtype}")
    checks.run()


def test_a_chain_of_16_bit_operators_rounds_after_every_one():
    checks = Checks()
    for dtype in (torch.float16, torch.bfloat16):
        a, b, c = (draw((3, 50), dtype, seed) for seed in (1, 2, 3))
        x = checks.op("mul", checks.take(a), checks.take(b))
        x = checks.op("add", x, checks.take(c))
        x = checks.op("mul", x, Const(0.1, FP32))
        x = checks.op("sub", x, checks.take(a))
        checks.expect(x, str(dtype))
    checks.run()


def test_a_product_and_a_sum_are_not_contracted():
    checks = Checks()
    a, b, c = (draw((4, 64), torch.float32, seed, plain=True) for seed in (1, 2, 3))
    product = checks.op("mul", checks.take(a), checks.take(b))
    checks.expect(checks.op("add", product, checks.take(c)), "a * b + c")
    checks.expect(checks.op("sub", product, product), "a * b - a * b")
    checks.run()
