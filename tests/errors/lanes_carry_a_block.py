"""Lanes run side by side."""

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    with pl.at(level=pl.Level.CORE_GROUP):
        acc = x[0:1, :]
        for lane in pl.split_aiv(2, mode=pl.SplitMode.NONE):
            acc = pl.add(acc, 1.0)
        y[0:1, :] = acc
