"""Annotations of a program are binding."""

import tilewright.language as pl


@pl.program
class Program:
    @pl.function(type=pl.FunctionType.InCore)
    def scale(self, x: pl.Tensor[[16, 16], pl.FP32]):
        return pl.mul(x, 2.0)

    @pl.function(type=pl.FunctionType.Orchestration)
    def main(self, x: pl.Tensor[[16, 32], pl.FP32]):
        y = self.scale(x)
