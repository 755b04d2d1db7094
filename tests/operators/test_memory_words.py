"""Fresh data, windows, loads and stores: every keyword, both back ends, hand-made or Torch values."""

from __future__ import annotations

import pytest
import torch
from both_ways import agree, draw

import tilewright.language as pl

CORE = pl.Level.CORE_GROUP
INF = float("inf")


@pl.jit
def counted(
    start: pl.Scalar[pl.INT32],
    a: pl.Out[pl.Tensor],
    b: pl.Out[pl.Tensor],
    c: pl.Out[pl.Tensor],
    d: pl.Out[pl.Tensor],
    e: pl.Out[pl.Tensor],
):
    with pl.at(level=CORE):
        a[:, :] = pl.arange(5, [1, 40])
        b[:, :] = pl.tensor.arange(-3, [1, 40], dtype=pl.INT16, descending=True)
        c[:, :] = pl.cast(pl.tensor.ci(65530, [1, 40], dtype=pl.UINT16), pl.INT32)
        d[:, :] = pl.cast(pl.tile.ci(4294967290, [1, 40], dtype=pl.UINT32), pl.INT64)
        e[:, :] = pl.arange(start, [1, 40], dtype=pl.INT32, descending=True)


def test_arange_counts_in_four_dtypes_and_wraps_in_theirs():
    kinds = (torch.int32, torch.int16, torch.int32, torch.int64, torch.int32)
    _, *got = [None, *agree(counted, 17, *[torch.zeros(1, 40, dtype=d) for d in kinds])]
    steps = torch.arange(40)[None, :]
    wanted = (
        5 + steps,
        -3 - steps,
        (65530 + steps) % 2**16,
        (4294967290 + steps) % 2**32,
        17 - steps,
    )
    for kind, one, other in zip(kinds, got, wanted, strict=True):
        assert torch.equal(one, other.to(kind))


@pl.jit
def fresh(y: pl.Out[pl.Tensor], z: pl.Out[pl.Tensor], i: pl.Out[pl.Tensor]):
    seven = pl.create_tensor([4, 24], dtype=pl.FP32, init_value=7.0)
    whole = pl.tensor.create([2, 24], dtype=pl.INT32, init_value=-1)
    with pl.at(level=CORE):
        seven[1:2, :] = pl.full([1, 24], dtype=pl.FP32, value=2 * 3 + 0.5)
        block = pl.create_tensor([4, 24], dtype=pl.FP32, init_value=0.5)
        y[:, :] = pl.add(seven, block)
        z[:, :] = pl.add(
            pl.create_l1([4, 24], dtype=pl.FP32, transpose=True), pl.tile.create([4, 24], pl.FP32)
        )
        i[:, :] = whole


def test_create_tensor_fills_with_its_initial_value():
    y, z, i = agree(
        fresh, torch.zeros(4, 24), torch.ones(4, 24), torch.zeros(2, 24, dtype=torch.int32)
    )
    wanted = torch.full((4, 24), 7.5)
    wanted[1] = 7.0
    assert torch.equal(y, wanted)
    assert not z.any()
    assert bool((i == -1).all())


@pl.jit
def windows(
    x: pl.Tensor,
    n: pl.Scalar[pl.INT32],
    at: pl.Scalar[pl.INT32],
    a: pl.Out[pl.Tensor],
    b: pl.Out[pl.Tensor],
    c: pl.Out[pl.Tensor],
    d: pl.Out[pl.Tensor],
    e: pl.Out[pl.Tensor],
    f: pl.Out[pl.Tensor],
):
    tail = pl.tensor.slice(x, [4, 16], [at, 0], clamp=True)
    padded = pl.tensor.slice(x, [4, 16], [2, 2], valid_shape=[n, 9], pad_value=pl.PadValue.max)
    with pl.at(level=CORE):
        a[:, :] = pl.tensor.slice(
            x, [4, 16], [0, 0], valid_shape=[n, 16], pad_value=pl.PadValue.min
        )
        b[:, :] = padded
        row = pl.slice(x, [1, 16], [3, 0], drop_dims=[0])
        c[:, :] = pl.row_expand_mul(pl.full([4, 16], pl.FP32, 2.0), pl.reshape(row[0:4], [4, 1]))
        d[:, :] = pl.mul(tail, 2.0)
        e[:, :] = pl.load(x, [at, 1], [4, 16], clamp=True)
        block = pl.add(pl.load(x, [0, 0], [4, 16], valid_shape=[n, 7]), 1.0)
        f[:, :] = pl.slice(
            block, [4, 16], [0, 4], clamp=True
        )  # never valid where its source is not


def test_slices_pad_drop_and_clamp():
    x = torch.randn(10, 16)
    _, a, b, c, d, e, f = agree(windows, x, 3, 8, *[torch.full((4, 16), 5.0) for _ in range(6)])
    wanted = torch.full((4, 16), -INF)
    wanted[:3] = x[:3]
    assert torch.equal(a, wanted)
    wanted = torch.full((4, 16), INF)
    wanted[:3, :9] = x[2:5, 2:11]
    assert torch.equal(b, wanted)
    assert torch.equal(c, 2 * x[3, :4, None].expand(4, 16))
    wanted = torch.full((4, 16), 5.0)
    wanted[:2] = 2 * x[8:10]
    assert torch.equal(d, wanted)
    wanted = torch.full((4, 16), 5.0)
    wanted[:2, :15] = x[8:10, 1:]
    assert torch.equal(e, wanted)
    wanted = torch.full((4, 16), 5.0)
    wanted[:3, :3] = x[:3, 4:7] + 1
    assert torch.equal(f, wanted)


@pl.jit
def padded_integers(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        part = pl.slice(x, [2, 8], [0, 0], valid_shape=[1, 3])
        y[0:2, :] = pl.fillpad(part, pad_value=pl.PadValue.min)
        y[2:4, :] = pl.tile.fillpad(part, pad_value=math_inf)
        y[4:6, :] = pl.tensor.fillpad(part, 0)


math_inf = INF


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8], ids=str
)
def test_integers_pad_with_their_extremes(dtype: torch.dtype):
    x = draw((2, 8), dtype, 1)
    _, y = agree(padded_integers, x, torch.ones(6, 8, dtype=dtype))
    info = torch.iinfo(dtype)
    for start, pad in ((0, info.min), (2, info.max), (4, 0)):
        wanted = torch.full((2, 8), pad, dtype=dtype)
        wanted[0, :3] = x[0, :3]
        assert torch.equal(y[start : start + 2], wanted)


@pl.jit
def loads(
    x: pl.Tensor,
    n: pl.Scalar[pl.INT32],
    a: pl.Out[pl.Tensor],
    b: pl.Out[pl.Tensor],
    c: pl.Out[pl.Tensor],
):
    with pl.at(level=CORE):
        a[:, :] = pl.load(x, [1, 2], [6, 8], target_memory=pl.MemorySpace.Mat, transpose=True)
        b[:, :] = pl.tile.load(x, [1, 2], [6, 8], [n, 3], transpose=True)
        left = pl.move(pl.load(x, [0, 0], [8, 16]), target_memory=pl.MemorySpace.Left)
        c[:, :] = pl.tile.extract(left, 2, n, [6, 8], target_memory=pl.MemorySpace.Vec)


def test_loads_turn_and_extracts_cut():
    x = torch.randn(8, 16)
    _, a, b, c = agree(loads, x, 4, torch.zeros(8, 6), torch.zeros(8, 6), torch.zeros(6, 8))
    assert torch.equal(a, x[1:7, 2:10].T)
    wanted = torch.zeros(8, 6)
    wanted[:3, :4] = x[1:5, 2:5].T
    assert torch.equal(b, wanted)
    assert torch.equal(c, x[2:8, 4:12])


@pl.jit
def stores(x: pl.Tensor, y: pl.Out[pl.Tensor], z: pl.InOut[pl.Tensor]):
    with pl.at(level=CORE):
        flat = pl.load(pl.reshape(x, [4, 8]), [0, 0], [4, 8])
        y = pl.tile.store(flat, [1, 0, 0], y, shapes=[1, 4, 8])
        z = pl.store(flat, [0, 0], z, atomic=pl.AtomicType.Add)
        z = pl.tensor.assemble(z, pl.load(z, [0, 0], [2, 8]), [2, 0], atomic=pl.AtomicType.Add)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.int32, torch.int16, torch.int8], ids=str
)
def test_stores_take_the_targets_rank_and_add_atomically(dtype: torch.dtype):
    x, z = draw((1, 4, 8), dtype, 1, plain=True), draw((4, 8), dtype, 2, plain=True)
    _, y, got = agree(stores, x, torch.zeros(3, 4, 8, dtype=dtype), z)
    assert torch.equal(y[1], x[0])
    assert not y[0].any()
    wanted = z + x[0]
    wanted[2:] += wanted[:2].clone()
    assert torch.equal(got, wanted)


@pl.jit
def rows_gathered(
    src: pl.Tensor, at: pl.Tensor, y: pl.Out[pl.Tensor], t: pl.Out[pl.Tensor], p: pl.Out[pl.Tensor]
):
    with pl.at(level=CORE):
        acc = pl.create_l1([4, 16], dtype=pl.FP32)
        turned = pl.create_l1([16, 4], dtype=pl.FP32, transpose=True)
        part = pl.create_tensor([4, 16], dtype=pl.FP32, init_value=3.0)
        for i in pl.range(4):
            row = pl.read(at, [i])
            acc = pl.gather_row(acc, src, [i, 0], [row, 0], [1, 16])
            turned = pl.tile.gather_row(turned, src, [0, i], [row, 0], [1, 16], transpose=True)
            part = pl.tensor.gather_row(
                part, src, [i, 0], [row, 0], [1, 16], valid_shape=[1, i * 4]
            )
        y[:, :] = acc
        t[:, :] = turned
        p[:, :] = part


def test_rows_are_gathered_one_by_one_also_turned_and_in_part():
    src, at = torch.randn(20, 16), torch.tensor([3, 19, 0, 7], dtype=torch.int32)
    _, _, y, t, p = agree(
        rows_gathered, src, at, torch.zeros(4, 16), torch.zeros(16, 4), torch.zeros(4, 16)
    )
    assert torch.equal(y, src[at.long()])
    assert torch.equal(t, src[at.long()].T)
    wanted = torch.full((4, 16), 3.0)
    for i in range(4):
        wanted[i, : 4 * i] = src[at[i], : 4 * i]
    assert torch.equal(p, wanted)


@pl.jit
def clones(
    row: pl.Tensor,
    pages: pl.Tensor,
    y: pl.Out[pl.Tensor],
    z: pl.Out[pl.Tensor],
    w: pl.Out[pl.Tensor],
):
    z = pl.expand_clone(pages, z)  # a tensor in memory: stored there
    with pl.at(level=CORE):
        y[:, :] = pl.expand_clone(row, pl.create_tensor([5, 16], dtype=pl.FP32))
        w[:, :] = pl.tensor.expands(y, 2.5)


def test_expand_clone_broadcasts_into_blocks_and_into_memory():
    row, pages = torch.randn(1, 16), torch.randn(3, 1, 8)
    blanks = torch.zeros(5, 16), torch.zeros(3, 4, 8), torch.zeros(5, 16)
    _, _, y, z, w = agree(clones, row, pages, *blanks)
    assert torch.equal(y, row.expand(5, 16))
    assert torch.equal(z, pages.expand(3, 4, 8))
    assert bool((w == 2.5).all())


@pl.jit
def elements(x: pl.Tensor, v: pl.Tensor, y: pl.Out[pl.Tensor], z: pl.Out[pl.Tensor]):
    first = pl.tensor.read(v, 2)
    pl.write(y, [0, 0], first)
    with pl.at(level=CORE):
        tile = pl.load(x, [0, 0], [2, 8])
        pl.tile.write(tile, [1, 3], pl.read(tile, [0, 0]))
        tile[0:1, 4:8] = pl.full([1, 4], pl.FP32, 9.0)
        pl.write(tile, [0, 1], 1)
        z[:, :] = tile


def test_elements_are_read_and_written_in_place():
    x, v = torch.randn(2, 8), torch.randn(4)
    _, _, y, z = agree(elements, x, v, torch.zeros(1, 1), torch.zeros(2, 8))
    wanted = x.clone()
    wanted[1, 3], wanted[0, 4:], wanted[0, 1] = x[0, 0], 9.0, 1.0
    assert y.item() == v[2]
    assert torch.equal(z, wanted)


@pl.jit
def tallied(ids: pl.Tensor, count: pl.Out[pl.Tensor], small: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        for e in pl.range(4):
            pl.write(count, [e], e * 100)
        for t in pl.range(6):
            e = pl.read(ids, [t])
            pl.write(count, [e], count[e] + 1)
        tile = pl.load(small, [0, 0], [1, 4])
        for e in pl.range(4):
            pl.write(tile, [0, e], pl.min(count[e], 120) - 1)
        small[:, :] = tile


def test_integers_that_met_a_literal_narrow_when_they_are_written():
    ids = torch.tensor([1, 3, 1, 0, 3, 1], dtype=torch.int32)
    count, small = torch.zeros(4, dtype=torch.int32), torch.zeros(1, 4, dtype=torch.int8)
    _, count, small = agree(tallied, ids, count, small)
    assert count.tolist() == [1, 103, 200, 302]
    assert small.tolist() == [[0, 102, 119, 119]]


@pl.jit
def larger_source(x: pl.Tensor, y: pl.Out[pl.Tensor], z: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        pad = pl.add(x, 1.0)
        y[2:4, 0:4] = pl.slice(pad, [8, 8], [0, 0], valid_shape=[2, 4])
        z[:, :] = pl.reshape(pad, [1, 8, 8])


def test_a_source_may_be_larger_than_its_window_and_of_higher_rank():
    x = torch.randn(8, 8)
    _, y, z = agree(larger_source, x, torch.zeros(4, 4), torch.zeros(8, 8))
    assert torch.equal(y, torch.cat([torch.zeros(2, 4), x[:2, :4] + 1]))
    assert torch.equal(z, x + 1)


@pl.jit
def flattened_source(x: pl.Tensor, y: pl.Out[pl.Tensor], z: pl.Out[pl.Tensor]):
    for i in pl.range(2):
        with pl.at(level=CORE):
            part = pl.reshape(pl.load(x, [i, 0, 0], [1, 4, 8]), [4, 8])
            y = pl.store(part, [i, 0, 0], y)
            z = pl.assemble(z, pl.set_validshape(part, 3, 8), [i, 0, 0])


def test_a_block_of_two_axes_goes_into_a_tensor_of_three():
    x = torch.randn(2, 4, 8)
    _, y, z = agree(flattened_source, x, torch.zeros(2, 4, 8), torch.zeros(2, 4, 8))
    assert torch.equal(y, x)
    assert torch.equal(z[:, :3], x[:, :3])
    assert not z[:, 3].any()


@pl.jit
def counters(x: pl.Tensor[[4], pl.INT32], y: pl.Out[pl.Tensor[[4], pl.INT32]]):
    with pl.at(level=CORE):
        tile = pl.tile.create_tile([1, 4], dtype=pl.INT32)
        for i in pl.range(4):
            pl.write(y, [i], x[i] + i)
            pl.write(tile, [0, i], i * 2)
        pl.write(y, [3], pl.read(tile, [0, 3]) + 1)


def test_integers_of_another_width_narrow_when_they_are_written():
    x = torch.arange(4, dtype=torch.int32) * 10
    _, y = agree(counters, x, torch.zeros(4, dtype=torch.int32))
    assert y.tolist() == [0, 11, 22, 7]


@pl.jit
def laid_out(x: pl.Tensor[[4, 8], pl.FP32, pl.ND], y: pl.Out[pl.Tensor[[4, 4], pl.FP32]]):
    kept = pl.tensor.create_tensor([4, 8], dtype=pl.FP32, layout=pl.NZ)
    with pl.at(level=pl.Level.CHIP_DIE):
        for _ in pl.range(1):
            with pl.at(level=CORE):
                kept[:, :] = x[:, :]
    with pl.at(level=CORE):
        y[:, :] = pl.gather(kept, mask_pattern=pl.MaskPattern.P1010)


def test_layouts_and_patterns_stand_in_the_language_too():
    x = torch.randn(4, 8)
    assert torch.equal(agree(laid_out, x, torch.zeros(4, 4))[1], x[:, 1::2])


@pl.jit
def shapes(x: pl.Tensor, y: pl.Out[pl.Tensor], z: pl.Out[pl.Tensor], w: pl.Out[pl.Tensor]):
    rows, turned = pl.dim(x, 0), pl.transpose(x, 0, 1)
    with pl.at(level=CORE):
        both = pl.concat(x, pl.neg(x))
        y[:, :] = pl.set_validshape(both, rows - 1, pl.tensor.dim(x, -1) + 2)
        z[:, :] = pl.tile.transpose(pl.add(x, 1.0), 1, 0)
        w[:, :] = pl.tensor.concat(turned, turned)


def test_shapes_turn_join_and_shrink():
    x = torch.randn(3, 10)
    _, y, z, w = agree(shapes, x, torch.zeros(3, 20), torch.zeros(10, 3), torch.zeros(10, 6))
    wanted = torch.cat([x, -x], 1)
    wanted[2:], wanted[:, 12:] = 0, 0
    assert torch.equal(y, wanted)
    assert torch.equal(z, x.T + 1)
    assert torch.equal(w, torch.cat([x.T, x.T], 1))


@pl.jit
def prefetched(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    ctx = pl.prefetch.make_context()
    group = pl.prefetch.session(ctx)
    event = pl.prefetch.async_prefetch(x, ctx=ctx, priority=1)
    if pl.prefetch.wait(event, session=group):
        with pl.at(level=CORE):
            y[:, :] = pl.add(x, 1.0)


def test_prefetching_is_a_hint():
    x = torch.randn(4, 16)
    _, y = agree(prefetched, x, torch.zeros(4, 16))
    assert torch.equal(y, x + 1)


@pl.jit.inline
def every_third_row(x: pl.Tensor, y: pl.Tensor):
    for row in pl.range(pl.tile.get_block_idx(), 8, pl.tile.get_block_num()):
        y[row : row + 1, :] = pl.add(x[row : row + 1, :], 1.0)
    return y


@pl.jit
def blocks_that_take_turns(x: pl.Tensor, n: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.spmd(pl.read(n, [0])):
        y = every_third_row(x, y)
    with pl.spmd(3):
        for row in pl.range(pl.get_block_idx(), 8, pl.get_block_num()):
            y[row : row + 1, :] = pl.mul(y[row : row + 1, :], 2.0)


def test_a_block_knows_how_many_there_are():
    x = torch.randn(8, 16)
    n = torch.tensor([3], dtype=torch.int32)
    *_, y = agree(blocks_that_take_turns, x, n, torch.zeros(8, 16), threads=(1, 2, 3))
    assert torch.equal(y, 2 * (x + 1))
