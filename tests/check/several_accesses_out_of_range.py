"""All of them are reported, and each once."""

import torch

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[8, 8], pl.FP32], where: pl.Tensor[[4], pl.INT32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[8, 8], pl.FP32]],
):  # fmt: skip
    for k in pl.range(4):
        with pl.at(level=pl.Level.CORE_GROUP):
            row = pl.read(where, [k])
            y[k : k + 1, :] = x[row : row + 1, :]
            y[n - k : n - k + 1, :] = x[0:1, :]
    with pl.at(level=pl.Level.CORE_GROUP):
        some = pl.set_validshape(x[0:4, :], n, 8)
        y[4:8, :] = pl.fillpad(some)
        last = pl.read(where, [n])
        y[0:1, :] = x[last : last + 1, :]


def arguments():
    where = torch.tensor([7, 8, -1, 0], dtype=torch.int32)
    return torch.rand(8, 8), where, 9, torch.zeros(8, 8)
