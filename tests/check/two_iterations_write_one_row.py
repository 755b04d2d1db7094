"""Windows that overlap by one row."""

import torch

import tilewright.language as pl

ROWS, TILE = 16, 4


@pl.jit
def kernel(x: pl.Tensor[[ROWS, 8], pl.FP32], y: pl.Out[pl.Tensor[[ROWS + 1, 8], pl.FP32]]):
    for r0 in pl.parallel(0, ROWS, TILE):
        with pl.at(level=pl.Level.CORE_GROUP):
            tail = x[r0 : r0 + 1, :]
            y[r0 : r0 + TILE, :] = pl.add(x[r0 : r0 + TILE, :], 1.0)
            y[r0 + TILE : r0 + TILE + 1, :] = tail


def arguments():
    return torch.rand(ROWS, 8), torch.zeros(ROWS + 1, 8)
