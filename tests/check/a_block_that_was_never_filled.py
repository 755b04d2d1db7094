"""An accumulator without a first product."""

import torch

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[8, 32], pl.FP32], w: pl.Tensor[[32, 16], pl.FP32],
    y: pl.Out[pl.Tensor[[8, 16], pl.FP32]],
):  # fmt: skip
    with pl.at(level=pl.Level.CORE_GROUP):
        acc = pl.create_tile([8, 16], dtype=pl.FP32)
        for k in pl.range(0, 32, 16):
            acc = pl.matmul_acc(acc, x[:, k : k + 16], w[k : k + 16, :])
        y[:, :] = acc


def arguments():
    return torch.rand(8, 32), torch.rand(32, 16), torch.zeros(8, 16)
