"""The last tile of a fresh tensor is forgotten by its writer."""

import torch

import tilewright.language as pl

ROWS, TILE = 16, 4


@pl.jit
def kernel(x: pl.Tensor[[ROWS, 8], pl.BF16], y: pl.Out[pl.Tensor[[ROWS, 1], pl.FP32]]):
    wide = pl.create_tensor([ROWS, 8], dtype=pl.FP32)
    for r0 in pl.parallel(0, ROWS - TILE, TILE):
        with pl.at(level=pl.Level.CORE_GROUP):
            wide[r0 : r0 + TILE, :] = pl.cast(x[r0 : r0 + TILE, :], target_type=pl.FP32)
    for r0 in pl.parallel(0, ROWS, TILE):
        with pl.at(level=pl.Level.CORE_GROUP):
            squares = pl.mul(wide[r0 : r0 + TILE, :], wide[r0 : r0 + TILE, :])
            y[r0 : r0 + TILE, :] = pl.row_sum(squares)


def arguments():
    return torch.rand(ROWS, 8).bfloat16(), torch.zeros(ROWS, 1)
