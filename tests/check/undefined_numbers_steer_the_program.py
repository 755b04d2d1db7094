"""A condition, a bound and an address that nothing defines."""

import torch

import tilewright.language as pl


@pl.jit
def kernel(x: pl.Tensor[[8, 8], pl.FP32], y: pl.Out[pl.Tensor[[8, 8], pl.FP32]]):
    count = pl.create_tensor([4], dtype=pl.INT32)
    with pl.at(level=pl.Level.CORE_GROUP):
        y[:, :] = x[:, :]
        if pl.read(count, [0]) > 3:
            y[0:1, :] = x[1:2, :]
        for i in pl.range(pl.read(count, [1])):
            y[i : i + 1, :] = x[0:1, :]
        at = pl.read(count, [2]) + 1
        y[at : at + 1, :] = x[0:1, :]


def arguments():
    return torch.rand(8, 8), torch.zeros(8, 8)
