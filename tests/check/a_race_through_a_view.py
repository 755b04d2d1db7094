"""The same memory under two names, in blocks of a pl.spmd launch."""

import torch

import tilewright.language as pl


@pl.jit.inline
def put(row: pl.Tensor, x: pl.Tensor, at: pl.Scalar[pl.INDEX]):
    row[0:1, at : at + 4] = x[0:1, 0:4]


@pl.jit
def kernel(x: pl.Tensor[[1, 4], pl.FP32], y: pl.Out[pl.Tensor[[4, 4], pl.FP32]]):
    flat = pl.reshape(y, [1, 16])
    for b in pl.spmd(4):
        y[b : b + 1, :] = x[0:1, :]
        if b == 2:
            put(flat, x, b * 4 + 2)


def arguments():
    return torch.rand(1, 4), torch.zeros(4, 4)
