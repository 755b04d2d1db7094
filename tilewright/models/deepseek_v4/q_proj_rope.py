"""The query's half of the Q/KV projection, for a process that is sent the KV row by another."""

from __future__ import annotations

from functools import cache

import tilewright.language as pl
from tilewright.models.deepseek_v4.config import Config
from tilewright.models.deepseek_v4.steps import (
    CORE,
    norm_tokens,
    project_heads,
    project_q_down,
    query_latent,
    store_codes,
)

T = pl.dynamic("T")


@cache
def build(cfg: Config):
    """The kernel for one set of model dimensions; its tokens are one chunk (`T_CHUNK` at most, to be fast)."""
    D, Q_LORA, EPS = cfg.hidden_size, cfg.q_lora_rank, cfg.rms_norm_eps
    H, HEAD_DIM, ROPE = cfg.num_attention_heads, cfg.head_dim, cfg.rope_dim

    @pl.jit
    def q_proj_rope(
        x: pl.Tensor[[T, D], pl.BF16],
        attn_norm: pl.Tensor[[1, D], pl.FP32],
        wq_a: pl.Tensor[[D, Q_LORA], pl.BF16],
        q_norm: pl.Tensor[[1, Q_LORA], pl.FP32],
        wq_b: pl.Tensor[[Q_LORA, H * HEAD_DIM], pl.INT8],
        wq_b_scale: pl.Tensor[[H * HEAD_DIM // 128, 128], pl.FP32],
        rope_cos: pl.Tensor[[T, ROPE], pl.FP32],
        rope_sin: pl.Tensor[[T, ROPE], pl.FP32],
        q: pl.Out[pl.Tensor[[T, H, HEAD_DIM], pl.BF16]],
        qr: pl.Out[pl.Tensor[[T, Q_LORA], pl.INT8]],
        qr_scale: pl.Out[pl.Tensor[[T, 1], pl.FP32]],
    ):
        """q [T, H, HEAD_DIM] and the quantised query latent, one row per token."""
        R = pl.tensor.dim(x, 0)
        x_norm = pl.create_tensor([R, D], dtype=pl.BF16)
        q_low = pl.create_tensor([R, Q_LORA], dtype=pl.FP32)
        norm_tokens(x, attn_norm, x_norm, 0, R, EPS)
        project_q_down(x_norm, wq_a, q_low)
        with pl.at(level=CORE, name_hint="quantize_q"):
            latent_bf16 = query_latent(q_low, q_norm, EPS)
            store_codes(latent_bf16, qr, qr_scale, 0, R)
        project_heads(qr, qr_scale, wq_b, wq_b_scale, rope_cos, rope_sin, q, 0, R, EPS)

    return q_proj_rope
