"""Flat positions that two iterations have in common, values and positions that nobody gave."""

import torch

import tilewright.language as pl

ROWS, WIDTH = 4, 8


@pl.jit
def kernel(
    x: pl.Tensor[[ROWS, WIDTH], pl.FP32],
    places: pl.Tensor[[ROWS, WIDTH], pl.INT32],
    n: pl.Scalar[pl.INDEX],
    y: pl.InOut[pl.Tensor[[ROWS, WIDTH], pl.FP32]],
):
    for i in pl.parallel(ROWS):
        with pl.at(level=pl.Level.CORE_GROUP):
            y = pl.mscatter(x[i : i + 1, :], places[i : i + 1, :], y)
    with pl.at(level=pl.Level.CORE_GROUP):
        some = pl.slice(x, [1, WIDTH], [0, 0], valid_shape=[1, n])
        whole = pl.reshape(some, [1, WIDTH])
        y = pl.mscatter(whole, places[0:1, :], y)
        fewer = pl.slice(places, [1, WIDTH], [0, 0], valid_shape=[1, n])
        y = pl.mscatter(whole, pl.reshape(fewer, [1, WIDTH]), y)


def arguments():
    places = torch.arange(ROWS * WIDTH, dtype=torch.int32).view(ROWS, WIDTH)
    places[2, 3] = 1
    return torch.rand(ROWS, WIDTH), places, 5, torch.zeros(ROWS, WIDTH)
