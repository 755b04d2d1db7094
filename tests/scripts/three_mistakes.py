"""Three things that no kernel can say; none of them may hide another, and nothing may run."""

import pypto.language as pl
import torch

print("this script has begun")


@pl.jit.inline
def step(x: pl.Tensor, y: pl.Tensor):
    with pl.at(level=pl.Level.CORE_GROUP):
        total = pl.row_summ(x)
        y[:, :] = pl.row_expand_mul(x, total)
    return y


@pl.jit
def three_mistakes(x: pl.Tensor[[8, 16], pl.FP32], y: pl.Out[pl.Tensor[[8, 16], pl.FP32]]):
    count = 0
    for _ in range(4):
        count += 1
    y = step(x, y)
    return y


if __name__ == "__main__":
    from golden import TensorSpec, run_jit

    run_jit(
        three_mistakes,
        [
            TensorSpec("x", [8, 16], torch.float32, torch.randn),
            TensorSpec("y", [8, 16], torch.float32, is_output=True),
        ],
    )
