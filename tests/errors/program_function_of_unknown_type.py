"""A type is one of pl.FunctionType."""

import tilewright.language as pl


@pl.program
class Program:
    @pl.function(type="InCore")
    def main(self, x: pl.Tensor[[16, 32], pl.FP32]):
        pass
