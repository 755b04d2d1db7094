"""The conformance vectors of the language reference, from the author's text to numbers, both back ends."""

from __future__ import annotations

import pytest
import torch
from both_ways import agree

import tilewright.language as pl

CORE = pl.Level.CORE_GROUP
PATTERN = pl.tile.MaskPattern
INF = float("inf")
MODES = ("none", "rint", "round", "floor", "ceil", "trunc")

TO_INT32 = {
    -2.5: (-2, -2, -3, -3, -2, -2),
    -1.5: (-1, -2, -2, -2, -1, -1),
    -0.5: (0, 0, -1, -1, 0, 0),
    0.4999999: (0, 0, 0, 0, 1, 0),
    0.5: (0, 0, 1, 0, 1, 0),
    1.5: (1, 2, 2, 1, 2, 1),
    2.5: (2, 2, 3, 2, 3, 2),
    2.6: (2, 3, 3, 2, 3, 2),
    3e9: (2147483647,) * 6,
}
TO_BF16 = {  # rint and none, round, trunc
    1 + 2**-8: (1.0, 1.0078125, 1.0),
    1 + 3 * 2**-8: (1.015625, 1.015625, 1.0078125),
    1 + 2**-8 + 2**-20: (1.0078125, 1.0078125, 1.0),
    -1 - 2**-8: (-1.0, -1.0078125, -1.0),
    3.4e38: (INF, INF, 3.3895314e38),
}


@pl.jit
def every_mode(x: pl.Tensor, i: pl.Out[pl.Tensor], b: pl.Out[pl.Tensor], h: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        i[0:1, :] = pl.cast(x, pl.INT32, "none")
        i[1:2, :] = pl.cast(x, pl.INT32, "rint")
        i[2:3, :] = pl.cast(x, pl.INT32)
        i[3:4, :] = pl.cast(x, pl.INT32, "floor")
        i[4:5, :] = pl.cast(x, pl.INT32, "ceil")
        i[5:6, :] = pl.cast(x, pl.INT32, "trunc")
        b[0:1, :] = pl.cast(x, pl.BF16, "rint")
        b[1:2, :] = pl.cast(x, pl.BF16)
        b[2:3, :] = pl.cast(x, pl.BF16, "trunc")
        b[3:4, :] = pl.cast(x, pl.BF16, "none")
        h[:, :] = pl.cast(x, pl.FP16, "rint")


def test_the_tables_of_casts():
    numbers = [*TO_INT32, *TO_BF16, 65519.0, 65520.0]
    x = torch.tensor([numbers])
    n = len(numbers)
    blanks = (
        torch.zeros(6, n, dtype=torch.int32),
        torch.zeros(4, n).bfloat16(),
        torch.zeros(1, n).half(),
    )
    _, i, b, h = agree(every_mode, x, *blanks)
    for column, wanted in enumerate(TO_INT32.values()):
        assert tuple(i[:, column].tolist()) == wanted, numbers[column]
    for column, (rint, away, trunc) in enumerate(TO_BF16.values(), len(TO_INT32)):
        wanted = torch.tensor([rint, away, trunc, rint]).bfloat16()
        assert torch.equal(b[:, column], wanted), numbers[column]
    assert h[0, -2:].tolist() == [65504.0, INF]


@pl.jit
def masks(x: pl.Tensor, half: pl.Out[pl.Tensor], quarter: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        half[0:1, :] = pl.gather(x, mask_pattern=PATTERN.P0101)
        half[1:2, :] = pl.gather(x, mask_pattern=PATTERN.P1010)
        quarter[0:1, :] = pl.gather(x, mask_pattern=PATTERN.P0001)
        quarter[1:2, :] = pl.gather(x, mask_pattern=PATTERN.P0010)
        quarter[2:3, :] = pl.gather(x, mask_pattern=PATTERN.P0100)
        quarter[3:4, :] = pl.gather(x, mask_pattern=PATTERN.P1000)


def test_mask_gathers_of_the_first_eight_numbers():
    _, half, quarter = agree(
        masks, torch.arange(8.0)[None, :], torch.zeros(2, 4), torch.zeros(4, 2)
    )
    assert half.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert quarter.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


@pl.jit
def valid_regions(
    x: pl.Tensor,
    s: pl.Out[pl.Tensor],
    f: pl.Out[pl.Tensor],
    y: pl.Out[pl.Tensor],
    c: pl.Out[pl.Tensor],
):
    with pl.at(level=CORE):
        v = pl.slice(x, [2, 4], [0, 0], valid_shape=[1, 3])
        s[:, :] = pl.row_sum(v)
        f[:, :] = pl.fillpad(v, pad_value=pl.PadValue.min)
        y[:, :] = pl.add(v, 10.0)
        c[:, :] = pl.matmul(v, pl.full([4, 1], dtype=pl.FP32, value=1.0))


def test_valid_regions():
    x = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    blanks = torch.zeros(2, 1), torch.zeros(2, 4), torch.zeros(2, 4), torch.ones(2, 1)
    _, s, f, y, c = agree(valid_regions, x, *blanks)
    assert s.tolist() == [[6], [0]]
    assert f.tolist() == [[1, 2, 3, -INF], [-INF] * 4]
    assert y.tolist() == [[11, 12, 13, 0], [0, 0, 0, 0]]
    assert c.tolist() == [[6], [0]]


@pl.jit
def through_a_view(o: pl.Out[pl.Tensor]):
    f = pl.reshape(o, [1, 8])
    with pl.at(level=CORE):
        f[0:1, 2:4] = pl.full([1, 2], dtype=pl.FP32, value=7.0)
    return o


@pl.jit
def loaded_twice(t: pl.InOut[pl.Tensor], old: pl.Out[pl.Tensor], new: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        a = t[0:1, :]
        t[0:1, :] = pl.add(a, 1.0)
        b = t[0:1, :]
        old[:, :] = a
        new[:, :] = b


def test_a_reshape_is_a_view_and_a_load_a_copy():
    (o,) = agree(through_a_view, torch.zeros(4, 2))
    assert o.tolist() == [[0, 0], [7, 7], [0, 0], [0, 0]]
    before = torch.arange(4.0)[None, :]
    t, old, new = agree(loaded_twice, before.clone(), torch.zeros(1, 4), torch.zeros(1, 4))
    assert torch.equal(old, before)
    assert torch.equal(new, before + 1)
    assert torch.equal(t, new)


@pl.jit
def carried(n: pl.Scalar[pl.INT32], y: pl.Out[pl.Tensor]):
    k = 0
    for i in pl.range(n):
        if i > 2:
            k = k + i
    pl.write(y, [0], pl.cast(k, pl.INT32))


@pytest.mark.parametrize(("n", "wanted"), [(5, 7), (0, 0)])
def test_a_carried_value(n: int, wanted: int):
    (y,) = agree(carried, n, torch.ones(1, dtype=torch.int32))
    assert y.item() == wanted


@pl.jit
def two_runs(
    x: pl.Tensor, runs: pl.Out[pl.Tensor], merged: pl.Out[pl.Tensor], one: pl.Out[pl.Tensor]
):
    with pl.at(level=CORE):
        s = pl.sort32(x, pl.arange(0, [1, 64], dtype=pl.UINT32))
        runs[:, :] = s
        one[:, :] = pl.mrgsort(s, block_len=64)
        merged[:, :] = pl.mrgsort(s[:, 0:64], s[:, 64:128])


def test_sorting_64_columns():
    x = torch.randint(0, 20, (1, 64), generator=torch.Generator().manual_seed(3)).float()
    _, runs, merged, one = agree(two_runs, x, *[torch.zeros(1, 128) for _ in range(3)])
    assert torch.equal(one, runs)  # nothing smaller than four runs is merged
    for start in (0, 32):
        wanted = torch.sort(x[0, start : start + 32], descending=True).values
        assert torch.equal(runs[0, 2 * start : 2 * start + 64 : 2], wanted)
    values, order = torch.sort(x, descending=True, stable=True)
    assert torch.equal(merged[:, 0::2], values)
    assert torch.equal(merged[:, 1::2].contiguous().view(torch.int32), order.int())


@pl.jit
def quantised(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        as_int = pl.cast(x, target_type=pl.INT32, mode="rint")
        as_half = pl.cast(as_int, target_type=pl.FP16, mode="round")
        y[:, :] = pl.cast(as_half, target_type=pl.INT8, mode="trunc")


def test_the_chain_of_three_casts_is_one_rounding():
    x = torch.cat([torch.linspace(-127, 127, 509), torch.rand(515) * 254 - 127]).view(8, 128)
    _, y = agree(quantised, x, torch.zeros(8, 128, dtype=torch.int8))
    assert torch.equal(y, torch.round(x).to(torch.int8))
