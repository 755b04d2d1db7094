"""A kernel call stands on a line of its own."""

import tilewright.language as pl


@pl.jit.inline
def double(v: pl.Tensor):
    r = pl.add(v, v)
    return r


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    z = pl.add(double(x), 1.0)
