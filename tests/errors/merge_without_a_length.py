"""One row is merged by the length of its runs."""

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    with pl.at(level=pl.Level.CORE_GROUP):
        pairs = pl.sort32(x[0:1, :], pl.arange(0, [1, 32], dtype=pl.UINT32))
        y[0:1, :] = pl.mrgsort(pairs)[:, 0:32]
