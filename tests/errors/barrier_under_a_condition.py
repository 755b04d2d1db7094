"""Some blocks would wait for ever."""

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    for b in pl.spmd(4):
        if b < n:
            pl.system.syncall()
        y[b : b + 1, :] = x[b : b + 1, :]
