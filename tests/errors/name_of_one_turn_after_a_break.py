"""A name bound on one path only."""

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    for i in pl.range(4):
        if i == n:
            k = i
            break
    pl.write(y, [0, 0], pl.cast(k, pl.FP32))
