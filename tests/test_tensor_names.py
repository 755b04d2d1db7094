"""Names that stand for one tensor or another: selected by a branch, swapped by a loop, kept by a launch."""

from __future__ import annotations

import pytest
import torch
from both_ways import agree

import tilewright.language as pl
from tilewright.errors import KernelError

CORE = pl.Level.CORE_GROUP
ROWS, D = 4, 16


@pl.jit
def one_of_two_tensors(x: pl.Tensor, z: pl.Tensor, n: pl.Tensor, y: pl.Out[pl.Tensor]):
    total = 0
    if pl.read(n, [0]) > 3:
        chosen = x
        total = 1
    else:
        chosen = z
    with pl.at(level=CORE):
        y[:, :] = pl.add(chosen[:, :], 1.0)
    total = total + 10
    with pl.at(level=CORE):
        y[0:1, :] = pl.mul(chosen[0:1, :], pl.cast(total, pl.FP32))
    return y


@pytest.mark.parametrize("n", [2, 5])
def test_a_branch_chooses_between_two_tensors(n: int):
    x, z = torch.randn(ROWS, D), torch.randn(ROWS, D)
    *_, y = agree(
        one_of_two_tensors, x, z, torch.tensor([n], dtype=torch.int32), torch.zeros(ROWS, D)
    )
    chosen, total = (x, 11) if n > 3 else (z, 10)
    assert torch.equal(y, torch.cat([chosen[:1] * total, chosen[1:] + 1]))


@pl.jit
def windows_of_two_caches(
    near: pl.Tensor, far: pl.Tensor, rows: pl.Tensor, y: pl.Out[pl.Tensor[[8, D], pl.FP32]]
):
    for i in pl.parallel(8):
        row = pl.read(rows, [i])
        if row >= 0:
            if row < ROWS:
                kv = pl.slice(near, [1, D], [row, 0])
            else:
                kv = pl.slice(far, [1, D], [row - ROWS, 0])
            scale = row + 1
            with pl.at(level=CORE):
                y[i : i + 1, :] = pl.mul(kv, pl.cast(scale, pl.FP32))


def test_a_branch_chooses_a_window_in_every_iteration():
    near, far = torch.randn(ROWS, D), torch.randn(ROWS, D)
    rows = torch.tensor([3, -1, 4, 7, 0, -1, 5, 1], dtype=torch.int32)
    *_, y = agree(windows_of_two_caches, near, far, rows, torch.zeros(8, D), threads=(1, 3))
    both = torch.cat([near, far])
    wanted = torch.where(rows[:, None] < 0, 0.0, both[rows.clamp(min=0)] * (rows[:, None] + 1.0))
    assert torch.equal(y, wanted)


@pl.jit
def back_and_forth(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    here = pl.create_tensor([ROWS, D], dtype=pl.FP32)
    there = pl.create_tensor([ROWS, D], dtype=pl.FP32)
    with pl.at(level=CORE):
        here[:, :] = x[:, :]
    for i in pl.range(5):
        with pl.at(level=CORE):
            there[:, :] = pl.add(pl.mul(here, 2.0), pl.cast(i, pl.FP32))
        spare = here
        here = there
        there = spare
    with pl.at(level=CORE):
        y[:, :] = pl.sub(here, there)


def test_a_loop_with_constant_bounds_swaps_two_buffers():
    x = torch.randint(-9, 9, (ROWS, D)).float()
    _, y = agree(back_and_forth, x, torch.zeros(ROWS, D))
    steps = [x]
    for i in range(5):
        steps.append(steps[-1] * 2 + i)
    assert torch.equal(y, steps[5] - steps[4])


@pl.jit
def as_often_as_it_says(n: pl.Tensor, x: pl.Tensor, y: pl.Out[pl.Tensor]):
    here = pl.create_tensor([ROWS, D], dtype=pl.FP32)
    for _ in pl.range(pl.read(n, [0])):
        with pl.at(level=CORE):
            here[:, :] = pl.add(y, x)
        spare = here
        here = y
        y = spare


def test_a_loop_of_run_time_length_cannot():
    with pytest.raises(KernelError, match="names another tensor in every iteration") as caught:
        as_often_as_it_says(
            torch.tensor([2], dtype=torch.int32), torch.zeros(ROWS, D), torch.zeros(ROWS, D)
        )
    assert "constant bounds" in str(caught.value)


@pl.jit.inline
def negate_row(x: pl.Tensor, y: pl.Tensor):
    row = pl.tile.get_block_idx()
    y[row : row + 1, :] = pl.neg(x[row : row + 1, :])
    return y


@pl.jit
def a_launch_names_its_result(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    kept = pl.create_tensor([ROWS, D], dtype=pl.FP32)
    current = x
    with pl.spmd(ROWS):
        current = negate_row(current, kept)
    with pl.spmd(ROWS) as _tid:
        out = negate_row(current, y)
    with pl.at(level=CORE):
        out[0:1, :] = pl.add(out[0:1, :], 1.0)
    return out


def test_with_is_no_scope_for_the_tensors_of_a_launch():
    x = torch.randn(ROWS, D)
    _, y = agree(a_launch_names_its_result, x, torch.zeros(ROWS, D), threads=(1, 3))
    assert torch.equal(y, torch.cat([x[:1] + 1, x[1:]]))
