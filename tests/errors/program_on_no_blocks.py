"""An Spmd function runs on one block or more."""

import tilewright.language as pl


@pl.program
class Program:
    @pl.function(type=pl.FunctionType.Spmd, attrs={"core_num": 0})
    def main(self, x: pl.Tensor[[16, 32], pl.FP32]):
        pass
