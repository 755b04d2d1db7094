"""The names of a layer's tensors, in the release and in the Hugging Face model.

Both store matrices as [out, in]. `model.` may stand before a name or not. Transformers writes the
names of the release back when it saves a model, `kv_norm` then as plain `norm`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

MATRICES = ("wq_a", "wq_b", "wkv")
GAINS = ("attn_norm", "q_norm", "kv_norm")

# What may stand for `weight` in the name of a matrix's block scales.
SCALES = ("scale", "weight_scale_inv")

_LAYER = re.compile(r"^(?P<prefix>(?:model\.)?)layers\.(?P<number>\d+)\.(?P<rest>.+)$")


@dataclass(frozen=True)
class Layout:
    """names: by role, what stands after `layers.N.`; the first is what we write. scale: likewise."""

    name: str
    names: Mapping[str, tuple[str, ...]]
    prefix: str
    scale: str

    def candidates(self, prefix: str, layer: int, role: str) -> list[str]:
        """Full names that a role may have."""
        return [f"{prefix}layers.{layer}.{rest}" for rest in self.names[role]]

    def written(self, layer: int, role: str) -> str:
        """The name that we give to a role's tensor."""
        return self.candidates(self.prefix, layer, role)[0]

    def written_scale(self, layer: int, role: str) -> str:
        """The name that we give to the block scales of a matrix."""
        return scale_names(self.written(layer, role), (self.scale,))[0]


RELEASE = Layout(
    "release",
    {
        "attn_norm": ("attn_norm.weight",),
        "wq_a": ("attn.wq_a.weight",),
        "q_norm": ("attn.q_norm.weight",),
        "wq_b": ("attn.wq_b.weight",),
        "wkv": ("attn.wkv.weight",),
        "kv_norm": ("attn.kv_norm.weight", "attn.norm.weight"),
    },
    prefix="",
    scale="scale",
)
HF = Layout(
    "hf",
    {
        "attn_norm": ("input_layernorm.weight",),
        "wq_a": ("self_attn.q_a_proj.weight",),
        "q_norm": ("self_attn.q_a_norm.weight",),
        "wq_b": ("self_attn.q_b_proj.weight",),
        "wkv": ("self_attn.kv_proj.weight",),
        "kv_norm": ("self_attn.kv_norm.weight",),
    },
    prefix="model.",
    scale="weight_scale_inv",
)
LAYOUTS = {layout.name: layout for layout in (RELEASE, HF)}


@dataclass(frozen=True)
class Found:
    """The layout of a checkpoint's names, what stands before `layers`, and which layers there are."""

    layout: Layout
    prefix: str
    layers: tuple[int, ...]


def detect(names: Collection[str]) -> Found | None:
    """Which layout these names are in; None if they are in neither."""
    for layout in LAYOUTS.values():
        known = {rest for options in layout.names.values() for rest in options}
        matches = [m for m in map(_LAYER.match, names) if m is not None and m["rest"] in known]
        if matches:
            layers = sorted({int(m["number"]) for m in matches})
            return Found(layout, matches[0]["prefix"], tuple(layers))
    return None


def scale_names(weight: str, endings: Collection[str] = SCALES) -> list[str]:
    """Names under which the block scales of a matrix may be stored."""
    return [weight.removesuffix("weight") + ending for ending in endings]
