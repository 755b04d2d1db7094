"""Accumulators declared before the loops that start and fill them, run both ways."""

from __future__ import annotations

import pytest
import torch
from both_ways import agree

import tilewright.language as pl
from tilewright.errors import KernelError, ParserTypeError
from tilewright.ir.printer import to_text

CORE = pl.Level.CORE_GROUP


@pl.jit
def tiles_of_a_product(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor], z: pl.Out[pl.Tensor]):
    acc = pl.create_tensor([8, 16], dtype=pl.FP32)
    for m in pl.parallel(0, 32, 8):
        for n in pl.parallel(0, 32, 16):
            with pl.at(level=CORE):
                for k in pl.pipeline(0, 64, 16, stage=2):
                    if k == 0:
                        acc = pl.matmul(x[m : m + 8, k : k + 16], w[k : k + 16, n : n + 16])
                    else:
                        a = x[m : m + 8, k : k + 16]
                        acc = pl.matmul_acc(acc, a, w[k : k + 16, n : n + 16])
                y[m : m + 8, n : n + 16] = acc
    high = pl.create_tensor([1, 64], dtype=pl.FP32)
    for i in pl.spmd(4):
        for j in pl.range(8):
            row = x[i * 8 + j : i * 8 + j + 1, :]
            if j > 0:
                high = pl.maximum(high, row)
            else:
                high = row
        z[i : i + 1, :] = high


def test_an_accumulator_declared_before_a_parallel_loop_belongs_to_each_turn():
    x, w = torch.randint(-4, 5, (32, 64)).float(), torch.randint(-4, 5, (64, 32)).float()
    _, _, y, z = agree(tiles_of_a_product, x, w, torch.zeros(32, 32), torch.zeros(4, 64))
    assert torch.equal(y, x @ w)
    assert torch.equal(z, x.view(4, 8, 64).amax(1))


@pl.jit
def sum_over_parallel_turns(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    acc = pl.create_tensor([1, 64], dtype=pl.FP32)
    for i in pl.parallel(4):
        with pl.at(level=CORE):
            for j in pl.range(8):
                if j == i:
                    acc = x[j : j + 1, :]
                else:
                    acc = pl.add(acc, x[i * 8 + j : i * 8 + j + 1, :])
            y[i : i + 1, :] = acc


def test_an_accumulator_that_the_first_turn_may_add_to_is_carried_and_refused():
    with pytest.raises(ParserTypeError, match=r"'acc' is carried from one iteration"):
        sum_over_parallel_turns.specialize(torch.zeros(32, 64), torch.zeros(4, 64))


# names of another tensor in every turn


@pl.jit.inline
def layer(h: pl.Tensor, w: pl.Tensor, i: pl.Scalar[pl.INDEX]):
    out = pl.create_tensor([8, 16], dtype=pl.FP32)
    for r in pl.parallel(0, 8, 4):
        with pl.at(level=CORE):
            rows = h[r : r + 4, :]
            out[r : r + 4, :] = pl.add(pl.matmul(rows, w[i]), rows)
    return out


@pl.jit
def stacked(x: pl.Tensor, w: pl.Tensor, n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    h = x
    for i in pl.range(n):
        for _ in pl.range(2):
            h = layer(h, w, i)
    with pl.at(level=CORE):
        y[:, :] = h


@pl.jit
def stacked_into_an_output(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
    y = x
    i = 0
    while i < 3:
        y = layer(y, w, i)
        i = i + 1
    return y


@pl.jit
def remembers_a_turn(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
    last = x
    for i in pl.range(3):
        with pl.at(level=CORE):
            y[:, :] = pl.add(y, last)
        for _ in pl.range(2):
            last = layer(x, w, i)


def test_a_loop_carries_the_tensor_that_the_turn_before_made():
    x, w = torch.randint(-2, 3, (8, 16)).float(), torch.randint(-1, 2, (3, 16, 16)).float()
    for n in (0, 1, 3):
        wanted = x
        for i in range(n):
            for _ in range(2):
                wanted = wanted @ w[i] + wanted
        assert torch.equal(agree(stacked, x, w, n, torch.zeros(8, 16))[2], wanted)
    wanted = x
    for i in range(3):
        wanted = wanted @ w[i] + wanted
    assert torch.equal(agree(stacked_into_an_output, x, w, torch.zeros(8, 16))[2], wanted)
    wanted = x + sum(x @ w[i] + x for i in range(2))
    assert torch.equal(agree(remembers_a_turn, x, w, torch.zeros(8, 16))[2], wanted)


@pl.jit
def writes_what_it_carries(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
    h = x
    for i in pl.range(pl.tensor.dim(w, 0) + pl.cast(pl.read(x, [0, 0]), pl.INT32)):
        following = layer(h, w, i)
        with pl.at(level=CORE):
            x[:, :] = pl.add(x, 1.0)
        h = following
    with pl.at(level=CORE):
        y[:, :] = h


@pl.jit
def uses_a_turn_it_left(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
    last = x
    for i in pl.range(3):
        for _ in pl.range(2):
            last = layer(x, w, i)
    with pl.at(level=CORE):
        y[:, :] = last


@pytest.mark.parametrize(
    ("kernel", "text"),
    [
        (writes_what_it_carries, "'h' names another tensor in every iteration"),
        (uses_a_turn_it_left, "'last' was rebound inside the pl.range loop"),
    ],
)
def test_a_tensor_that_cannot_be_carried_is_refused(kernel, text: str):
    with pytest.raises(KernelError, match=text):
        kernel.specialize(torch.zeros(8, 16), torch.zeros(3, 16, 16), torch.zeros(8, 16))


@pl.jit
def reads_one_of_two(x: pl.Tensor, z: pl.Tensor, y: pl.Out[pl.Tensor]):
    last = x
    for i in pl.range(3):
        with pl.at(level=CORE):
            y[:, :] = pl.add(y, last)
        if i == 1:
            last = z


def test_a_turn_may_pick_the_tensor_of_the_next():
    x, z = torch.randint(-9, 9, (8, 16)).float(), torch.randint(-9, 9, (8, 16)).float()
    assert torch.equal(agree(reads_one_of_two, x, z, torch.zeros(8, 16))[2], 2 * x + z)


@pl.jit
def picks(x: pl.Tensor, z: pl.Tensor, n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    if n > 3:
        source = x
    elif n == 2:
        source = pl.slice(z, [4, 16], [4, 0])
        other = pl.create_tensor([4, 16], dtype=pl.FP32)
    else:
        source = z[0:4, :]
        other = x  # noqa: F841
    for i in pl.range(4):
        with pl.at(level=CORE):
            y[i : i + 1, :] = pl.mul(source[i : i + 1, :], 2.0)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_branches_pick_one_of_several_tensors(n: int):
    x, z = torch.randn(4, 16), torch.randn(8, 16)
    wanted = x if n > 3 else z[4:] if n == 2 else z[:4]
    assert torch.equal(agree(picks, x, z, n, torch.zeros(4, 16))[2], 2 * wanted)
    program = picks.specialize(x, z, n, torch.zeros(4, 16), backend="interpreter").function
    assert to_text(program).count("load %other") == 0  # nobody reads it, so nothing is copied
    assert to_text(program).count("to %other") == 0


@pl.jit
def picks_and_writes_behind(x: pl.Tensor, z: pl.Tensor, y: pl.Out[pl.Tensor]):
    source = x
    if pl.read(x, [0, 0]) > 0.0:
        source = z
    with pl.at(level=CORE):
        z[:, :] = x
        y[:, :] = source


@pl.jit
def picks_and_writes_in_a_loop(x: pl.Tensor, z: pl.Tensor, y: pl.Out[pl.Tensor]):
    source = x
    if pl.read(x, [0, 0]) > 0.0:
        source = z
    for _ in pl.range(2):
        with pl.at(level=CORE):
            y[:, :] = source
            z[:, :] = pl.add(y, 1.0)


@pl.jit
def writes_what_it_picks(x: pl.Tensor, z: pl.Tensor, y: pl.Out[pl.Tensor]):
    target = y
    if pl.read(x, [0, 0]) > 0.0:
        target = z
    with pl.at(level=CORE):
        target[:, :] = x


@pytest.mark.parametrize("positive", [False, True])
def test_what_follows_a_branch_may_write_to_the_tensor_that_was_picked(positive: bool):
    x, z = torch.randint(1, 9, (8, 16)).float(), torch.randint(-9, 9, (8, 16)).float()
    x = x if positive else -x
    start = torch.zeros(8, 16)
    _, z_after, y = agree(picks_and_writes_behind, x, z, start)
    assert torch.equal(z_after, x)
    assert torch.equal(y, x)
    _, z_after, y = agree(picks_and_writes_in_a_loop, x, z, start)
    assert torch.equal(y, z + 1 if positive else x)
    _, z_after, y = agree(writes_what_it_picks, x, z, start)
    assert torch.equal(z_after, x if positive else z)
    assert torch.equal(y, start if positive else x)


@pl.jit
def writes_what_the_next_turn_picks(
    x: pl.Tensor, z: pl.Tensor, y: pl.Out[pl.Tensor], n: pl.Scalar[pl.INDEX]
):
    last = x
    for i in pl.range(n):
        with pl.at(level=CORE):
            y[:, :] = pl.add(y, last)
            z[:, :] = pl.add(z, 1.0)
        if i == 1:
            last = z


def test_a_turn_may_not_pick_a_tensor_that_turns_write_to():
    with pytest.raises(KernelError, match="names another tensor in every"):
        writes_what_the_next_turn_picks.specialize(*[torch.zeros(8, 16)] * 3, 4)
