"""A reshaped block is valid everywhere, also where its operand was not; a shrunk one has less."""

import torch

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[8, 8], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[1, 64], pl.FP32]], s: pl.Out[pl.Tensor[[8, 1], pl.FP32]],
):  # fmt: skip
    with pl.at(level=pl.Level.CORE_GROUP):
        rows = pl.slice(x, [8, 8], [0, 0], valid_shape=[n, 8])
        y[:, :] = pl.reshape(pl.neg(rows), [1, 64])
        fewer = pl.set_validshape(x[:, :], 8, n)
        more = pl.set_validshape(fewer, 8, 8)
        s[:, :] = pl.row_max(more)


def arguments():
    return torch.rand(8, 8), 5, torch.zeros(1, 64), torch.zeros(8, 1)
