"""Accumulators declared before the loops that start and fill them, run both ways."""

from __future__ import annotations

import pytest
import torch
from both_ways import agree

import tilewright.language as pl
from tilewright.errors import ParserTypeError

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
