"""The form of every function is checked, called or not."""

import tilewright.language as pl


@pl.program
class Program:
    @pl.function(type=pl.FunctionType.InCore)
    def unused(self, x: pl.Tensor):
        y = [i for i in x]

    @pl.function(type=pl.FunctionType.Orchestration)
    def main(self, x: pl.Tensor[[16, 32], pl.FP32]):
        pass
