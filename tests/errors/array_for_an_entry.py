"""Arrays are local to kernels."""

import tilewright.language as pl


@pl.jit
def kernel(a: pl.Array[[4], pl.INT32], y: pl.Out[pl.Tensor[[16, 32], pl.FP32]]):
    pl.write(y, [0, 0], 1.0)
