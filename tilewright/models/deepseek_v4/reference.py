"""The Q/KV projection and its RoPE in Torch: the mathematics that the kernels are judged by.

Between the rounding points that the contract names (BF16 after each RMSNorm with gamma, INT8 codes
with an FP32 scale, BF16 outputs) everything is computed in `wide`: FP64 for the truth, FP32 for the
plain baseline that speed is compared with. No tile, no accumulation order and no machine is
imitated here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tilewright.errors import ArgumentValueError
from tilewright.models.deepseek_v4.config import (
    INT8_AMAX_FLOOR,
    INT8_SCALE_MAX,
    ROPES,
    Config,
    Rope,
)

# 127 * 127 * 1024 < 2**24: an FP32 sum of that many INT8 products is exact whatever its order.
EXACT_K = 1024
ANGLE_STEP = 4096  # rows of RoPE table made at a time: 2 MiB of FP64 pairs, about an L2 cache


# -- steps -----------------------------------------------------------------------------------------


def rms_norm(x: Tensor, gamma: Tensor | None, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * gamma over the last axis; gamma None is all ones."""
    inv_rms = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    normed = x * inv_rms
    return normed if gamma is None else normed * gamma.to(x.dtype)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Per-row INT8: x [T, N] -> codes [T, N] INT8, scale [T, 1] FP32, with x ~ codes * scale.

    FP32 throughout and in this order, because the contract names each of these roundings:
    amax = max(|row|, 1e-4), inv_scale = 127 / amax, codes = rint(row * inv_scale), scale = 1 /
    inv_scale.
    """
    return quantize_rows_with(x, x.float().abs().amax(-1, keepdim=True))


def quantize_rows_with(x: Tensor, amax: Tensor) -> tuple[Tensor, Tensor]:
    """`quantize_rows` with the largest magnitudes `amax` [T, 1] given."""
    amax = amax.float().clamp_min(INT8_AMAX_FLOOR)
    # A tensor on both sides: `127.0 / amax` is amax.reciprocal() * 127.0 in Torch, and rounds
    # twice.
    inv_scale = torch.full_like(amax, INT8_SCALE_MAX) / amax
    codes = torch.round(x.float() * inv_scale).clamp(-INT8_SCALE_MAX, INT8_SCALE_MAX)
    return codes.to(torch.int8), 1.0 / inv_scale


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the interleaved pairs (2i, 2i + 1) of the last axis.

    x [..., rope_dim]; cos, sin [..., rope_dim // 2], one angle for each pair, broadcast over the
    rest.
    """
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def matmul_int8(codes: Tensor, weights: Tensor) -> Tensor:
    """[T, K] INT8 x [K, N] INT8 -> [T, N] INT32, exact: FP32 sums too short to round."""
    acc = torch.zeros(codes.shape[0], weights.shape[1], dtype=torch.int32)
    for k in range(0, codes.shape[1], EXACT_K):
        acc += (codes[:, k : k + EXACT_K].float() @ weights[k : k + EXACT_K].float()).to(
            torch.int32
        )
    return acc


# -- the operator ----------------------------------------------------------------------------------


def x_norm_exact(
    values: Mapping[str, Any], cfg: Config, wide: torch.dtype = torch.float64
) -> Tensor:
    """The attention RMSNorm before it is rounded to BF16: [T, D] in `wide`."""
    return rms_norm(values["x"].to(wide), values["attn_norm"], cfg.rms_norm_eps)


def qr_norm_exact(
    x_norm: Tensor, values: Mapping[str, Any], cfg: Config, wide: torch.dtype = torch.float64
) -> Tensor:
    """The query's latent, normalised and not yet rounded to BF16: [T, Q_LORA] in `wide`."""
    qr_raw = x_norm.to(wide) @ values["wq_a"].to(wide)
    return rms_norm(qr_raw, values["q_norm"], cfg.rms_norm_eps)


def kv_from(
    kv_raw: Tensor, cos: Tensor, sin: Tensor, values: Mapping[str, Any], cfg: Config
) -> Tensor:
    """kv_raw = x_norm @ wkv [T, HEAD_DIM] -> RMSNorm * gamma, RoPE on the tail; same dtype."""
    kv = rms_norm(kv_raw, values["kv_norm"], cfg.rms_norm_eps)
    return torch.cat((kv[:, : cfg.nope_dim], apply_rope(kv[:, cfg.nope_dim :], cos, sin)), dim=-1)


def q_from(
    qr: Tensor,
    qr_scale: Tensor,
    cos: Tensor,
    sin: Tensor,
    values: Mapping[str, Any],
    cfg: Config,
    wide: torch.dtype = torch.float64,
) -> Tensor:
    """Queries from INT8 codes [T, Q_LORA] and their scales [T, 1]: q [T, H, HEAD_DIM] BF16.

    Per head, RMSNorm without gamma and RoPE on the tail; cos, sin are [T, rope_dim // 2].
    """
    q_acc = matmul_int8(qr, values["wq_b"]).to(wide)
    column_scale = values["wq_b_scale"].to(wide).reshape(1, -1)
    q_raw = q_acc * qr_scale.to(wide) * column_scale
    return heads_from(q_raw, cos.to(wide), sin.to(wide), cfg).to(torch.bfloat16)


def q_from_bf16(
    qr: Tensor,
    cos: Tensor,
    sin: Tensor,
    values: Mapping[str, Any],
    cfg: Config,
    wide: torch.dtype = torch.float64,
) -> Tensor:
    """`q_from` without codes: queries from the BF16 latent [T, Q_LORA] and a BF16 wq_b."""
    q_raw = qr.to(wide) @ values["wq_b"].to(wide)
    return heads_from(q_raw, cos.to(wide), sin.to(wide), cfg).to(torch.bfloat16)


def heads_from(q_raw: Tensor, cos: Tensor, sin: Tensor, cfg: Config) -> Tensor:
    """q_raw [T, n * HEAD_DIM] -> n heads [T, n, HEAD_DIM], each normalised and turned; same dtype."""
    q = rms_norm(q_raw.unflatten(-1, (-1, cfg.head_dim)), None, cfg.rms_norm_eps)
    tail = apply_rope(q[..., cfg.nope_dim :], cos[:, None], sin[:, None])
    return torch.cat((q[..., : cfg.nope_dim], tail), dim=-1)


def rope_rows(values: Mapping[str, Any], cfg: Config) -> tuple[Tensor, Tensor]:
    """The angles of this call's tokens: cos, sin [T, rope_dim // 2] FP32.

    With `start_pos` (prefill) the tables are `[max_seq, rope_dim]` and token t stands at start_pos
    + t; without (decode) they hold one row per token already.
    """
    half = cfg.rope_dim // 2
    first = int(values.get("start_pos", 0))
    rows = slice(first, first + values["x"].shape[0])
    return values["rope_cos"][rows, :half], values["rope_sin"][rows, :half]


def qkv_reference(
    values: Mapping[str, Any], cfg: Config, wide: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """All outputs of one call, prefill (with `start_pos`) or decode.

    Takes x [T, D] BF16, attn_norm [1, D] FP32, wq_a [D, Q_LORA] BF16, q_norm [1, Q_LORA] FP32,
    wq_b [Q_LORA, H * HEAD_DIM] INT8, wq_b_scale [H * HEAD_DIM // 128, 128] FP32, wkv [D, HEAD_DIM]
    BF16, kv_norm [1, HEAD_DIM] FP32, rope_cos and rope_sin FP32 (see `rope_rows`). Gives q [T, H,
    HEAD_DIM] BF16, kv [T, HEAD_DIM] BF16, qr [T, Q_LORA] INT8, qr_scale [T, 1] FP32. With a wq_b in
    BF16 there are no scales: qr is the latent in BF16.
    """
    cos, sin = rope_rows(values, cfg)
    x_norm = x_norm_exact(values, cfg, wide).to(torch.bfloat16)
    qr_norm = qr_norm_exact(x_norm, values, cfg, wide).to(torch.bfloat16)
    kv_raw = x_norm.to(wide) @ values["wkv"].to(wide)
    kv = kv_from(kv_raw, cos.to(wide), sin.to(wide), values, cfg).to(torch.bfloat16)
    if values["wq_b"].dtype == torch.bfloat16:
        return {"q": q_from_bf16(qr_norm, cos, sin, values, cfg, wide), "kv": kv, "qr": qr_norm}
    qr, qr_scale = quantize_rows(qr_norm)
    q = q_from(qr, qr_scale, cos, sin, values, cfg, wide)
    return {"q": q, "kv": kv, "qr": qr, "qr_scale": qr_scale}


def prefill_reference(
    inputs: Mapping[str, Any], cfg: Config, wide: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """`qkv_reference` for a chunk of a prompt: with `start_pos` and whole RoPE tables."""
    if "start_pos" not in inputs:
        raise KeyError(
            "prefill_reference needs 'start_pos'; rows per token are for decode_reference"
        )
    return qkv_reference(inputs, cfg, wide)


def decode_reference(
    inputs: Mapping[str, Any], cfg: Config, wide: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """`qkv_reference` for tokens anywhere: rope_cos, rope_sin [T, rope_dim], a row per token."""
    return qkv_reference({k: v for k, v in inputs.items() if k != "start_pos"}, cfg, wide)


def cached_reference(
    inputs: Mapping[str, Any], cfg: Config, wide: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """`decode_reference`, and the cache [BLOCKS, BLOCK, HEAD_DIM] with the rows named by `slots` [T] replaced."""
    outputs = decode_reference(inputs, cfg, wide)
    return {**outputs, "cache": with_rows(inputs["cache"], inputs["slots"], outputs["kv"])}


def with_rows(cache: Tensor, slots: Tensor, kv: Tensor) -> Tensor:
    """A copy of the cache in which row slots[t] is kv[t]; negative slots are none."""
    kept = slots >= 0
    rows = cache.flatten(0, 1).clone()
    rows[slots[kept]] = kv[kept]
    return rows.reshape(cache.shape)


# -- RoPE tables -----------------------------------------------------------------------------------


def rope_frequencies(cfg: Config, rope: Rope) -> Tensor:
    """Angle per position of each pair: [rope_dim // 2] FP64.

    "plain": theta ** (-2i / rope_dim). "yarn": the same with its own theta, slow frequencies
    divided by the factor, and a linear ramp between the pair that turns `beta_fast` times over the
    original length and the one that turns `beta_slow` times. YaRN's attention factor is not
    multiplied in here.
    """
    if rope not in ROPES:
        raise ArgumentValueError(f"rope is {rope!r}, wanted {' or '.join(map(repr, ROPES))}")
    dim = cfg.rope_dim
    if rope not in ROPES:
        raise ArgumentValueError(f"rope is {rope!r}, wanted one of {', '.join(map(repr, ROPES))}")
    # Numbers, and no weights: also where a model is made on the meta device.
    pair = torch.arange(dim // 2, dtype=torch.float64, device="cpu")
    theta = cfg.rope_theta if rope == "plain" else cfg.compress_rope_theta
    frequencies = theta ** (-2.0 * pair / dim)
    if rope == "plain":
        return frequencies

    def pair_that_turns(rotations: float) -> float:
        turns = cfg.original_max_positions / (rotations * 2 * math.pi)
        return dim * math.log(turns) / (2 * math.log(theta))

    low = max(math.floor(pair_that_turns(cfg.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(cfg.beta_slow)), dim - 1)
    # 0 keeps, 1 divides. With an original length of a few tokens the ramp runs backwards: all are kept.
    slow = ((pair - low) / ((high - low) or 1e-3)).clamp(0, 1)
    return frequencies * (1 - slow) + frequencies / cfg.rope_factor * slow


def rope_at(positions: Tensor, cfg: Config, rope: Rope) -> tuple[Tensor, Tensor]:
    """Rows for given positions [T]: cos, sin [T, rope_dim] FP32, halves repeated."""
    return rope_turned(positions, rope_frequencies(cfg, rope))


def rope_turned(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """`rope_at` for frequencies [rope_dim // 2] FP64."""
    angle = positions.to(torch.float64)[:, None] * frequencies
    cos, sin = angle.cos().float(), angle.sin().float()
    return torch.cat((cos, cos), 1), torch.cat((sin, sin), 1)


def rope_tables(max_seq: int, cfg: Config, rope: Rope) -> tuple[Tensor, Tensor]:
    """Tables for positions 0 .. max_seq - 1: cos, sin [max_seq, rope_dim] FP32, halves repeated.

    Blocks of rows are one block turned on by the block's first angle: a million rows without 67
    million calls of sine, and accurate to about 3e-16 before the rounding to FP32.
    """
    half = cfg.rope_dim // 2
    frequencies = rope_frequencies(cfg, rope)
    fine = _unit(torch.arange(min(max_seq, ANGLE_STEP), dtype=torch.float64)[:, None] * frequencies)
    cos, sin = torch.empty(max_seq, 2, half), torch.empty(max_seq, 2, half)
    for first in range(0, max_seq, ANGLE_STEP):
        rows = slice(first, min(first + ANGLE_STEP, max_seq))
        turned = fine[: rows.stop - first] * _unit(first * frequencies)
        cos[rows], sin[rows] = turned.real[:, None], turned.imag[:, None]
    return cos.flatten(1), sin.flatten(1)


def _unit(angle: Tensor) -> Tensor:
    """cos(angle) + i sin(angle)."""
    return torch.polar(torch.ones_like(angle), angle)
