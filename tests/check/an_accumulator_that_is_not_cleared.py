"""A fresh block times 0 is an accumulator; times anything else it is what the memory held before."""

import torch

import tilewright.language as pl

ROWS, WIDTH = 4, 8


@pl.jit
def kernel(x: pl.Tensor[[ROWS, WIDTH], pl.FP32], y: pl.Out[pl.Tensor[[ROWS, 4], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP):
        cleared = pl.mul(pl.create_tensor([ROWS, 1], dtype=pl.FP32), 0.0)
        y[:, 0:1] = pl.add(cleared, pl.row_sum(x[:, :]))
        halved = pl.mul(pl.create_tensor([ROWS, 1], dtype=pl.FP32), 0.5)
        y[:, 1:2] = pl.add(halved, pl.row_sum(x[:, :]))
        y[:, 2:3] = pl.add(pl.mul(y[:, 2:3], 0.0), 1.0)  # the caller's memory may hold a NaN
        part = pl.slice(x, [ROWS, 1], [0, 0], valid_shape=[2, 1])
        y[:, 3:4] = pl.reshape(pl.mul(part, 0.0), [ROWS, 1])


def arguments():
    return torch.rand(ROWS, WIDTH), torch.zeros(ROWS, 4)
