"""Functions of a program do not call each other in a circle."""

import tilewright.language as pl


@pl.program
class Program:
    @pl.function(type=pl.FunctionType.Opaque)
    def ping(self, x: pl.Tensor[[16, 32], pl.FP32]):
        self.pong(x)

    @pl.function(type=pl.FunctionType.Opaque)
    def pong(self, x: pl.Tensor[[16, 32], pl.FP32]):
        self.ping(x)

    @pl.function(type=pl.FunctionType.Orchestration)
    def main(self, x: pl.Tensor[[16, 32], pl.FP32]):
        self.ping(x)
