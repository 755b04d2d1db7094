"""A task id is no number."""

import tilewright.language as pl


@pl.jit.inline
def later(x: pl.Tensor, y: pl.Tensor, after: pl.Scalar[pl.TASK_ID]):
    with pl.at(level=pl.Level.CORE_GROUP, deps=[after]):
        y[:, :] = x


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    later(x, y, n)
