"""Decode or prefill into a KV cache: `qkv_proj_rope` that also puts each kv row into its slot, in the same launch.

Run it as a module to check it against the Torch reference:
`python -m tilewright.models.deepseek_v4.qkv_proj_rope_cached`.
"""

from __future__ import annotations

from functools import cache

import tilewright.language as pl
from tilewright.models.deepseek_v4.config import T_CHUNK, Config
from tilewright.models.deepseek_v4.steps import (
    CORE,
    kv_rows,
    norm_and_project_down,
    project_heads,
    query_latent,
    store_codes,
)

T = pl.dynamic("T")
BLOCKS = pl.dynamic("BLOCKS")
BLOCK = pl.dynamic("BLOCK")


@pl.jit.inline
def store_kv_cached(
    kv_low: pl.Tensor, kv_norm: pl.Tensor, cos_rows: pl.Tensor, sin_rows: pl.Tensor,
    slots: pl.Tensor,  # [T] INT64, the row of `cache` for each token; below 0: none
    kv: pl.Tensor,  # [T, HEAD_DIM] BF16
    cache: pl.Tensor,  # [BLOCKS, BLOCK, HEAD_DIM] BF16
    t0: pl.Scalar[pl.INDEX], R: pl.Scalar[pl.INDEX], eps: pl.Scalar[pl.FP32],
):  # fmt: skip
    """kv of the chunk, a row per token, each also into its slot of the cache. No two tokens may share a slot."""
    HEAD_DIM, NOPE = kv.shape[1], kv.shape[1] - cos_rows.shape[1]
    rows = pl.reshape(cache, [cache.shape[0] * cache.shape[1], HEAD_DIM])
    for r in pl.parallel(0, R):
        with pl.at(level=CORE, name_hint="kv_cache"):
            t, slot = t0 + r, pl.read(slots, [t0 + r])
            kept, turned = kv_rows(kv_low[r : r + 1, :], kv_norm, cos_rows, sin_rows, t, 1, eps)
            kv[t : t + 1, 0:NOPE] = kept
            kv[t : t + 1, NOPE:HEAD_DIM] = turned
            if slot >= 0:
                rows[slot : slot + 1, 0:NOPE] = kept
                rows[slot : slot + 1, NOPE:HEAD_DIM] = turned


@pl.jit.inline
def project_chunk(
    x: pl.Tensor, attn_norm: pl.Tensor, wq_a: pl.Tensor, q_norm: pl.Tensor, wq_b: pl.Tensor, wq_b_scale: pl.Tensor,
    wkv: pl.Tensor, kv_norm: pl.Tensor, cos_rows: pl.Tensor, sin_rows: pl.Tensor, slots: pl.Tensor,
    q: pl.Tensor, kv: pl.Tensor, qr: pl.Tensor, qr_scale: pl.Tensor, cache: pl.Tensor,
    t0: pl.Scalar[pl.INDEX], R: pl.Scalar[pl.INDEX], eps: pl.Scalar[pl.FP32],
):  # fmt: skip
    """Tokens t0 … t0+R: everything from the attention norm to the four outputs and the cache."""
    q_low, kv_low = norm_and_project_down(x, attn_norm, wq_a, wkv, t0, R, eps)
    with pl.at(level=CORE, name_hint="quantize_q"):
        latent_bf16 = query_latent(q_low, q_norm, eps)
        store_codes(latent_bf16, qr, qr_scale, t0, R)
    store_kv_cached(kv_low, kv_norm, cos_rows, sin_rows, slots, kv, cache, t0, R, eps)
    project_heads(qr, qr_scale, wq_b, wq_b_scale, cos_rows, sin_rows, q, t0, R, eps)


@cache
def build(cfg: Config):
    """The kernel for one set of model dimensions; slot s is row s % BLOCK of block s // BLOCK."""
    D, Q_LORA, EPS = cfg.hidden_size, cfg.q_lora_rank, cfg.rms_norm_eps
    H, HEAD_DIM, ROPE = cfg.num_attention_heads, cfg.head_dim, cfg.rope_dim

    @pl.jit
    def qkv_proj_rope_cached(
        x: pl.Tensor[[T, D], pl.BF16],
        attn_norm: pl.Tensor[[1, D], pl.FP32],
        wq_a: pl.Tensor[[D, Q_LORA], pl.BF16],
        q_norm: pl.Tensor[[1, Q_LORA], pl.FP32],
        wq_b: pl.Tensor[[Q_LORA, H * HEAD_DIM], pl.INT8],
        wq_b_scale: pl.Tensor[[H * HEAD_DIM // 128, 128], pl.FP32],
        wkv: pl.Tensor[[D, HEAD_DIM], pl.BF16],
        kv_norm: pl.Tensor[[1, HEAD_DIM], pl.FP32],
        rope_cos: pl.Tensor[[T, ROPE], pl.FP32],
        rope_sin: pl.Tensor[[T, ROPE], pl.FP32],
        slots: pl.Tensor[[T], pl.INT64],
        q: pl.Out[pl.Tensor[[T, H, HEAD_DIM], pl.BF16]],
        kv: pl.Out[pl.Tensor[[T, HEAD_DIM], pl.BF16]],
        qr: pl.Out[pl.Tensor[[T, Q_LORA], pl.INT8]],
        qr_scale: pl.Out[pl.Tensor[[T, 1], pl.FP32]],
        cache: pl.InOut[pl.Tensor[[BLOCKS, BLOCK, HEAD_DIM], pl.BF16]],
    ):
        """As `qkv_proj_rope`; row slots[t] of the cache becomes kv[t] where slots[t] is not negative."""
        tokens = pl.tensor.dim(x, 0)
        chunk = pl.min(tokens, T_CHUNK)
        whole = tokens // chunk * chunk
        for t0 in pl.range(0, whole, chunk):
            project_chunk(
                x, attn_norm, wq_a, q_norm, wq_b, wq_b_scale, wkv, kv_norm, rope_cos, rope_sin, slots,
                q, kv, qr, qr_scale, cache, t0, chunk, EPS,
            )  # fmt: skip
        # The last chunk where it is shorter: one trip or none.
        for t0 in pl.unroll(whole, tokens, chunk):
            project_chunk(
                x, attn_norm, wq_a, q_norm, wq_b, wq_b_scale, wkv, kv_norm, rope_cos, rope_sin, slots,
                q, kv, qr, qr_scale, cache, t0, tokens - whole, EPS,
            )  # fmt: skip

    return qkv_proj_rope_cached


if __name__ == "__main__":
    from tilewright.cli.check import kernel_main

    kernel_main("qkv_proj_rope_cached")
