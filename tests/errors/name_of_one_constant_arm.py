"""A name of one arm is gone after it, also when the condition is constant."""

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    with pl.at(level=pl.Level.CORE_GROUP):
        if 1 < 2:
            z = pl.add(x, 1.0)
        y[:, :] = z
