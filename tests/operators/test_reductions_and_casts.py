"""Reductions in every spelling, FP16 columns bit by bit, and casts of every pair and mode."""

from __future__ import annotations

import pytest
import torch
from both_ways import FLOATS, INTEGERS, agree, draw

import tilewright.language as pl

CORE = pl.Level.CORE_GROUP
INF = float("inf")


@pl.jit
def column_sums(
    x: pl.Tensor, plain: pl.Out[pl.Tensor], tree: pl.Out[pl.Tensor], tile: pl.Out[pl.Tensor]
):
    rows, columns = x.shape
    with pl.at(level=CORE):
        tmp = pl.create_tile([rows, columns], dtype=pl.FP16)
        plain[:, :] = pl.col_sum(x)
        tree[:, :] = pl.col_sum(x, tmp)
        tile[:, :] = pl.tile.sum(x, axis=0, keepdim=True)


def tree_sum(x: torch.Tensor) -> torch.Tensor:
    """Row i becomes row 2i + row 2i+1; an odd last row is then added into row 0; repeat."""
    rows = list(x)
    while len(rows) > 1:
        added = [rows[2 * i] + rows[2 * i + 1] for i in range(len(rows) // 2)]
        if len(rows) % 2:
            added[0] = added[0] + rows[-1]
        rows = added
    return rows[0][None, :]


@pytest.mark.parametrize("shape", [(1, 16), (2, 33), (3, 1), (7, 50), (16, 64), (45, 20), (64, 3)])
def test_fp16_columns_add_in_fp16_row_after_row_or_as_a_tree(shape: tuple[int, int]):
    generator = torch.Generator().manual_seed(shape[0])
    x = (torch.randn(shape, generator=generator) * 100).half()
    blanks = [torch.zeros(1, shape[1]).half() for _ in range(3)]
    _, plain, tree, tile = agree(column_sums, x, *blanks)
    total = x[0]
    for row in x[1:]:
        total = total + row
    assert torch.equal(plain[0], total)
    assert torch.equal(tile[0], total)
    assert torch.equal(tree, tree_sum(x))
    if shape[0] > 40:
        assert not torch.equal(plain, tree)  # the two orders can be told apart


@pl.jit
def valid_tree(x: pl.Tensor, n: pl.Scalar[pl.INT32], y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        part = pl.slice(x, [13, 20], [0, 0], valid_shape=[n, 20])
        y[:, :] = pl.tile.col_sum(part, pl.create_tile([13, 20], dtype=pl.FP16))


@pytest.mark.parametrize("n", [0, 1, 5, 12, 13])
def test_a_tree_of_the_valid_rows_only(n: int):
    x = (torch.randn(13, 20) * 100).half()
    x[n:] = float("nan")
    *_, y = agree(valid_tree, x, n, torch.ones(1, 20).half())
    assert torch.equal(y, tree_sum(x[:n]) if n else torch.zeros(1, 20).half())


@pl.jit
def along(
    x: pl.Tensor,
    r: pl.Out[pl.Tensor],
    c: pl.Out[pl.Tensor],
    flat: pl.Out[pl.Tensor],
    low: pl.Out[pl.Tensor],
    tmp: pl.Out[pl.Tensor],
):
    rows, columns = x.shape
    with pl.at(level=CORE):
        r[:, :] = pl.tile.max(x, 1, True)
        c[:, :] = pl.tile.min(x, axis=-2, keepdim=True)
        sums = pl.tile.sum(x, 1)
        flat[0, :] = sums
        low[0, :] = pl.tile.max(x, axis=0, keepdim=False)
        scratch = pl.create_tile([rows, columns], dtype=pl.FP32)
        least = pl.tile.row_min(x, scratch)
        tmp[:, :] = pl.maximum(pl.row_max(x, tmp_tile=scratch), pl.row_expand(least, least))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32], ids=str)
def test_reductions_by_axis(dtype: torch.dtype):
    x = torch.randint(-99, 99, (6, 37), generator=torch.Generator().manual_seed(0)).to(dtype)
    shapes = ((6, 1), (1, 37), (1, 6), (1, 37), (6, 1))
    _, r, c, flat, low, tmp = agree(along, x, *[torch.zeros(s, dtype=dtype) for s in shapes])
    assert torch.equal(r, x.amax(1, keepdim=True))
    assert torch.equal(c, x.amin(0, keepdim=True))
    assert torch.equal(flat[0], x.sum(1).to(dtype))
    assert torch.equal(low[0], x.amax(0))
    assert torch.equal(tmp, r)


@pl.jit
def nothing_valid(x: pl.Tensor, n: pl.Scalar[pl.INT32], y: pl.Out[pl.Tensor], z: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        rows = pl.slice(x, [2, 8], [0, 0], valid_shape=[2, n])
        y[:, 0:1] = pl.row_sum(rows)
        y[:, 1:2] = pl.row_max(rows)
        y[:, 2:3] = pl.row_min(rows)
        columns = pl.slice(x, [2, 8], [0, 0], valid_shape=[n, 8])
        z[0:1, :] = pl.col_sum(columns)
        z[1:2, :] = pl.col_max(columns)
        z[2:3, :] = pl.col_min(columns)


def test_with_nothing_valid_a_reduction_gives_its_neutral_number():
    *_, y, z = agree(nothing_valid, torch.ones(2, 8), 0, torch.ones(2, 3), torch.ones(3, 8))
    assert y.tolist() == [[0, -INF, INF]] * 2
    assert z.tolist() == [[0] * 8, [-INF] * 8, [INF] * 8]


MODES = ("none", "rint", "round", "floor", "ceil", "trunc", "odd")
DTYPES = {
    torch.float32: pl.FP32, torch.float16: pl.FP16, torch.bfloat16: pl.BF16, torch.int8: pl.INT8,
    torch.int16: pl.INT16, torch.int32: pl.INT32, torch.int64: pl.INT64, torch.uint8: pl.UINT8,
}  # fmt: skip


@pytest.mark.parametrize("target", DTYPES, ids=str)
@pytest.mark.parametrize("source", DTYPES, ids=str)
def test_every_pair_of_dtypes_casts_in_every_mode(source: torch.dtype, target: torch.dtype):
    """The interpreter's casts are held to exact arithmetic elsewhere; here machine code is held to them."""
    if source == target:
        pytest.skip("a cast to the same dtype is refused")
    to = DTYPES[target]

    @pl.jit
    def all_modes(x: pl.Tensor, y: pl.Out[pl.Tensor]):
        with pl.at(level=CORE):
            y[0:1, :] = pl.cast(x, to, "none")
            y[1:2, :] = pl.cast(x, to, mode="rint")
            y[2:3, :] = pl.tile.cast(x, target_type=to)
            y[3:4, :] = pl.tensor.cast(x, target_type=to, mode=3)
            y[4:5, :] = pl.cast(x, to, mode=4)
            y[5:6, :] = pl.cast(x, to, mode=5)
            y[6:7, :] = pl.cast(x, to, mode="odd")

    x = draw((1, 400), source, 11)
    _, y = agree(all_modes, x, torch.zeros(7, 400, dtype=target))
    if source in FLOATS and target in INTEGERS:
        info, wide = torch.iinfo(target), x[0].double()
        inside = (wide > info.min) & (wide < info.max) & (wide.abs() < 2**53)
        exact = {
            "none": wide.trunc(), "rint": wide.round(), "floor": wide.floor(), "ceil": wide.ceil(),
            "round": torch.copysign((wide.abs() + 0.5).floor(), wide), "odd": wide.trunc(),
        }  # fmt: skip
        for number, mode in enumerate(MODES):
            wanted = exact.get(mode, wide.trunc())
            small = inside & (wide.abs() < 2**40) & (wanted >= info.min) & (wanted <= info.max)
            assert torch.equal(y[number][small].double(), wanted[small] + 0.0), mode
            assert not y[number][x[0].isnan()].any()
            assert bool((y[number][x[0] == INF] == info.max).all())
            assert bool((y[number][x[0] == -INF] == info.min).all())
    if source in INTEGERS and target in INTEGERS:
        info = torch.iinfo(target)
        wanted = x[0].long().clamp(info.min, info.max).to(target)
        assert all(torch.equal(row, wanted) for row in y)
    if {source, target} <= set(FLOATS):
        assert torch.allclose(y[1], x[0].to(target), 0, 0, equal_nan=True)


FP8 = {torch.float8_e4m3fn: pl.FP8E4M3FN, torch.float8_e5m2: pl.FP8E5M2}


@pytest.mark.parametrize("target", FP8, ids=str)
@pytest.mark.parametrize("source", [*FLOATS, torch.int8, torch.int32, *FP8], ids=str)
def test_fp8_is_cast_to_and_from_everything_in_every_mode(source: torch.dtype, target: torch.dtype):
    if source == target:
        pytest.skip("a cast to the same dtype is refused")
    to = FP8[target]

    @pl.jit
    def all_modes(x: pl.Tensor, y: pl.Out[pl.Tensor], back: pl.Out[pl.Tensor]):
        with pl.at(level=CORE):
            y[0:1, :] = pl.cast(x, to, mode="none")
            y[1:2, :] = pl.cast(x, to, mode="rint")
            y[2:3, :] = pl.cast(x, to)
            y[3:4, :] = pl.cast(x, to, mode="floor")
            y[4:5, :] = pl.cast(x, to, mode="ceil")
            y[5:6, :] = pl.cast(x, to, mode="trunc")
            y[6:7, :] = pl.cast(x, to, mode="odd")
            back[:, :] = pl.cast(y, pl.FP32)

    plain = source if source not in FP8 else torch.float32
    x = draw((1, 3000), plain, 12).to(source)
    if source == torch.float32:  # ties, and numbers about both ends of the range
        halves = torch.arange(-1500, 1500) / 16 * 2.0 ** torch.randint(-14, 4, (3000,))
        x = torch.where(torch.arange(3000) % 2 == 0, halves, x)
    _, y, back = agree(all_modes, x, torch.zeros(7, 3000).to(target), torch.zeros(7, 3000))
    torch.testing.assert_close(back, y.float(), rtol=0, atol=0, equal_nan=True)
    inside = x[0].double().abs() <= (448 if to == pl.FP8E4M3FN else 57344)
    near = x[0].float().to(target).float()
    assert torch.equal(back[1][inside], near[inside])
    assert bool((back[3][inside] <= back[1][inside]).all())
    assert bool((back[1][inside] <= back[4][inside]).all())
    assert bool((back[5][inside].abs() <= x[0].float().abs()[inside]).all())
    assert torch.equal(back[1].isnan(), x[0].float().isnan())
    if to == pl.FP8E4M3FN:
        largest = 448 if x.float().nan_to_num(0.0).abs().max() > 448 else 128
        assert back.nan_to_num(0.0).abs().max() == largest  # no infinities: it stays there


@pl.jit
def every_code(
    x: pl.Tensor,
    wide: pl.Out[pl.Tensor],
    half: pl.Out[pl.Tensor],
    i: pl.Out[pl.Tensor],
    moved: pl.Out[pl.Tensor],
):
    with pl.at(level=CORE):
        wide[:, :] = pl.cast(x, pl.FP32)
        half[:, :] = pl.cast(x, pl.BF16)
        i[:, :] = pl.cast(x, pl.INT32, mode="rint")
        turned = pl.reshape(pl.transpose(x, 0, 1), [1, 256])
        moved[:, :] = pl.gather(turned, mask_pattern=1)


@pytest.mark.parametrize("source", FP8, ids=str)
def test_every_fp8_code_widens_exactly_and_moves_as_it_is(source: torch.dtype):
    x = torch.arange(256, dtype=torch.uint8).view(source).view(2, 128)
    blanks = torch.zeros(2, 128), torch.zeros(2, 128).bfloat16(), torch.zeros(2, 128).int()
    _, wide, half, i, moved = agree(every_code, x, *blanks, torch.zeros(1, 128).to(source))
    torch.testing.assert_close(wide, x.float(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(half, x.bfloat16(), rtol=0, atol=0, equal_nan=True)
    finite = x.float().isfinite()
    assert torch.equal(i[finite], x.float().round().int()[finite])
    bits = x.view(torch.uint8).T.reshape(1, 256)[:, 0::2]
    assert torch.equal(moved.view(torch.uint8), bits)
