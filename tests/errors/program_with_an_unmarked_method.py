"""Every method is a function of the program."""

import tilewright.language as pl


@pl.program
class Program:
    @pl.function(type=pl.FunctionType.Opaque)
    def main(self, x: pl.Tensor[[16, 32], pl.FP32]):
        pass

    def helper(self, x):
        pass
