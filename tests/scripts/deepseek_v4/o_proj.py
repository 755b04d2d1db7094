"""DeepSeek-V4 attention output: inverse RoPE, grouped low-rank projection A (BF16), projection B (W8A8)."""

import pypto.language as pl

from config import FLASH as M, DECODE_BATCH, DECODE_SEQ, INT8_AMAX_EPS, INT8_SCALE_MAX

B = DECODE_BATCH
S = DECODE_SEQ
T = B * S
D = M.hidden_size
H = M.num_attention_heads
HEAD_DIM = M.head_dim
ROPE_DIM = M.qk_rope_head_dim
NOPE_DIM = M.nope_head_dim
O_LORA = M.o_lora_rank
G = M.o_groups
HG = H // G
G_IN = HG * HEAD_DIM
A_M, A_K, A_N = 32, 256, 128
B_K, B_N = 512, 256


@pl.jit.incore
def rope_swap(
    o: pl.Tensor[[T * H, HEAD_DIM], pl.BF16],
    cos: pl.Tensor[[T, ROPE_DIM], pl.FP32],
    sin_signed: pl.Tensor[[T, ROPE_DIM], pl.FP32],
    o_rot: pl.Out[pl.Tensor[[T * H, HEAD_DIM], pl.BF16]],
    t: pl.Scalar[pl.INDEX],
):
    r0 = t * H
    o_rot[r0 : r0 + H, 0:NOPE_DIM] = o[r0 : r0 + H, 0:NOPE_DIM]
    tail = pl.cast(o[r0 : r0 + H, NOPE_DIM:HEAD_DIM], target_type=pl.FP32)
    even = pl.gather(tail, mask_pattern=pl.tile.MaskPattern.P0101)
    odd = pl.gather(tail, mask_pattern=pl.tile.MaskPattern.P1010)
    c = cos[t : t + 1, 0 : ROPE_DIM // 2]
    s = sin_signed[t : t + 1, 0 : ROPE_DIM // 2]
    # inverse rotation: sine changes sign
    new_e = pl.add(pl.col_expand_mul(even, c), pl.col_expand_mul(odd, s))
    new_o = pl.sub(pl.col_expand_mul(odd, c), pl.col_expand_mul(even, s))
    zero = pl.full([H, ROPE_DIM], dtype=pl.FP32, value=0.0)
    woven = pl.tensor.scatter(new_e, mask_pattern=pl.tile.MaskPattern.P0101, dst=zero)
    woven = pl.tensor.scatter(new_o, mask_pattern=pl.tile.MaskPattern.P1010, dst=woven)
    o_rot[r0 : r0 + H, NOPE_DIM:HEAD_DIM] = pl.cast(woven, target_type=pl.BF16, mode="rint")
    return o_rot


@pl.jit.opaque
def o_proj_a(
    o_rot: pl.Tensor[[T * H, HEAD_DIM], pl.BF16],
    wo_a: pl.Tensor[[G * O_LORA, G_IN], pl.BF16],
    o_r: pl.Out[pl.Tensor[[T, G * O_LORA], pl.BF16]],
):
    o_heads = pl.reshape(o_rot, [T, H * HEAD_DIM])
    for g in pl.parallel(0, G, 1):
        for n0 in pl.parallel(0, O_LORA, A_N, chunk=4, chunk_policy="leading_full"):
            with pl.at(
                level=pl.Level.CORE_GROUP,
                optimization=pl.chunked_loop_optimizer,
                name_hint="o_proj_a",
            ):
                row = g * O_LORA + n0
                acc = pl.create_tensor([A_M, A_N], dtype=pl.FP32)
                for kb in pl.pipeline(0, G_IN // A_K, 1, stage=4):
                    k0 = kb * A_K
                    at = o_heads[0:A_M, g * G_IN + k0 : g * G_IN + k0 + A_K]
                    wt = wo_a[row : row + A_N, k0 : k0 + A_K]
                    if kb == 0:
                        acc = pl.matmul(at, wt, b_trans=True, out_dtype=pl.FP32)
                    else:
                        acc = pl.matmul_acc(acc, at, wt, b_trans=True)
                o_r[:, row : row + A_N] = pl.cast(acc, target_type=pl.BF16, mode="rint")
    return o_r


@pl.jit.inline
def o_proj(
    o: pl.Tensor[[T, H, HEAD_DIM], pl.BF16],
    cos: pl.Tensor[[T, ROPE_DIM], pl.FP32],
    sin: pl.Tensor[[T, ROPE_DIM], pl.FP32],
    wo_a: pl.Tensor[[G, O_LORA, G_IN], pl.BF16],
    wo_b: pl.Tensor[[D, G * O_LORA], pl.INT8],
    wo_b_scale: pl.Tensor[[D], pl.FP32],
    attn_out: pl.Tensor[[B, S, D], pl.BF16],
):
    o_flat = pl.reshape(o, [T * H, HEAD_DIM])
    wo_a_flat = pl.reshape(wo_a, [G * O_LORA, G_IN])
    out_flat = pl.reshape(attn_out, [T, D])
    wscale = pl.reshape(wo_b_scale, [1, D])
    o_rot = pl.create_tensor([T * H, HEAD_DIM], dtype=pl.BF16)
    for t in pl.parallel(T):
        o_rot = rope_swap(o_flat, cos, sin, o_rot, t)
    o_r = pl.create_tensor([T, G * O_LORA], dtype=pl.BF16, manual_dep=True)
    o_r = o_proj_a(o_rot, wo_a_flat, o_r)
    o_i8 = pl.create_tensor([T, G * O_LORA], dtype=pl.INT8)
    o_scale = pl.create_tensor([T, 1], dtype=pl.FP32)
    tids = pl.array.create(T // 8, pl.TASK_ID)
    for b in pl.range(T // 8):
        r0 = b * 8
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="o_quant", no_dep_args=[o_i8]) as tid:
            rows = pl.cast(o_r[r0 : r0 + 8, :], target_type=pl.FP32)
            amax = pl.maximum(pl.row_max(pl.abs(rows)), INT8_AMAX_EPS)
            inv = pl.mul(pl.recip(amax), INT8_SCALE_MAX)
            o_scale[r0 : r0 + 8, :] = pl.mul(amax, 1.0 / INT8_SCALE_MAX)
            codes = pl.cast(pl.row_expand_mul(rows, inv), target_type=pl.INT32, mode="rint")
            o_i8[r0 : r0 + 8, :] = pl.cast(
                pl.cast(codes, target_type=pl.FP16, mode="none"), target_type=pl.INT8, mode="none"
            )
        tids[b] = tid
    for nb in pl.spmd(D // B_N, name_hint="o_proj_b", deps=[tids]):
        n0 = nb * B_N
        accs = pl.create_l1([T, B_K], dtype=pl.INT8)
        y = pl.create_tensor([T, B_N], dtype=pl.INT32)
        for kb in pl.range(G * O_LORA // B_K):
            accs = o_i8[:, kb * B_K : kb * B_K + B_K]
            wt = pl.load(
                wo_b, [n0, kb * B_K], [B_N, B_K], target_memory=pl.MemorySpace.Mat, transpose=True
            )
            if kb == 0:
                y = pl.matmul(accs, wt, out_dtype=pl.INT32)
            else:
                y = pl.matmul_acc(y, accs, wt)
        yf = pl.cast(y, target_type=pl.FP32, mode="none")
        yf = pl.col_expand_mul(pl.row_expand_mul(yf, o_scale), wscale[:, n0 : n0 + B_N])
        out_flat[:, n0 : n0 + B_N] = pl.cast(yf, target_type=pl.BF16, mode="rint")
    return attn_out


@pl.jit
def o_proj_test(
    o: pl.Tensor[[T, H, HEAD_DIM], pl.BF16],
    cos: pl.Tensor[[T, ROPE_DIM], pl.FP32],
    sin: pl.Tensor[[T, ROPE_DIM], pl.FP32],
    wo_a: pl.Tensor[[G, O_LORA, G_IN], pl.BF16],
    wo_b: pl.Tensor[[D, G * O_LORA], pl.INT8],
    wo_b_scale: pl.Tensor[[D], pl.FP32],
    attn_out: pl.Out[pl.Tensor[[B, S, D], pl.BF16]],
):
    attn_out = o_proj(o, cos, sin, wo_a, wo_b, wo_b_scale, attn_out)
    return attn_out


def golden_o_proj(tensors):
    import torch

    o = tensors["o"].float()
    c = tensors["cos"][:, None, : ROPE_DIM // 2]
    s = tensors["sin"][:, None, : ROPE_DIM // 2]
    e, d = o[..., NOPE_DIM::2], o[..., NOPE_DIM + 1 :: 2]
    tail = torch.stack([e * c + d * s, d * c - e * s], -1).flatten(-2)
    o = torch.cat([o[..., :NOPE_DIM], tail], -1).to(torch.bfloat16).float().view(T, G, G_IN)
    r = (
        torch.einsum("tgi,gri->tgr", o, tensors["wo_a"].float())
        .reshape(T, -1)
        .to(torch.bfloat16)
        .float()
    )
    amax = r.abs().amax(-1, keepdim=True).clamp_min(INT8_AMAX_EPS)
    codes = torch.round(r * (INT8_SCALE_MAX / amax))
    y = codes @ tensors["wo_b"].float().T * (amax / INT8_SCALE_MAX) * tensors["wo_b_scale"]
    tensors["attn_out"][:] = y.to(torch.bfloat16).view(B, S, D)


def build_tensor_specs():
    import torch
    from golden import TensorSpec

    ang = torch.outer(
        torch.arange(T).float() + 77, 1.0 / 10000 ** (torch.arange(0, ROPE_DIM, 2) / ROPE_DIM)
    )
    return [
        TensorSpec("o", [T, H, HEAD_DIM], torch.bfloat16, init_value=torch.randn),
        TensorSpec("cos", [T, ROPE_DIM], torch.float32, init_value=ang.cos().repeat(1, 2)),
        TensorSpec("sin", [T, ROPE_DIM], torch.float32, init_value=ang.sin().repeat(1, 2)),
        TensorSpec(
            "wo_a",
            [G, O_LORA, G_IN],
            torch.bfloat16,
            init_value=lambda: torch.randn(G, O_LORA, G_IN) / G_IN**0.5,
        ),
        TensorSpec(
            "wo_b",
            [D, G * O_LORA],
            torch.int8,
            init_value=lambda: torch.randint(-127, 128, (D, G * O_LORA), dtype=torch.int8),
        ),
        TensorSpec("wo_b_scale", [D], torch.float32, init_value=lambda: torch.rand(D) / 5000),
        TensorSpec("attn_out", [B, S, D], torch.bfloat16, is_output=True),
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
        fn=o_proj_test,
        specs=build_tensor_specs(),
        golden_fn=golden_o_proj,
        runtime_cfg=dict(
            platform=args.platform,
            device_id=args.device,
            enable_l2_swimlane=args.enable_l2_swimlane,
        ),
        rtol=1e-3,
        atol=1e-3,
        compare_fn={"attn_out": ratio_allclose(atol=2e-2, rtol=2e-2, max_error_ratio=0.01)},
    )
    if not result.passed:
        if result.error:
            print(result.error)
        raise SystemExit(1)
