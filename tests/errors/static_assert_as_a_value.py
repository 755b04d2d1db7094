"""pl.static_assert is a statement of its own."""

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    holds = pl.static_assert(True)
