"""A block of a launch cannot end the loop around it."""

import tilewright.language as pl


@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):  # fmt: skip
    for i in pl.range(4):
        with pl.spmd(4):
            row = pl.tile.get_block_idx()
            if row == n:
                break
            y[row : row + 1, :] = x[row : row + 1, :]
