"""pl.while_ ends with what it carries on."""

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    for (k,) in pl.while_(init_values=(0,)):
        pl.cond(k < n)
        j = k + 1
