"""Tasks, launches, barriers and lanes: what the words of scheduling mean for values."""

from __future__ import annotations

import pytest
import torch
from both_ways import agree, ramp

import tilewright.language as pl
from tilewright.errors import BoundsError, KernelError

CORE = pl.Level.CORE_GROUP
THREADS = (1, 2, 3)


# Task ids, options


@pl.jit.inline(auto_scope=False)
def doubled(x: pl.Tensor, y: pl.Tensor, after: pl.Scalar[pl.TASK_ID]):
    with pl.at(level=CORE, deps=[after]):
        y[:, :] = pl.add(x, x)
    return y


@pl.jit.inline
def split_in_two(x: pl.Tensor, y: pl.Tensor, z: pl.Tensor):
    with pl.at(level=CORE):
        y[:, :] = pl.add(x, 1.0)
    with pl.at(level=CORE):
        z[:, :] = pl.add(x, 2.0)
    return y, z


@pl.jit(auto_scope=False)
def tokens(x: pl.Tensor, y: pl.Out[pl.Tensor], z: pl.Out[pl.Tensor]):
    tids = pl.array.create(4, pl.TASK_ID)
    first = pl.system.task_dummy(deps=[])
    t = pl.create_tensor([4, 16], dtype=pl.FP32, manual_dep=True)
    with pl.scope(mode=pl.ScopeMode.MANUAL):
        for i in pl.range(4):
            with pl.at(
                level=CORE,
                deps=[first],
                no_dep_args=[y],
                allow_early_resolve=True,
                optimizations=[pl.auto_chunk, pl.split(pl.SplitMode.UP_DOWN, slot_num=2)],
            ) as tid:
                t[i : i + 1, :] = x[i : i + 1, :]
            tids[i] = tid
        with pl.manual_scope():
            y, last = pl.submit(doubled, pl.no_dep(t), y, tids[3], deps=[tids, first])
    both = pl.system.task_dummy(deps=[last, tids[0]])
    t, z, done = pl.submit(split_in_two, y, t, z, deps=[both], name_hint="two")
    context = pl.prefetch.make_context()
    pl.prefetch.async_prefetch(x, context)
    if pl.prefetch.wait(pl.prefetch.session(context)):
        with pl.at(level=CORE, deps=[done], optimizations=[pl.cross_core_slot(slot_num=2)]):
            z[0:1, :] = pl.neg(t[0:1, :])


def test_task_ids_order_nothing_that_program_order_does_not():
    x = ramp(4, 16)
    _, y, z = agree(tokens, x, torch.zeros(4, 16), torch.zeros(4, 16))
    assert torch.equal(y, 2 * x)
    assert torch.equal(z[1:], 2 * x[1:] + 2)
    assert torch.equal(z[:1], -(2 * x[:1] + 1))


@pl.jit.inline
def copy_four(x: pl.Tensor, y: pl.Tensor, row: pl.Scalar[pl.INDEX], after: pl.Scalar[pl.TASK_ID]):
    with pl.at(level=CORE, deps=[after]) as tid:
        y[row : row + 1, :] = x[row : row + 1, :]
    return y, tid


@pl.jit
def a_chain_of_tasks(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    tids = pl.array.create(4, pl.TASK_ID)
    tids[0] = None
    before = None
    late = None
    with pl.manual_scope():
        for row in pl.range(4):
            y, before = copy_four(x, y, row, before)
            tids[row] = before
            if row > 1:
                late = before
        with pl.at(level=CORE, deps=[before, late, None, tids]):
            y[0:1, :] = pl.neg(x[0:1, :])


def test_none_is_the_task_before_the_first():
    x = ramp(4, 16)
    _, y = agree(a_chain_of_tasks, x, torch.zeros(4, 16))
    assert torch.equal(y, torch.cat([-x[:1], x[1:]]))


@pl.jit
def on_condition(flags: pl.Tensor, x: pl.Tensor, y: pl.Out[pl.Tensor]):
    for i in pl.range(4):
        with pl.at(level=CORE, predicate=(flags[i] > 0)):
            y[i : i + 1, :] = x[i : i + 1, :]
            pl.write(flags, [3], pl.cast(0, pl.INT32))
    for b in pl.spmd(4, predicate=(flags[0] > 0)):
        y[b : b + 1, :] = pl.add(y[b : b + 1, :], 100.0)
    with pl.spmd(4, predicate=(flags[2] > 0)) as _tid:
        add_to_block(y, 1000.0)


@pl.jit.inline
def add_to_block(y: pl.Tensor, value: pl.Scalar[pl.FP32]):
    b = pl.tile.get_block_idx()
    y[b : b + 1, :] = pl.add(y[b : b + 1, :], value)


def test_a_task_with_a_false_predicate_is_skipped():
    flags, x = torch.tensor([1, 0, -1, 5], dtype=torch.int32), ramp(4, 16)
    _, _, y = agree(on_condition, flags, x, torch.zeros(4, 16), threads=THREADS)
    wanted = torch.zeros(4, 16)
    wanted[0] = x[0]  # the first task switches the fourth off
    assert torch.equal(y, wanted + 100)


# Arrays


@pl.jit.inline
def count(
    x: pl.Tensor,
    hist: pl.Array[[5], pl.INT32],
    seen: pl.Array[[5], pl.BOOL],
    n: pl.Scalar[pl.INDEX],
):
    for i in pl.range(n):
        k = pl.read(x, [i])
        hist[k] = hist[k] + 1
        seen[k] = True


@pl.jit
def histogram(x: pl.Tensor, n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    hist = pl.array.create(5, pl.INT32)
    seen = pl.array.create(5, pl.BOOL)
    count(x, hist, seen, n)
    for k in pl.range(5):
        if seen[k]:
            pl.write(y, [k], hist[k])
        else:
            pl.write(y, [k], -1)
    hist[0] = 3
    first = hist[0]
    hist[0] = 4
    pl.write(y, [5], first)


@pytest.mark.parametrize("n", [0, 1, 9])
def test_an_array_counts_at_run_time_indices_and_is_handed_on(n: int):
    x = torch.tensor([1, 4, 1, 0, 1, 4, 0, 0, 0], dtype=torch.int64)
    _, y = agree(histogram, x, n, torch.zeros(6, dtype=torch.int32))
    counts = [int((x[:n] == k).sum()) for k in range(5)]
    assert y.tolist() == [c or -1 for c in counts] + [3]


@pl.jit
def array_of_each_block(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    for b in pl.spmd(4):
        order = pl.array.create(3, pl.INDEX)
        at = pl.array.create(1, pl.INT8)
        for i in pl.range(3):
            if x[b * 3 + i, 0] > 5.0:
                order[at[0]] = i
                at[0] = at[0] + 1
        for i in pl.range(at[0]):
            row = b * 3 + order[i]
            y[b * 3 + i : b * 3 + i + 1, :] = x[row : row + 1, :]


def test_every_block_has_arrays_of_its_own_and_they_start_at_zero():
    x = ramp(12, 16) % 11
    _, y = agree(array_of_each_block, x, torch.zeros(12, 16), threads=THREADS)
    wanted = torch.zeros(12, 16)
    for b in range(4):
        rows = [r for r in range(3 * b, 3 * b + 3) if x[r, 0] > 5]
        wanted[3 * b : 3 * b + len(rows)] = x[rows]
    assert torch.equal(y, wanted)


@pl.jit
def array_read_by_all_blocks(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    for turn in pl.range(2):
        starts = pl.array.create(5, pl.INT32)
        for i in pl.range(4):
            starts[i + 1] = starts[i] + i + turn
        for b in pl.parallel(4):
            with pl.at(level=CORE):
                row = starts[b]
                y[turn * 4 + b : turn * 4 + b + 1, :] = x[row : row + 1, :]


def test_an_array_written_between_parallel_loops_is_read_by_all_threads():
    x = ramp(16, 20)
    _, y = agree(array_read_by_all_blocks, x, torch.zeros(8, 20), threads=THREADS)
    assert torch.equal(y, x[[0, 0, 1, 3, 0, 1, 3, 6]])


@pl.jit
def array_behind_its_region(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        best = pl.array.create(2, pl.INT64)
        for i in pl.range(6):
            if x[i, 0] > x[best[1], 0]:
                best[1] = i
    k = best[1]
    best[0] = 7
    with pl.at(level=CORE):
        y[:, :] = pl.add(x[k : k + 1, :], pl.cast(best[0], pl.FP32))


def test_an_array_made_in_a_region_is_known_behind_it():
    x = ramp(6, 16)
    x[2] += 50
    _, y = agree(array_behind_its_region, x, torch.zeros(1, 16))
    assert torch.equal(y, x[2:3] + 7)


@pl.jit
def outside_array(i: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    a = pl.array.create(4, pl.INT32)
    a[i] = 1
    pl.write(y, [0], a[0])


def test_an_index_outside_an_array_stops_the_run():
    for backend in ("interpreter", "native"):
        with pytest.raises(BoundsError, match="a"):
            outside_array.run(4, torch.zeros(1, dtype=torch.int32), backend=backend)
    assert agree(outside_array, 0, torch.zeros(1, dtype=torch.int32))[0].item() == 1


# Barriers

N = 4


@pl.jit
def sum_of_others(x: pl.Tensor, part: pl.Out[pl.Tensor], y: pl.Out[pl.Tensor]):
    for b in pl.spmd(N, name_hint="meet"):
        row = b * 2
        scale = pl.cast(b, pl.FP32) + x[row, 1]
        mine = pl.mul(x[row : row + 2, :], scale)
        part[b : b + 1, :] = pl.col_sum(mine)
        pl.system.syncall(core_type="mix")
        other = (b + 1) % N
        total = pl.add(part[b : b + 1, :], part[other : other + 1, :])
        y[row : row + 2, :] = pl.add(pl.col_expand_add(mine, total), scale)


def by_hand(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = torch.arange(float(N)) + x[::2, 1]
    mine = x.view(N, 2, -1) * scale[:, None, None]
    part = mine.sum(1)
    total = part + part.roll(-1, 0)
    return part, (mine + total[:, None] + scale[:, None, None]).reshape(2 * N, -1)


def test_no_block_passes_a_barrier_before_all_are_there():
    x = ramp(2 * N, 24)
    _, part, y = agree(
        sum_of_others, x, torch.zeros(N, 24), torch.zeros(2 * N, 24), threads=(1, 2, 3, 4)
    )
    want_part, want = by_hand(x)
    assert torch.equal(part, want_part)
    assert torch.equal(y, want)


@pl.jit.inline
def meet(x: pl.Tensor, part: pl.Tensor, y: pl.Tensor, rounds: pl.Scalar[pl.INDEX]):
    b = pl.tile.get_block_idx()
    private = pl.array.create(2, pl.INT32)
    private[1] = b
    acc = x[b : b + 1, :]
    for k in pl.range(rounds):
        part[b : b + 1, :] = acc
        private[0] = private[0] + 1
        pl.system.syncall()
        other = (b + k) % N
        acc = pl.add(acc, part[other : other + 1, :])
        pl.system.syncall()
    y[b : b + 1, :] = pl.add(acc, pl.cast(private[0] * 10 + private[1], pl.FP32))


@pl.jit
def rounds_of_meeting(
    x: pl.Tensor, rounds: pl.Scalar[pl.INDEX], part: pl.Out[pl.Tensor], y: pl.Out[pl.Tensor]
):
    with pl.spmd(N):
        meet(x, part, y, rounds)


@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_blocks_meet_in_every_turn_of_a_loop_and_keep_what_is_theirs(rounds: int):
    x = ramp(N, 20)
    _, _, y = agree(
        rounds_of_meeting, x, rounds, torch.zeros(N, 20), torch.zeros(N, 20), threads=(1, 2, 4)
    )
    acc = x.clone()
    for k in range(rounds):
        acc = acc + acc.roll(-k, 0)
    mine = 10 * rounds + torch.arange(float(N))
    assert torch.equal(y, acc + mine[:, None])


@pl.jit
def swapped_over_barriers(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    for b in pl.spmd(N):
        p, q, n = x[b : b + 1, :], pl.neg(x[b : b + 1, :]), b
        for _k in pl.range(3):
            p, q = q, p
            n = n + 1
            pl.system.syncall()
        y[b : b + 1, :] = pl.add(pl.sub(p, q), pl.cast(n, pl.FP32))


def test_what_a_loop_around_a_barrier_carries_swaps_without_losing_one():
    x = ramp(N, 20)
    _, y = agree(swapped_over_barriers, x, torch.zeros(N, 20), threads=(1, 2))
    assert torch.equal(y, -2 * x + torch.arange(float(N))[:, None] + 3)


@pl.jit
def bounds_of_each_block(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    for b in pl.spmd(N):
        for _k in pl.range(b):
            pl.system.syncall()
        y[b : b + 1, :] = x[b : b + 1, :]


@pl.jit
def number_of_blocks_in_memory(n: pl.Tensor, y: pl.Out[pl.Tensor]):
    for b in pl.spmd(pl.read(n, [0])):
        pl.system.syncall()
        y[b : b + 1, :] = pl.full([1, 16], dtype=pl.FP32, value=1.0)


def test_a_barrier_that_blocks_would_meet_differently_often_is_refused():
    with pytest.raises(KernelError, match="the same for all blocks"):
        bounds_of_each_block(ramp(N, 16), torch.zeros(N, 16))
    with pytest.raises(KernelError, match="a number known when compiling"):
        number_of_blocks_in_memory(torch.tensor([4]), torch.zeros(N, 16))


# Lanes


@pl.jit
def plain_lanes(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    for r in pl.parallel(0, 8, 4):
        with pl.at(level=CORE):
            for lane in pl.split_aiv(2, mode=pl.SplitMode.NONE):
                row = r + lane * 2
                y[row : row + 2, :] = pl.mul(x[row : row + 2, :], 3.0)


def test_lanes_without_a_split_are_a_loop_of_two():
    x = ramp(8, 20)
    assert torch.equal(agree(plain_lanes, x, torch.zeros(8, 20))[1], 3 * x)


@pl.jit
def halves_of_rows(
    a: pl.Tensor, b: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor], z: pl.Out[pl.Tensor]
):
    with pl.at(level=CORE):
        for lane in pl.split_aiv(2, mode=pl.SplitMode.UP_DOWN):
            product = pl.matmul(a[:, :], b[:, :])
            half = pl.aiv_shard(product)
            scaled = pl.mul(half, pl.cast(lane + 2, pl.FP32))
            y[lane * 8 : lane * 8 + 8, :] = scaled
            whole = pl.aic_gather(scaled)
            again = pl.aiv_shard(pl.matmul(whole, w[:, :]))
            z[lane * 8 : lane * 8 + 8, :] = pl.add(again, half)


def test_lanes_halve_rows_and_join_them_again():
    a, b, w = ramp(16, 4) % 5, ramp(4, 32) % 7, ramp(32, 32) % 3
    *_, y, z = agree(halves_of_rows, a, b, w, torch.zeros(16, 32), torch.zeros(16, 32))
    product = a @ b
    scaled = product * torch.tensor([2.0, 3.0]).repeat_interleave(8)[:, None]
    assert torch.equal(y, scaled)
    assert torch.equal(z, scaled @ w + product)


@pl.jit
def halves_of_columns(x: pl.Tensor, n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    for r in pl.spmd(2):
        for lane in pl.split_aiv(2, mode=pl.SplitMode.LEFT_RIGHT):
            whole = x[r * 4 : r * 4 + 4, :]
            for _k in pl.range(n):
                mine = pl.add(pl.aiv_shard(whole), pl.cast(lane, pl.FP32))
                whole = pl.aic_gather(mine)
            y[r * 4 : r * 4 + 4, lane * 16 : lane * 16 + 16] = pl.aiv_shard(whole)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_lanes_halve_columns_and_join_them_in_a_loop(n: int):
    x = ramp(8, 32)
    (_, y) = agree(halves_of_columns, x, n, torch.zeros(8, 32), threads=THREADS)
    wanted = x.clone()
    wanted[:, 16:] += n
    assert torch.equal(y, wanted)


@pl.jit
def lanes_outside_a_region(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    for lane in pl.split_aiv(2, mode=pl.SplitMode.UP_DOWN):
        top = pl.aiv_shard(pl.add(x, 1.0))
        y[:, :] = pl.aic_gather(pl.mul(top, pl.cast(lane + 1, pl.FP32)))


def test_lanes_make_a_region_of_their_own():
    x = ramp(6, 16)
    _, y = agree(lanes_outside_a_region, x, torch.zeros(6, 16))
    assert torch.equal(y, (x + 1) * torch.tensor([1.0, 2.0]).repeat_interleave(3)[:, None])


@pl.jit
def lanes_at_a_barrier(x: pl.Tensor, part: pl.Out[pl.Tensor], y: pl.Out[pl.Tensor]):
    for b in pl.spmd(2):
        for lane in pl.split_aiv(2):
            row = b * 2 + lane
            mine = pl.mul(x[row : row + 1, :], 2.0)
            part[row : row + 1, :] = mine
            pl.system.syncall()
            other = 3 - row
            y[row : row + 1, :] = pl.add(part[other : other + 1, :], mine)


def test_a_barrier_is_for_the_lanes_of_all_blocks():
    x = ramp(4, 16)
    _, _, y = agree(lanes_at_a_barrier, x, torch.zeros(4, 16), torch.zeros(4, 16), threads=(1, 2))
    assert torch.equal(y, 2 * (x + x.flip(0)))


# Levels and roles


@pl.jit
def work_for_others(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(pl.Level.HOST, pl.Role.Orchestrator):
        for r in pl.range(4):
            with pl.at(level=CORE, role=pl.Role.SubWorker):
                y[r : r + 1, :] = pl.add(x[r : r + 1, :], 1.0)


def test_who_does_the_work_changes_no_value():
    x = ramp(4, 16)
    _, y = agree(work_for_others, x, torch.zeros(4, 16))
    assert torch.equal(y, x + 1)


@pl.jit
def role_that_is_none(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE, role="boss"):
        y[:, :] = pl.add(x, 1.0)


def test_a_role_is_one_of_the_language():
    with pytest.raises(KernelError, match="role takes a"):
        role_that_is_none(ramp(4, 16), torch.zeros(4, 16))
