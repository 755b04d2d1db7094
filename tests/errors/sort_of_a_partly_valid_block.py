"""Sorting would mix in what is not valid."""

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    with pl.at(level=pl.Level.CORE_GROUP):
        part = pl.slice(x, [1, 32], [0, 0], valid_shape=[1, n])
        index = pl.arange(0, [1, 32], dtype=pl.UINT32)
        y[0:1, :] = pl.sort32(part, index)[:, 0:32]
