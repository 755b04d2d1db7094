"""DeepSeek-V4 manifold hyper-connections, pre: mixes, Sinkhorn, weighted sum of the streams."""

import pypto.language as pl

from config import FLASH as M, DECODE_BATCH, DECODE_SEQ

# model config
B = DECODE_BATCH
S = DECODE_SEQ
T = B * S
D = M.hidden_size
HC_MULT = M.hc_mult
HC_DIM = M.hc_dim
MIX_HC = M.mix_hc
MIX_PAD = 32
SINKHORN_ITERS = M.hc_sinkhorn_iters
HC_EPS = M.hc_eps
NORM_EPS = M.rms_norm_eps
COMB_OFF = 2 * HC_MULT

# tiling
T_TILE = 16
RMS_K = 512
LIN_K = 256
D_TILE = 512
COMB_PAD = 8

assert T % T_TILE == 0
assert HC_DIM % LIN_K == 0
assert D % D_TILE == 0


@pl.jit.inline
def hc_pre(
    x: pl.Tensor[[B, S, HC_MULT, D], pl.BF16],
    hc_fn: pl.Tensor[[MIX_HC, HC_DIM], pl.FP32],
    hc_scale: pl.Tensor[[3], pl.FP32],
    hc_base: pl.Tensor[[MIX_HC], pl.FP32],
    x_mixed: pl.Tensor[[B, S, D], pl.BF16],
    post: pl.Tensor[[B, S, HC_MULT], pl.FP32],
    comb: pl.Tensor[[B, S, HC_MULT, HC_MULT], pl.FP32],
):
    x_flat = pl.reshape(x, [T, HC_DIM])
    y_flat = pl.reshape(x_mixed, [T, D])
    post_flat = pl.reshape(post, [T, HC_MULT])
    comb_flat = pl.reshape(comb, [T, HC_MULT * HC_MULT])
    base_2d = pl.reshape(hc_base, [1, MIX_HC])
    scale_pre = pl.read(hc_scale, [0])
    scale_post = pl.read(hc_scale, [1])
    scale_comb = pl.read(hc_scale, [2])

    mixes = pl.create_tensor([T, MIX_PAD], dtype=pl.FP32)
    inv_rms = pl.create_tensor([1, T], dtype=pl.FP32)

    for t0 in pl.parallel(0, T, T_TILE):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="hc_rms"):
            sq = pl.full([1, T_TILE], dtype=pl.FP32, value=0.0)
            for kb in pl.range(HC_DIM // RMS_K):
                k0 = kb * RMS_K
                xc = pl.cast(x_flat[t0 : t0 + T_TILE, k0 : k0 + RMS_K], target_type=pl.FP32)
                sq = pl.add(sq, pl.reshape(pl.row_sum(pl.mul(xc, xc)), [1, T_TILE]))
            inv = pl.recip(pl.sqrt(pl.add(pl.mul(sq, 1.0 / HC_DIM), NORM_EPS)))
            inv_rms[:, t0 : t0 + T_TILE] = inv

        with pl.at(level=pl.Level.CORE_GROUP, name_hint="hc_linear"):
            acc = pl.create_tensor([T_TILE, MIX_PAD], dtype=pl.FP32)
            for kb in pl.pipeline(HC_DIM // LIN_K, stage=2):
                k0 = kb * LIN_K
                xl = pl.cast(x_flat[t0 : t0 + T_TILE, k0 : k0 + LIN_K], target_type=pl.FP32)
                wl = pl.slice(hc_fn, [MIX_PAD, LIN_K], [0, k0], valid_shape=[MIX_HC, LIN_K])
                if kb == 0:
                    acc = pl.matmul(xl, wl, out_dtype=pl.FP32, b_trans=True)
                else:
                    acc = pl.matmul_acc(acc, xl, wl, b_trans=True)
            mixes[t0 : t0 + T_TILE, :] = acc

        with pl.at(level=pl.Level.CORE_GROUP, name_hint="hc_split"):
            inv_col = pl.reshape(inv_rms[:, t0 : t0 + T_TILE], [T_TILE, 1])
            mix = pl.row_expand_mul(mixes[t0 : t0 + T_TILE, 0:MIX_HC], inv_col)
            pre_l = pl.mul(mix[:, 0:HC_MULT], scale_pre)
            pre_b = pl.col_expand(pre_l, base_2d[:, 0:HC_MULT])
            pre_t = pl.add(pl.recip(pl.add(pl.exp(pl.neg(pl.add(pre_l, pre_b))), 1.0)), HC_EPS)
            post_l = pl.mul(mix[:, HC_MULT : 2 * HC_MULT], scale_post)
            post_b = pl.col_expand(post_l, base_2d[:, HC_MULT : 2 * HC_MULT])
            post_t = pl.mul(pl.recip(pl.add(pl.exp(pl.neg(pl.add(post_l, post_b))), 1.0)), 2.0)
            post_flat[t0 : t0 + T_TILE, :] = post_t

            # Sinkhorn on four row vectors per token, all tokens of the tile at once
            comb_l = pl.mul(mix[:, COMB_OFF:MIX_HC], scale_comb)
            comb_b = pl.col_expand(comb_l, base_2d[:, COMB_OFF:MIX_HC])
            logits = pl.add(comb_l, comb_b)
            r0 = logits[:, 0:4]
            r1 = logits[:, 4:8]
            r2 = logits[:, 8:12]
            r3 = logits[:, 12:16]
            r0 = pl.exp(pl.row_expand_sub(r0, pl.row_max(r0)))
            r1 = pl.exp(pl.row_expand_sub(r1, pl.row_max(r1)))
            r2 = pl.exp(pl.row_expand_sub(r2, pl.row_max(r2)))
            r3 = pl.exp(pl.row_expand_sub(r3, pl.row_max(r3)))
            r0 = pl.add(pl.row_expand_div(r0, pl.row_sum(r0)), HC_EPS)
            r1 = pl.add(pl.row_expand_div(r1, pl.row_sum(r1)), HC_EPS)
            r2 = pl.add(pl.row_expand_div(r2, pl.row_sum(r2)), HC_EPS)
            r3 = pl.add(pl.row_expand_div(r3, pl.row_sum(r3)), HC_EPS)
            col = pl.add(pl.add(pl.add(pl.add(r0, r1), r2), r3), HC_EPS)
            r0 = pl.div(r0, col)
            r1 = pl.div(r1, col)
            r2 = pl.div(r2, col)
            r3 = pl.div(r3, col)
            for _it in pl.range(SINKHORN_ITERS - 1):
                r0 = pl.row_expand_div(r0, pl.add(pl.row_sum(r0), HC_EPS))
                r1 = pl.row_expand_div(r1, pl.add(pl.row_sum(r1), HC_EPS))
                r2 = pl.row_expand_div(r2, pl.add(pl.row_sum(r2), HC_EPS))
                r3 = pl.row_expand_div(r3, pl.add(pl.row_sum(r3), HC_EPS))
                col = pl.add(pl.add(pl.add(pl.add(r0, r1), r2), r3), HC_EPS)
                r0 = pl.div(r0, col)
                r1 = pl.div(r1, col)
                r2 = pl.div(r2, col)
                r3 = pl.div(r3, col)
            comb_flat[t0 : t0 + T_TILE, 0:4] = r0
            comb_flat[t0 : t0 + T_TILE, 4:8] = r1
            comb_flat[t0 : t0 + T_TILE, 8:12] = r2
            comb_flat[t0 : t0 + T_TILE, 12:16] = r3

            for db in pl.range(D // D_TILE):
                d0 = db * D_TILE
                y = pl.full([T_TILE, D_TILE], dtype=pl.FP32, value=0.0)
                for h in pl.unroll(HC_MULT):
                    xh = pl.cast(
                        x_flat[t0 : t0 + T_TILE, h * D + d0 : h * D + d0 + D_TILE],
                        target_type=pl.FP32,
                    )
                    y = pl.add(y, pl.row_expand_mul(xh, pre_t[:, h : h + 1]))
                y_flat[t0 : t0 + T_TILE, d0 : d0 + D_TILE] = pl.cast(
                    y, target_type=pl.BF16, mode="rint"
                )
    return x_mixed, post, comb


@pl.jit
def hc_pre_test(
    x: pl.Tensor[[B, S, HC_MULT, D], pl.BF16],
    hc_fn: pl.Tensor[[MIX_HC, HC_DIM], pl.FP32],
    hc_scale: pl.Tensor[[3], pl.FP32],
    hc_base: pl.Tensor[[MIX_HC], pl.FP32],
    x_mixed: pl.Out[pl.Tensor[[B, S, D], pl.BF16]],
    post: pl.Out[pl.Tensor[[B, S, HC_MULT], pl.FP32]],
    comb: pl.Out[pl.Tensor[[B, S, HC_MULT, HC_MULT], pl.FP32]],
):
    x_mixed, post, comb = hc_pre(x, hc_fn, hc_scale, hc_base, x_mixed, post, comb)
    return x_mixed, post, comb


def golden_hc_pre(tensors):
    import torch

    x = tensors["x"].float()
    xf = x.flatten(2)
    rsqrt = torch.rsqrt(xf.square().mean(-1, keepdim=True) + NORM_EPS)
    mixes = torch.nn.functional.linear(xf, tensors["hc_fn"]) * rsqrt
    scale, base = tensors["hc_scale"], tensors["hc_base"]
    pre = torch.sigmoid(mixes[..., :HC_MULT] * scale[0] + base[:HC_MULT]) + HC_EPS
    post = 2 * torch.sigmoid(mixes[..., HC_MULT:COMB_OFF] * scale[1] + base[HC_MULT:COMB_OFF])
    comb = (mixes[..., COMB_OFF:] * scale[2] + base[COMB_OFF:]).unflatten(-1, (HC_MULT, HC_MULT))
    comb = comb.softmax(-1) + HC_EPS
    comb = comb / (comb.sum(-2, keepdim=True) + HC_EPS)
    for _ in range(SINKHORN_ITERS - 1):
        comb = comb / (comb.sum(-1, keepdim=True) + HC_EPS)
        comb = comb / (comb.sum(-2, keepdim=True) + HC_EPS)
    tensors["x_mixed"][:] = (pre.unsqueeze(-1) * x).sum(2).to(torch.bfloat16)
    tensors["post"][:] = post
    tensors["comb"][:] = comb


def build_tensor_specs():
    import torch
    from golden import TensorSpec

    def init_x():
        return torch.randn(B, S, HC_MULT, D) * 0.3

    def init_fn():
        return torch.randn(MIX_HC, HC_DIM) * HC_DIM**-0.5

    return [
        TensorSpec("x", [B, S, HC_MULT, D], torch.bfloat16, init_value=init_x),
        TensorSpec("hc_fn", [MIX_HC, HC_DIM], torch.float32, init_value=init_fn),
        TensorSpec("hc_scale", [3], torch.float32, init_value=lambda: torch.ones(3) * 0.5),
        TensorSpec("hc_base", [MIX_HC], torch.float32, init_value=torch.randn),
        TensorSpec("x_mixed", [B, S, D], torch.bfloat16, is_output=True),
        TensorSpec("post", [B, S, HC_MULT], torch.float32, is_output=True),
        TensorSpec("comb", [B, S, HC_MULT, HC_MULT], torch.float32, is_output=True),
    ]


if __name__ == "__main__":
    import argparse
    from golden import ratio_allclose, run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument(
        "-p", "--platform", type=str, default="a2a3", choices=["a2a3", "a2a3sim", "a5", "a5sim"]
    )
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--enable-l2-swimlane", action="store_true", default=False)
    args = parser.parse_args()

    result = run_jit(
        fn=hc_pre_test,
        specs=build_tensor_specs(),
        golden_fn=golden_hc_pre,
        runtime_cfg=dict(
            platform=args.platform,
            device_id=args.device,
            enable_l2_swimlane=args.enable_l2_swimlane,
        ),
        rtol=1e-3,
        atol=1e-3,
        compare_fn={"x_mixed": ratio_allclose(atol=1e-2, rtol=1e-2, max_error_ratio=0.01)},
    )
    if not result.passed:
        if result.error:
            print(result.error)
        raise SystemExit(1)
