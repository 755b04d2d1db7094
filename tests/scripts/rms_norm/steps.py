"""A kernel that others call; running this file does nothing."""

import pypto.language as pl


@pl.jit.inline
def rms_rows(rows: pl.Tensor, inv_dim: pl.Scalar[pl.FP32], eps: pl.Scalar[pl.FP32]):
    mean_sq = pl.mul(pl.row_sum(pl.mul(rows, rows)), inv_dim)
    inv = pl.recip(pl.sqrt(pl.add(mean_sq, eps)))
    return inv
