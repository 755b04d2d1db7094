"""The line of the callee, and the call."""

import tilewright.language as pl


@pl.jit.inline
def product(a: pl.Tensor, b: pl.Tensor):
    with pl.at(level=pl.Level.CORE_GROUP):
        c = pl.matmul(a, b)


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    product(x, x)
