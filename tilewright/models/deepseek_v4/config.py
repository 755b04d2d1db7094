"""The DeepSeek-V4 attention figures that the Q/KV kernels need, one frozen `Config` per preset.

Field names are those of the model's `config.json`; `Q_LORA`, `H` and the other short names of the kernels
are read from here. Everyone takes the config it is given; nothing reads a global preset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rope = Literal["plain", "yarn"]
ROPES: tuple[Rope, ...] = ("plain", "yarn")
Query = Literal["int8", "bf16"]  # what the query is projected up in

# What one call carries when the model is served: a chunk of one prompt, or two tokens (the last one and
# a speculated one) for each of 64 sequences. Both are 128 tokens.
PREFILL_BATCH = 1
PREFILL_SEQ = 128
DECODE_BATCH = 64
DECODE_SEQ = 2

INT8_SCALE_MAX = 127.0  # symmetric codes: -128 is never emitted, so that -code is a code
INT8_AMAX_FLOOR = (
    1e-4  # an all-zero (padded) row gets a finite inv_scale, hence codes 0 and not NaN
)
PADDING = -1  # the position of a row that is no token
NO_SLOT = -1  # the slot of a token whose kv row is not kept
SCALE_BLOCK = 128  # columns to a row of `wq_b_scale`, the layout of the checkpoint


@dataclass(frozen=True)
class Config:
    """One model size. Lengths are elements; `rope_dim` channels are the tail of each head."""

    name: str
    hidden_size: int  # D
    num_attention_heads: int  # H
    q_lora_rank: int  # Q_LORA
    head_dim: int = 512  # HEAD_DIM = nope_dim + rope_dim
    rope_dim: int = 64  # qk_rope_head_dim
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0  # plain layers
    compress_rope_theta: float = 160_000.0  # layers with compressed keys; these use YaRN
    rope_factor: float = 16.0  # rope_scaling.factor
    beta_fast: float = (
        32.0  # rope_scaling.beta_fast: rotations over the original length above which
    )
    beta_slow: float = 1.0  # a frequency is kept, and below which it is divided by the factor
    original_max_positions: int = 65_536  # rope_scaling.original_max_position_embeddings
    max_positions: int = 1_048_576  # max_position_embeddings

    @property
    def nope_dim(self) -> int:
        """Channels of a head that RoPE leaves alone."""
        return self.head_dim - self.rope_dim

    @property
    def q_width(self) -> int:
        """Columns of `wq_b`: all heads side by side."""
        return self.num_attention_heads * self.head_dim


FLASH = Config("flash", hidden_size=4096, num_attention_heads=64, q_lora_rank=1024)
PRO = Config("pro", hidden_size=7168, num_attention_heads=128, q_lora_rank=1536)
# Ours, for tests: every structure of the large ones (several heads, a RoPE tail, several K tiles), small.
DEMO = Config(
    "demo",
    hidden_size=256,
    num_attention_heads=4,
    q_lora_rank=128,
    head_dim=128,
    rope_dim=32,
    max_positions=4096,
)
PRESETS = {config.name: config for config in (FLASH, PRO, DEMO)}

# How the kernels cut their work, for CPUs. A cut decides speed only, never a bit of a result.

# Tokens a chunk. Each chunk streams all weights (46 MB at FLASH) once: 512 tokens took 75.2 ms on one thread
# in chunks of 128, 71.1 in 256, 69.0 at once. Past 512 the temporaries of a chunk (512 * 4096 * 2 B = 4 MiB
# of normed input) would leave the third-level cache to nothing else, and the weights' share is small.
T_CHUNK = 512

# Columns of wq_a and wkv that one task takes: one panel block of the microkernel (64 columns), so a panel
# of K = 4096 rows is 512 KiB, half of a 1 MiB second-level cache, and FLASH gives 16 + 8 even tasks.
Q_LORA_TILE = 64
KV_TILE = 64
