"""Indices count from 0 on the axis that is gathered along."""

import torch

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[2, 8], pl.FP32], index: pl.Tensor[[2, 4], pl.INT32],
    y: pl.Out[pl.Tensor[[2, 4], pl.FP32]],
):  # fmt: skip
    with pl.at(level=pl.Level.CORE_GROUP):
        y[:, :] = pl.gather(x[:, :], dim=1, index=index[:, :])


def arguments():
    index = torch.tensor([[0, 7, 8, 1], [2, -3, 3, 3]], dtype=torch.int32)
    return torch.rand(2, 8), index, torch.zeros(2, 4)
