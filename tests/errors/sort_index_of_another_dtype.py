"""Sorted pairs carry unsigned indices."""

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    with pl.at(level=pl.Level.CORE_GROUP):
        index = pl.arange(0, [1, 32], dtype=pl.INT32)
        y[0:1, :] = pl.sort32(x[0:1, :], index)[:, 0:32]
