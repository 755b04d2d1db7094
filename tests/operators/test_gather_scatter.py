"""Elements picked and put by index, by pattern and by comparison, as Torch does it."""

from __future__ import annotations

import pytest
import torch
from both_ways import agree, draw

import tilewright.language as pl
from tilewright.errors import BoundsError

PATTERN = pl.tile.MaskPattern
CORE = pl.Level.CORE_GROUP
INDEXED = (torch.float32, torch.float16, torch.bfloat16, torch.int16, torch.int32, torch.int64)


def indices(shape: tuple[int, ...], below: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, below, shape, generator=generator, dtype=torch.int32)


# Gather


@pl.jit
def gathered(
    x: pl.Tensor,
    by_row: pl.Tensor,
    by_column: pl.Tensor,
    r: pl.Out[pl.Tensor],
    c: pl.Out[pl.Tensor],
    v: pl.Out[pl.Tensor],
):
    with pl.at(level=CORE):
        r[:, :] = pl.gather(x, dim=-1, index=by_row)
        c[:, :] = pl.tensor.gather(x, dim=0, index=by_column)
        block, places = pl.add(x, x), pl.add(by_row, 0)
        v[:, :] = pl.gather(block, dim=1, index=places)


@pytest.mark.parametrize("dtype", INDEXED, ids=str)
def test_an_index_gather_takes_tensors_in_memory_and_blocks(dtype: torch.dtype):
    x = draw((6, 70), dtype, 1, plain=True)
    by_row, by_column = indices((4, 33), 70), indices((9, 70), 6, 1)
    blanks = (torch.zeros(4, 33, dtype=dtype), torch.zeros(9, 70, dtype=dtype))
    *_, r, c, v = agree(gathered, x, by_row, by_column, *blanks, blanks[0].clone())
    assert torch.equal(r, torch.gather(x[:4], 1, by_row.long()))
    assert torch.equal(c, torch.gather(x, 0, by_column.long()))
    assert torch.equal(v, torch.gather((x + x)[:4], 1, by_row.long()))


@pl.jit
def swapped_pairs(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    """RoPE reads channel j ^ 1."""
    with pl.at(level=CORE):
        j = pl.xor(pl.arange(0, [1, 64], dtype=pl.INT32), 1)
        y[:, :] = pl.gather(
            x, dim=-1, index=pl.expand_clone(j, pl.create_tensor([8, 64], pl.INT32))
        )


def test_neighbours_are_swapped_by_an_index_block():
    x = torch.randn(8, 64)
    _, y = agree(swapped_pairs, x, torch.zeros(8, 64))
    assert torch.equal(y, x.view(8, 32, 2).flip(-1).reshape(8, 64))


@pl.jit
def flat(x: pl.Tensor, i: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        tmp = pl.create_tile([4, 8], dtype=pl.INT32)
        y[:, :] = pl.tile.gather(pl.load(x, [0, 0], [5, 24]), pl.load(i, [0, 0], [4, 8]), tmp)


def test_the_tile_gather_counts_through_the_flattened_block():
    x, i = torch.randn(5, 24), indices((4, 8), 120)
    _, _, y = agree(flat, x, i, torch.zeros(4, 8))
    assert torch.equal(y, x.flatten()[i.long()])


@pl.jit
def patterned(
    x: pl.Tensor,
    half: pl.Out[pl.Tensor],
    quarter: pl.Out[pl.Tensor],
    whole: pl.Out[pl.Tensor],
    bits: pl.Out[pl.Tensor],
):
    with pl.at(level=CORE):
        half[:, :] = pl.tile.gather_mask(x, PATTERN.P1010)
        quarter[:, :] = pl.gather(x, mask_pattern=5)
        whole[:, :] = pl.gather(x, mask_pattern=PATTERN.P1111)
        bits[:, :] = pl.tile.gather_mask(x, mask_pattern=1, output_dtype=pl.INT32)


def test_patterns_go_by_name_and_by_number():
    x = torch.randn(3, 40)
    blanks = torch.zeros(3, 20), torch.zeros(3, 10), torch.zeros(3, 40)
    _, half, quarter, whole, bits = agree(patterned, x, *blanks, blanks[0].int())
    assert torch.equal(half, x[:, 1::2])
    assert torch.equal(quarter, x[:, 2::4])
    assert torch.equal(whole, x)
    assert torch.equal(bits, x[:, 0::2].contiguous().view(torch.int32))


@pl.jit
def matching(
    x: pl.Tensor,
    least: pl.Tensor,
    found: pl.Out[pl.Tensor],
    counts: pl.Out[pl.Tensor],
    first: pl.Out[pl.Tensor],
    few: pl.Out[pl.Tensor],
):
    with pl.at(level=CORE):
        where, many = pl.gather(x, kvalue=0.5, cmp_mode="ge", out_cols=50)
        found[:, :] = where
        counts[:, :] = many
        where, many = pl.gather(
            x, kvalue=least, cmp_mode=4, out_cols=3, offset=100, count_dtype=pl.INT16
        )
        first[:, :] = where
        few[:, :] = many


def test_a_compare_gather_lists_the_matching_columns():
    x = draw((7, 50), torch.float32, 3)
    least = torch.linspace(-1, 1, 7)[:, None].contiguous()
    blanks = [torch.full(s, 9, dtype=torch.int32) for s in ((7, 50), (1, 7), (7, 3))]
    *_, found, counts, first, few = agree(
        matching, x, least, *blanks, torch.zeros(1, 7, dtype=torch.int16)
    )
    for row in range(7):
        columns = (x[row] >= 0.5).nonzero().flatten().tolist()
        assert counts[0, row] == len(columns)
        assert found[row].tolist() == columns + [0] * (50 - len(columns))
        columns = (x[row] > least[row]).nonzero().flatten().tolist()[:3]
        assert few[0, row] == len(columns)
        assert first[row].tolist() == [c + 100 for c in columns] + [0] * (3 - len(columns))


@pl.jit
def matching_part(
    x: pl.Tensor, n: pl.Scalar[pl.INT32], found: pl.Out[pl.Tensor], counts: pl.Out[pl.Tensor]
):
    with pl.at(level=CORE):
        part = pl.slice(x, [4, 20], [0, 0], valid_shape=[3, n])
        where, many = pl.gather(part, kvalue=1, cmp_mode="eq", out_cols=20, count_dtype=pl.UINT8)
        found[:, :] = where
        counts[:, :] = many


def test_what_is_not_valid_does_not_match():
    x = torch.ones(4, 20, dtype=torch.int32)
    blanks = torch.zeros(4, 20, dtype=torch.int32), torch.zeros(1, 4, dtype=torch.uint8)
    _, found, counts = agree(matching_part, x, 5, *blanks)
    assert counts.tolist() == [[5, 5, 5, 0]]
    assert found[:, :5].tolist() == [[0, 1, 2, 3, 4]] * 3 + [[0] * 5]


# Scatter


@pl.jit
def scattered(x: pl.Tensor, i: pl.Tensor, s: pl.Tensor, y: pl.Out[pl.Tensor], z: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        y[:, :] = pl.tensor.scatter(x, dim=-1, index=i, src=s)
        doubled = pl.add(x, x)
        z[:, :] = pl.scatter(doubled, dim=1, index=i, src=s)


@pytest.mark.parametrize("dtype", INDEXED, ids=str)
def test_an_index_scatter_is_the_one_of_torch(dtype: torch.dtype):
    x, s = draw((5, 40), dtype, 1, plain=True), draw((4, 21), dtype, 2, plain=True)
    i = torch.stack([torch.randperm(40)[:21] for _ in range(4)]).int()  # every place once
    *_, y, z = agree(scattered, x, i, s, torch.zeros_like(x), torch.zeros_like(x))
    assert torch.equal(y, torch.scatter(x, 1, i.long(), s))
    assert torch.equal(z, torch.scatter(x + x, 1, i.long(), s))


def test_the_last_of_several_stays_and_an_index_outside_puts_nothing():
    x, s = torch.zeros(2, 4), torch.arange(1.0, 11.0).view(2, 5)
    i = torch.tensor([[0, 0, 3, 0, 4], [-1, 2, 2, 100, 1]], dtype=torch.int32)
    *_, y, _ = agree(scattered, x, i, s, torch.zeros(2, 4), torch.zeros(2, 4))
    assert y.tolist() == [[4, 0, 0, 3], [0, 10, 8, 0]]


@pl.jit
def scattered_by_pattern(x: pl.Tensor, d: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        y[:, :] = pl.tensor.scatter(x, mask_pattern=PATTERN.P0010, dst=d)


def test_a_mask_scatter_replaces_every_fourth_column():
    x, d = torch.randn(3, 10), torch.randn(3, 40)
    _, _, y = agree(scattered_by_pattern, x, d, torch.zeros(3, 40))
    wanted = d.clone()
    wanted[:, 1::4] = x
    assert torch.equal(y, wanted)


@pl.jit
def replaced_rows(x: pl.Tensor, i: pl.Tensor, s: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        y[:, :] = pl.scatter_update(x, dim=-2, index=i, src=s)


@pytest.mark.parametrize("columns", [1, 16, 50])
def test_rows_are_replaced_by_index(columns: int):
    x, s = torch.randn(12, columns), torch.randn(6, columns)
    i = torch.tensor([[7, 0, 11], [7, 99, -1]], dtype=torch.int32)
    _, _, _, y = agree(replaced_rows, x, i, s, torch.zeros(12, columns))
    wanted = x.clone()
    wanted[[7, 0, 11]] = s[[3, 1, 2]]
    assert torch.equal(y, wanted)


@pl.jit
def replaced_pages(cache: pl.Tensor, i: pl.Tensor, s: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        y[:, :, :, :] = pl.tensor.scatter_update(cache, -2, i, s)


def test_rows_of_a_paged_cache_are_replaced():
    cache, s = torch.randn(3, 4, 1, 8), torch.randn(2, 2, 1, 8)
    i = torch.tensor([[5, 2], [11, 0]], dtype=torch.int32)
    _, _, _, y = agree(replaced_pages, cache, i, s, torch.zeros_like(cache))
    wanted = cache.clone()
    wanted.view(12, 8)[[5, 2, 11, 0]] = s.view(4, 8)
    assert torch.equal(y, wanted)


@pl.jit
def put(
    x: pl.Tensor,
    i: pl.Tensor,
    n: pl.Scalar[pl.INT32],
    y: pl.InOut[pl.Tensor],
    again: pl.Out[pl.Tensor],
):
    with pl.at(level=CORE):
        part = pl.load(x, [0, 0], [3, 5], valid_shapes=[3, n])
        y = pl.mscatter(pl.mul(part, 2.0), pl.load(i, [0, 0], [3, 5]), y)
        again[:, :] = pl.add(y, 1.0)  # sees what was put


def test_mscatter_stores_by_flat_index_and_only_what_is_valid():
    x, y = torch.randn(3, 5), torch.zeros(4, 6)
    i = torch.tensor([[23, 0, 1, 7, 999], [5, 5, 6, 7, -1], [12, 0, 3, 4, 500]], dtype=torch.int32)
    *_, got, again = agree(put, x, i, 4, y, torch.zeros(4, 6))
    wanted = torch.zeros(24)
    for row in range(3):
        for column in range(4):
            wanted[i[row, column]] = 2 * x[row, column]
    assert torch.equal(got, wanted.view(4, 6))
    assert torch.equal(again, got + 1)


@pytest.mark.parametrize("backend", ["interpreter", "native"])
def test_mscatter_outside_its_tensor_is_stopped(backend: str):
    i = torch.zeros(3, 5, dtype=torch.int32)
    i[1, 2] = 24
    with pytest.raises(BoundsError, match="write outside y: it has 24 elements, wanted number 24"):
        put.run(torch.ones(3, 5), i, 5, torch.zeros(4, 6), torch.zeros(4, 6), backend=backend)


@pl.jit
def put_by_rows(x: pl.Tensor, i: pl.Tensor, y: pl.InOut[pl.Tensor]):
    for row in pl.parallel(8):
        with pl.at(level=CORE):
            y = pl.tile.mscatter(x[row : row + 1, :], i[row : row + 1, :], y)


def test_mscatter_in_a_parallel_loop_with_disjoint_places():
    x, i = torch.randn(8, 16), torch.randperm(128).view(8, 16).int()
    _, _, y = agree(put_by_rows, x, i, torch.zeros(16, 8))
    assert torch.equal(y.flatten()[i.flatten().long()], x.flatten())
