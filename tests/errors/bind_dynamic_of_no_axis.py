"""bind_dynamic names an axis and a symbol."""

import tilewright.language as pl

T = pl.dynamic("T")


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    x.bind_dynamic(2, T)
