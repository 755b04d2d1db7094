"""What would be carried on is not said."""

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    for i, (a,) in pl.range(4, init_values=(0,)):
        if i == n:
            break
        b = pl.yield_(a + i)
