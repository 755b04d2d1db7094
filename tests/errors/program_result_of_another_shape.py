"""A function returns what it is annotated to return."""

import tilewright.language as pl


@pl.program
class Program:
    @pl.function(type=pl.FunctionType.Opaque)
    def main(self, x: pl.Tensor[[16, 32], pl.FP32]) -> pl.Tensor[[16, 1], pl.FP32]:
        return x
