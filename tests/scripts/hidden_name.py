"""A parameter with the name of a part of the language."""

import pypto.language as pl
from pypto.language import tile


@pl.jit.inline
def shape_of(tile: pl.Tensor, out: pl.Tensor):
    out[:, :] = pl.full([tile.shape[0], tile.shape[1]], dtype=pl.FP32, value=1.0)


MASK = tile.MaskPattern.P0101
