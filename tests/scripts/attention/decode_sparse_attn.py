"""Decode: attention over window and top-k rows of paged caches, sink, inverse RoPE, grouped output."""

import pypto.language as pl

from config import DEMO as M, DECODE_SEQ, BLOCK_SIZE, FP32_NEG_INF, INT8_SCALE_MAX, INT8_AMAX_EPS

B = 8
S = DECODE_SEQ
T = B * S
D = M.hidden_size
H = M.num_attention_heads
HEAD_DIM = M.head_dim
ROPE_DIM = M.qk_rope_head_dim
ROPE_HALF = ROPE_DIM // 2
NOPE_DIM = M.nope_head_dim
WIN = M.sliding_window
IDX_TOPK = M.index_topk
TOPK = WIN + IDX_TOPK
SOFTMAX_SCALE = HEAD_DIM**-0.5
O_LORA = M.o_lora_rank
O_GROUPS = M.o_groups
O_GROUP_IN = H * HEAD_DIM // O_GROUPS

ORI_MAX_BLOCKS = 1
CMP_MAX_BLOCKS = 8
ORI_BLOCKS = B * ORI_MAX_BLOCKS
CMP_BLOCKS = B * CMP_MAX_BLOCKS

ATTN_TILE = 64
ATTN_BLOCKS = TOPK // ATTN_TILE
H_TILE = 8
A_K = 256
A_N = 128
B_K = 256
B_N = 128
QUANT_TILE = 512

assert TOPK % ATTN_TILE == 0
assert WIN % ATTN_TILE == 0
assert H % H_TILE == 0
assert T % 16 == 0
assert O_GROUP_IN % A_K == 0
assert O_LORA % A_N == 0


@pl.jit.inline
def gather_kv(
    ori_kv: pl.Tensor[[ORI_BLOCKS, BLOCK_SIZE, 1, HEAD_DIM], pl.BF16],
    ori_block_table: pl.Tensor[[B, ORI_MAX_BLOCKS], pl.INT32],
    cmp_kv: pl.Tensor[[CMP_BLOCKS, BLOCK_SIZE, 1, HEAD_DIM], pl.BF16],
    cmp_block_table: pl.Tensor[[B, CMP_MAX_BLOCKS], pl.INT32],
    sparse_idx: pl.Tensor[[T, TOPK], pl.INT32],
    sparse_len: pl.Tensor[[T], pl.INT32],
    kv_g: pl.Tensor[[T * TOPK, HEAD_DIM], pl.BF16],
):
    ori_flat = pl.reshape(ori_kv, [ORI_BLOCKS * BLOCK_SIZE, HEAD_DIM])
    cmp_flat = pl.reshape(cmp_kv, [CMP_BLOCKS * BLOCK_SIZE, HEAD_DIM])
    for t in pl.parallel(0, T, 1):
        b = t // S
        n = pl.read(sparse_len, [t])
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="gather_kv"):
            for k in pl.range(n):
                raw = pl.read(sparse_idx, [t, k])
                if raw >= 0:
                    if raw < WIN:
                        blk = pl.cast(pl.read(ori_block_table, [b, raw // BLOCK_SIZE]), pl.INDEX)
                        row = blk * BLOCK_SIZE + raw % BLOCK_SIZE
                        kv_g[t * TOPK + k : t * TOPK + k + 1, :] = ori_flat[row : row + 1, :]
                    else:
                        c = raw - WIN
                        blk_c = pl.cast(pl.read(cmp_block_table, [b, c // BLOCK_SIZE]), pl.INDEX)
                        row_c = blk_c * BLOCK_SIZE + c % BLOCK_SIZE
                        kv_g[t * TOPK + k : t * TOPK + k + 1, :] = cmp_flat[row_c : row_c + 1, :]
    return kv_g


@pl.jit.inline
def attention(
    q: pl.Tensor[[T, H, HEAD_DIM], pl.BF16],
    kv_g: pl.Tensor[[T * TOPK, HEAD_DIM], pl.BF16],
    sparse_len: pl.Tensor[[T], pl.INT32],
    attn_sink: pl.Tensor[[H], pl.FP32],
    o: pl.Tensor[[T * H, HEAD_DIM], pl.FP32],
):
    q_flat = pl.reshape(q, [T * H, HEAD_DIM])
    sink_2d = pl.reshape(attn_sink, [H, 1])
    for t in pl.parallel(T):
        n_valid = pl.read(sparse_len, [t])
        n_blk = (n_valid + ATTN_TILE - 1) // ATTN_TILE
        for h0 in pl.range(0, H, H_TILE):
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="attn"):
                qt = q_flat[t * H + h0 : t * H + h0 + H_TILE, :]
                mi = pl.full([H_TILE, 1], dtype=pl.FP32, value=FP32_NEG_INF)
                li = pl.full([H_TILE, 1], dtype=pl.FP32, value=0.0)
                oi = pl.full([H_TILE, HEAD_DIM], dtype=pl.FP32, value=0.0)
                for kb in pl.pipeline(n_blk, stage=2):
                    s0 = kb * ATTN_TILE
                    valid = pl.min(ATTN_TILE, n_valid - s0)
                    kt = pl.slice(
                        kv_g,
                        [ATTN_TILE, HEAD_DIM],
                        [t * TOPK + s0, 0],
                        valid_shape=[valid, HEAD_DIM],
                    )
                    raw = pl.matmul(qt, kt, b_trans=True, out_dtype=pl.FP32)
                    sc = pl.set_validshape(pl.mul(raw, SOFTMAX_SCALE), H_TILE, valid)
                    sc = pl.fillpad(sc, pad_value=pl.PadValue.min)
                    cur_m = pl.row_max(sc)
                    m_new = pl.maximum(mi, cur_m)
                    alpha = pl.exp(pl.sub(mi, m_new))
                    p = pl.exp(pl.row_expand_sub(sc, m_new))
                    p16 = pl.cast(p, target_type=pl.BF16, mode="rint")
                    li = pl.add(pl.mul(li, alpha), pl.row_sum(pl.cast(p16, target_type=pl.FP32)))
                    oi = pl.add(pl.row_expand_mul(oi, alpha), pl.matmul(p16, kt, out_dtype=pl.FP32))
                    mi = m_new
                sink = sink_2d[h0 : h0 + H_TILE, :]
                denom = pl.add(li, pl.exp(pl.sub(sink, mi)))
                o[t * H + h0 : t * H + h0 + H_TILE, :] = pl.row_expand_div(oi, denom)
    return o


@pl.jit.inline
def inv_rope(
    o: pl.Tensor[[T * H, HEAD_DIM], pl.FP32],
    cos: pl.Tensor[[T, ROPE_DIM], pl.BF16],
    sin: pl.Tensor[[T, ROPE_DIM], pl.BF16],
    o_pack: pl.Tensor[[O_GROUPS * T, O_GROUP_IN], pl.BF16],
):
    HG = H // O_GROUPS
    for t in pl.parallel(T):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="inv_rope"):
            cf = pl.cast(cos[t : t + 1, 0:ROPE_HALF], target_type=pl.FP32)
            sf = pl.cast(sin[t : t + 1, 0:ROPE_HALF], target_type=pl.FP32)
            for h in pl.range(H):
                row = t * H + h
                lo = pl.slice(o, [1, ROPE_HALF], [row, NOPE_DIM])
                hi = o[row : row + 1, NOPE_DIM + ROPE_HALF : HEAD_DIM]
                y_lo = pl.add(pl.mul(lo, cf), pl.mul(hi, sf))
                y_hi = pl.sub(pl.mul(hi, cf), pl.mul(lo, sf))
                g = h // HG
                c0 = (h % HG) * HEAD_DIM
                nope = pl.cast(o[row : row + 1, 0:NOPE_DIM], target_type=pl.BF16, mode="rint")
                o_pack = pl.assemble(o_pack, nope, [g * T + t, c0])
                o_pack = pl.assemble(
                    o_pack,
                    pl.cast(y_lo, target_type=pl.BF16, mode="rint"),
                    [g * T + t, c0 + NOPE_DIM],
                )
                o_pack = pl.assemble(
                    o_pack,
                    pl.cast(y_hi, target_type=pl.BF16, mode="rint"),
                    [g * T + t, c0 + NOPE_DIM + ROPE_HALF],
                )
    return o_pack


@pl.jit.inline
def o_proj(
    o_pack: pl.Tensor[[O_GROUPS * T, O_GROUP_IN], pl.BF16],
    wo_a: pl.Tensor[[O_GROUPS, O_LORA, O_GROUP_IN], pl.BF16],
    wo_b: pl.Tensor[[D, O_GROUPS * O_LORA], pl.INT8],
    wo_b_scale: pl.Tensor[[D], pl.FP32],
    attn_out: pl.Tensor[[T, D], pl.BF16],
):
    wo_a_flat = pl.reshape(wo_a, [O_GROUPS * O_LORA, O_GROUP_IN])
    o_r = pl.create_tensor([T, O_GROUPS * O_LORA], dtype=pl.FP32)
    o_i8 = pl.create_tensor([T, O_GROUPS * O_LORA], dtype=pl.INT8)
    o_sc = pl.create_tensor([T, 1], dtype=pl.FP32)
    for g in pl.parallel(O_GROUPS):
        for nb in pl.parallel(0, O_LORA, A_N):
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="o_proj_a"):
                a_acc = pl.matmul(
                    o_pack[g * T : g * T + T, 0:A_K],
                    wo_a_flat[g * O_LORA + nb : g * O_LORA + nb + A_N, 0:A_K],
                    out_dtype=pl.FP32,
                    b_trans=True,
                )
                for kb in pl.pipeline(1, O_GROUP_IN // A_K, stage=2):
                    k0 = kb * A_K
                    xa = o_pack[g * T : g * T + T, k0 : k0 + A_K]
                    wa = wo_a_flat[g * O_LORA + nb : g * O_LORA + nb + A_N, k0 : k0 + A_K]
                    a_acc = pl.matmul_acc(a_acc, xa, wa, b_trans=True)
                o_r = pl.assemble(o_r, a_acc, [0, g * O_LORA + nb])
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="o_quant"):
        amax = pl.full([1, T], dtype=pl.FP32, value=INT8_AMAX_EPS)
        for kb in pl.range(0, O_GROUPS * O_LORA, QUANT_TILE):
            c = pl.cast(
                pl.cast(o_r[:, kb : kb + QUANT_TILE], target_type=pl.BF16, mode="rint"),
                target_type=pl.FP32,
            )
            amax = pl.maximum(amax, pl.reshape(pl.row_max(pl.maximum(c, pl.neg(c))), [1, T]))
        qs = pl.div(pl.full([1, T], dtype=pl.FP32, value=INT8_SCALE_MAX), amax)
        o_sc[:, :] = pl.reshape(pl.recip(qs), [T, 1])
        qcol = pl.reshape(qs, [T, 1])
        for kb in pl.range(0, O_GROUPS * O_LORA, QUANT_TILE):
            c = pl.cast(
                pl.cast(o_r[:, kb : kb + QUANT_TILE], target_type=pl.BF16, mode="rint"),
                target_type=pl.FP32,
            )
            ci = pl.cast(pl.row_expand_mul(c, qcol), target_type=pl.INT32, mode="rint")
            o_i8[:, kb : kb + QUANT_TILE] = pl.cast(
                pl.cast(ci, target_type=pl.FP16, mode="round"), target_type=pl.INT8, mode="trunc"
            )
    ws = pl.reshape(wo_b_scale, [1, D])
    for nb in pl.parallel(0, D // B_N):
        n0 = nb * B_N
        acc = pl.create_tensor([T, B_N], dtype=pl.INT32)
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="o_proj_b"):
            for kb in pl.pipeline(O_GROUPS * O_LORA // B_K, stage=2):
                xb = o_i8[:, kb * B_K : (kb + 1) * B_K]
                wb = wo_b[n0 : n0 + B_N, kb * B_K : (kb + 1) * B_K]
                if kb == 0:
                    acc = pl.matmul(xb, wb, b_trans=True, out_dtype=pl.INT32)
                else:
                    acc = pl.matmul_acc(acc, xb, wb, b_trans=True)
            f = pl.col_expand_mul(
                pl.row_expand_mul(pl.cast(acc, target_type=pl.FP32, mode="none"), o_sc[:, :]),
                ws[:, n0 : n0 + B_N],
            )
            attn_out[:, n0 : n0 + B_N] = pl.cast(f, target_type=pl.BF16, mode="rint")
    return attn_out


@pl.jit
def sparse_attn(
    q: pl.Tensor[[T, H, HEAD_DIM], pl.BF16],
    ori_kv: pl.Tensor[[ORI_BLOCKS, BLOCK_SIZE, 1, HEAD_DIM], pl.BF16],
    ori_block_table: pl.Tensor[[B, ORI_MAX_BLOCKS], pl.INT32],
    cmp_kv: pl.Tensor[[CMP_BLOCKS, BLOCK_SIZE, 1, HEAD_DIM], pl.BF16],
    cmp_block_table: pl.Tensor[[B, CMP_MAX_BLOCKS], pl.INT32],
    sparse_idx: pl.Tensor[[T, TOPK], pl.INT32],
    sparse_len: pl.Tensor[[T], pl.INT32],
    attn_sink: pl.Tensor[[H], pl.FP32],
    cos: pl.Tensor[[T, ROPE_DIM], pl.BF16],
    sin: pl.Tensor[[T, ROPE_DIM], pl.BF16],
    wo_a: pl.Tensor[[O_GROUPS, O_LORA, O_GROUP_IN], pl.BF16],
    wo_b: pl.Tensor[[D, O_GROUPS * O_LORA], pl.INT8],
    wo_b_scale: pl.Tensor[[D], pl.FP32],
    attn_out: pl.Out[pl.Tensor[[T, D], pl.BF16]],
):
    kv_g = pl.create_tensor([T * TOPK, HEAD_DIM], dtype=pl.BF16)
    kv_g = gather_kv(ori_kv, ori_block_table, cmp_kv, cmp_block_table, sparse_idx, sparse_len, kv_g)
    o = pl.create_tensor([T * H, HEAD_DIM], dtype=pl.FP32)
    o = attention(q, kv_g, sparse_len, attn_sink, o)
    o_pack = pl.create_tensor([O_GROUPS * T, O_GROUP_IN], dtype=pl.BF16)
    o_pack = inv_rope(o, cos, sin, o_pack)
    attn_out = o_proj(o_pack, wo_a, wo_b, wo_b_scale, attn_out)
    return attn_out


def golden_sparse_attn(tensors):
    import torch

    q = tensors["q"].float()
    ori = tensors["ori_kv"].float().view(-1, BLOCK_SIZE, HEAD_DIM)
    cmp = tensors["cmp_kv"].float().view(-1, BLOCK_SIZE, HEAD_DIM)
    o = torch.zeros(T, H, HEAD_DIM)
    for t in range(T):
        b = t // S
        n = int(tensors["sparse_len"][t])
        rows = []
        for raw in tensors["sparse_idx"][t, :n].tolist():
            if raw < WIN:
                rows.append(ori[tensors["ori_block_table"][b, raw // BLOCK_SIZE], raw % BLOCK_SIZE])
            else:
                c = raw - WIN
                rows.append(cmp[tensors["cmp_block_table"][b, c // BLOCK_SIZE], c % BLOCK_SIZE])
        kv = torch.stack(rows)
        s = q[t] @ kv.T * SOFTMAX_SCALE
        m = s.max(-1, keepdim=True).values
        p = torch.exp(s - m)
        den = p.sum(-1, keepdim=True) + torch.exp(tensors["attn_sink"][:, None] - m)
        o[t] = (p @ kv) / den
    cos, sin = (
        tensors["cos"].float()[:, None, :ROPE_HALF],
        tensors["sin"].float()[:, None, :ROPE_HALF],
    )
    lo, hi = o[..., NOPE_DIM : NOPE_DIM + ROPE_HALF].clone(), o[..., NOPE_DIM + ROPE_HALF :].clone()
    o[..., NOPE_DIM : NOPE_DIM + ROPE_HALF] = lo * cos + hi * sin
    o[..., NOPE_DIM + ROPE_HALF :] = hi * cos - lo * sin
    o = o.to(torch.bfloat16).float().view(T, O_GROUPS, O_GROUP_IN)
    r = (
        torch.einsum("tgd,grd->tgr", o, tensors["wo_a"].float())
        .reshape(T, -1)
        .to(torch.bfloat16)
        .float()
    )
    qs = INT8_SCALE_MAX / r.abs().amax(-1, keepdim=True).clamp_min(INT8_AMAX_EPS)
    ri = torch.round(r * qs)
    out = (ri @ tensors["wo_b"].float().T) / qs * tensors["wo_b_scale"][None]
    tensors["attn_out"][:] = out.to(torch.bfloat16)


def build_tensor_specs():
    import torch
    from golden import TensorSpec

    def init_idx():
        idx = torch.full((T, TOPK), -1, dtype=torch.int32)
        for t in range(T):
            idx[t, :WIN] = torch.randperm(WIN)
            idx[t, WIN:] = WIN + torch.randperm(CMP_MAX_BLOCKS * BLOCK_SIZE)[:IDX_TOPK]
        return idx

    def init_len():
        lens = torch.full((T,), TOPK, dtype=torch.int32)
        lens[1] = 100
        lens[2] = 1
        lens[3] = 201
        return lens

    return [
        TensorSpec("q", [T, H, HEAD_DIM], torch.bfloat16, init_value=torch.randn),
        TensorSpec(
            "ori_kv", [ORI_BLOCKS, BLOCK_SIZE, 1, HEAD_DIM], torch.bfloat16, init_value=torch.randn
        ),
        TensorSpec(
            "ori_block_table",
            [B, ORI_MAX_BLOCKS],
            torch.int32,
            init_value=lambda: torch.randperm(B).view(B, 1),
        ),
        TensorSpec(
            "cmp_kv", [CMP_BLOCKS, BLOCK_SIZE, 1, HEAD_DIM], torch.bfloat16, init_value=torch.randn
        ),
        TensorSpec(
            "cmp_block_table",
            [B, CMP_MAX_BLOCKS],
            torch.int32,
            init_value=lambda: torch.randperm(CMP_BLOCKS).view(B, -1),
        ),
        TensorSpec("sparse_idx", [T, TOPK], torch.int32, init_value=init_idx),
        TensorSpec("sparse_len", [T], torch.int32, init_value=init_len),
        TensorSpec("attn_sink", [H], torch.float32, init_value=torch.randn),
        TensorSpec("cos", [T, ROPE_DIM], torch.bfloat16, init_value=torch.rand),
        TensorSpec("sin", [T, ROPE_DIM], torch.bfloat16, init_value=torch.rand),
        TensorSpec(
            "wo_a",
            [O_GROUPS, O_LORA, O_GROUP_IN],
            torch.bfloat16,
            init_value=lambda: torch.randn(O_GROUPS, O_LORA, O_GROUP_IN) / O_GROUP_IN**0.5,
        ),
        TensorSpec(
            "wo_b",
            [D, O_GROUPS * O_LORA],
            torch.int8,
            init_value=lambda: torch.randint(-127, 128, (D, O_GROUPS * O_LORA), dtype=torch.int8),
        ),
        TensorSpec("wo_b_scale", [D], torch.float32, init_value=lambda: torch.rand(D) * 1e-3),
        TensorSpec("attn_out", [T, D], torch.bfloat16, is_output=True),
    ]


if __name__ == "__main__":
    import argparse
    from golden import ratio_allclose, run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--platform", type=str, default="a2a3")
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--enable-l2-swimlane", action="store_true")
    args = parser.parse_args()
    result = run_jit(
        fn=sparse_attn,
        specs=build_tensor_specs(),
        golden_fn=golden_sparse_attn,
        runtime_cfg=dict(
            platform=args.platform,
            device_id=args.device,
            enable_l2_swimlane=args.enable_l2_swimlane,
        ),
        rtol=1e-2,
        atol=1e-2,
        compare_fn={"attn_out": ratio_allclose(atol=1e-2, rtol=1e-2, max_error_ratio=0.01)},
    )
    if not result.passed:
        if result.error:
            print(result.error)
        raise SystemExit(1)
