"""Rows sorted into buckets by counters that nobody set: one mistake, wherever the counts lead."""

import torch

import tilewright.language as pl

T, E, WIDTH = 6, 2, 8


@pl.jit
def kernel(
    x: pl.Tensor[[T, WIDTH], pl.FP32],
    ids: pl.Tensor[[T], pl.INT32],
    counts: pl.Out[pl.Tensor[[E], pl.INT32]],
    slots: pl.InOut[pl.Tensor[[E * T, WIDTH], pl.FP32]],
    where: pl.InOut[pl.Tensor[[E * T], pl.INT32]],
):
    fill = pl.create_tensor([E], dtype=pl.INT32)
    with pl.at(level=pl.Level.CORE_GROUP):
        for t in pl.range(T):
            e = pl.read(ids, [t])
            n = pl.read(fill, [e])
            slots[e * T + n : e * T + n + 1, :] = x[t : t + 1, :]
            pl.write(where, [e * T + n], pl.cast(t, pl.INT32))
            pl.write(fill, [e], pl.cast(n + 1, pl.INT32))
        for e in pl.range(E):
            pl.write(counts, [e], pl.read(fill, [e]))


def arguments():
    ids = torch.tensor([0, 1, 1, 0, 1, 1], dtype=torch.int32)
    numbers = torch.zeros(E, dtype=torch.int32), torch.zeros(E * T, dtype=torch.int32)
    return torch.rand(T, WIDTH), ids, numbers[0], torch.zeros(E * T, WIDTH), numbers[1]
