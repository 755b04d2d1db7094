"""A small Q/KV layer with a million positions, and what its kernel gives in one call."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from ir_programs import same_bits

from tilewright.models.deepseek_v4 import qkv_proj_rope
from tilewright.models.deepseek_v4.config import DEMO, Rope
from tilewright.models.deepseek_v4.module import Projected, QKVProjRope, buffers
from tilewright.models.deepseek_v4.reference import rope_at
from tilewright.models.deepseek_v4.specs import decode_specs

CFG = replace(DEMO, max_positions=1 << 20)
OUTPUTS = Projected._fields
TOKENS = 150


@cache
def values() -> dict[str, torch.Tensor]:
    """The arguments of a call of the kernel."""
    return {s.name: s.create_tensor() for s in decode_specs(CFG, TOKENS, seed=4)}


def module(rope: Rope = "plain") -> QKVProjRope:
    return QKVProjRope(CFG, {name: values()[name].clone() for name in buffers(CFG)}, rope)


def x(count: int = TOKENS) -> torch.Tensor:
    return values()["x"][:count]


def by_kernel(positions: torch.Tensor, rope: Rope = "plain", **changed: torch.Tensor) -> Projected:
    """What the kernel gives for tokens at these positions, in one call."""
    given = {**values(), **changed}
    count = len(positions)
    given["x"] = given["x"][:count].contiguous()
    given["rope_cos"], given["rope_sin"] = rope_at(positions, CFG, rope)
    for name in OUTPUTS:
        given[name] = torch.full_like(given[name][:count], 77)
    qkv_proj_rope.build(CFG)(**given)
    return Projected(*(given[name] for name in OUTPUTS))


def assert_same(got: Projected, wanted: Projected) -> None:
    for name, a, b in zip(OUTPUTS, got, wanted, strict=True):
        assert same_bits(a.reshape(b.shape), b), name
