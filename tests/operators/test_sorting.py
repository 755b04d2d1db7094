"""pl.sort32 and pl.mrgsort: values descending, ties in the order they came, indices to the last bit."""

from __future__ import annotations

import pytest
import torch
from both_ways import agree

import tilewright.language as pl

PATTERN = pl.tile.MaskPattern
CORE = pl.Level.CORE_GROUP


def many_ties(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Few different numbers, so that most have an equal; both zeros, infinities and NaN among them."""
    generator = torch.Generator().manual_seed(seed)
    pool = torch.tensor(
        [-2.0, -0.0, 0.0, 1.5, 3.0, float("inf"), float("-inf"), float("nan"), 1e-7]
    )
    return pool[torch.randint(0, len(pool), shape, generator=generator)].to(dtype)


def stable(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and positions, descending, as Torch sorts rows."""
    values, places = torch.sort(x, dim=-1, descending=True, stable=True)
    return values, places.int()


@pl.jit
def sorted_runs(x: pl.Tensor, values: pl.Out[pl.Tensor], places: pl.Out[pl.Tensor]):
    rows, columns = x.shape
    with pl.at(level=CORE):
        count = pl.arange(0, [1, columns], dtype=pl.UINT32)
        index = pl.expand_clone(count, pl.create_tensor([rows, columns], dtype=pl.UINT32))
        pairs = pl.sort32(x, index)
        values[:, :] = pl.gather(pairs, mask_pattern=PATTERN.P0101)
        bits = pl.gather(pairs, mask_pattern=PATTERN.P1010, output_dtype=pl.INT32)
        places[:, :] = bits


@pytest.mark.parametrize("shape", [(1, 32), (3, 64), (7, 256)])
def test_each_run_of_32_is_sorted_by_itself(shape: tuple[int, int]):
    x = many_ties(shape, torch.float32, shape[1])
    _, values, places = agree(
        sorted_runs, x, torch.zeros(shape), torch.zeros(shape, dtype=torch.int32)
    )
    wanted, order = stable(x.view(shape[0], -1, 32))
    torch.testing.assert_close(values, wanted.view(shape), rtol=0, atol=0, equal_nan=True)
    starts = torch.arange(0, shape[1], 32, dtype=torch.int32)[:, None]
    assert torch.equal(places, (order + starts).view(shape))


@pl.jit
def sorted_halves(x: pl.Tensor, values: pl.Out[pl.Tensor], places: pl.Out[pl.Tensor]):
    """FP16: a pair is the value, a lane of zeros, and the index in two lanes."""
    rows, columns = x.shape
    with pl.at(level=CORE):
        count = pl.arange(100000, [1, columns], dtype=pl.UINT32)
        index = pl.expand_clone(count, pl.create_tensor([rows, columns], dtype=pl.UINT32))
        pairs = pl.sort32(x, index)
        values[:, :] = pl.gather(pairs, mask_pattern=PATTERN.P0001)
        low = pl.gather(pairs, mask_pattern=PATTERN.P0100, output_dtype=pl.UINT16)
        high = pl.gather(pairs, mask_pattern=PATTERN.P1000, output_dtype=pl.UINT16)
        wide = pl.shl(pl.cast(high, pl.INT32), 16)
        places[:, :] = pl.or_(wide, pl.cast(low, pl.INT32))


def test_fp16_pairs_take_four_lanes():
    x = many_ties((2, 96), torch.float16)
    _, values, places = agree(
        sorted_halves, x, torch.zeros(2, 96).half(), torch.zeros(2, 96, dtype=torch.int32)
    )
    wanted, order = stable(x.view(2, 3, 32))
    torch.testing.assert_close(values, wanted.view(2, 96), rtol=0, atol=0, equal_nan=True)
    starts = torch.arange(100000, 100096, 32, dtype=torch.int32)[:, None]
    assert torch.equal(places, (order + starts).view(2, 96))


@pl.jit
def sorted_row(x: pl.Tensor, values: pl.Out[pl.Tensor], places: pl.Out[pl.Tensor]):
    """32 * 4^k numbers: runs of 32, then four runs into one until one is left."""
    columns = x.shape[1]
    with pl.at(level=CORE):
        pairs = pl.sort32(x, pl.arange(0, [1, columns], dtype=pl.UINT32))
        pairs = pl.mrgsort(pairs, block_len=64)
        pairs = pl.mrgsort(pairs, block_len=256)
        pairs = pl.mrgsort(pairs, block_len=1024)
        pairs = pl.mrgsort(pairs, block_len=4096)
        values[:, :] = pl.gather(pairs, mask_pattern=PATTERN.P0101)
        places[:, :] = pl.gather(pairs, mask_pattern=PATTERN.P1010, output_dtype=pl.INT32)


@pytest.mark.parametrize("columns", [128, 2048, 8192])
def test_merging_four_runs_at_a_time_sorts_thousands(columns: int):
    """Lengths that a shorter row does not have leave it as it is: only complete groups merge."""
    x = many_ties((1, columns), torch.float32, columns)
    zeros = torch.zeros(1, columns)
    _, values, places = agree(sorted_row, x, zeros, zeros.int())
    wanted, order = stable(x)
    torch.testing.assert_close(values, wanted, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(places, order)


@pl.jit
def one_merge(x: pl.Tensor, pairs: pl.Out[pl.Tensor]):
    columns = x.shape[1]
    with pl.at(level=CORE):
        runs = pl.sort32(x, pl.arange(0, [1, columns], dtype=pl.UINT32))
        pairs[:, :] = pl.tile.mrgsort(runs, block_len=64)


def test_a_trailing_incomplete_group_stays_as_it_is():
    x = torch.arange(224.0)[None, :]  # seven runs: four merge, three do not
    _, pairs = agree(one_merge, x, torch.zeros(1, 448))
    values = pairs[0, 0::2].tolist()
    assert values[:128] == list(range(127, -1, -1))
    for start in (128, 160, 192):
        assert values[start : start + 32] == list(range(start + 31, start - 1, -1))


@pl.jit
def merged_lists(
    x: pl.Tensor, two: pl.Out[pl.Tensor], three: pl.Out[pl.Tensor], four: pl.Out[pl.Tensor]
):
    with pl.at(level=CORE):
        s = pl.sort32(x, pl.arange(0, [1, 160], dtype=pl.UINT32))
        a, b = s[:, 0:64], s[:, 64:128]
        c, d = s[:, 128:192], s[:, 192:256]
        two[:, :] = pl.mrgsort(a, b)
        three[:, :] = pl.mrgsort(pl.mrgsort(a, b), c, s[:, 256:320])
        four[:, :] = pl.mrgsort(a, b, c, d, exhausted=False)


def test_two_three_and_four_lists_become_one():
    x = many_ties((1, 160), torch.float32, 5)
    x, two, three, four = agree(
        merged_lists, x, torch.zeros(1, 128), torch.zeros(1, 256), torch.zeros(1, 256)
    )
    for pairs, columns in (
        (two, range(64)),
        (three, [*range(96), *range(128, 160)]),
        (four, range(128)),
    ):
        part = x[:, list(columns)]
        values, order = stable(part)
        torch.testing.assert_close(pairs[:, 0::2], values, rtol=0, atol=0, equal_nan=True)
        wanted = torch.tensor(list(columns), dtype=torch.int32)[order.long()]
        assert torch.equal(pairs[:, 1::2].contiguous().view(torch.int32), wanted)


def test_an_index_that_looks_like_a_nan_keeps_its_bits():
    """Lanes carry integers: 0x7f800001 is a signalling NaN to whoever reads it as a float."""
    high = 0x7F800001 - 16

    @pl.jit
    def through_lanes(x: pl.Tensor, again: pl.Out[pl.Tensor], y: pl.Out[pl.Tensor]):
        with pl.at(level=CORE):
            first = pl.arange(high, [1, 32], dtype=pl.UINT32)
            pairs = pl.sort32(x, first)
            again[:, :] = pairs  # to memory and back, cut and reshaped on the way
        with pl.at(level=CORE):
            lanes = pl.reshape(pl.concat(again[:, 0:32], again[:, 32:64]), [2, 32])
            bits = pl.gather(lanes, mask_pattern=PATTERN.P1010, output_dtype=pl.INT32)
            y[:, :] = pl.reshape(bits, [1, 32])

    x = torch.randn(1, 32)
    _, _, y = agree(through_lanes, x, torch.zeros(1, 64), torch.zeros(1, 32, dtype=torch.int32))
    assert torch.equal(y, stable(x)[1] + high)


@pl.jit
def topk(
    scores: pl.Tensor, values: pl.Out[pl.Tensor], places: pl.Out[pl.Tensor], n: pl.Scalar[pl.INT32]
):
    """The largest 64 of the first n of 512, row by row."""
    for row in pl.parallel(scores.shape[0]):
        with pl.at(level=CORE):
            part = pl.slice(scores, [1, 512], [row, 0], valid_shape=[1, n])
            filled = pl.fillpad(part, pad_value=pl.PadValue.min)
            pairs = pl.sort32(filled, pl.arange(0, [1, 512], dtype=pl.UINT32))
            pairs = pl.mrgsort(pairs, block_len=64)
            a, b = pl.mrgsort(pairs[:, 0:256], pairs[:, 256:512]), pairs[:, 512:768]
            best = pl.mrgsort(a, b, pairs[:, 768:1024])[:, 0:128]
            values[row : row + 1, :] = pl.gather(best, mask_pattern=PATTERN.P0101)
            places[row : row + 1, :] = pl.gather(best, mask_pattern=2, output_dtype=pl.INT32)


@pytest.mark.parametrize("n", [64, 300, 512])
def test_topk_of_a_ragged_row(n: int):
    scores = torch.randn(5, 512, generator=torch.Generator().manual_seed(n))
    _, values, places = agree(
        topk, scores, torch.zeros(5, 64), torch.zeros(5, 64, dtype=torch.int32), n
    )
    wanted, order = torch.topk(scores[:, :n], 64)
    assert torch.equal(values, wanted)
    assert torch.equal(places, order.int())


@pl.jit
def merged_unequal(x: pl.Tensor, values: pl.Out[pl.Tensor], places: pl.Out[pl.Tensor]):
    """Lists of 32 and of 128 pairs, which come in either order."""
    with pl.at(level=CORE):
        pairs = pl.sort32(x, pl.arange(0, [1, 160], dtype=pl.UINT32))
        long = pl.mrgsort(pairs[:, 64:320], block_len=64)
        both = pl.mrgsort(pairs[:, 0:64], long)
        values[0:1, :] = pl.gather(both, mask_pattern=PATTERN.P0101)
        places[0:1, :] = pl.gather(both, mask_pattern=PATTERN.P1010, output_dtype=pl.INT32)
        turned = pl.mrgsort(long, pairs[:, 0:64])
        values[1:2, :] = pl.gather(turned, mask_pattern=PATTERN.P0101)
        places[1:2, :] = pl.gather(turned, mask_pattern=PATTERN.P1010, output_dtype=pl.INT32)


@pytest.mark.parametrize("low", [-8.0, 0.0, 8.0])
def test_a_short_list_and_a_long_one_are_merged_from_both_ends(low: float):
    """The short list's values lie below the long one's, among them, above them; equals are on both sides."""
    x = many_ties((1, 160), torch.float32, 7)
    x[:, :32] = torch.arange(32) // 3 / 8 + low
    x[:, 40:90] = torch.arange(50) // 2 / 8
    _, values, places = agree(
        merged_unequal, x, torch.zeros(2, 160), torch.zeros(2, 160, dtype=torch.int32)
    )
    wanted, order = stable(x)
    torch.testing.assert_close(values[:1], wanted, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(places[:1], order)
    wanted, order = stable(torch.cat([x[:, 32:], x[:, :32]], 1))
    assert torch.equal(places[1:], ((order + 32) % 160).int())
