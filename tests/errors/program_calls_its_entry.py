"""The entry is called from Python."""

import tilewright.language as pl


@pl.program
class Program:
    @pl.function(type=pl.FunctionType.Inline)
    def helper(self, x: pl.Tensor[[16, 32], pl.FP32]):
        self.main(x)

    @pl.function(type=pl.FunctionType.Orchestration)
    def main(self, x: pl.Tensor[[16, 32], pl.FP32]):
        self.helper(x)
