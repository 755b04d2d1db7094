"""Prefill with BF16 weights throughout: no codes, no scales, the latent as it is.

The same projection as `prefill_qkv_proj_rope`, with the other of its query steps.

Run it as a module to check it against the Torch reference:
`python -m tilewright.models.deepseek_v4.prefill_qkv_proj_rope_bf16 --start-pos 128`.
"""

from __future__ import annotations

from functools import cache

import tilewright.language as pl
from tilewright.models.deepseek_v4.config import Config
from tilewright.models.deepseek_v4.steps import project_qkv_bf16

T = pl.dynamic("T")
MAX_SEQ = pl.dynamic("MAX_SEQ")


@cache
def build(cfg: Config):
    """The prefill kernel for one set of model dimensions; any number of tokens, any `start_pos`."""
    D, Q_LORA, EPS = cfg.hidden_size, cfg.q_lora_rank, cfg.rms_norm_eps
    H, HEAD_DIM, ROPE = cfg.num_attention_heads, cfg.head_dim, cfg.rope_dim

    @pl.jit
    def prefill_qkv_proj_rope_bf16(
        x: pl.Tensor[[T, D], pl.BF16],
        attn_norm: pl.Tensor[[1, D], pl.FP32],
        wq_a: pl.Tensor[[D, Q_LORA], pl.BF16],
        q_norm: pl.Tensor[[1, Q_LORA], pl.FP32],
        wq_b: pl.Tensor[[Q_LORA, H * HEAD_DIM], pl.BF16],
        wkv: pl.Tensor[[D, HEAD_DIM], pl.BF16],
        kv_norm: pl.Tensor[[1, HEAD_DIM], pl.FP32],
        rope_cos: pl.Tensor[[MAX_SEQ, ROPE], pl.FP32],
        rope_sin: pl.Tensor[[MAX_SEQ, ROPE], pl.FP32],
        start_pos: pl.Scalar[pl.INT32],
        q: pl.Out[pl.Tensor[[T, H, HEAD_DIM], pl.BF16]],
        kv: pl.Out[pl.Tensor[[T, HEAD_DIM], pl.BF16]],
        qr: pl.Out[pl.Tensor[[T, Q_LORA], pl.BF16]],
    ):
        """q [T, H, HEAD_DIM], kv [T, HEAD_DIM], and the query latent, for tokens start_pos …"""
        tokens = pl.tensor.dim(x, 0)
        cos_rows = rope_cos[
            start_pos : start_pos + tokens, :
        ]  # a view: checked here, copied nowhere
        sin_rows = rope_sin[start_pos : start_pos + tokens, :]
        project_qkv_bf16(
            x, attn_norm, wq_a, q_norm, wq_b, wkv, kv_norm, cos_rows, sin_rows, q, kv, qr, EPS,
        )  # fmt: skip

    return prefill_qkv_proj_rope_bf16


if __name__ == "__main__":
    from tilewright.cli.check import kernel_main

    kernel_main("prefill_qkv_proj_rope_bf16")
