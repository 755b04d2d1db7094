"""A scalar parameter says its dtype."""

import tilewright.language as pl


@pl.jit
def kernel(x: pl.Tensor[[16, 32], pl.FP32], n: int):
    pass
