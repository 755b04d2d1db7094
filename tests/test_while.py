"""Loops that carry: `while` in both spellings, and carries that the author writes out. The answer is Python's."""

from __future__ import annotations

import pytest
import torch
from both_ways import agree, counts, ramp

import tilewright.language as pl

CORE = pl.Level.CORE_GROUP


# while


@pl.jit
def collatz(n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    steps = 0
    highest = n
    while n != 1:
        if n % 2 == 0:
            n = n // 2
        else:
            n = 3 * n + 1
        highest = pl.max(highest, n)
        steps = steps + 1
    pl.write(y, [0], pl.cast(steps, pl.INT64))
    pl.write(y, [1], pl.cast(highest, pl.INT64))


@pytest.mark.parametrize(("n", "steps", "highest"), [(1, 0, 1), (6, 8, 16), (27, 111, 9232)])
def test_a_while_loop_runs_until_its_condition_fails(n: int, steps: int, highest: int):
    (y,) = agree(collatz, n, counts(2))
    assert y.tolist() == [steps, highest]


@pl.jit
def first_above(x: pl.Tensor, limit: pl.Scalar[pl.FP32], y: pl.Out[pl.Tensor]):
    at = 0
    while at < 8 and pl.read(x, [pl.min(at, 7)]) <= limit:
        at = at + 1
    pl.write(y, [0], pl.cast(at, pl.INT64))


@pytest.mark.parametrize("limit", [0.0, 3.5, 100.0])
def test_a_while_condition_may_read_memory(limit: float):
    x = ramp(8)
    (_, y) = agree(first_above, x, limit, counts(1))
    assert y.item() == int((x <= limit).sum())


@pl.jit
def halve_until_small(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        v = x[0:4, :]
        while v[0, 0] > 1.0:
            v = pl.mul(v, 0.5)
        y[:, :] = v


def test_a_while_loop_in_a_region_carries_a_block_and_looks_at_an_element_of_it():
    x = ramp(4, 37) + 9
    (_, y) = agree(halve_until_small, x, torch.zeros(4, 37))
    assert torch.equal(y, x / 16)


@pl.jit
def around_parallel_loops(n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    i = 0
    while i < n:
        for r in pl.parallel(4):
            with pl.at(level=CORE):
                y[r : r + 1, :] = pl.add(y[r : r + 1, :], pl.read(y, [r, 0]))
        while pl.read(y, [0, 0]) > 7.0:
            pl.write(y, [0, 0], pl.read(y, [0, 0]) * 0.25)
        i = i + 1


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_while_loop_may_hold_loops_that_threads_share(n: int):
    y = ramp(4, 24)
    agree(around_parallel_loops, n, y, threads=(1, 2, 3))


@pl.jit
def never(y: pl.Out[pl.Tensor]):
    k = 5
    while k < 3:
        k = k + 1
    pl.write(y, [0], pl.cast(k, pl.INT64))


def test_a_while_loop_whose_condition_is_false_does_nothing():
    assert agree(never, counts(1))[0].item() == 5


@pl.jit
def newton(a: pl.Scalar[pl.FP32], y: pl.Out[pl.Tensor]):
    for x, left in pl.while_(init_values=(a, 30)):
        pl.cond(x * x - a > 0.001 and left > 0)
        root, rest = pl.yield_((x + a / x) * 0.5, left - 1)
    pl.write(y, [0], root)
    pl.write(y, [1], pl.cast(rest, pl.FP32))


@pytest.mark.parametrize("a", [2.0, 9.0, 1.0])
def test_the_explicit_while_yields_what_goes_on_and_names_what_comes_out(a: float):
    (y,) = agree(newton, a, torch.zeros(2))
    x, left = a, 30
    while x * x - a > 0.001 and left > 0:
        x, left = (x + a / x) * 0.5, left - 1
    assert y[0].item() == pytest.approx(x, abs=1e-4)
    assert y[1].item() == left


@pl.jit
def one_name(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        for (v,) in pl.while_(init_values=(x[0:2, :],)):
            pl.cond(v[1, 0] < 100.0)
            twice = pl.add(v, v)
            out = pl.yield_(twice)
        y[:, :] = out


def test_the_explicit_while_carries_a_block():
    x = ramp(2, 20)
    (_, y) = agree(one_name, x, torch.zeros(2, 20))
    assert torch.equal(y, x * 8)


# explicit carries of counted loops, and of branches


@pl.jit
def yields(x: pl.Tensor, n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        for i, (best, at) in pl.range(n, init_values=(x[0:1, :], 0)):
            row = x[i : i + 1, :]
            if row[0, 0] > best[0, 0]:
                high, where = pl.yield_(row, i)
            else:
                high, where = pl.yield_(best, at)
            best_out, at_out = pl.yield_(high, where)
        y[:, :] = pl.add(best_out, pl.cast(at_out, pl.FP32))


@pytest.mark.parametrize("n", [0, 1, 6])
def test_yield_names_what_both_arms_and_the_loop_give(n: int):
    x = ramp(6, 20)
    x[2:4] += 100
    (_, y) = agree(yields, x, n, torch.zeros(1, 20))
    at = int(x[:n, 0].argmax()) if n else 0
    assert torch.equal(y, x[at : at + 1] + at)


@pl.jit
def tensors_stay(x: pl.Tensor, y: pl.Out[pl.Tensor], z: pl.Out[pl.Tensor]):
    for i, (out,) in pl.range(4, init_values=(y,)):
        with pl.at(level=CORE):
            row = pl.add(x[i : i + 1, :], 1.0)
            if i % 2 == 0:
                done = pl.yield_(pl.assemble(out, row, [i, 0]))
            else:
                done = pl.yield_(pl.assemble(out, pl.neg(row), [i, 0]))
        whole = pl.yield_(done)
    for i, (out,) in pl.parallel(4, init_values=(z,)):
        with pl.at(level=CORE):
            got = pl.assemble(out, pl.mul(whole[i : i + 1, :], 2.0), [i, 0])
        _all = pl.yield_(got)
    with pl.at(level=CORE):
        for _i, (acc,) in pl.range(3, init_values=(x,)):
            acc_out = pl.yield_(pl.add(acc, 10.0))
        z[0:1, :] = acc_out[0:1, :]


def test_a_tensor_among_init_values_is_written_in_place_unless_a_block_is_yielded():
    x = ramp(4, 16)
    x_after, y, z = agree(tensors_stay, x, torch.zeros(4, 16), torch.zeros(4, 16))
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None]
    assert torch.equal(x_after, x)
    assert torch.equal(y, (x + 1) * signs)
    assert torch.equal(z[1:], 2 * y[1:])
    assert torch.equal(z[0], x[0] + 30)
