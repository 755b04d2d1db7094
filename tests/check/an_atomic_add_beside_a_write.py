"""Adding is safe among adders, not beside the iteration that clears."""

import torch

import tilewright.language as pl


@pl.jit
def kernel(x: pl.Tensor[[4, 8], pl.FP32], y: pl.InOut[pl.Tensor[[1, 8], pl.FP32]]):
    for i in pl.parallel(4):
        with pl.at(level=pl.Level.CORE_GROUP):
            if i == 0:
                y[:, :] = pl.full([1, 8], dtype=pl.FP32, value=0.0)
            else:
                y = pl.assemble(y, x[i : i + 1, :], [0, 0], atomic=pl.AtomicType.Add)


def arguments():
    return torch.rand(4, 8), torch.zeros(1, 8)
