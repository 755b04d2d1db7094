"""DeepSeek-V4 decode, one CSA layer: hyper-connections, low-rank Q/KV, paged window + top-k attention, O, MoE."""

import pypto.language as pl

from config import (
    BLOCK_SIZE,
    DECODE_BATCH,
    DECODE_SEQ,
    EP_WORLD_SIZE,
    FLASH as M,
)
from csa_attention import CMP_BLOCKS, CMP_MAX_BLOCKS, WIN_BLOCKS, attn_norm_q_kv, csa_attention
from gate import ffn_norm, gate, golden_gate
from hc_post import golden_hc_post, hc_post
from hc_pre import golden_hc_pre, hc_pre
from moe import (
    RECV_MAX,
    combine,
    dispatch,
    experts,
    golden_moe,
    quant_rows,
    shared_expert,
)
from o_proj import golden_o_proj, o_proj

B = DECODE_BATCH
S = DECODE_SEQ
T = B * S
D = M.hidden_size
H = M.num_attention_heads
HEAD_DIM = M.head_dim
ROPE_DIM = M.qk_rope_head_dim
ROPE_HALF = ROPE_DIM // 2
NOPE_DIM = M.nope_head_dim
Q_LORA = M.q_lora_rank
O_LORA = M.o_lora_rank
G = M.o_groups
G_IN = H * HEAD_DIM // G
HC_MULT = M.hc_mult
HC_DIM = M.hc_dim
MIX_HC = M.mix_hc
WIN = M.sliding_window
IDX_TOPK = M.index_topk
EPS = M.rms_norm_eps
SCALE = M.softmax_scale
N_EXPERTS = M.n_routed_experts
N_LOCAL = N_EXPERTS // EP_WORLD_SIZE
E_TOPK = M.num_experts_per_tok
INTER = M.moe_intermediate_size
VOCAB = M.vocab_size


@pl.jit
def decode_layer(
    x_hc: pl.Tensor[[B, S, HC_MULT, D], pl.BF16],
    hc_attn_fn: pl.Tensor[[MIX_HC, HC_DIM], pl.FP32],
    hc_attn_scale: pl.Tensor[[3], pl.FP32],
    hc_attn_base: pl.Tensor[[MIX_HC], pl.FP32],
    hc_ffn_fn: pl.Tensor[[MIX_HC, HC_DIM], pl.FP32],
    hc_ffn_scale: pl.Tensor[[3], pl.FP32],
    hc_ffn_base: pl.Tensor[[MIX_HC], pl.FP32],
    attn_norm_w: pl.Tensor[[D], pl.FP32],
    wq_a: pl.Tensor[[D, Q_LORA], pl.BF16],
    q_norm_w: pl.Tensor[[Q_LORA], pl.FP32],
    wq_b: pl.Tensor[[Q_LORA, H * HEAD_DIM], pl.BF16],
    wkv: pl.Tensor[[D, HEAD_DIM], pl.BF16],
    kv_norm_w: pl.Tensor[[HEAD_DIM], pl.FP32],
    cos: pl.Tensor[[T, ROPE_DIM], pl.FP32],
    sin: pl.Tensor[[T, ROPE_DIM], pl.FP32],
    win_cache: pl.InOut[pl.Tensor[[WIN_BLOCKS, BLOCK_SIZE, 1, HEAD_DIM], pl.BF16]],
    cmp_cache: pl.Tensor[[CMP_BLOCKS, BLOCK_SIZE, 1, HEAD_DIM], pl.BF16],
    cmp_table: pl.Tensor[[B, CMP_MAX_BLOCKS], pl.INT32],
    topk_idx: pl.Tensor[[T, IDX_TOPK], pl.INT32],
    start_pos: pl.Tensor[[B], pl.INT32],
    attn_sink: pl.Tensor[[H], pl.FP32],
    wo_a: pl.Tensor[[G, O_LORA, G_IN], pl.BF16],
    wo_b: pl.Tensor[[D, G * O_LORA], pl.INT8],
    wo_b_scale: pl.Tensor[[D], pl.FP32],
    ffn_norm_w: pl.Tensor[[D], pl.FP32],
    gate_w: pl.Tensor[[N_EXPERTS, D], pl.FP32],
    gate_bias: pl.Tensor[[N_EXPERTS], pl.FP32],
    tid2eid: pl.Tensor[[VOCAB, E_TOPK], pl.INT32],
    input_ids: pl.Tensor[[B, S], pl.INT64],
    w1: pl.Tensor[[N_LOCAL, INTER, D], pl.INT8],
    w1_scale: pl.Tensor[[N_LOCAL, INTER], pl.FP32],
    w3: pl.Tensor[[N_LOCAL, INTER, D], pl.INT8],
    w3_scale: pl.Tensor[[N_LOCAL, INTER], pl.FP32],
    w2: pl.Tensor[[N_LOCAL, D, INTER], pl.INT8],
    w2_scale: pl.Tensor[[N_LOCAL, D], pl.FP32],
    sw1: pl.Tensor[[D, INTER], pl.BF16],
    sw3: pl.Tensor[[D, INTER], pl.BF16],
    sw2: pl.Tensor[[INTER, D], pl.BF16],
    x_next: pl.Out[pl.Tensor[[B, S, HC_MULT, D], pl.BF16]],
    layer_id: pl.Scalar[pl.INT32],
    expert_base: pl.Scalar[pl.INT32],
):
    # attention half
    x_attn = pl.create_tensor([B, S, D], dtype=pl.BF16)
    post_a = pl.create_tensor([B, S, HC_MULT], dtype=pl.FP32)
    comb_a = pl.create_tensor([B, S, HC_MULT, HC_MULT], dtype=pl.FP32)
    x_attn, post_a, comb_a = hc_pre(
        x_hc, hc_attn_fn, hc_attn_scale, hc_attn_base, x_attn, post_a, comb_a
    )
    q = pl.create_tensor([T, H, HEAD_DIM], dtype=pl.BF16)
    kv = pl.create_tensor([T, HEAD_DIM], dtype=pl.BF16)
    q, kv = attn_norm_q_kv(
        x_attn, attn_norm_w, wq_a, q_norm_w, wq_b, wkv, kv_norm_w, cos, sin, q, kv
    )
    o = pl.create_tensor([T, H, HEAD_DIM], dtype=pl.BF16)
    o = csa_attention(q, kv, win_cache, cmp_cache, cmp_table, topk_idx, start_pos, attn_sink, o)
    attn_out = pl.create_tensor([B, S, D], dtype=pl.BF16)
    attn_out = o_proj(o, cos, sin, wo_a, wo_b, wo_b_scale, attn_out)
    x_mid = pl.create_tensor([B, S, HC_MULT, D], dtype=pl.BF16)
    x_mid = hc_post(attn_out, x_hc, post_a, comb_a, x_mid)

    # feed-forward half
    x_ffn = pl.create_tensor([B, S, D], dtype=pl.BF16)
    post_f = pl.create_tensor([B, S, HC_MULT], dtype=pl.FP32)
    comb_f = pl.create_tensor([B, S, HC_MULT, HC_MULT], dtype=pl.FP32)
    x_ffn, post_f, comb_f = hc_pre(
        x_mid, hc_ffn_fn, hc_ffn_scale, hc_ffn_base, x_ffn, post_f, comb_f
    )
    x_norm = pl.create_tensor([T, D], dtype=pl.BF16)
    x_flat = pl.reshape(x_ffn, [T, D])
    x_norm = ffn_norm(x_flat, ffn_norm_w, x_norm)
    indices = pl.create_tensor([T, E_TOPK], dtype=pl.INT32)
    weights = pl.create_tensor([T, E_TOPK], dtype=pl.FP32)
    indices, weights = gate(
        x_norm, gate_w, gate_bias, tid2eid, input_ids, layer_id, indices, weights
    )
    x_i8 = pl.create_tensor([T, D], dtype=pl.INT8)
    x_scale = pl.create_tensor([T, 1], dtype=pl.FP32)
    x_i8, x_scale = quant_rows(x_norm, x_i8, x_scale)
    recv_x = pl.create_tensor([N_LOCAL, RECV_MAX, D], dtype=pl.INT8)
    recv_scale = pl.create_tensor([N_LOCAL, RECV_MAX], dtype=pl.FP32)
    recv_w = pl.create_tensor([N_LOCAL, RECV_MAX], dtype=pl.FP32)
    recv_tok = pl.create_tensor([N_LOCAL, RECV_MAX], dtype=pl.INT32)
    recv_count = pl.create_tensor([N_LOCAL, 1], dtype=pl.INT32)
    recv_x, recv_scale, recv_w, recv_tok, recv_count = dispatch(
        x_i8,
        x_scale,
        indices,
        weights,
        expert_base,
        recv_x,
        recv_scale,
        recv_w,
        recv_tok,
        recv_count,
    )
    recv_y = pl.create_tensor([N_LOCAL, RECV_MAX, D], dtype=pl.BF16)
    recv_y = experts(
        recv_x, recv_scale, recv_w, recv_count, w1, w1_scale, w3, w3_scale, w2, w2_scale, recv_y
    )
    acc = pl.create_tensor([T, D], dtype=pl.FP32)
    acc = shared_expert(x_norm, sw1, sw3, sw2, acc)
    acc = combine(recv_y, recv_tok, recv_count, acc)
    ffn_out = pl.create_tensor([B, S, D], dtype=pl.BF16)
    ffn_flat = pl.reshape(ffn_out, [T, D])
    for t0 in pl.parallel(0, T, 16):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="ffn_out"):
            ffn_flat[t0 : t0 + 16, :] = pl.cast(
                acc[t0 : t0 + 16, :], target_type=pl.BF16, mode="rint"
            )
    x_next = hc_post(ffn_out, x_mid, post_f, comb_f, x_next)
    return x_next, win_cache


def golden_decode_layer(t):
    import torch

    bf = torch.bfloat16

    def rms(x, w=None):
        y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)
        return y if w is None else y * w

    def hc(x, which):
        v = {
            "x": x,
            "hc_fn": t[f"hc_{which}_fn"],
            "hc_scale": t[f"hc_{which}_scale"],
            "hc_base": t[f"hc_{which}_base"],
            "x_mixed": torch.zeros(B, S, D, dtype=bf),
            "post": torch.zeros(B, S, HC_MULT),
            "comb": torch.zeros(B, S, HC_MULT, HC_MULT),
        }
        golden_hc_pre(v)
        return v

    def merge(out, residual, v):
        w = {
            "x": out,
            "residual": residual,
            "post": v["post"],
            "comb": v["comb"],
            "y": torch.zeros(B, S, HC_MULT, D, dtype=bf),
        }
        golden_hc_post(w)
        return w["y"]

    def rope(x, c, s):
        e, d = x[..., 0::2], x[..., 1::2]
        return torch.stack([e * c - d * s, e * s + d * c], -1).flatten(-2)

    a = hc(t["x_hc"], "attn")
    xn = rms(a["x_mixed"].float().view(T, D), t["attn_norm_w"]).to(bf).float()
    c, s = t["cos"][:, :ROPE_HALF], t["sin"][:, :ROPE_HALF]
    qa = rms(xn @ t["wq_a"].float(), t["q_norm_w"]).to(bf).float()
    q = rms((qa @ t["wq_b"].float()).view(T, H, HEAD_DIM))
    q = (
        torch.cat([q[..., :NOPE_DIM], rope(q[..., NOPE_DIM:], c[:, None], s[:, None])], -1)
        .to(bf)
        .float()
    )
    kv = rms(xn @ t["wkv"].float(), t["kv_norm_w"])
    kv = torch.cat([kv[:, :NOPE_DIM], rope(kv[:, NOPE_DIM:], c, s)], -1).to(bf)
    win = t["win_cache"].view(B, BLOCK_SIZE, HEAD_DIM)
    cmp_rows = t["cmp_cache"].view(-1, HEAD_DIM).float()
    o = torch.zeros(T, H, HEAD_DIM)
    for i in range(T):
        b, pos = i // S, int(t["start_pos"][i // S]) + i % S
        win[b, pos % WIN] = kv[i]
        idx = t["topk_idx"][i].long()
        idx = idx[idx >= 0]
        rows = t["cmp_table"][b].long()[idx // BLOCK_SIZE] * BLOCK_SIZE + idx % BLOCK_SIZE
        k = torch.cat([win[b, : min(pos + 1, WIN)].float(), cmp_rows[rows]])
        sc = torch.cat([q[i] @ k.T * SCALE, t["attn_sink"][:, None]], -1).softmax(-1)
        o[i] = sc[:, :-1] @ k
    v = {**t, "o": o.to(bf), "attn_out": torch.zeros(B, S, D, dtype=bf)}
    golden_o_proj(v)
    mid = merge(v["attn_out"], t["x_hc"], a)
    f = hc(mid, "ffn")
    g = {
        **t,
        "x": f["x_mixed"],
        "norm_w": t["ffn_norm_w"],
        "x_norm": torch.zeros(T, D, dtype=bf),
        "indices": torch.zeros(T, E_TOPK, dtype=torch.int32),
        "weights": torch.zeros(T, E_TOPK),
        "ffn_out": torch.zeros(T, D, dtype=bf),
    }
    golden_gate(g)
    golden_moe(g)
    t["x_next"][:] = merge(g["ffn_out"].view(B, S, D), mid, f)


def build_tensor_specs():
    import torch
    from golden import ScalarSpec, TensorSpec

    bf, f32, i32, i8 = torch.bfloat16, torch.float32, torch.int32, torch.int8

    def normal(*shape, scale=1.0):
        return lambda: torch.randn(*shape) * scale

    def codes(*shape):
        return lambda: torch.randint(-127, 128, shape, dtype=i8)

    def scales(*shape, k):
        return lambda: torch.rand(*shape) * 2 / (127 * k**0.5)

    def topk():
        idx = torch.full((T, IDX_TOPK), -1, dtype=i32)
        for t in range(T):
            n = [IDX_TOPK, 100, 0, 333][t % 4]
            idx[t, :n] = torch.randperm(CMP_MAX_BLOCKS * BLOCK_SIZE)[:n]
        return idx

    ang = torch.outer(
        torch.arange(T).float() + 77, 1.0 / 10000 ** (torch.arange(0, ROPE_DIM, 2) / ROPE_DIM)
    )
    hc = [
        spec
        for which in ("attn", "ffn")
        for spec in (
            TensorSpec(
                f"hc_{which}_fn",
                [MIX_HC, HC_DIM],
                f32,
                init_value=normal(MIX_HC, HC_DIM, scale=HC_DIM**-0.5),
            ),
            TensorSpec(f"hc_{which}_scale", [3], f32, init_value=0.5),
            TensorSpec(f"hc_{which}_base", [MIX_HC], f32, init_value=torch.randn),
        )
    ]
    return [
        TensorSpec("x_hc", [B, S, HC_MULT, D], bf, init_value=normal(B, S, HC_MULT, D)),
        *hc,
        TensorSpec("attn_norm_w", [D], f32, init_value=torch.ones),
        TensorSpec("wq_a", [D, Q_LORA], bf, init_value=normal(D, Q_LORA, scale=D**-0.5)),
        TensorSpec("q_norm_w", [Q_LORA], f32, init_value=torch.ones),
        TensorSpec(
            "wq_b",
            [Q_LORA, H * HEAD_DIM],
            bf,
            init_value=normal(Q_LORA, H * HEAD_DIM, scale=Q_LORA**-0.5),
        ),
        TensorSpec("wkv", [D, HEAD_DIM], bf, init_value=normal(D, HEAD_DIM, scale=D**-0.5)),
        TensorSpec("kv_norm_w", [HEAD_DIM], f32, init_value=torch.ones),
        TensorSpec("cos", [T, ROPE_DIM], f32, init_value=ang.cos().repeat(1, 2)),
        TensorSpec("sin", [T, ROPE_DIM], f32, init_value=ang.sin().repeat(1, 2)),
        TensorSpec(
            "win_cache",
            [WIN_BLOCKS, BLOCK_SIZE, 1, HEAD_DIM],
            bf,
            init_value=torch.randn,
            is_output=True,
        ),
        TensorSpec("cmp_cache", [CMP_BLOCKS, BLOCK_SIZE, 1, HEAD_DIM], bf, init_value=torch.randn),
        TensorSpec(
            "cmp_table",
            [B, CMP_MAX_BLOCKS],
            i32,
            init_value=lambda: torch.randperm(CMP_BLOCKS).view(B, -1),
        ),
        TensorSpec("topk_idx", [T, IDX_TOPK], i32, init_value=topk),
        TensorSpec("start_pos", [B], i32, init_value=lambda: torch.randint(0, 8000, (B,))),
        TensorSpec("attn_sink", [H], f32, init_value=torch.randn),
        TensorSpec(
            "wo_a", [G, O_LORA, G_IN], bf, init_value=normal(G, O_LORA, G_IN, scale=G_IN**-0.5)
        ),
        TensorSpec("wo_b", [D, G * O_LORA], i8, init_value=codes(D, G * O_LORA)),
        TensorSpec("wo_b_scale", [D], f32, init_value=lambda: torch.rand(D) / 5000),
        TensorSpec("ffn_norm_w", [D], f32, init_value=torch.ones),
        TensorSpec("gate_w", [N_EXPERTS, D], f32, init_value=normal(N_EXPERTS, D, scale=D**-0.5)),
        TensorSpec("gate_bias", [N_EXPERTS], f32, init_value=torch.randn),
        TensorSpec(
            "tid2eid",
            [VOCAB, E_TOPK],
            i32,
            init_value=lambda: torch.randint(0, N_EXPERTS, (VOCAB, E_TOPK)),
        ),
        TensorSpec(
            "input_ids", [B, S], torch.int64, init_value=lambda: torch.randint(0, VOCAB, (B, S))
        ),
        TensorSpec("w1", [N_LOCAL, INTER, D], i8, init_value=codes(N_LOCAL, INTER, D)),
        TensorSpec("w1_scale", [N_LOCAL, INTER], f32, init_value=scales(N_LOCAL, INTER, k=D)),
        TensorSpec("w3", [N_LOCAL, INTER, D], i8, init_value=codes(N_LOCAL, INTER, D)),
        TensorSpec("w3_scale", [N_LOCAL, INTER], f32, init_value=scales(N_LOCAL, INTER, k=D)),
        TensorSpec("w2", [N_LOCAL, D, INTER], i8, init_value=codes(N_LOCAL, D, INTER)),
        TensorSpec("w2_scale", [N_LOCAL, D], f32, init_value=scales(N_LOCAL, D, k=INTER)),
        TensorSpec("sw1", [D, INTER], bf, init_value=normal(D, INTER, scale=D**-0.5)),
        TensorSpec("sw3", [D, INTER], bf, init_value=normal(D, INTER, scale=D**-0.5)),
        TensorSpec("sw2", [INTER, D], bf, init_value=normal(INTER, D, scale=INTER**-0.5)),
        TensorSpec("x_next", [B, S, HC_MULT, D], bf, is_output=True),
        ScalarSpec("layer_id", torch.int32, 2),
        ScalarSpec("expert_base", torch.int32, 32),
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
        fn=decode_layer,
        specs=build_tensor_specs(),
        golden_fn=golden_decode_layer,
        runtime_cfg=dict(
            platform=args.platform,
            device_id=args.device,
            enable_l2_swimlane=args.enable_l2_swimlane,
        ),
        rtol=1e-3,
        atol=1e-3,
        compare_fn={
            "x_next": ratio_allclose(atol=5e-2, rtol=5e-2, max_error_ratio=0.02),
            "win_cache": ratio_allclose(atol=2e-2, rtol=2e-2),
        },
    )
    if not result.passed:
        if result.error:
            print(result.error)
        raise SystemExit(1)
