"""RMSNorm whose sizes and inner step live in siblings of this file."""

import pypto.language as pl
import torch
from config import T_TILE, TINY
from steps import rms_rows

TOKENS = 24
DIM, EPS = TINY.dim, TINY.eps


@pl.jit
def rms_norm(
    x: pl.Tensor[[TOKENS, DIM], pl.BF16],
    gamma: pl.Tensor[[1, DIM], pl.FP32],
    y: pl.Out[pl.Tensor[[TOKENS, DIM], pl.BF16]],
):
    for t0 in pl.parallel(0, TOKENS, T_TILE):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="rms_norm"):
            rows = pl.cast(x[t0 : t0 + T_TILE, :], target_type=pl.FP32)
            inv = rms_rows(rows, 1.0 / DIM, EPS)
            normed = pl.col_expand_mul(pl.row_expand_mul(rows, inv), gamma)
            y[t0 : t0 + T_TILE, :] = pl.cast(normed, target_type=pl.BF16, mode="rint")
    return y


def golden_rms_norm(tensors):
    x = tensors["x"].float()
    inv = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)
    tensors["y"][:] = (x * inv * tensors["gamma"]).to(torch.bfloat16)


if __name__ == "__main__":
    from golden import TensorSpec, ratio_allclose, run_jit

    result = run_jit(
        rms_norm,
        specs=[
            TensorSpec("x", [TOKENS, DIM], torch.bfloat16, init_value=torch.randn),
            TensorSpec("gamma", [1, DIM], torch.float32, init_value=torch.rand),
            TensorSpec("y", [TOKENS, DIM], torch.bfloat16, is_output=True),
        ],
        golden_fn=golden_rms_norm,
        compare_fn={"y": ratio_allclose(atol=1e-2, rtol=2**-7, max_error_ratio=0.0)},
    )
    if not result.passed:
        print(result.error)
        raise SystemExit(1)
