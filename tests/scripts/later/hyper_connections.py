"""Hyper-connections before a layer: mixing weights from all streams, Sinkhorn, the weighted sum.

Two ways: three launches, or one launch whose blocks wait for each other (`--impl syncall`).
"""

import argparse

import pypto.language as pl
import torch
from golden import TensorSpec, ratio_allclose, run_jit

T_DYN = pl.dynamic("T_DYN")
HC, D = 4, 256
HC_DIM = HC * D
MIX = (2 + HC) * HC
MIX_PAD = 32
T_TILE, K_TILE, D_TILE = 8, 128, 128
BLOCKS = 3
SINKHORN = 5
EPS = 1e-6


@pl.jit.inline
def mix_rows(
    x: pl.Tensor[[T_DYN, HC_DIM], pl.BF16],
    w: pl.Tensor[[MIX, HC_DIM], pl.FP32],
    mixes: pl.Tensor[[T_DYN, MIX_PAD], pl.FP32],
    t0: pl.Scalar[pl.INDEX],
):
    t_dim = pl.tensor.dim(x, 0)
    rows = pl.max(0, pl.min(T_TILE, t_dim - t0))
    square = pl.full([T_TILE, 1], dtype=pl.FP32, value=0.0)
    acc = pl.create_tensor([T_TILE, MIX_PAD], dtype=pl.FP32)
    for kb in pl.pipeline(HC_DIM // K_TILE, stage=2):
        k0 = kb * K_TILE
        part = pl.slice(x, [T_TILE, K_TILE], [t0, k0], valid_shape=[rows, K_TILE])
        part = pl.cast(part, target_type=pl.FP32)
        wk = pl.slice(w, [MIX_PAD, K_TILE], [0, k0], valid_shape=[MIX, K_TILE])
        square = pl.add(square, pl.row_sum(pl.mul(part, part)))
        if kb == 0:
            acc = pl.matmul(part, wk, b_trans=True)
        else:
            acc = pl.matmul_acc(acc, part, wk, b_trans=True)
    inv = pl.rsqrt(pl.add(pl.mul(square, 1.0 / HC_DIM), EPS), high_precision=True)
    mixed = pl.set_validshape(pl.row_expand_mul(acc, inv), rows, MIX_PAD)
    mixes = pl.assemble(mixes, mixed, [t0, 0])
    return mixes


@pl.jit.inline
def split_rows(
    mixes: pl.Tensor[[T_DYN, MIX_PAD], pl.FP32],
    scale: pl.Tensor[[3], pl.FP32],
    base: pl.Tensor[[MIX], pl.FP32],
    pre: pl.Tensor[[T_DYN, HC], pl.FP32],
    post: pl.Tensor[[T_DYN, HC], pl.FP32],
    comb: pl.Tensor[[T_DYN, HC * HC], pl.FP32],
    t0: pl.Scalar[pl.INDEX],
):
    rows = pl.max(0, pl.min(T_TILE, T_DYN - t0))
    row_base = pl.reshape(base, [1, MIX])
    m = pl.slice(mixes, [T_TILE, MIX_PAD], [t0, 0], valid_shape=[rows, MIX_PAD])
    a = pl.add(pl.mul(m[:, 0:HC], scale[0]), row_base[:, 0:HC])
    b = pl.add(pl.mul(m[:, HC : 2 * HC], pl.read(scale, [1])), row_base[:, HC : 2 * HC])
    pre[t0 : t0 + T_TILE, :] = pl.add(pl.recip(pl.add(pl.exp(pl.neg(a)), 1.0)), EPS)
    post[t0 : t0 + T_TILE, :] = pl.mul(pl.recip(pl.add(pl.exp(pl.neg(b)), 1.0)), 2.0)
    for i in pl.range(rows):
        c = pl.slice(mixes, [1, HC * HC], [t0 + i, 2 * HC])
        c = pl.add(pl.mul(c, pl.read(scale, 2)), row_base[:, 2 * HC : MIX])
        c = pl.reshape(c, [HC, HC])
        c = pl.exp(pl.row_expand_sub(c, pl.row_max(c)))
        c = pl.add(pl.row_expand_div(c, pl.row_sum(c)), EPS)
        c = pl.col_expand_div(c, pl.add(pl.col_sum(c), EPS))
        for _ in pl.range(SINKHORN - 1):
            c = pl.row_expand_div(c, pl.add(pl.row_sum(c), EPS))
            c = pl.col_expand_div(c, pl.add(pl.col_sum(c), EPS))
        comb[t0 + i : t0 + i + 1, :] = pl.reshape(c, [1, HC * HC])


@pl.jit.inline
def sum_rows(
    x: pl.Tensor[[T_DYN, HC_DIM], pl.BF16],
    pre: pl.Tensor[[T_DYN, HC], pl.FP32],
    y: pl.Tensor[[T_DYN, D], pl.BF16],
    t0: pl.Scalar[pl.INDEX],
):
    rows = pl.max(0, pl.min(T_TILE, pl.dim(x, 0) - t0))
    weights = pl.slice(pre, [T_TILE, HC], [t0, 0], valid_shape=[rows, HC])
    for d0 in pl.range(0, D, D_TILE):
        acc = pl.full([T_TILE, D_TILE], dtype=pl.FP32, value=0.0)
        for h in pl.unroll(HC):
            part = pl.slice(x, [T_TILE, D_TILE], [t0, h * D + d0], valid_shape=[rows, D_TILE])
            part = pl.cast(part, target_type=pl.FP32)
            acc = pl.add(acc, pl.fillpad(pl.row_expand_mul(part, weights[:, h : h + 1])))
        acc = pl.set_validshape(acc, rows, D_TILE)
        y[t0 : t0 + T_TILE, d0 : d0 + D_TILE] = pl.cast(acc, target_type=pl.BF16, mode="rint")
    return y


@pl.jit
def hc_pre(
    x: pl.Tensor[[T_DYN, HC, D], pl.BF16],
    w: pl.Tensor[[MIX, HC_DIM], pl.FP32],
    scale: pl.Tensor[[3], pl.FP32],
    base: pl.Tensor[[MIX], pl.FP32],
    y: pl.Out[pl.Tensor[[T_DYN, D], pl.BF16]],
    post: pl.Out[pl.Tensor[[T_DYN, HC], pl.FP32]],
    comb: pl.Out[pl.Tensor[[T_DYN, HC, HC], pl.FP32]],
):
    t_dim = pl.tensor.dim(x, 0)
    x_rows = pl.reshape(x, [t_dim, HC_DIM])
    comb_rows = pl.reshape(comb, [t_dim, HC * HC])
    mixes = pl.create_tensor([t_dim, MIX_PAD], dtype=pl.FP32)
    pre = pl.create_tensor([t_dim, HC], dtype=pl.FP32)
    tiles = (t_dim + T_TILE - 1) // T_TILE
    for i in pl.spmd(tiles, name_hint="mix"):
        mixes = mix_rows(x_rows, w, mixes, i * T_TILE)
    for i in pl.spmd(tiles, name_hint="split"):
        split_rows(mixes, scale, base, pre, post, comb_rows, i * T_TILE)
    for i in pl.spmd(tiles, name_hint="sum"):
        y = sum_rows(x_rows, pre, y, t0=i * T_TILE)
    return y, post, comb


@pl.jit(auto_scope=False)
def hc_pre_syncall(
    x: pl.Tensor[[T_DYN, HC, D], pl.BF16],
    w: pl.Tensor[[MIX, HC_DIM], pl.FP32],
    scale: pl.Tensor[[3], pl.FP32],
    base: pl.Tensor[[MIX], pl.FP32],
    y: pl.Out[pl.Tensor[[T_DYN, D], pl.BF16]],
    post: pl.Out[pl.Tensor[[T_DYN, HC], pl.FP32]],
    comb: pl.Out[pl.Tensor[[T_DYN, HC, HC], pl.FP32]],
):
    t_dim = pl.tensor.dim(x, 0)
    x_rows = pl.reshape(x, [t_dim, HC_DIM])
    comb_rows = pl.reshape(comb, [t_dim, HC * HC])
    mixes = pl.create_tensor([t_dim, MIX_PAD], dtype=pl.FP32)
    pre = pl.create_tensor([t_dim, HC], dtype=pl.FP32)
    with pl.spmd(BLOCKS, name_hint="hc_pre", sync_start=True):
        block = pl.tile.get_block_idx()
        rounds = (t_dim + BLOCKS * T_TILE - 1) // (BLOCKS * T_TILE)
        for r in pl.range(rounds):
            mixes = mix_rows(x_rows, w, mixes, (r * BLOCKS + block) * T_TILE)
        pl.system.syncall(core_type="mix")
        for r in pl.range(rounds):
            other = BLOCKS - 1 - block
            split_rows(mixes, scale, base, pre, post, comb_rows, (r * BLOCKS + other) * T_TILE)
        pl.system.syncall(core_type="mix")
        for t0 in pl.range(block * T_TILE, t_dim, BLOCKS * T_TILE):
            y = sum_rows(x_rows, pre, y, t0=t0)
    return y, post, comb


def golden_hc_pre(tensors):
    x, scale, base = tensors["x"].float(), tensors["scale"], tensors["base"]
    flat = x.flatten(1)
    mixes = flat @ tensors["w"].T * torch.rsqrt(flat.square().mean(-1, keepdim=True) + EPS)
    pre = torch.sigmoid(mixes[:, :HC] * scale[0] + base[:HC]) + EPS
    tensors["post"][:] = 2 * torch.sigmoid(mixes[:, HC : 2 * HC] * scale[1] + base[HC : 2 * HC])
    comb = (mixes[:, 2 * HC :] * scale[2] + base[2 * HC :]).unflatten(-1, (HC, HC))
    comb = comb.softmax(-1) + EPS
    comb = comb / (comb.sum(-2, keepdim=True) + EPS)
    for _ in range(SINKHORN - 1):
        comb = comb / (comb.sum(-1, keepdim=True) + EPS)
        comb = comb / (comb.sum(-2, keepdim=True) + EPS)
    tensors["comb"][:] = comb
    tensors["y"][:] = (pre.unsqueeze(-1) * x).sum(1).to(torch.bfloat16)


def build_tensor_specs(tokens):
    return [
        TensorSpec("x", [tokens, HC, D], torch.bfloat16, init_value=torch.randn),
        TensorSpec(
            "w", [MIX, HC_DIM], torch.float32, init_value=lambda: torch.randn(MIX, HC_DIM) / 16
        ),
        TensorSpec("scale", [3], torch.float32, init_value=torch.rand),
        TensorSpec("base", [MIX], torch.float32, init_value=torch.randn),
        TensorSpec("y", [tokens, D], torch.bfloat16, is_output=True),
        TensorSpec("post", [tokens, HC], torch.float32, is_output=True),
        TensorSpec("comb", [tokens, HC, HC], torch.float32, is_output=True),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "-p", "--platform", type=str, default="a2a3", choices=["a2a3", "a2a3sim", "a5", "a5sim"]
    )
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--impl", choices=["launches", "syncall", "both"], default="both")
    parser.add_argument("--tokens", type=int, default=21)
    args = parser.parse_args()
    kernels = {"launches": [hc_pre], "syncall": [hc_pre_syncall], "both": [hc_pre, hc_pre_syncall]}
    for kernel in kernels[args.impl]:
        result = run_jit(
            kernel,
            build_tensor_specs(args.tokens),
            golden_hc_pre,
            runtime_cfg={"platform": args.platform, "device_id": args.device},
            rtol=1e-3,
            atol=1e-3,
            compare_fn={"y": ratio_allclose(atol=1e-2, rtol=1e-2)},
        )
        if not result.passed:
            print(result.error)
            raise SystemExit(1)
