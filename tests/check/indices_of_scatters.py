"""Elements, rows and flat positions that do not exist."""

import torch

import tilewright.language as pl

ROWS, WIDTH = 4, 8


@pl.jit
def kernel(
    x: pl.Tensor[[ROWS, WIDTH], pl.FP32],
    columns: pl.Tensor[[1, WIDTH], pl.INT32],
    rows: pl.Tensor[[1, 2], pl.INT32],
    y: pl.Out[pl.Tensor[[ROWS, WIDTH], pl.FP32]],
    z: pl.Out[pl.Tensor[[ROWS, WIDTH], pl.FP32]],
):
    with pl.at(level=pl.Level.CORE_GROUP):
        y[:, :] = pl.scatter_update(x[:, :], dim=-2, index=rows[:, :], src=x[0:2, :])
        y[0:1, :] = pl.scatter(x[0:1, :], dim=-1, index=columns[:, :], src=x[1:2, :])
        z[:, :] = x[:, :]
        z = pl.mscatter(x[0:1, :], pl.mul(columns[:, :], 4), z)


def arguments():
    columns = torch.tensor([[0, 3, 8, 9, 2, 1, 4, 5]], dtype=torch.int32)
    rows = torch.tensor([[2, -1]], dtype=torch.int32)
    return (
        torch.rand(ROWS, WIDTH),
        columns,
        rows,
        torch.zeros(ROWS, WIDTH),
        torch.zeros(ROWS, WIDTH),
    )
