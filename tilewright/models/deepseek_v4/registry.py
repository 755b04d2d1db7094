"""The Q/KV kernels by name, each with its inputs, its golden and its checks."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from tilewright.golden import Policy, Spec
from tilewright.models.deepseek_v4 import reference, specs
from tilewright.models.deepseek_v4.checks import cached_checks, checks
from tilewright.models.deepseek_v4.config import (
    DECODE_BATCH,
    DECODE_SEQ,
    PREFILL_BATCH,
    PREFILL_SEQ,
    Config,
    Query,
    Rope,
)


@dataclass(frozen=True)
class Inputs:
    """What a check asks of a kernel's inputs.

    start_pos: of the first token; None is 0 for prefill, and positions that are drawn for decode.
    max_seq:   rows of the RoPE tables; None for all positions of the model.
    """

    tokens: int
    start_pos: int | None = None
    max_seq: int | None = None
    seed: int = 0
    rope: Rope = "plain"


@dataclass(frozen=True)
class Entry:
    """One kernel: `name` is its module and its function.

    query:     what the query is projected up in, "int8" or "bf16".
    specs:     its arguments, in the order of its parameters.
    reference: the outputs by name, of the arguments by name, computed in the dtype that is given.
    """

    name: str
    summary: str
    query: Query
    tokens: int  # of the deployed call
    specs: Callable[[Config, Inputs], list[Spec]]
    reference: Callable[[Mapping[str, Any], Config, torch.dtype], dict[str, torch.Tensor]]
    cached: bool = False  # kv rows also go into the slots of a cache

    def build(self, cfg: Config) -> Any:
        """The kernel for one set of model dimensions, a `Kernel`."""
        return importlib.import_module(f"{__package__}.{self.name}").build(cfg)

    def golden(self, cfg: Config) -> Callable[[dict[str, Any]], None]:
        """A golden function for `run_jit`: fills the outputs in place."""

        def fill(values: dict[str, Any]) -> None:
            for name, tensor in self.reference(values, cfg, torch.float64).items():
                values[name].copy_(tensor)

        return fill

    def checks(self, cfg: Config) -> dict[str, Policy]:
        """The policy of each output, for `compare_fn` of `run_jit`."""
        return cached_checks(cfg) if self.cached else checks(cfg, self.query)


def _prefill(query: Query, cfg: Config, asked: Inputs) -> list[Spec]:
    first = 0 if asked.start_pos is None else asked.start_pos
    max_seq, seed, rope = asked.max_seq, asked.seed, asked.rope
    return specs.prefill_specs(cfg, asked.tokens, first, max_seq, seed, rope, query)


def _decode(query: Query, cfg: Config, asked: Inputs) -> list[Spec]:
    max_seq, seed, rope = asked.max_seq, asked.seed, asked.rope
    return specs.decode_specs(cfg, asked.tokens, _positions(asked), max_seq, seed, rope, query)


def _cached(cfg: Config, asked: Inputs) -> list[Spec]:
    max_seq, seed, rope = asked.max_seq, asked.seed, asked.rope
    return specs.cached_specs(cfg, asked.tokens, _positions(asked), max_seq, seed, rope)


def _positions(asked: Inputs) -> range | None:
    if asked.start_pos is None:
        return None
    specs.check_tokens(asked.tokens)
    return range(asked.start_pos, asked.start_pos + asked.tokens)


def _entries(query: Query, suffix: str, how: str) -> list[Entry]:
    """Prefill and decode with the query projected up in `query`."""
    return [
        Entry(
            f"prefill_qkv_proj_rope{suffix}",
            f"a chunk of one prompt, RoPE rows taken from whole tables at start_pos{how}",
            query,
            PREFILL_BATCH * PREFILL_SEQ,
            partial(_prefill, query),
            reference.prefill_reference,
        ),
        Entry(
            f"qkv_proj_rope{suffix}",
            f"tokens of many sequences, a RoPE row for each{how}",
            query,
            DECODE_BATCH * DECODE_SEQ,
            partial(_decode, query),
            reference.decode_reference,
        ),
    ]


KERNELS = {
    entry.name: entry
    for entry in (
        *_entries("int8", "", ""),
        *_entries("bf16", "_bf16", "; BF16 throughout"),
        Entry(
            "qkv_proj_rope_cached",
            "tokens of many sequences, kv rows into the slots of a cache besides",
            "int8",
            DECODE_BATCH * DECODE_SEQ,
            _cached,
            reference.cached_reference,
            cached=True,
        ),
    )
}
ALIASES = {
    "prefill": "prefill_qkv_proj_rope",
    "decode": "qkv_proj_rope",
    "prefill_bf16": "prefill_qkv_proj_rope_bf16",
    "decode_bf16": "qkv_proj_rope_bf16",
    "cached": "qkv_proj_rope_cached",
}


def find(name: str) -> Entry:
    """The entry of a kernel or of its alias; raises KeyError naming those that exist."""
    entry = KERNELS.get(ALIASES.get(name, name))
    if entry is None:
        known = ", ".join([*KERNELS, *ALIASES])
        raise KeyError(f"no kernel is named {name!r}; there are {known}")
    return entry
