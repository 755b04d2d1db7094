"""A program is a class."""

import tilewright.language as pl


@pl.program
def kernel(x: pl.Tensor[[16, 32], pl.FP32]):
    pass
