"""Parameters of a program are annotated."""

import tilewright.language as pl


@pl.program
class Program:
    @pl.function(type=pl.FunctionType.Opaque)
    def main(self, x: pl.Tensor[[16, 32], pl.FP32], y):
        pass
