"""The maths that prefill and decode share: norm, quantisation, RoPE, and the projections made of them.

`R` rows (tokens of one chunk), everything in FP32 between the rounding points of the contract.
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


@pl.jit.inline
def project_chunk(
    x: pl.Tensor,  # [T, D] BF16
    attn_norm: pl.Tensor,  # [1, D] FP32
    wq_a: pl.Tensor,  # [D, Q_LORA] BF16
    q_norm: pl.Tensor,  # [1, Q_LORA] FP32
    wq_b: pl.Tensor,  # [Q_LORA, H*HEAD_DIM] INT8
    wq_b_scale: pl.Tensor,  # [H*HEAD_DIM/128, 128] FP32
    wkv: pl.Tensor,  # [D, HEAD_DIM] BF16
    kv_norm: pl.Tensor,  # [1, HEAD_DIM] FP32
    cos_rows: pl.Tensor,  # [T, ROPE] FP32, the row of each token
    sin_rows: pl.Tensor,  # [T, ROPE] FP32
    q: pl.Tensor,  # [T, H, HEAD_DIM] BF16
    kv: pl.Tensor,  # [T, HEAD_DIM] BF16
    qr: pl.Tensor,  # [T, Q_LORA] INT8
    qr_scale: pl.Tensor,  # [T, 1] FP32
    t0: pl.Scalar[pl.INDEX],
    R: pl.Scalar[pl.INDEX],
    eps: pl.Scalar[pl.FP32],
):
    """Tokens t0 … t0+R: everything from the attention norm to the four outputs."""
    x_norm = pl.create_tensor([R, x.shape[1]], dtype=pl.BF16)
    q_low = pl.create_tensor([R, wq_a.shape[1]], dtype=pl.FP32)
    kv_low = pl.create_tensor([R, wkv.shape[1]], dtype=pl.FP32)

    with pl.at(level=CORE, name_hint="attn_norm"):
        x_chunk = pl.cast(x[t0 : t0 + R, :], target_type=pl.FP32)
        normed = rms_norm(x_chunk, attn_norm, eps)
        x_norm[:, :] = pl.cast(normed, target_type=pl.BF16, mode="rint")

    project_down(x_norm, wq_a, wkv, q_low, kv_low)

    with pl.at(level=CORE, name_hint="quantize_q"):
        latent = rms_norm(q_low, q_norm, eps)
        latent_bf16 = pl.cast(latent, target_type=pl.BF16, mode="rint")
        store_codes(latent_bf16, qr, qr_scale, t0, R)

    kv_rows(kv_low, kv_norm, cos_rows, sin_rows, kv, t0, R, eps)
    q_heads(qr, qr_scale, wq_b, wq_b_scale, cos_rows, sin_rows, q, t0, R, eps)


@pl.jit.inline
def project_down(
    x_norm: pl.Tensor, wq_a: pl.Tensor, wkv: pl.Tensor, q_low: pl.Tensor, kv_low: pl.Tensor
):
    """x_norm [R, D] BF16 to q_low [R, Q_LORA] and kv_low [R, HEAD_DIM], both FP32."""
    Q_LORA, HEAD_DIM = wq_a.shape[1], wkv.shape[1]
    for n0 in pl.parallel(0, Q_LORA, Q_LORA_TILE):
        with pl.at(level=CORE, name_hint="q_down"):
            q_low[:, n0 : n0 + Q_LORA_TILE] = pl.matmul(x_norm, wq_a[:, n0 : n0 + Q_LORA_TILE])
    for n0 in pl.parallel(0, HEAD_DIM, KV_TILE):
        with pl.at(level=CORE, name_hint="kv_down"):
            kv_low[:, n0 : n0 + KV_TILE] = pl.matmul(x_norm, wkv[:, n0 : n0 + KV_TILE])


@pl.jit.inline
def store_codes(
    latent_bf16: pl.Tensor, qr: pl.Tensor, qr_scale: pl.Tensor, t0: pl.Scalar[pl.INDEX], R: pl.Scalar[pl.INDEX]
):  # fmt: skip
    """The latent of rows t0 … t0+R as INT8 codes and scales; in a region."""
    latent_fp32 = pl.cast(latent_bf16, target_type=pl.FP32)
    codes, scale = quantize_rows(latent_fp32)
    qr[t0 : t0 + R, :] = codes
    qr_scale[t0 : t0 + R, :] = scale


@pl.jit.inline
def kv_rows(
    kv_low: pl.Tensor, kv_norm: pl.Tensor, cos_rows: pl.Tensor, sin_rows: pl.Tensor, kv: pl.Tensor,
    t0: pl.Scalar[pl.INDEX], R: pl.Scalar[pl.INDEX], eps: pl.Scalar[pl.FP32],
):  # fmt: skip
    """Norm, RoPE and store of the keys and values of rows t0 … t0+R."""
    HEAD_DIM, PAIRS = kv.shape[1], cos_rows.shape[1] // 2
    NOPE = HEAD_DIM - 2 * PAIRS
    with pl.at(level=CORE, name_hint="kv_out"):
        cos, sin = cos_rows[t0 : t0 + R, 0:PAIRS], sin_rows[t0 : t0 + R, 0:PAIRS]
        kv_row = rms_norm(kv_low, kv_norm, eps)
        kv_tail = rotate_pairs(kv_row[:, NOPE:HEAD_DIM], cos, sin)
        kv[t0 : t0 + R, 0:NOPE] = pl.cast(kv_row[:, 0:NOPE], target_type=pl.BF16, mode="rint")
        kv[t0 : t0 + R, NOPE:HEAD_DIM] = pl.cast(kv_tail, target_type=pl.BF16, mode="rint")


@pl.jit.inline
def q_heads(
    qr: pl.Tensor, qr_scale: pl.Tensor, wq_b: pl.Tensor, wq_b_scale: pl.Tensor,
    cos_rows: pl.Tensor, sin_rows: pl.Tensor, q: pl.Tensor,
    t0: pl.Scalar[pl.INDEX], R: pl.Scalar[pl.INDEX], eps: pl.Scalar[pl.FP32],
):  # fmt: skip
    """The up-projection, norm and RoPE of every head of rows t0 … t0+R."""
    HEAD_DIM, PAIRS = q.shape[2], cos_rows.shape[1] // 2
    NOPE = HEAD_DIM - 2 * PAIRS
    scale_row = pl.reshape(wq_b_scale, [1, wq_b.shape[1]])
    for h in pl.parallel(0, q.shape[1]):
        with pl.at(level=CORE, name_hint="q_head"):
            c0 = h * HEAD_DIM
            cos, sin = cos_rows[t0 : t0 + R, 0:PAIRS], sin_rows[t0 : t0 + R, 0:PAIRS]
            acc = pl.matmul(qr[t0 : t0 + R, :], wq_b[:, c0 : c0 + HEAD_DIM], out_dtype=pl.INT32)
            acc_fp32 = pl.cast(acc, target_type=pl.FP32, mode="rint")
            by_row = pl.row_expand_mul(acc_fp32, qr_scale[t0 : t0 + R, :])
            head = unit_rms(pl.col_expand_mul(by_row, scale_row[:, c0 : c0 + HEAD_DIM]), eps)
            tail = rotate_pairs(head[:, NOPE:HEAD_DIM], cos, sin)
            q[t0 : t0 + R, h, 0:NOPE] = pl.cast(head[:, 0:NOPE], target_type=pl.BF16, mode="rint")
            q[t0 : t0 + R, h, NOPE:HEAD_DIM] = pl.cast(tail, target_type=pl.BF16, mode="rint")


@pl.jit.inline
def project_qkv(
    x: pl.Tensor, attn_norm: pl.Tensor, wq_a: pl.Tensor, q_norm: pl.Tensor, wq_b: pl.Tensor, wq_b_scale: pl.Tensor,
    wkv: pl.Tensor, kv_norm: pl.Tensor, cos_rows: pl.Tensor, sin_rows: pl.Tensor,
    q: pl.Tensor, kv: pl.Tensor, qr: pl.Tensor, qr_scale: pl.Tensor, eps: pl.Scalar[pl.FP32],
):  # fmt: skip
    """All T tokens, a chunk at a time; shapes as in `project_chunk`."""
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
