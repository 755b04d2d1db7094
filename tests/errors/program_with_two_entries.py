"""One function is the entry."""

import tilewright.language as pl


@pl.program
class Program:
    @pl.function(type=pl.FunctionType.Orchestration)
    def first(self, x: pl.Tensor[[16, 32], pl.FP32]):
        pass

    @pl.function(type=pl.FunctionType.Orchestration)
    def second(self, x: pl.Tensor[[16, 32], pl.FP32]):
        pass
