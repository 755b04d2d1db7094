"""The maths that all Q/KV kernels share: norm, quantisation, RoPE, and the projections made of them.

`R` rows (tokens t0 … t0+R of one chunk), everything in FP32 between the rounding points of the contract.
At the end the steps are put together twice: with INT8 codes for the query, and in BF16 throughout.
"""

from __future__ import annotations

import tilewright.language as pl
from tilewright.models.deepseek_v4.config import (
    INT8_AMAX_FLOOR,
    INT8_SCALE_MAX,
    KV_TILE,
    Q_LORA_TILE,
    T_CHUNK,
)

CORE = pl.Level.CORE_GROUP
EVEN = pl.tile.MaskPattern.P0101
ODD = pl.tile.MaskPattern.P1010


@pl.jit.inline
def unit_rms(x: pl.Tensor, eps: pl.Scalar[pl.FP32]):
    """x / sqrt(mean(x^2) + eps), row by row; x [R, N]."""
    mean_sq = pl.mul(pl.row_sum(pl.mul(x, x)), 1.0 / x.shape[1])  # [R, 1]
    return pl.row_expand_mul(x, pl.rsqrt(pl.add(mean_sq, eps)))  # [R, N]


@pl.jit.inline
def rms_norm(x: pl.Tensor, gamma: pl.Tensor, eps: pl.Scalar[pl.FP32]):
    """RMSNorm with a gain per channel; x [R, N], gamma [1, N]."""
    unit = unit_rms(x, eps)
    return pl.col_expand_mul(unit, gamma)  # [R, N]


@pl.jit.inline
def quantize_rows(x: pl.Tensor):
    """Per-token INT8: codes [R, N] and scale [R, 1] with x ~ codes * scale; x [R, N]."""
    amax = pl.maximum(pl.row_max(pl.abs(x)), INT8_AMAX_FLOOR)  # [R, 1]
    inv_scale = pl.div(pl.full([x.shape[0], 1], dtype=pl.FP32, value=INT8_SCALE_MAX), amax)
    rounded = pl.cast(pl.row_expand_mul(x, inv_scale), target_type=pl.INT32, mode="rint")
    codes = pl.cast(pl.cast(rounded, target_type=pl.FP16), target_type=pl.INT8, mode="trunc")
    return codes, pl.recip(inv_scale)


@pl.jit.inline
def rotate_pairs(tail: pl.Tensor, cos: pl.Tensor, sin: pl.Tensor):
    """Interleaved RoPE: channels 2i and 2i+1 turn by the angle of pair i; tail [R, ROPE], cos, sin [R, ROPE/2]."""
    even = pl.gather(tail, mask_pattern=EVEN)  # [R, ROPE/2]
    odd = pl.gather(tail, mask_pattern=ODD)
    turned_even = pl.sub(pl.mul(even, cos), pl.mul(odd, sin))
    turned_odd = pl.add(pl.mul(even, sin), pl.mul(odd, cos))
    half = pl.tensor.scatter(turned_even, mask_pattern=EVEN, dst=tail)
    return pl.tensor.scatter(turned_odd, mask_pattern=ODD, dst=half)  # [R, ROPE]


# -- the steps of a chunk --------------------------------------------------------------------------


@pl.jit.inline
def norm_and_project_down(
    x: pl.Tensor,  # [T, D] BF16
    attn_norm: pl.Tensor,  # [1, D] FP32
    wq_a: pl.Tensor,  # [D, Q_LORA] BF16
    wkv: pl.Tensor,  # [D, HEAD_DIM] BF16
    t0: pl.Scalar[pl.INDEX],
    R: pl.Scalar[pl.INDEX],
    eps: pl.Scalar[pl.FP32],
):
    """The attention norm of tokens t0 … t0+R and the two products of it, as `project_down` gives them."""
    x_norm = pl.create_tensor([R, x.shape[1]], dtype=pl.BF16)
    norm_tokens(x, attn_norm, x_norm, t0, R, eps)
    q_low, kv_low = project_down(x_norm, wq_a, wkv)
    return q_low, kv_low


@pl.jit.inline
def norm_tokens(
    x: pl.Tensor, attn_norm: pl.Tensor,
    x_norm: pl.Tensor,  # [R, D] BF16, written
    t0: pl.Scalar[pl.INDEX], R: pl.Scalar[pl.INDEX], eps: pl.Scalar[pl.FP32],
):  # fmt: skip
    """The attention norm of tokens t0 … t0+R."""
    with pl.at(level=CORE, name_hint="attn_norm"):
        x_chunk = pl.cast(x[t0 : t0 + R, :], target_type=pl.FP32)
        normed = rms_norm(x_chunk, attn_norm, eps)
        x_norm[:, :] = pl.cast(normed, target_type=pl.BF16, mode="rint")


@pl.jit.inline
def project_down(x_norm: pl.Tensor, wq_a: pl.Tensor, wkv: pl.Tensor):
    """q_low [R, Q_LORA] and kv_low [R, HEAD_DIM], FP32, of x_norm [R, D] BF16."""
    R, Q_LORA, HEAD_DIM = x_norm.shape[0], wq_a.shape[1], wkv.shape[1]
    q_low = pl.create_tensor([R, Q_LORA], dtype=pl.FP32)
    kv_low = pl.create_tensor([R, HEAD_DIM], dtype=pl.FP32)
    project_q_down(x_norm, wq_a, q_low)
    for n0 in pl.parallel(0, HEAD_DIM, KV_TILE):
        with pl.at(level=CORE, name_hint="kv_down"):
            kv_low[:, n0 : n0 + KV_TILE] = pl.matmul(x_norm, wkv[:, n0 : n0 + KV_TILE])
    return q_low, kv_low


@pl.jit.inline
def project_q_down(x_norm: pl.Tensor, wq_a: pl.Tensor, q_low: pl.Tensor):
    """q_low [R, Q_LORA] FP32, written, of x_norm [R, D] BF16."""
    for n0 in pl.parallel(0, wq_a.shape[1], Q_LORA_TILE):
        with pl.at(level=CORE, name_hint="q_down"):
            q_low[:, n0 : n0 + Q_LORA_TILE] = pl.matmul(x_norm, wq_a[:, n0 : n0 + Q_LORA_TILE])


@pl.jit.inline
def query_latent(q_low: pl.Tensor, q_norm: pl.Tensor, eps: pl.Scalar[pl.FP32]):
    """What the query is projected up from, before any codes: [R, Q_LORA] BF16."""
    latent = rms_norm(q_low, q_norm, eps)
    return pl.cast(latent, target_type=pl.BF16, mode="rint")


@pl.jit.inline
def kv_rows(
    kv_low: pl.Tensor,  # [R, HEAD_DIM] FP32
    kv_norm: pl.Tensor,  # [1, HEAD_DIM] FP32
    cos_rows: pl.Tensor,  # [T, ROPE] FP32, the row of each token
    sin_rows: pl.Tensor,  # [T, ROPE] FP32
    t0: pl.Scalar[pl.INDEX],
    R: pl.Scalar[pl.INDEX],
    eps: pl.Scalar[pl.FP32],
):
    """kv of tokens t0 … t0+R: RMSNorm, RoPE on the tail; [R, HEAD_DIM - ROPE] and [R, ROPE], BF16. Part of a region."""
    HEAD_DIM, PAIRS = kv_low.shape[1], cos_rows.shape[1] // 2
    NOPE = HEAD_DIM - 2 * PAIRS
    cos, sin = cos_rows[t0 : t0 + R, 0:PAIRS], sin_rows[t0 : t0 + R, 0:PAIRS]
    row = rms_norm(kv_low, kv_norm, eps)
    tail = rotate_pairs(row[:, NOPE:HEAD_DIM], cos, sin)
    kept = pl.cast(row[:, 0:NOPE], target_type=pl.BF16, mode="rint")
    turned = pl.cast(tail, target_type=pl.BF16, mode="rint")
    return kept, turned


@pl.jit.inline
def store_kv(
    kv_low: pl.Tensor, kv_norm: pl.Tensor, cos_rows: pl.Tensor, sin_rows: pl.Tensor,
    kv: pl.Tensor,  # [T, HEAD_DIM] BF16
    t0: pl.Scalar[pl.INDEX], R: pl.Scalar[pl.INDEX], eps: pl.Scalar[pl.FP32],
):  # fmt: skip
    """kv of the chunk, a row per token."""
    HEAD_DIM, NOPE = kv.shape[1], kv.shape[1] - cos_rows.shape[1]
    with pl.at(level=CORE, name_hint="kv_out"):
        kept, turned = kv_rows(kv_low, kv_norm, cos_rows, sin_rows, t0, R, eps)
        kv[t0 : t0 + R, 0:NOPE] = kept
        kv[t0 : t0 + R, NOPE:HEAD_DIM] = turned


@pl.jit.inline
def store_head(
    acc: pl.Tensor,  # [R, HEAD_DIM] FP32
    cos_rows: pl.Tensor,  # [T, ROPE] FP32
    sin_rows: pl.Tensor,  # [T, ROPE] FP32
    q: pl.Tensor,  # [T, H, HEAD_DIM] BF16
    h: pl.Scalar[pl.INDEX],
    t0: pl.Scalar[pl.INDEX],
    R: pl.Scalar[pl.INDEX],
    eps: pl.Scalar[pl.FP32],
):
    """Head h of the chunk's queries: RMSNorm without a gain, RoPE on the tail. Part of a region."""
    HEAD_DIM, PAIRS = q.shape[2], cos_rows.shape[1] // 2
    NOPE = HEAD_DIM - 2 * PAIRS
    cos, sin = cos_rows[t0 : t0 + R, 0:PAIRS], sin_rows[t0 : t0 + R, 0:PAIRS]
    head = unit_rms(acc, eps)
    tail = rotate_pairs(head[:, NOPE:HEAD_DIM], cos, sin)
    q[t0 : t0 + R, h, 0:NOPE] = pl.cast(head[:, 0:NOPE], target_type=pl.BF16, mode="rint")
    q[t0 : t0 + R, h, NOPE:HEAD_DIM] = pl.cast(tail, target_type=pl.BF16, mode="rint")


# -- the query in INT8: codes by token and by column of the weight, products exact -----------------


@pl.jit.inline
def store_codes(
    latent_bf16: pl.Tensor,  # [R, Q_LORA] BF16
    qr: pl.Tensor,  # [T, Q_LORA] INT8
    qr_scale: pl.Tensor,  # [T, 1] FP32
    t0: pl.Scalar[pl.INDEX],
    R: pl.Scalar[pl.INDEX],
):
    """The latent of tokens t0 … t0+R as codes and scales. Part of a region."""
    latent = pl.cast(latent_bf16, target_type=pl.FP32)
    codes, scale = quantize_rows(latent)
    qr[t0 : t0 + R, :] = codes
    qr_scale[t0 : t0 + R, :] = scale


@pl.jit.inline
def project_heads(
    qr: pl.Tensor, qr_scale: pl.Tensor,
    wq_b: pl.Tensor,  # [Q_LORA, H*HEAD_DIM] INT8
    wq_b_scale: pl.Tensor,  # [H*HEAD_DIM/128, 128] FP32
    cos_rows: pl.Tensor, sin_rows: pl.Tensor, q: pl.Tensor,
    t0: pl.Scalar[pl.INDEX], R: pl.Scalar[pl.INDEX], eps: pl.Scalar[pl.FP32],
):  # fmt: skip
    """Every head of tokens t0 … t0+R: product, scales of row and column, norm, RoPE."""
    HEAD_DIM = q.shape[2]
    scale_row = pl.reshape(wq_b_scale, [1, wq_b.shape[1]])
    for h in pl.parallel(0, q.shape[1]):
        with pl.at(level=CORE, name_hint="q_head"):
            c0 = h * HEAD_DIM
            acc = pl.matmul(qr[t0 : t0 + R, :], wq_b[:, c0 : c0 + HEAD_DIM], out_dtype=pl.INT32)
            acc_fp32 = pl.cast(acc, target_type=pl.FP32, mode="rint")
            by_row = pl.row_expand_mul(acc_fp32, qr_scale[t0 : t0 + R, :])
            by_column = pl.col_expand_mul(by_row, scale_row[:, c0 : c0 + HEAD_DIM])
            store_head(by_column, cos_rows, sin_rows, q, h, t0, R, eps)


@pl.jit.inline
def project_chunk(
    x: pl.Tensor, attn_norm: pl.Tensor, wq_a: pl.Tensor, q_norm: pl.Tensor, wq_b: pl.Tensor, wq_b_scale: pl.Tensor,
    wkv: pl.Tensor, kv_norm: pl.Tensor, cos_rows: pl.Tensor, sin_rows: pl.Tensor,
    q: pl.Tensor, kv: pl.Tensor, qr: pl.Tensor, qr_scale: pl.Tensor,
    t0: pl.Scalar[pl.INDEX], R: pl.Scalar[pl.INDEX], eps: pl.Scalar[pl.FP32],
):  # fmt: skip
    """Tokens t0 … t0+R: everything from the attention norm to the four outputs."""
    q_low, kv_low = norm_and_project_down(x, attn_norm, wq_a, wkv, t0, R, eps)
    with pl.at(level=CORE, name_hint="quantize_q"):
        latent_bf16 = query_latent(q_low, q_norm, eps)
        store_codes(latent_bf16, qr, qr_scale, t0, R)
    store_kv(kv_low, kv_norm, cos_rows, sin_rows, kv, t0, R, eps)
    project_heads(qr, qr_scale, wq_b, wq_b_scale, cos_rows, sin_rows, q, t0, R, eps)


@pl.jit.inline
def project_qkv(
    x: pl.Tensor, attn_norm: pl.Tensor, wq_a: pl.Tensor, q_norm: pl.Tensor, wq_b: pl.Tensor, wq_b_scale: pl.Tensor,
    wkv: pl.Tensor, kv_norm: pl.Tensor, cos_rows: pl.Tensor, sin_rows: pl.Tensor,
    q: pl.Tensor, kv: pl.Tensor, qr: pl.Tensor, qr_scale: pl.Tensor, eps: pl.Scalar[pl.FP32],
):  # fmt: skip
    """All T tokens, a chunk at a time; shapes as in the steps above."""
    tokens = pl.tensor.dim(x, 0)
    chunk = pl.min(tokens, T_CHUNK)
    whole = tokens // chunk * chunk
    for t0 in pl.range(0, whole, chunk):
        project_chunk(
            x, attn_norm, wq_a, q_norm, wq_b, wq_b_scale, wkv, kv_norm, cos_rows, sin_rows,
            q, kv, qr, qr_scale, t0, chunk, eps,
        )  # fmt: skip
    # The last chunk where it is shorter: one trip or none.
    for t0 in pl.unroll(whole, tokens, chunk):
        project_chunk(
            x, attn_norm, wq_a, q_norm, wq_b, wq_b_scale, wkv, kv_norm, cos_rows, sin_rows,
            q, kv, qr, qr_scale, t0, tokens - whole, eps,
        )  # fmt: skip


# -- the query in BF16: the latent and the weight as they are, products in FP32 --------------------


@pl.jit.inline
def project_chunk_bf16(
    x: pl.Tensor, attn_norm: pl.Tensor, wq_a: pl.Tensor, q_norm: pl.Tensor,
    wq_b: pl.Tensor,  # [Q_LORA, H*HEAD_DIM] BF16
    wkv: pl.Tensor, kv_norm: pl.Tensor, cos_rows: pl.Tensor, sin_rows: pl.Tensor, q: pl.Tensor, kv: pl.Tensor,
    qr: pl.Tensor,  # [T, Q_LORA] BF16
    t0: pl.Scalar[pl.INDEX], R: pl.Scalar[pl.INDEX], eps: pl.Scalar[pl.FP32],
):  # fmt: skip
    """Tokens t0 … t0+R: everything from the attention norm to the three outputs."""
    HEAD_DIM = wkv.shape[1]
    q_low, kv_low = norm_and_project_down(x, attn_norm, wq_a, wkv, t0, R, eps)

    with pl.at(level=CORE, name_hint="store_qr"):
        latent_bf16 = query_latent(q_low, q_norm, eps)
        qr[t0 : t0 + R, :] = latent_bf16

    store_kv(kv_low, kv_norm, cos_rows, sin_rows, kv, t0, R, eps)

    for h in pl.parallel(0, q.shape[1]):
        with pl.at(level=CORE, name_hint="q_head"):
            c0 = h * HEAD_DIM
            acc = pl.matmul(qr[t0 : t0 + R, :], wq_b[:, c0 : c0 + HEAD_DIM])
            store_head(acc, cos_rows, sin_rows, q, h, t0, R, eps)


@pl.jit.inline
def project_qkv_bf16(
    x: pl.Tensor, attn_norm: pl.Tensor, wq_a: pl.Tensor, q_norm: pl.Tensor, wq_b: pl.Tensor,
    wkv: pl.Tensor, kv_norm: pl.Tensor, cos_rows: pl.Tensor, sin_rows: pl.Tensor,
    q: pl.Tensor, kv: pl.Tensor, qr: pl.Tensor, eps: pl.Scalar[pl.FP32],
):  # fmt: skip
    """`project_qkv` with the BF16 query."""
    tokens = pl.tensor.dim(x, 0)
    chunk = pl.min(tokens, T_CHUNK)
    whole = tokens // chunk * chunk
    for t0 in pl.range(0, whole, chunk):
        project_chunk_bf16(
            x, attn_norm, wq_a, q_norm, wq_b, wkv, kv_norm, cos_rows, sin_rows, q, kv, qr, t0, chunk, eps,
        )  # fmt: skip
    for t0 in pl.unroll(whole, tokens, chunk):
        project_chunk_bf16(
            x, attn_norm, wq_a, q_norm, wq_b, wkv, kv_norm, cos_rows, sin_rows, q, kv, qr, t0, tokens - whole, eps,
        )  # fmt: skip
