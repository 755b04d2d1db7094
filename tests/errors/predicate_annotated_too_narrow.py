"""A packed predicate has 32 bytes for 256 columns."""

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    with pl.at(level=pl.Level.CORE_GROUP):
        mask: pl.Tile[[16, 4], pl.UINT8] = pl.cmp(x, 0.0, 4)
        y[:, :] = pl.sel(mask, x, y)
