"""FP8 is stored and cast, not computed with."""

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    with pl.at(level=pl.Level.CORE_GROUP):
        small = pl.cast(x, pl.FP8E4M3FN)
        y[:, :] = pl.cast(pl.add(small, small), pl.FP32)
