"""The least time a call can take: its operations at the measured peaks, or its weights' bytes."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.bench.peaks import Peaks
from tilewright.models.deepseek_v4.config import Config


@dataclass(frozen=True)
class Work:
    """What one call has to do at least.

    int8_ops, bf16_ops: two for each multiply-add of a product; the rest of the operator (norms,
    RoPE, quantisation) is not counted.
    weight_bytes: wq_a and wkv in BF16 and wq_b in INT8, each read once.
    """

    int8_ops: int
    bf16_ops: int
    weight_bytes: int


@dataclass(frozen=True)
class Roof:
    """The least seconds of a call, and whether `products` or `memory` takes them."""

    seconds: float
    bound_by: str


def work_of(cfg: Config, tokens: int) -> Work:
    """The work of the Q/KV projection of `tokens` tokens."""
    down = cfg.hidden_size * (cfg.q_lora_rank + cfg.head_dim)
    up = cfg.q_lora_rank * cfg.q_width
    return Work(2 * tokens * up, 2 * tokens * down, 2 * down + up)


def roof(work: Work, peaks: Peaks, read: float) -> Roof:
    """The roofline of one call, where reading as many bytes as the weights have takes `read` seconds.

    INT8 and BF16 products share the same units, so their times add up.
    """
    products = work.int8_ops / peaks.gops["INT8"] + work.bf16_ops / peaks.gops["BF16"]
    seconds = max(products / 1e9, read)
    return Roof(seconds, "memory" if read > products / 1e9 else "products")
