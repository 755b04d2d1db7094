"""Row and column forms, functions of one operand, scalars, products: each word against Torch."""

from __future__ import annotations

import pytest
import torch
from both_ways import agree, draw

import tilewright.language as pl

CORE = pl.Level.CORE_GROUP
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
OUT = pl.Out[pl.Tensor]


@pl.jit
def by_rows(x: pl.Tensor, v: pl.Tensor, a: OUT, s: OUT, m: OUT, d: OUT, e: OUT):
    with pl.at(level=CORE):
        a[:, :] = pl.row_expand_add(x, v)
        s[:, :] = pl.tile.row_expand_sub(x, v)
        m[:, :] = pl.tensor.row_expand_mul(x, v)
        d[:, :] = pl.row_expand_div(x, v)
        e[:, :] = pl.row_expand(x, v)


@pl.jit
def by_columns(x: pl.Tensor, v: pl.Tensor, a: OUT, s: OUT, m: OUT, d: OUT, e: OUT):
    with pl.at(level=CORE):
        a[:, :] = pl.col_expand_add(x, v)
        s[:, :] = pl.tile.col_expand_sub(x, v)
        m[:, :] = pl.tensor.col_expand_mul(x, v)
        d[:, :] = pl.col_expand_div(x, v)
        e[:, :] = pl.col_expand(x, v)


NARROW = [(by_rows, (6, 1)), (by_columns, (1, 50))]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("kernel", "narrow"), NARROW, ids=["rows", "columns"])
def test_narrow_operands_repeat_along_their_axis(
    kernel: pl.Kernel, narrow: tuple[int, int], dtype: torch.dtype
):
    x, v = draw((6, 50), dtype, 1, plain=True), draw(narrow, dtype, 2, plain=True)
    _, _, a, s, m, d, e = agree(kernel, x, v, *[torch.zeros_like(x) for _ in range(5)])
    wide, other = x.float(), v.float()
    assert torch.equal(a, (wide + other).to(dtype))
    assert torch.equal(s, (wide - other).to(dtype))
    assert torch.equal(m, (wide * other).to(dtype))
    assert torch.equal(d, (wide / other).to(dtype))
    assert torch.equal(e, v.expand(6, 50))


@pl.jit
def exponentials(x: pl.Tensor, v: pl.Tensor, w: pl.Tensor, r: OUT, c: OUT):
    with pl.at(level=CORE):
        r[:, :] = pl.row_expand_expdif(x, v)
        c[:, :] = pl.col_expand_expdif(x, w)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_exponentials_of_differences(dtype: torch.dtype):
    x, v, w = (draw(shape, dtype, 1, plain=True) for shape in ((6, 50), (6, 1), (1, 50)))
    unit = {torch.float32: 2.0**-22, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}[dtype]
    largest = max((x.double() - y.double()).max().exp().item() for y in (v, w))
    *_, r, c = agree(exponentials, x, v, w, x * 0, x * 0, bound=largest * unit)
    for got, narrow in ((r, v), (c, w)):
        exact = (x.float() - narrow.float()).to(dtype).double().exp()
        assert bool(((got.double() - exact).abs() <= exact * unit).all())


@pl.jit
def exact_functions(x: pl.Tensor, a: OUT, n: OUT, r: OUT, s: OUT, q: OUT):
    with pl.at(level=CORE):
        a[:, :] = pl.abs(x)
        n[:, :] = pl.neg(x)
        r[:, :] = pl.recip(x)
        s[:, :] = pl.sqrt(x)
        q[:, :] = pl.rsqrt(x, high_precision=True)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_functions_that_ieee_defines_are_exact(dtype: torch.dtype):
    x = draw((5, 60), dtype, 3)
    _, *got = agree(exact_functions, x, *[torch.zeros_like(x) for _ in range(5)])
    wide = x.float()
    root = wide.double().sqrt().float()
    for y, wanted in zip(got, (wide.abs(), -wide, 1 / wide, root, 1 / root), strict=True):
        assert torch.allclose(y, wanted.to(dtype), 0, 0, equal_nan=True)


@pl.jit
def functions(x: pl.Tensor, p: pl.Tensor, e: OUT, n: OUT, s: OUT, c: OUT):
    with pl.at(level=CORE):
        e[:, :] = pl.exp(x)
        n[:, :] = pl.log(p)
        s[:, :] = pl.sin(x)
        c[:, :] = pl.cos(x)


def test_library_functions_are_within_two_units():
    x = torch.cat([torch.linspace(-80, 80, 500), torch.tensor([0.0, -200, 200])])[None, :]
    p = torch.cat([torch.logspace(-37, 37, 500), torch.tensor([0.0, 1.0, -1.0])])[None, :]
    _, _, *got = agree(functions, x, p, *[torch.zeros_like(x) for _ in range(4)], ulp=2)
    wanted = (x.double().exp(), p.double().log(), x.double().sin(), x.double().cos())
    for y, exact in zip(got, wanted, strict=True):
        torch.testing.assert_close(y, exact.float(), rtol=2.5e-7, atol=1e-7, equal_nan=True)
    assert got[0][0, -2:].tolist() == [0.0, float("inf")]
    assert got[1][0, -3] == float("-inf")
    assert got[1][0, -1].isnan()


@pl.jit
def of_integers(i: pl.Tensor, e: OUT, s: OUT, r: OUT):
    with pl.at(level=CORE):
        e[:, :] = pl.log(i)
        s[:, :] = pl.sqrt(i)
        r[:, :] = pl.recip(i)


def test_fractional_functions_of_integers_give_fp32():
    i = torch.arange(1, 41, dtype=torch.int32)[None, :]
    _, e, s, r = agree(of_integers, i, *[torch.zeros(1, 40) for _ in range(3)], ulp=2)
    torch.testing.assert_close(e, i.double().log().float(), rtol=3e-7, atol=1e-7)
    assert torch.equal(s, i.double().sqrt().float())
    assert torch.equal(r, 1 / i.float())


@pl.jit
def scalars(n: pl.Scalar[pl.INT32], f: pl.Scalar[pl.FP32], i: OUT, x: OUT):
    pl.write(i, [0], pl.cast(pl.min(n, 7), pl.INT32))
    pl.write(i, [1], pl.cast(pl.max(n, 7), pl.INT32))
    pl.write(i, [2], pl.const(3, pl.INT32))
    pl.write(i, [3], pl.cast(f, pl.INT32))
    pl.write(x, [0], pl.max(f, pl.const(0.1, pl.FP32)))
    pl.write(x, [1], pl.min(f, -2.5))


@pytest.mark.parametrize(("n", "f"), [(5, 2.75), (9, -3.75)])
def test_scalars(n: int, f: float):
    i, x = agree(scalars, n, f, torch.zeros(4, dtype=torch.int32), torch.zeros(2))
    assert i.tolist() == [min(n, 7), max(n, 7), 3, int(f)]
    assert torch.equal(x, torch.tensor([max(f, 0.1), min(f, -2.5)]))


@pl.jit
def products(x: pl.Tensor, w: pl.Tensor, bias: pl.Tensor, p: OUT, t: OUT, a: OUT, b: OUT, g: OUT):
    with pl.at(level=CORE):
        p[:, :] = pl.matmul(x, w, out_dtype=p.dtype)
        t[:, :] = pl.matmul(
            pl.transpose(x, 0, 1), pl.transpose(w, 0, 1), a_trans=True, b_trans=True
        )
        a[:, :] = pl.tile.matmul_acc(pl.full([6, 20], p.dtype, 1), x, w)
        b[:, :] = pl.matmul_bias(x, w, bias)
        row = pl.gemv(x[0:1, :], w)
        row = pl.gemv_acc(row, x[1:2, :], w)
        g[:, :] = pl.add(row, pl.tile.gemv_bias(x[2:3, :], w, bias))


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int8], ids=str)
def test_products_of_whole_numbers_are_exact(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(4)
    x = torch.randint(-5, 6, (6, 40), generator=generator).to(dtype)
    w = torch.randint(-5, 6, (40, 20), generator=generator).to(dtype)
    kind = torch.int32 if dtype == torch.int8 else torch.float32
    bias = torch.arange(20)[None, :].to(kind)
    blanks = [torch.zeros(6, 20, dtype=kind) for _ in range(4)]
    *_, p, t, a, b, g = agree(products, x, w, bias, *blanks, torch.zeros(1, 20, dtype=kind))
    wanted = (x.double() @ w.double()).to(kind)
    assert torch.equal(p, wanted)
    assert torch.equal(t, wanted)
    assert torch.equal(a, wanted + 1)
    assert torch.equal(b, wanted + bias)
    assert torch.equal(g, wanted[:3].sum(0, keepdim=True, dtype=kind) + bias)


@pl.jit
def batches(x: pl.Tensor, w: pl.Tensor, y: OUT, z: OUT):
    with pl.at(level=CORE):
        y[:, :, :] = pl.batch_matmul(x, w)
        z[:, :, :] = pl.matmul(x[0, :, :], w)


def test_leading_axes_are_batches_and_broadcast():
    x = torch.randint(-5, 6, (3, 4, 16)).float()
    w = torch.randint(-5, 6, (3, 16, 8)).float()
    _, _, y, z = agree(batches, x, w, torch.zeros(3, 4, 8), torch.zeros(3, 4, 8))
    assert torch.equal(y, x @ w)
    assert torch.equal(z, x[0] @ w)


@pl.jit
def numbered(x: pl.Tensor, y: OUT):
    with pl.spmd(4, name_hint="rows"):
        row = pl.tile.get_block_idx()
        y[row : row + 1, :] = pl.add(pl.no_dep(x)[row : row + 1, :], 1.0)


def test_blocks_know_their_number():
    x = torch.randn(4, 16)
    _, y = agree(numbered, x, torch.zeros(4, 16))
    assert torch.equal(y, x + 1)
