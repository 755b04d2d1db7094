"""What is added to must hold something first."""

import torch

import tilewright.language as pl


@pl.jit
def kernel(x: pl.Tensor[[4, 8], pl.FP32], y: pl.Out[pl.Tensor[[1, 8], pl.FP32]]):
    for i in pl.parallel(4):
        with pl.at(level=pl.Level.CORE_GROUP):
            y = pl.assemble(y, x[i : i + 1, :], [0, 0], atomic=pl.AtomicType.Add)


def arguments():
    return torch.rand(4, 8), torch.zeros(1, 8)
