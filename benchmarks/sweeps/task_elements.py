"""Elements of its widest row that one task of a shared row loop takes. Run it with --threads 2 or more."""

from __future__ import annotations

from collections.abc import Iterator

from harness import Constant, Options, Subject, main, pieces

import tilewright.language as pl

ROWS = pl.dynamic("ROWS")


@pl.jit
def normed(x: pl.Tensor[[ROWS, 1024], pl.FP32], y: pl.Out[pl.Tensor[[ROWS, 1024], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="normed"):
        rows = x[:, :]
        mean = pl.mul(pl.row_sum(pl.mul(rows, rows)), 1.0 / 1024)
        y[:, :] = pl.row_expand_mul(rows, pl.rsqrt(pl.add(mean, 1e-6)))


def subjects(options: Options) -> Iterator[Subject]:
    yield from pieces((131072, 524288, 1 << 21), options, normed)


if __name__ == "__main__":
    values = (1024, 4096, 16384, 65536, 262144)
    main(Constant("tilewright.passes.block_rows", "TASK_ELEMENTS"), values, subjects)
