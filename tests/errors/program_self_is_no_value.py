"""`self` names the functions of a program and nothing else."""

import tilewright.language as pl


@pl.program
class Program:
    @pl.function(type=pl.FunctionType.Opaque)
    def main(self, x: pl.Tensor[[16, 32], pl.FP32]):
        y = pl.add(self, x)
