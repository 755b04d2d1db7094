"""Row-wise softmax of scaled scores, with the scale as a run-time scalar."""

import pypto.language as pl
import torch
from golden import ScalarSpec, TensorSpec, run_jit

T, S, T_TILE = 48, 128, 16


@pl.jit
def softmax(
    scores: pl.Tensor[[T, S], pl.FP32],
    scale: pl.Scalar[pl.FP32],
    probs: pl.Out[pl.Tensor[[T, S], pl.FP32]],
):
    for t0 in pl.parallel(0, T, T_TILE):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="softmax"):
            s = pl.mul(scores[t0 : t0 + T_TILE, :], scale)
            e = pl.exp(pl.row_expand_sub(s, pl.row_max(s)))
            probs[t0 : t0 + T_TILE, :] = pl.row_expand_div(e, pl.row_sum(e))
    return probs


def golden_softmax(tensors):
    tensors["probs"].copy_(torch.softmax(tensors["scores"] * tensors["scale"], dim=-1))


if __name__ == "__main__":
    outcome = run_jit(
        softmax,
        [
            TensorSpec("scores", [T, S], torch.float32, init_value=torch.randn),
            ScalarSpec("scale", torch.float32, S**-0.5),
            TensorSpec("probs", [T, S], torch.float32, is_output=True),
        ],
        golden_softmax,
        rtol=1e-5,
        atol=1e-6,
    )
    print(outcome)
    raise SystemExit(not outcome.passed)
