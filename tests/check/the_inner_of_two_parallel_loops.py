"""Rows are independent, the columns of one row are not."""

import torch

import tilewright.language as pl


@pl.jit
def kernel(x: pl.Tensor[[4, 16], pl.FP32], y: pl.Out[pl.Tensor[[4, 4], pl.FP32]]):
    for r in pl.parallel(4):
        for c in pl.parallel(0, 16, 4):
            with pl.at(level=pl.Level.CORE_GROUP):
                y[r : r + 1, :] = x[r : r + 1, c : c + 4]


def arguments():
    return torch.rand(4, 16), torch.zeros(4, 4)
