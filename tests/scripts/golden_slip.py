"""The golden names a tensor that there is not: the report is about the golden's line."""

import pypto.language as pl
import torch
from golden import TensorSpec, run_jit


@pl.jit
def copied(x: pl.Tensor[[8, 16], pl.FP32], y: pl.Out[pl.Tensor[[8, 16], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP):
        y[:, :] = pl.mul(x, 1.0)


def golden_copied(tensors):
    tensors["y"][:] = tensors["input"]


if __name__ == "__main__":
    run_jit(
        copied,
        [
            TensorSpec("x", [8, 16], torch.float32, torch.randn),
            TensorSpec("y", [8, 16], torch.float32, is_output=True),
        ],
        golden_copied,
    )
