"""Bits, remainders, three operands, partial operands, leaky units, predicates, every scalar spelling."""

from __future__ import annotations

import pytest
import torch
from both_ways import INTEGERS, agree, draw

import tilewright.language as pl

CORE = pl.Level.CORE_GROUP
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@pl.jit
def bits(
    x: pl.Tensor,
    z: pl.Tensor,
    a: pl.Out[pl.Tensor],
    o: pl.Out[pl.Tensor],
    e: pl.Out[pl.Tensor],
    n: pl.Out[pl.Tensor],
):
    with pl.at(level=CORE):
        a[:, :] = pl.and_(x, z)
        o[:, :] = pl.tile.or_(x, z)
        e[:, :] = pl.tensor.xor(x, z)
        n[:, :] = pl.not_(x)


@pytest.mark.parametrize("dtype", [*INTEGERS, torch.bool], ids=str)
def test_bits_are_those_of_torch(dtype: torch.dtype):
    x, z = draw((3, 70), dtype, 1), draw((3, 70), dtype, 2)
    blanks = [torch.zeros_like(x) for _ in range(4)]
    _, _, a, o, e, n = agree(bits, x, z, *blanks)
    assert torch.equal(a, x & z)
    assert torch.equal(o, x | z)
    assert torch.equal(e, x ^ z)
    assert torch.equal(n, ~x)


@pl.jit
def shifts(
    x: pl.Tensor,
    by: pl.Tensor,
    up: pl.Out[pl.Tensor],
    down: pl.Out[pl.Tensor],
    up3: pl.Out[pl.Tensor],
    down3: pl.Out[pl.Tensor],
):
    with pl.at(level=CORE):
        up[:, :] = pl.shl(x, by)
        down[:, :] = pl.shr(x, by)
        up3[:, :] = pl.shls(x, 3)
        down3[:, :] = pl.tile.shrs(x, 3)


def wrapped(number: int, dtype: torch.dtype) -> int:
    low, width = torch.iinfo(dtype).min, torch.iinfo(dtype).bits
    return (number - low) % (1 << width) + low


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_shifts_bring_in_zeros_and_signs_and_take_any_count(dtype: torch.dtype):
    width = torch.iinfo(dtype).bits
    x = draw((3, 70), dtype, 3)
    signed = dtype != torch.uint8
    by = torch.randint(-2 if signed else 0, width + 3, (3, 70)).to(dtype)
    _, _, up, down, up3, down3 = agree(shifts, x, by, *[torch.zeros_like(x) for _ in range(4)])
    for value, count, left, right in zip(
        *(t.flatten().tolist() for t in (x, by, up, down)), strict=True
    ):
        beyond = not 0 <= count < width
        assert left == (0 if beyond else wrapped(value << count, dtype))
        assert right == value >> (width if beyond else count)
    assert torch.equal(up3, x << 3)
    assert torch.equal(down3, x >> 3)


@pl.jit
def unsigned(x: pl.Tensor, y: pl.Out[pl.Tensor], z: pl.Out[pl.Tensor], w: pl.Out[pl.Tensor]):
    """UINT16, UINT32 and UINT64 live inside kernels: what is stored is their upper half."""
    with pl.at(level=CORE):
        word = pl.reshape(pl.gather(x, mask_pattern=7, output_dtype=pl.UINT32), [1, 64])
        y[:, :] = pl.cast(pl.shr(word, 16), pl.INT32)
        half = pl.cast(pl.and_(word, 65535), pl.UINT16)
        z[:, :] = pl.cast(pl.rem(pl.not_(half), 1000), pl.INT32)
        wide = pl.mul(pl.cast(word, pl.UINT64), pl.cast(word, pl.UINT64))
        w[:, :] = pl.cast(pl.shr(wide, 33), pl.INT64)


def test_unsigned_words_compute_inside_kernels():
    x = draw((1, 64), torch.int32, 4)
    blanks = [torch.zeros(1, 64, dtype=d) for d in (torch.int32, torch.int32, torch.int64)]
    _, y, z, w = agree(unsigned, x, *blanks)
    for number, *got in zip(*(t[0].tolist() for t in (x, y, z, w)), strict=True):
        word = number % 2**32
        assert got == [word >> 16, (65535 - word % 65536) % 1000, word * word >> 33]


@pl.jit
def remainders(x: pl.Tensor, z: pl.Tensor, y: pl.Out[pl.Tensor], s: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        y[:, :] = pl.rem(x, z)
        s[:, :] = pl.rems(x, 7)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS], ids=str)
def test_a_remainder_has_the_sign_of_its_divisor(dtype: torch.dtype):
    x, z = draw((4, 70), dtype, 5), draw((4, 70), dtype, 6)
    _, _, y, s = agree(remainders, x, z, torch.zeros_like(x), torch.zeros_like(x))
    if dtype.is_floating_point:
        wanted = torch.remainder(x.double(), z.double()).float()  # exact but for the last addition
        tame = (x.abs() < 1e4) & (z.abs() < 1e4) & (z.abs() > 1e-3)
        close = torch.isclose(y.float(), wanted, rtol=2**-7, atol=1e-6)
        assert bool((close | ~tame).all())
        assert torch.equal(y[z == 0].isnan(), torch.ones_like(y[z == 0], dtype=torch.bool))
    else:
        wide = z.long()  # by -1 nothing is left, and the machine's own division may trap
        trivial = (wide == 0) | (wide == -1)
        rest = torch.remainder(x.long(), torch.where(trivial, 1, wide))
        assert torch.equal(y, torch.where(trivial, 0, rest).to(dtype))
        assert torch.equal(s, torch.remainder(x, 7))


@pl.jit
def three(
    x: pl.Tensor,
    y: pl.Tensor,
    z: pl.Tensor,
    a: pl.Out[pl.Tensor],
    s: pl.Out[pl.Tensor],
    n: pl.Out[pl.Tensor],
):
    with pl.at(level=CORE):
        a[:, :] = pl.addc(x, y, z)
        s[:, :] = pl.subc(x, y, z)
        n[:, :] = pl.tile.addc(x, 2.0, pl.row_max(z))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_sums_of_three_round_once(dtype: torch.dtype):
    x, y, z = (draw((5, 40), dtype, seed, plain=True) for seed in (1, 2, 3))
    *_, a, s, n = agree(three, x, y, z, *[torch.zeros_like(x) for _ in range(3)])
    fx, fy, fz = x.float(), y.float(), z.float()
    assert torch.equal(a, (fx + fy + fz).to(dtype))
    assert torch.equal(s, (fx - fy - fz).to(dtype))
    assert torch.equal(n, (fx + 2.0 + fz.amax(1, keepdim=True)).to(dtype))


PARTIAL = {"add": torch.add, "mul": torch.mul, "max": torch.maximum, "min": torch.minimum}


@pl.jit
def partial(
    x: pl.Tensor,
    z: pl.Tensor,
    m: pl.Scalar[pl.INT32],
    n: pl.Scalar[pl.INT32],
    a: pl.Out[pl.Tensor],
    p: pl.Out[pl.Tensor],
    g: pl.Out[pl.Tensor],
    s: pl.Out[pl.Tensor],
    w: pl.Out[pl.Tensor],
):
    with pl.at(level=CORE):
        left = pl.slice(x, [6, 40], [0, 0], valid_shape=[m, 40])
        right = pl.slice(z, [6, 40], [0, 0], valid_shape=[n, 40])
        a[:, :] = pl.part_add(left, right)
        p[:, :] = pl.part_mul(left, right)
        g[:, :] = pl.part_max(left, right)
        s[:, :] = pl.tile.part_min(left, right)
        w[:, :] = pl.part_add(x, right)


@pytest.mark.parametrize("counts", [(2, 5), (5, 2), (0, 3), (6, 6)])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.int8, torch.int32], ids=str)
def test_partial_operands_take_part_where_they_are_valid(
    dtype: torch.dtype, counts: tuple[int, int]
):
    x, z = (draw((6, 40), dtype, seed, plain=True) for seed in (1, 2))
    x[0, 0] = z[0, 0] = 0 * x[0, 0]
    if dtype.is_floating_point:
        x[1, 1] = z[1, 1] = -0.0
    blanks = [torch.full_like(x, 7) for _ in range(5)]
    _, _, *got, whole = agree(partial, x, z, *counts, *blanks)
    m, n = counts
    for name, y in zip(PARTIAL, got, strict=True):
        wanted = torch.full_like(x, 7)
        both, either = min(m, n), max(m, n)
        wanted[:both] = PARTIAL[name](x[:both], z[:both])
        wanted[both:either] = (x if m > n else z)[both:either]
        assert torch.equal(y, wanted), name
        if dtype.is_floating_point and both < 2 <= either:
            assert torch.equal(torch.signbit(y[1]), torch.signbit(wanted[1]))
    assert torch.equal(whole, torch.cat([x[:n] + z[:n], x[n:]]))


@pl.jit
def leaky(
    x: pl.Tensor,
    slopes: pl.Tensor,
    a: pl.Out[pl.Tensor],
    b: pl.Out[pl.Tensor],
    c: pl.Out[pl.Tensor],
):
    with pl.at(level=CORE):
        a[:, :] = pl.lrelu(x, 0.25)
        b[:, :] = pl.prelu(x, slopes)
        c[:, :] = pl.tile.relu(x)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_leaky_units_scale_what_is_not_positive(dtype: torch.dtype):
    x, slopes = draw((4, 50), dtype, 1), draw((1, 50), dtype, 2, plain=True)
    *_, a, b, c = agree(leaky, x, slopes, *[torch.zeros_like(x) for _ in range(3)])
    wide = x.float()
    assert torch.allclose(a, torch.where(x > 0, x, (wide * 0.25).to(dtype)), 0, 0, equal_nan=True)
    scaled = (wide * slopes.float()).to(dtype)
    assert torch.allclose(b, torch.where(x > 0, x, scaled), 0, 0, equal_nan=True)
    assert torch.allclose(c, torch.relu(x), 0, 0, equal_nan=True)


@pl.jit
def selected(
    x: pl.Tensor, z: pl.Tensor, y: pl.Out[pl.Tensor], w: pl.Out[pl.Tensor], m: pl.Out[pl.Tensor]
):
    with pl.at(level=CORE):
        tmp = pl.create_tile([4, 32], dtype=pl.UINT8)
        larger: pl.Tile[[4, 64], pl.UINT8] = pl.tile.cmp(x, z, 4)
        y[:, :] = pl.sel(larger, x, z, tmp)
        small: pl.Tile[[4, 64], pl.UINT8] = pl.tile.cmps(x, 0.5, cmp_type=2)
        w[:, :] = pl.tile.sel(small, x, z)
        m[:, :] = pl.mul(pl.cmp(x, z, "ge"), x)  # masks multiply


def test_packed_predicates_are_accepted_as_annotated_and_select():
    x, z = draw((4, 300), torch.float32, 1), draw((4, 300), torch.float32, 2)
    x, z = x.nan_to_num(1.0, 2.0, -2.0), z.nan_to_num(1.0, 2.0, -2.0)
    _, _, y, w, m = agree(selected, x, z, *[torch.zeros(4, 300) for _ in range(3)])
    assert torch.equal(y, torch.maximum(x, z))
    assert torch.equal(w, torch.where(x < 0.5, x, z))
    assert torch.equal(m, (x >= z) * x)


@pl.jit
def every_relation(x: pl.Tensor, z: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        y[0:1, :] = pl.cmp(x, z, 0)
        y[1:2, :] = pl.cmp(x, z, 1)
        y[2:3, :] = pl.tensor.cmp(x, z, 2)
        y[3:4, :] = pl.cmp(x, z, 3)
        y[4:5, :] = pl.cmp(x, z, 4)
        y[5:6, :] = pl.cmp(x, z, 5)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS], ids=str)
def test_every_relation_gives_one_or_zero_in_the_dtype(dtype: torch.dtype):
    x, z = draw((1, 90), dtype, 1), draw((1, 90), dtype, 2)
    z[0, ::3] = x[0, ::3]
    *_, y = agree(every_relation, x, z, torch.zeros(6, 90, dtype=dtype))
    relations = (torch.eq, torch.ne, torch.lt, torch.le, torch.gt, torch.ge)
    assert torch.equal(y, torch.cat([relation(x, z) for relation in relations]).to(dtype))


@pl.jit
def scalar_words(x: pl.Tensor, s: pl.Scalar[pl.FP32], y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        a = pl.maxs(pl.adds(x, s), -1.5)
        b = pl.mins(pl.tensor.muls(a, 3.0), 2.5)
        c = pl.tile.divs(pl.tile.subs(b, s), 0.75)
        y[:, :] = pl.tile.maxs(pl.tile.mins(pl.tile.adds(c, 0.0), 9.0), -9.0)


@pl.jit
def scalar_bits(x: pl.Tensor, n: pl.Scalar[pl.INT32], y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        y[:, :] = pl.xors(pl.ors(pl.ands(x, n), 6), -1)


def test_scalar_spellings_are_the_same_words():
    x = torch.randn(3, 33)
    *_, y = agree(scalar_words, x, 0.5, torch.zeros(3, 33))
    wanted = (torch.clamp(torch.clamp(x + 0.5, min=-1.5) * 3.0, max=2.5) - 0.5) / 0.75
    assert torch.equal(y, wanted.clamp(-9, 9))
    i = draw((2, 20), torch.int32, 1)
    *_, z = agree(scalar_bits, i, 1234567, torch.zeros_like(i))
    assert torch.equal(z, ((i & 1234567) | 6) ^ -1)
