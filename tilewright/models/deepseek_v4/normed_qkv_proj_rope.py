"""The Q/KV projection of tokens that are normed already, for models that norm outside of attention.

Besides q and kv it gives the query's latent in BF16, which the indexer of sparse attention reads.
"""

from __future__ import annotations

from functools import cache

import tilewright.language as pl
from tilewright.models.deepseek_v4.config import Config
from tilewright.models.deepseek_v4.steps import (
    CORE,
    project_down,
    project_heads,
    query_latent,
    store_codes,
    store_kv,
)

T = pl.dynamic("T")


@cache
def build(cfg: Config):
    """The kernel for one set of model dimensions; its tokens are one chunk (`T_CHUNK` at most, to be fast)."""
    D, Q_LORA, EPS = cfg.hidden_size, cfg.q_lora_rank, cfg.rms_norm_eps
    H, HEAD_DIM, ROPE = cfg.num_attention_heads, cfg.head_dim, cfg.rope_dim

    @pl.jit
    def normed_qkv_proj_rope(
        x_norm: pl.Tensor[[T, D], pl.BF16],
        wq_a: pl.Tensor[[D, Q_LORA], pl.BF16],
        q_norm: pl.Tensor[[1, Q_LORA], pl.FP32],
        wq_b: pl.Tensor[[Q_LORA, H * HEAD_DIM], pl.INT8],
        wq_b_scale: pl.Tensor[[H * HEAD_DIM // 128, 128], pl.FP32],
        wkv: pl.Tensor[[D, HEAD_DIM], pl.BF16],
        kv_norm: pl.Tensor[[1, HEAD_DIM], pl.FP32],
        rope_cos: pl.Tensor[[T, ROPE], pl.FP32],
        rope_sin: pl.Tensor[[T, ROPE], pl.FP32],
        q: pl.Out[pl.Tensor[[T, H, HEAD_DIM], pl.BF16]],
        kv: pl.Out[pl.Tensor[[T, HEAD_DIM], pl.BF16]],
        latent: pl.Out[pl.Tensor[[T, Q_LORA], pl.BF16]],
    ):
        """q [T, H, HEAD_DIM], kv [T, HEAD_DIM] and the normed query latent, one row per token."""
        R = pl.tensor.dim(x_norm, 0)
        qr = pl.create_tensor([R, Q_LORA], dtype=pl.INT8)
        qr_scale = pl.create_tensor([R, 1], dtype=pl.FP32)

        q_low, kv_low = project_down(x_norm, wq_a, wkv)
        with pl.at(level=CORE, name_hint="quantize_q"):
            latent_bf16 = query_latent(q_low, q_norm, EPS)
            latent[:, :] = latent_bf16
            store_codes(latent_bf16, qr, qr_scale, 0, R)
        store_kv(kv_low, kv_norm, rope_cos, rope_sin, kv, 0, R, EPS)
        project_heads(qr, qr_scale, wq_b, wq_b_scale, rope_cos, rope_sin, q, 0, R, EPS)

    return normed_qkv_proj_rope
