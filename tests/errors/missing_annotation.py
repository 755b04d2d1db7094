"""Every parameter needs an annotation."""

import tilewright.language as pl


@pl.jit
def kernel(x: pl.Tensor[[16, 32], pl.FP32], rows):
    return x
