"""Seeded inputs for the Q/KV kernels, as specs in the kernels' parameter order.

Every tensor has a generator of its own, seeded from the run's seed and the tensor's name: asking
for more tokens or another position leaves the weights as they were.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from tilewright.errors import ArgumentValueError
from tilewright.golden import ScalarSpec, Spec, TensorSpec
from tilewright.models.deepseek_v4.config import (
    DECODE_BATCH,
    DECODE_SEQ,
    NO_SLOT,
    PREFILL_SEQ,
    SCALE_BLOCK,
    Config,
    Query,
    Rope,
)
from tilewright.models.deepseek_v4.reference import rope_at, rope_tables

# Standard deviation of the drawn weight codes: as when the largest of 1024 normal weights, about
# 3.2 deviations out, becomes code 127.
CODE_STD = 127 / 3.2
CACHE_BLOCK = 16  # rows to a block of the cache; any number would do
UNCACHED_EVERY = 7  # of so many tokens the last has no slot


def prefill_specs(
    cfg: Config,
    tokens: int = PREFILL_SEQ,
    start_pos: int = 0,
    max_seq: int | None = None,
    seed: int = 0,
    rope: Rope = "plain",
    query: Query = "int8",
) -> list[Spec]:
    """A chunk of `tokens` tokens that starts at `start_pos`; the RoPE tables have `max_seq` rows.

    Raises ArgumentValueError for no tokens, and for positions outside the tables.
    """
    max_seq = cfg.max_positions if max_seq is None else max_seq
    check_tokens(tokens)
    check_positions(start_pos, tokens, max_seq)
    tables = cache(lambda: rope_tables(max_seq, cfg, rope))
    shape = (max_seq, cfg.rope_dim)
    return [
        *_common(cfg, tokens, seed, query),
        TensorSpec("rope_cos", shape, torch.float32, lambda: tables()[0]),
        TensorSpec("rope_sin", shape, torch.float32, lambda: tables()[1]),
        ScalarSpec("start_pos", torch.int32, start_pos),
        *_outputs(cfg, tokens, query),
    ]


def decode_specs(
    cfg: Config,
    tokens: int = DECODE_BATCH * DECODE_SEQ,
    positions: Sequence[int] | None = None,
    max_seq: int | None = None,
    seed: int = 0,
    rope: Rope = "plain",
    query: Query = "int8",
) -> list[Spec]:
    """`tokens` tokens of different sequences, a RoPE row each; `positions` are drawn if None.

    Raises ArgumentValueError for no tokens, and for positions outside 0 .. max_seq - 1.
    """
    max_seq = cfg.max_positions if max_seq is None else max_seq
    check_tokens(tokens)
    if positions is None:
        at = decode_positions(max_seq, tokens, seed)
    elif len(positions) != tokens:
        raise ArgumentValueError(f"{len(positions)} positions for {tokens} tokens; give one each")
    else:
        check_positions(min(positions), max(positions) - min(positions) + 1, max_seq)
        at = torch.tensor(list(positions))
    rows = cache(lambda: rope_at(at, cfg, rope))
    shape = (tokens, cfg.rope_dim)
    return [
        *_common(cfg, tokens, seed, query),
        TensorSpec("rope_cos", shape, torch.float32, lambda: rows()[0]),
        TensorSpec("rope_sin", shape, torch.float32, lambda: rows()[1]),
        *_outputs(cfg, tokens, query),
    ]


def cached_specs(
    cfg: Config,
    tokens: int = DECODE_BATCH * DECODE_SEQ,
    positions: Sequence[int] | None = None,
    max_seq: int | None = None,
    seed: int = 0,
    rope: Rope = "plain",
) -> list[Spec]:
    """`decode_specs`, and a paged cache with rows in it of which each token replaces one, some none."""
    *inputs, q, kv, qr, qr_scale = decode_specs(cfg, tokens, positions, max_seq, seed, rope)
    blocks = -(-2 * tokens // CACHE_BLOCK)  # half of the rows stay as they are

    def slots() -> Tensor:
        drawn = torch.randperm(blocks * CACHE_BLOCK, generator=generator(seed, "slots"))[:tokens]
        drawn[UNCACHED_EVERY - 1 :: UNCACHED_EVERY] = NO_SLOT
        return drawn

    shape = (blocks, CACHE_BLOCK, cfg.head_dim)
    rows = TensorSpec(
        "cache",
        shape,
        torch.bfloat16,
        lambda: torch.empty(shape).normal_(generator=generator(seed, "cache")),
        is_output=True,
    )
    return [*inputs, TensorSpec("slots", (tokens,), torch.int64, slots), q, kv, qr, qr_scale, rows]


def decode_positions(max_seq: int, tokens: int, seed: int) -> Tensor:
    """[T] INT64: sequences of random length, DECODE_SEQ neighbouring tokens of each."""
    if max_seq < DECODE_SEQ:
        raise ArgumentValueError(f"max_seq is {max_seq}, wanted at least {DECODE_SEQ}")
    sequences = math.ceil(tokens / DECODE_SEQ)
    last_start = max_seq - DECODE_SEQ
    starts = torch.randint(last_start + 1, (sequences, 1), generator=generator(seed, "positions"))
    return (starts + torch.arange(DECODE_SEQ)).reshape(-1)[:tokens]


def with_values(specs: Sequence[Spec], values: Mapping[str, Tensor]) -> list[Spec]:
    """The same specs, those that `values` names made of the tensors given instead of drawn."""
    return [
        replace(s, init_value=values[s.name])
        if isinstance(s, TensorSpec) and s.name in values
        else s
        for s in specs
    ]


def check_tokens(tokens: int) -> None:
    """Raise ArgumentValueError unless there is a token."""
    if tokens < 1:
        raise ArgumentValueError(f"tokens is {tokens}, wanted at least 1")


def check_positions(start_pos: int, tokens: int, max_seq: int) -> None:
    """Raise ArgumentValueError unless `tokens` rows from start_pos are in a table of `max_seq`."""
    if tokens > max_seq:
        raise ArgumentValueError(
            f"{tokens} tokens do not fit in RoPE tables of {max_seq} rows",
            help=f"tokens at most {max_seq}",
        )
    last = max_seq - tokens
    if not 0 <= start_pos <= last:
        raise ArgumentValueError(
            f"start_pos is {start_pos}, wanted 0 to {last}"
            f" ({tokens} tokens in RoPE tables of {max_seq} rows)",
            help=f"the last valid start_pos for {tokens} tokens is {last}",
        )


def _common(cfg: Config, tokens: int, seed: int, query: Query) -> list[Spec]:
    """The inputs that prefill and decode share, `x` to `kv_norm`."""
    hidden, q_lora, head_dim, q_width = cfg.hidden_size, cfg.q_lora_rank, cfg.head_dim, cfg.q_width
    bf16, f32 = torch.bfloat16, torch.float32

    def normal(name: str, std: float, mean: float = 0.0) -> Callable[..., Tensor]:
        def draw(*shape: int) -> Tensor:
            return torch.empty(shape).normal_(mean, std, generator=generator(seed, name))

        return draw

    def spec(
        name: str, shape: tuple[int, ...], dtype: torch.dtype, draw: Callable[..., Tensor]
    ) -> TensorSpec:
        return TensorSpec(name, shape, dtype, lambda: draw(*shape))

    def weight_codes(rows: int, columns: int) -> Tensor:
        codes = torch.empty(rows, columns, dtype=torch.int8)
        draw = normal("wq_b", CODE_STD)(rows, columns)
        return codes.copy_(draw.round_().clamp_(-127, 127))

    def column_scales(blocks: int, width: int) -> Tensor:
        # Weights of deviation 1 / sqrt(Q_LORA), columns up to three times apart.
        spread = torch.empty(blocks, width).uniform_(
            0.5, 1.5, generator=generator(seed, "wq_b_scale")
        )
        return spread / (CODE_STD * math.sqrt(q_lora))

    def weight_values(rows: int, columns: int) -> Tensor:
        spread = column_scales(1, columns) * CODE_STD
        return normal("wq_b", 1.0)(rows, columns).mul_(spread)

    shape = (q_lora, q_width)
    blocks = (q_width // SCALE_BLOCK, SCALE_BLOCK)
    wq_b = {
        "int8": [
            spec("wq_b", shape, torch.int8, weight_codes),
            spec("wq_b_scale", blocks, f32, column_scales),
        ],
        "bf16": [spec("wq_b", shape, bf16, weight_values)],
    }
    # Gains around 1, both sides; weights such that every projection has deviation about 1.
    return [
        spec("x", (tokens, hidden), bf16, normal("x", 1.5)),
        spec("attn_norm", (1, hidden), f32, normal("attn_norm", 0.1, 1.0)),
        spec("wq_a", (hidden, q_lora), bf16, normal("wq_a", hidden**-0.5)),
        spec("q_norm", (1, q_lora), f32, normal("q_norm", 0.1, 1.0)),
        *wq_b[query],
        spec("wkv", (hidden, head_dim), bf16, normal("wkv", hidden**-0.5)),
        spec("kv_norm", (1, head_dim), f32, normal("kv_norm", 0.1, 1.0)),
    ]


def _outputs(cfg: Config, tokens: int, query: Query) -> list[Spec]:
    heads, head_dim = cfg.num_attention_heads, cfg.head_dim

    def output(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> TensorSpec:
        return TensorSpec(name, shape, dtype, is_output=True)

    latent = (tokens, cfg.q_lora_rank)
    qr = {
        "int8": [
            output("qr", latent, torch.int8),
            output("qr_scale", (tokens, 1), torch.float32),
        ],
        "bf16": [output("qr", latent, torch.bfloat16)],
    }
    return [
        output("q", (tokens, heads, head_dim), torch.bfloat16),
        output("kv", (tokens, head_dim), torch.bfloat16),
        *qr[query],
    ]


def generator(seed: int, name: str) -> torch.Generator:
    # Torch's generator keeps 32 bits of a seed; a checksum mixes both parts into them.
    return torch.Generator().manual_seed(zlib.crc32(f"{name} {seed}".encode()))
