"""Elements of work below which a launch stays on one thread. Run it with --threads 2 or more."""

from __future__ import annotations

from collections.abc import Iterator

from harness import Constant, Options, Subject, main, pieces

import tilewright.language as pl

ROWS = pl.dynamic("ROWS")


@pl.jit
def scaled(x: pl.Tensor[[ROWS, 1024], pl.FP32], y: pl.Out[pl.Tensor[[ROWS, 1024], pl.FP32]]):
    for row in pl.parallel(0, x.shape[0]):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="scaled"):
            y[row : row + 1, :] = pl.mul(x[row : row + 1, :], 2.0)


def subjects(options: Options) -> Iterator[Subject]:
    yield from pieces((4096, 16384, 65536, 262144, 1 << 20), options, scaled)


if __name__ == "__main__":
    main(Constant("tilewright.native", "ALONE_BELOW"), (0, 65536, 1 << 30), subjects)
