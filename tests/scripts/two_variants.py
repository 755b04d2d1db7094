"""Two kernels for one job; the one that is not there keeps nobody from running the other."""

import argparse

import pypto.language as pl
import torch
from golden import TensorSpec, run_jit


@pl.jit
def doubled(x: pl.Tensor[[8, 16], pl.FP32], y: pl.Out[pl.Tensor[[8, 16], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP):
        y[:, :] = pl.add(x, x)


@pl.jit
def doubled_by_magic(x: pl.Tensor[[8, 16], pl.FP32], y: pl.Out[pl.Tensor[[8, 16], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP):
        y[:, :] = pl.double_all(x)


def golden(tensors):
    tensors["y"][:] = 2 * tensors["x"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--impl", choices=["plain", "magic"], default="plain")
    kernel = {"plain": doubled, "magic": doubled_by_magic}[parser.parse_args().impl]
    specs = [
        TensorSpec("x", [8, 16], torch.float32, torch.randn),
        TensorSpec("y", [8, 16], torch.float32, is_output=True),
    ]
    raise SystemExit(0 if run_jit(kernel, specs, golden).passed else 1)
