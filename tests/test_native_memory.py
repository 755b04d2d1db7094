"""Memory in machine code: views, copies, the order of stores, scalars."""

from __future__ import annotations

import pytest
import torch
from both_ways import agree, ramp

import tilewright.language as pl

CORE = pl.Level.CORE_GROUP
THREADS = (1, 2, 3, 5)


@pl.jit
def through_views(x: pl.Tensor, y: pl.Out[pl.Tensor], z: pl.Out[pl.Tensor]):
    flat = pl.reshape(y, [1, 48])
    window = pl.slice(y, [2, 5], [3, 2])
    turned = pl.transpose(x, 0, 1)
    corner = pl.slice(window, [1, 2], [1, 3])
    with pl.at(level=CORE):
        flat[0:1, 7:24] = pl.full([1, 17], dtype=pl.FP32, value=7.0)
        window[:, :] = pl.add(x[0:2, 0:5], 1.0)
        corner[:, :] = pl.full([1, 2], dtype=pl.FP32, value=-1.0)
        z[:, :] = pl.mul(turned[1:5, :], 2.0)


def test_views_write_through_and_a_transposed_view_reads():
    agree(through_views, ramp(3, 8), torch.zeros(6, 8), torch.zeros(4, 3))


@pl.jit
def load_is_a_copy(t: pl.InOut[pl.Tensor], y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        old = t[:, :]
        corner = old[0:2, 1:4]
        flat = pl.reshape(old, [1, 32])
        t[:, :] = pl.add(t[:, :], 1.0)
        t[1:4, :] = t[0:3, :]
        t[:, 0:7] = t[:, 1:8]
        y[0:4, :] = old
        y[4:6, 0:3] = corner
        y[6:7, 0:8] = flat[:, 20:28]
        y[7:8, :] = t[3:4, :]


def test_a_load_keeps_what_was_there_and_windows_may_overlap():
    agree(load_is_a_copy, ramp(4, 8), torch.zeros(8, 8))


@pl.jit
def stores_in_order(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        a = x[:, :]
        y[0:5, 0:8] = pl.row_expand_mul(a, pl.row_sum(a))
        y[0:5, 0:8] = pl.add(a, 1.0)
        y[1:6, 0:8] = pl.add(a, 100.0)
        y[0:5, 3:11] = pl.add(a, 200.0)


def test_later_stores_win_over_earlier_ones():
    agree(stores_in_order, ramp(5, 8), torch.zeros(6, 12))


@pl.jit
def private_tensors(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    for i in pl.parallel(8):
        mine = pl.create_tensor([2, 24], dtype=pl.FP32)
        with pl.at(level=CORE):
            mine[0:1, 0:16] = x[i : i + 1, :]
        with pl.at(level=CORE):
            y[i : i + 1, :] = pl.add(mine[0:1, :], mine[1:2, :])


def test_a_tensor_made_in_a_parallel_loop_is_zero_and_the_iterations_own():
    agree(private_tensors, ramp(8, 16), torch.zeros(8, 24), threads=THREADS)


@pl.jit
def half_stored(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    t = pl.create_tensor([4, 8], dtype=pl.FP32)
    u = pl.create_tensor([4, 8], dtype=pl.FP32)
    for i in pl.range(4):
        with pl.at(level=CORE):
            t[i : i + 1, :] = x[i : i + 1, :]
            y[i : i + 1, :] = t[3 - i : 4 - i, :]
    for _i in pl.range(0):
        with pl.at(level=CORE):
            u[:, :] = x[:, :]
    with pl.at(level=CORE):
        y[4:8, :] = u[:, :]


def test_fresh_memory_is_zero_until_it_is_written():
    for _ in range(3):  # the memory of a launch is used again by the next
        agree(half_stored, ramp(4, 8), torch.ones(8, 8))


@pl.jit
def split_k(x: pl.Tensor, w: pl.Tensor, y: pl.InOut[pl.Tensor]):
    for k in pl.range(0, 64, 16):
        with pl.at(level=CORE):
            part = pl.matmul(x[:, k : k + 16], w[k : k + 16, :])
            pl.assemble(y, part, [1, 2], atomic=pl.AtomicType.Add)


def test_atomic_stores_add_to_what_is_there():
    x, w = (
        torch.randint(-9, 9, (5, 64)).to(torch.int8),
        torch.randint(-9, 9, (64, 18)).to(torch.int8),
    )
    agree(split_k, x, w, torch.full((7, 20), 3, dtype=torch.int32), threads=THREADS)


@pl.jit
def scalars(ids: pl.Tensor, y: pl.Out[pl.Tensor], f: pl.Out[pl.Tensor]):
    for i in pl.range(6):
        v = pl.read(ids, [i])
        pl.write(y, [v % 6], pl.cast(v // 4 + i, pl.INT32))
        pl.write(f, [i], pl.cast(v, pl.FP32) * 0.5 - pl.min(pl.cast(i, pl.FP32), 2.5))
    pl.write(y, [6], pl.cast(pl.read(f, [2]), pl.INT32))


def test_scalars_are_read_computed_and_written():
    ids = torch.tensor([5, -1, -7, 11, 2, 100], dtype=torch.int32)
    agree(scalars, ids, torch.zeros(7, dtype=torch.int32), torch.zeros(6))


@pl.jit
def smallest(a: pl.Scalar[pl.FP32], b: pl.Scalar[pl.FP32], y: pl.Out[pl.Tensor]):
    pl.write(y, [0], pl.min(a, b))
    pl.write(y, [1], pl.max(a, b))


@pytest.mark.parametrize("b", [1.0, 0.0, float("nan")])
@pytest.mark.parametrize("a", [2.0, -0.0, float("nan")])
def test_a_nan_scalar_wins_over_a_number(a: float, b: float):
    agree(smallest, a, b, torch.zeros(2))


@pl.jit
def constant_casts(y: pl.Out[pl.Tensor]):
    pl.write(y, [0], pl.cast(pl.cast(257, pl.BF16), pl.FP32))
    pl.write(y, [1], pl.cast(pl.cast(2049, pl.FP16), pl.FP32))


def test_a_constant_cast_to_16_bits_is_rounded():
    (y,) = agree(constant_casts, torch.zeros(2))
    assert y.tolist() == [256, 2048]
