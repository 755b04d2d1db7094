"""MoE gate: sqrt-softplus scores, a bias, the top k by sorting pairs, weights that add up."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import pypto.language as pl
import torch
from golden import TensorSpec, topk_pair_compare, ratio_allclose, run_jit

T, D, E, TOPK = 16, 256, 128, 8
TOPK_PAD = 32
D_TILE = 64
FP32_NEG_INF = -3.4028234663852886e38


@pl.jit.inline
def gate_logits(
    x: pl.Tensor[[T, D], pl.BF16], w: pl.Tensor[[E, D], pl.BF16], scores: pl.Tensor[[T, E], pl.FP32]
):
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="gate_dot"):
        acc = pl.matmul(x[:, 0:D_TILE], w[:, 0:D_TILE], b_trans=True, out_dtype=pl.FP32)
        for d0 in pl.range(D_TILE, D, D_TILE):
            acc = pl.matmul_acc(acc, x[:, d0 : d0 + D_TILE], w[:, d0 : d0 + D_TILE], b_trans=True)
        # softplus(z) = max(z, 0) + log(1 + exp(-|z|))
        absz = pl.maximum(acc, pl.neg(acc))
        soft = pl.add(pl.maximum(acc, 0.0), pl.log(pl.add(pl.exp(pl.neg(absz)), 1.0)))
        scores[:, :] = pl.sqrt(soft)
    return scores


@pl.jit
def gate(
    x: pl.Tensor[[T, D], pl.BF16],
    w: pl.Tensor[[E, D], pl.BF16],
    bias: pl.Tensor[[E], pl.FP32],
    weights: pl.Out[pl.Tensor[[T, TOPK], pl.FP32]],
    indices: pl.Out[pl.Tensor[[T, TOPK], pl.INT32]],
):
    scores = pl.create_tensor([T, E], dtype=pl.FP32)
    biased = pl.create_tensor([T, E], dtype=pl.FP32)
    bias_row = pl.reshape(bias, [1, E])
    scores = gate_logits(x, w, scores)
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="bias"):
        s = scores[:, :]
        biased[:, :] = pl.add(s, pl.col_expand(s, bias_row))
    topk_idx = pl.create_tensor([T, TOPK_PAD], dtype=pl.INT32)
    for t in pl.spmd(T, name_hint="topk"):
        row = biased[t : t + 1, :]
        ids = pl.tensor.arange(0, [1, E], dtype=pl.UINT32)
        pairs = pl.sort32(row, ids)
        merged = pl.mrgsort(pairs, block_len=64)
        top = merged[:, 0 : 2 * TOPK_PAD]
        got = pl.gather(top, mask_pattern=pl.tile.MaskPattern.P1010, output_dtype=pl.INT32)
        topk_idx[t : t + 1, :] = got
        raw = pl.gather(scores[t : t + 1, :], dim=-1, index=got)
        raw = pl.fillpad(pl.set_validshape(raw, 1, TOPK), pad_value=pl.PadValue.zero)
        total = pl.add(pl.row_sum(raw), 1e-20)
        normed = pl.mul(pl.row_expand_div(raw, total), 2.5)
        weights[t : t + 1, :] = normed[:, 0:TOPK]
        indices[t : t + 1, :] = got[:, 0:TOPK]
    return weights, indices


def golden_gate(t):
    z = t["x"].float() @ t["w"].float().T
    s = torch.sqrt(torch.nn.functional.softplus(z))
    idx = torch.topk(s + t["bias"], TOPK, dim=-1).indices
    g = s.gather(1, idx)
    t["weights"][:] = g / g.sum(-1, keepdim=True) * 2.5
    t["indices"][:] = idx.int()


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument(
        "-p", "--platform", type=str, default="a2a3", choices=["a2a3", "a2a3sim", "a5", "a5sim"]
    )
    p.add_argument("-d", "--device", type=int, default=0)
    p.add_argument("--enable-l2-swimlane", action="store_true", default=False)
    args = p.parse_args()
    result = run_jit(
        fn=gate,
        specs=[
            TensorSpec("x", [T, D], torch.bfloat16, init_value=torch.randn),
            TensorSpec("w", [E, D], torch.bfloat16, init_value=lambda: torch.randn(E, D) / 16),
            TensorSpec("bias", [E], torch.float32, init_value=lambda: torch.rand(E)),
            TensorSpec("weights", [T, TOPK], torch.float32, is_output=True),
            TensorSpec("indices", [T, TOPK], torch.int32, is_output=True),
        ],
        golden_fn=golden_gate,
        runtime_cfg=dict(
            platform=args.platform,
            device_id=args.device,
            enable_l2_swimlane=args.enable_l2_swimlane,
        ),
        rtol=1e-3,
        atol=1e-3,
        compare_fn={
            "indices": topk_pair_compare("weights"),
            "weights": ratio_allclose(atol=1e-4, rtol=1e-3, max_error_ratio=0.0),
        },
    )
    if not result.passed:
        if result.error:
            print(f"Result: {result.error}")
        raise SystemExit(1)
