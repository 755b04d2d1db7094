"""pl.Tile is a block of data, not memory."""

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    z: pl.Tile[[8, 32], pl.FP32] = pl.slice(x, [8, 32], [0, 0])
