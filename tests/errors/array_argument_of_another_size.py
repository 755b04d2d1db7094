"""The argument fits the annotation."""

import tilewright.language as pl


@pl.jit.inline
def count(a: pl.Array[[4], pl.INT32]):
    a[0] = a[0] + 1


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    count(pl.array.create(8, pl.INT32))
