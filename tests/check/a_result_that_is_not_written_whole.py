"""A tensor that the kernel makes and returns."""

import torch

import tilewright.language as pl


@pl.jit
def kernel(x: pl.Tensor[[4, 8], pl.FP32]):
    y = pl.create_tensor([4, 8], dtype=pl.FP32)
    for i in pl.parallel(3):
        with pl.at(level=pl.Level.CORE_GROUP):
            y[i : i + 1, :] = x[i : i + 1, :]
    return y


def arguments():
    return (torch.rand(4, 8),)
