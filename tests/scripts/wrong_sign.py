"""The kernel subtracts where the golden adds: every run of this script fails."""

import pypto.language as pl
import torch
from golden import TensorSpec, run_jit


@pl.jit
def wrong_sign(
    a: pl.Tensor[[8, 16], pl.FP32],
    b: pl.Tensor[[8, 16], pl.FP32],
    c: pl.Out[pl.Tensor[[8, 16], pl.FP32]],
):
    with pl.at(level=pl.Level.CORE_GROUP):
        c[:, :] = pl.sub(a, b)


def golden(tensors):
    tensors["c"][:] = tensors["a"] + tensors["b"]


if __name__ == "__main__":
    result = run_jit(
        wrong_sign,
        [
            TensorSpec("a", [8, 16], torch.float32, torch.randn),
            TensorSpec("b", [8, 16], torch.float32, torch.ones),
            TensorSpec("c", [8, 16], torch.float32, is_output=True),
        ],
        golden,
    )
    if not result.passed:
        print(result.error)
        raise SystemExit(1)
