"""A kernel whose annotations Python does not evaluate, with names that occur in them only."""

from __future__ import annotations

import tilewright.language as pl


def scale_by_two(ROWS: int, COLS: int):
    WIDTH = COLS

    @pl.jit
    def twice(
        x: pl.Tensor[[ROWS, WIDTH], pl.FP32],
        y: pl.Out[pl.Tensor[[ROWS, WIDTH], pl.FP32]],
    ):
        with pl.at(level=pl.Level.CORE_GROUP):
            y[:, :] = pl.mul(x, 2.0)

    return twice


def program_of(ROWS: int, COLS: int):
    WIDTH = COLS

    @pl.program
    class Negate:
        @pl.function(type=pl.FunctionType.Opaque)
        def run(
            self,
            x: pl.Tensor[[ROWS, WIDTH], pl.FP32],
            y: pl.Out[pl.Tensor[[ROWS, WIDTH], pl.FP32]],
        ) -> pl.Tensor[[ROWS, WIDTH], pl.FP32]:
            with pl.at(level=pl.Level.CORE_GROUP):
                part: pl.Tile[[ROWS, WIDTH], pl.FP32] = pl.neg(x)
                y[:, :] = part
            return y

    return Negate
