"""DeepSeek-V4 decode, attention of a CSA layer: norm, low-rank Q/KV, then window and top-k of a paged cache."""

import pypto.language as pl

from config import (
    BLOCK_SIZE,
    DECODE_BATCH,
    DECODE_SEQ,
    FLASH as M,
    FP32_NEG_INF,
)
from gate import ffn_norm

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
WIN = M.sliding_window
IDX_TOPK = M.index_topk
TOPK_ALL = WIN + IDX_TOPK
EPS = M.rms_norm_eps
SCALE = M.softmax_scale

WIN_BLOCKS = B
CMP_MAX_BLOCKS = 16
CMP_BLOCKS = B * CMP_MAX_BLOCKS

QA_N, QA_K = 128, 512
QB_N, QB_K = 512, 256
KV_N = 128
H_TILE = 16
KV_TILE = 128


@pl.jit.inline
def attn_norm_q_kv(
    x: pl.Tensor[[B, S, D], pl.BF16],
    norm_w: pl.Tensor[[D], pl.FP32],
    wq_a: pl.Tensor[[D, Q_LORA], pl.BF16],
    q_norm_w: pl.Tensor[[Q_LORA], pl.FP32],
    wq_b: pl.Tensor[[Q_LORA, H * HEAD_DIM], pl.BF16],
    wkv: pl.Tensor[[D, HEAD_DIM], pl.BF16],
    kv_norm_w: pl.Tensor[[HEAD_DIM], pl.FP32],
    cos: pl.Tensor[[T, ROPE_DIM], pl.FP32],
    sin: pl.Tensor[[T, ROPE_DIM], pl.FP32],
    q: pl.Tensor[[T, H, HEAD_DIM], pl.BF16],
    kv: pl.Tensor[[T, HEAD_DIM], pl.BF16],
):
    x_flat = pl.reshape(x, [T, D])
    x_n = pl.create_tensor([T, D], dtype=pl.BF16)
    x_n = ffn_norm(x_flat, norm_w, x_n)
    qa = pl.create_tensor([T, Q_LORA], dtype=pl.FP32)
    for n0 in pl.parallel(0, Q_LORA, QA_N):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="q_a"):
            acc = pl.create_tensor([T, QA_N], dtype=pl.FP32)
            for kb in pl.pipeline(D // QA_K, stage=2):
                k0 = kb * QA_K
                a = x_n[:, k0 : k0 + QA_K]
                w = wq_a[k0 : k0 + QA_K, n0 : n0 + QA_N]
                if kb == 0:
                    acc = pl.matmul(a, w)
                else:
                    acc = pl.matmul_acc(acc, a, w)
            qa[:, n0 : n0 + QA_N] = acc
    kvf = pl.create_tensor([T, HEAD_DIM], dtype=pl.FP32)
    for n0 in pl.parallel(0, HEAD_DIM, KV_N):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="kv_proj"):
            acc = pl.matmul(x_n[:, 0:QA_K], wkv[0:QA_K, n0 : n0 + KV_N])
            for kb in pl.range(1, D // QA_K):
                k0 = kb * QA_K
                acc = pl.matmul_acc(
                    acc, x_n[:, k0 : k0 + QA_K], wkv[k0 : k0 + QA_K, n0 : n0 + KV_N]
                )
            kvf[:, n0 : n0 + KV_N] = acc
    qa16 = pl.create_tensor([T, Q_LORA], dtype=pl.BF16)
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="q_a_norm"):
        qr = qa[:, :]
        q_inv = pl.rsqrt(pl.add(pl.mul(pl.row_sum(pl.mul(qr, qr)), 1.0 / Q_LORA), EPS))
        qr_n = pl.col_expand_mul(pl.row_expand_mul(qr, q_inv), pl.reshape(q_norm_w, [1, Q_LORA]))
        qa16[:, :] = pl.cast(qr_n, target_type=pl.BF16, mode="rint")
    qf = pl.create_tensor([T, H * HEAD_DIM], dtype=pl.FP32)
    for n0 in pl.parallel(0, H * HEAD_DIM, QB_N):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="q_b"):
            acc = pl.create_tensor([T, QB_N], dtype=pl.FP32)
            for kb in pl.pipeline(Q_LORA // QB_K, stage=2):
                k0 = kb * QB_K
                if kb == 0:
                    acc = pl.matmul(qa16[:, k0 : k0 + QB_K], wq_b[k0 : k0 + QB_K, n0 : n0 + QB_N])
                else:
                    acc = pl.matmul_acc(
                        acc, qa16[:, k0 : k0 + QB_K], wq_b[k0 : k0 + QB_K, n0 : n0 + QB_N]
                    )
            qf[:, n0 : n0 + QB_N] = acc
    q_rows = pl.reshape(qf, [T * H, HEAD_DIM])
    q_flat = pl.reshape(q, [T * H, HEAD_DIM])
    for t in pl.parallel(T):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="q_norm_rope"):
            c = cos[t : t + 1, 0:ROPE_HALF]
            s = sin[t : t + 1, 0:ROPE_HALF]
            for h0 in pl.range(0, H, H_TILE):
                r = q_rows[t * H + h0 : t * H + h0 + H_TILE, :]
                inv = pl.rsqrt(pl.add(pl.mul(pl.row_sum(pl.mul(r, r)), 1.0 / HEAD_DIM), EPS))
                rn = pl.row_expand_mul(r, inv)
                q_flat[t * H + h0 : t * H + h0 + H_TILE, 0:NOPE_DIM] = pl.cast(
                    rn[:, 0:NOPE_DIM], target_type=pl.BF16, mode="rint"
                )
                tail = rn[:, NOPE_DIM:HEAD_DIM]
                ev = pl.gather(tail, mask_pattern=pl.tile.MaskPattern.P0101)
                od = pl.gather(tail, mask_pattern=pl.tile.MaskPattern.P1010)
                re = pl.sub(pl.col_expand_mul(ev, c), pl.col_expand_mul(od, s))
                ro = pl.add(pl.col_expand_mul(ev, s), pl.col_expand_mul(od, c))
                wv = pl.tensor.scatter(re, mask_pattern=pl.tile.MaskPattern.P0101, dst=tail)
                wv = pl.tensor.scatter(ro, mask_pattern=pl.tile.MaskPattern.P1010, dst=wv)
                q_flat[t * H + h0 : t * H + h0 + H_TILE, NOPE_DIM:HEAD_DIM] = pl.cast(
                    wv, target_type=pl.BF16, mode="rint"
                )
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="kv_norm_rope"):
        r = kvf[:, :]
        inv = pl.rsqrt(pl.add(pl.mul(pl.row_sum(pl.mul(r, r)), 1.0 / HEAD_DIM), EPS))
        rn = pl.col_expand_mul(pl.row_expand_mul(r, inv), pl.reshape(kv_norm_w, [1, HEAD_DIM]))
        kv[:, 0:NOPE_DIM] = pl.cast(rn[:, 0:NOPE_DIM], target_type=pl.BF16, mode="rint")
        tail = rn[:, NOPE_DIM:HEAD_DIM]
        ev = pl.gather(tail, mask_pattern=pl.tile.MaskPattern.P0101)
        od = pl.gather(tail, mask_pattern=pl.tile.MaskPattern.P1010)
        c = cos[:, 0:ROPE_HALF]
        s = sin[:, 0:ROPE_HALF]
        wv = pl.tensor.scatter(
            pl.sub(pl.mul(ev, c), pl.mul(od, s)), mask_pattern=pl.tile.MaskPattern.P0101, dst=tail
        )
        wv = pl.tensor.scatter(
            pl.add(pl.mul(ev, s), pl.mul(od, c)), mask_pattern=pl.tile.MaskPattern.P1010, dst=wv
        )
        kv[:, NOPE_DIM:HEAD_DIM] = pl.cast(wv, target_type=pl.BF16, mode="rint")
    return q, kv


@pl.jit.inline
def csa_attention(
    q: pl.Tensor[[T, H, HEAD_DIM], pl.BF16],
    kv: pl.Tensor[[T, HEAD_DIM], pl.BF16],
    win_cache: pl.Tensor[[WIN_BLOCKS, BLOCK_SIZE, 1, HEAD_DIM], pl.BF16],
    cmp_cache: pl.Tensor[[CMP_BLOCKS, BLOCK_SIZE, 1, HEAD_DIM], pl.BF16],
    cmp_table: pl.Tensor[[B, CMP_MAX_BLOCKS], pl.INT32],
    topk_idx: pl.Tensor[[T, IDX_TOPK], pl.INT32],
    start_pos: pl.Tensor[[B], pl.INT32],
    attn_sink: pl.Tensor[[H], pl.FP32],
    o: pl.Tensor[[T, H, HEAD_DIM], pl.BF16],
):
    win_rows = pl.reshape(win_cache, [WIN_BLOCKS * BLOCK_SIZE, HEAD_DIM])
    cmp_rows = pl.reshape(cmp_cache, [CMP_BLOCKS * BLOCK_SIZE, HEAD_DIM])
    sink = pl.reshape(attn_sink, [H, 1])
    q_flat = pl.reshape(q, [T * H, HEAD_DIM])
    o_flat = pl.reshape(o, [T * H, HEAD_DIM])
    gathered = pl.create_tensor([T * TOPK_ALL, HEAD_DIM], dtype=pl.BF16)
    counts = pl.create_tensor([T], dtype=pl.INT32)
    for b in pl.parallel(B):
        for s in pl.range(S):
            t = b * S + s
            pos = pl.read(start_pos, [b]) + s
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="kv_write"):
                dst = b * BLOCK_SIZE + pos % WIN
                win_rows[dst : dst + 1, :] = kv[t : t + 1, :]
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="gather_kv"):
                n_win = pl.min(pos + 1, WIN)
                g_win = pl.slice(
                    win_rows, [WIN, HEAD_DIM], [b * BLOCK_SIZE, 0], valid_shape=[n_win, HEAD_DIM]
                )
                gathered = pl.assemble(gathered, g_win, [t * TOPK_ALL, 0])
                n = n_win
                for k in pl.range(IDX_TOPK):
                    ci = pl.read(topk_idx, [t, k])
                    if ci >= 0:
                        page = pl.cast(pl.read(cmp_table, [b, ci // BLOCK_SIZE]), pl.INDEX)
                        src = page * BLOCK_SIZE + ci % BLOCK_SIZE
                        gathered[t * TOPK_ALL + n : t * TOPK_ALL + n + 1, :] = cmp_rows[
                            src : src + 1, :
                        ]
                        n = n + 1
                pl.write(counts, [t], pl.cast(n, pl.INT32))
    for t in pl.parallel(T):
        n_kv = pl.read(counts, [t])
        for h0 in pl.parallel(0, H, H_TILE):
            with pl.at(
                level=pl.Level.CORE_GROUP,
                optimizations=[pl.split(pl.SplitMode.UP_DOWN)],
                name_hint="csa",
            ):
                qt = q_flat[t * H + h0 : t * H + h0 + H_TILE, :]
                mi = pl.full([1, H_TILE], dtype=pl.FP32, value=FP32_NEG_INF)
                li = pl.full([1, H_TILE], dtype=pl.FP32, value=0.0)
                oi = pl.full([H_TILE, HEAD_DIM], dtype=pl.FP32, value=0.0)
                for kb in pl.pipeline((n_kv + KV_TILE - 1) // KV_TILE, stage=2):
                    s0 = kb * KV_TILE
                    valid = pl.min(KV_TILE, n_kv - s0)
                    kt = pl.slice(
                        gathered,
                        [KV_TILE, HEAD_DIM],
                        [t * TOPK_ALL + s0, 0],
                        valid_shape=[valid, HEAD_DIM],
                    )
                    sc = pl.mul(pl.matmul(qt, kt, b_trans=True), SCALE)
                    sc = pl.fillpad(pl.set_validshape(sc, H_TILE, valid), pad_value=pl.PadValue.min)
                    cur = pl.reshape(pl.row_max(sc), [1, H_TILE])
                    m_new = pl.maximum(mi, cur)
                    alpha = pl.exp(pl.sub(mi, m_new))
                    p = pl.exp(pl.row_expand_sub(sc, pl.reshape(m_new, [H_TILE, 1])))
                    p16 = pl.cast(p, target_type=pl.BF16, mode="rint")
                    li = pl.add(pl.mul(li, alpha), pl.reshape(pl.row_sum(p), [1, H_TILE]))
                    oi = pl.add(
                        pl.row_expand_mul(oi, pl.reshape(alpha, [H_TILE, 1])), pl.matmul(p16, kt)
                    )
                    mi = m_new
                den = pl.add(
                    pl.reshape(li, [H_TILE, 1]),
                    pl.exp(pl.sub(sink[h0 : h0 + H_TILE, :], pl.reshape(mi, [H_TILE, 1]))),
                )
                o_flat[t * H + h0 : t * H + h0 + H_TILE, :] = pl.cast(
                    pl.row_expand_div(oi, den), target_type=pl.BF16, mode="rint"
                )
    return o
