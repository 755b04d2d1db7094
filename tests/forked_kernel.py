"""A kernel with two parallel phases, and what it gives: for the processes of test_forks."""

from __future__ import annotations

import numpy as np
import torch

import tilewright.language as pl

ROWS, K, N = 512, 96, 128
M = pl.dynamic("M")


@pl.jit
def two_phases(
    x: pl.Tensor[[M, K], pl.BF16],
    w: pl.Tensor[[K, N], pl.BF16],
    y: pl.Out[pl.Tensor[[M, N], pl.FP32]],
):
    rows = pl.tensor.dim(x, 0)
    doubled = pl.create_tensor([rows, K], dtype=pl.BF16)
    for m in pl.parallel(0, rows, 8):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="double"):
            doubled[m : m + 8, :] = pl.add(x[m : m + 8, :], x[m : m + 8, :])
    for n in pl.parallel(0, N, 32):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="product"):
            y[:, n : n + 32] = pl.matmul(doubled, w[:, n : n + 32], out_dtype=pl.FP32)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Small whole numbers, so that every sum is exact; the output poisoned.

    No operator of Torch that would use its own team: in a forked child those hang, as Torch says.
    """
    x = torch.from_numpy(as_bf16(np.arange(ROWS * K).reshape(ROWS, K) % 7)).view(torch.bfloat16)
    w = torch.from_numpy(as_bf16(np.arange(K * N).reshape(K, N) % 5)).view(torch.bfloat16)
    return x, w, torch.from_numpy(np.full((ROWS, N), np.nan, np.float32))


def as_bf16(whole: np.ndarray) -> np.ndarray:
    """The bits of whole numbers below 256 as BF16."""
    return (whole.astype(np.float32).view(np.uint32) >> 16).astype(np.int16)


def right(threads: int) -> bool:
    """Run the kernel on so many threads and look at everything that it gives."""
    x, w, y = inputs()
    two_phases.run(x, w, y, threads=threads)
    a = np.arange(ROWS * K).reshape(ROWS, K) % 7
    b = np.arange(K * N).reshape(K, N) % 5
    return bool((y.numpy() == 2 * a @ b).all())
