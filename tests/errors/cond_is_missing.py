"""pl.while_ begins with its condition."""

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    for (k,) in pl.while_(init_values=(0,)):
        out = pl.yield_(k + 1)
