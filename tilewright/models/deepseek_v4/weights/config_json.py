"""`config.json` of a checkpoint: read into a `Config` and a RoPE for each layer, and written.

Field names are those of Transformers' DeepseekV4Config, which keeps the older ones of the release
beside its own: `compress_ratios` or `layer_types`, `rope_scaling` or nested `rope_parameters`,
`qk_rope_head_dim` or `partial_rotary_factor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any, TypeGuard

from tilewright.models.deepseek_v4.config import (
    KV_TILE,
    PRESETS,
    Q_LORA_TILE,
    SCALE_BLOCK,
    Config,
    Rope,
)
from tilewright.models.deepseek_v4.weights.files import CONFIG, read_json
from tilewright.models.deepseek_v4.weights.layouts import Layout
from tilewright.models.deepseek_v4.weights.problems import Problems, listed
from tilewright.models.deepseek_v4.weights.quantize import FP8_BLOCK, Block

MODEL_TYPE = "deepseek_v4"
# Layers that attend within a window only have plain RoPE; those with compressed keys as well, YaRN.
LAYER_TYPES: dict[str, int] = {
    "sliding_attention": 0,
    "compressed_sparse_attention": 4,
    "heavily_compressed_attention": 128,
}
EDIT = "compare config.json with the one of the model that you meant"

# Fields of `Config` that config.json has under one name, and must have.
PLAIN_FIELDS = {
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "q_lora_rank": "q_lora_rank",
    "head_dim": "head_dim",
    "rms_norm_eps": "rms_norm_eps",
    "max_positions": "max_position_embeddings",
}
FLOATS = (
    "rms_norm_eps",
    "rope_theta",
    "compress_rope_theta",
    "rope_factor",
    "beta_fast",
    "beta_slow",
)


@dataclass(frozen=True)
class ModelConfig:
    """What config.json says that these kernels care about. ropes: of each layer; block: of FP8 scales."""

    cfg: Config
    ropes: tuple[Rope, ...]
    block: Block = FP8_BLOCK


def read_config(folder: Path) -> ModelConfig:
    """The config of a checkpoint; CheckpointError names every field that is missing or odd."""
    problems = Problems(str(folder))
    reader = _Reader(read_json(folder / CONFIG), problems)
    model = reader.read()
    problems.raise_any()
    assert model is not None
    return model


def check_agrees(found: Config, wanted: Config, subject: str) -> None:
    """CheckpointError unless all figures are those of the preset `wanted`."""
    problems = Problems(subject)
    for item in fields(Config):
        ours, theirs = getattr(wanted, item.name), getattr(found, item.name)
        if item.name != "name" and ours != theirs:
            problems.add(
                f"{CONFIG}: {PLAIN_FIELDS.get(item.name, item.name)}",
                f"{theirs:g}" if isinstance(theirs, float) else str(theirs),
                f"{ours} (preset {wanted.name})",
                "leave --preset out: config.json says what the model is",
            )
    problems.raise_any()


@dataclass
class _Reader:
    """One config.json being read; what is wrong goes to `problems`."""

    data: dict[str, Any]
    problems: Problems

    def read(self) -> ModelConfig | None:
        kind = self.data.get("model_type", MODEL_TYPE)
        if kind != MODEL_TYPE:
            self.odd("model_type", repr(kind), repr(MODEL_TYPE))
            return None
        figures = {ours: self.number(name, self.data) for ours, name in PLAIN_FIELDS.items()}
        figures |= self.rope_figures()
        ropes, block = self.ropes(), self.block()
        if self.problems.found:
            return None
        figures["rope_dim"] = self.rope_dim(int(figures["head_dim"]))
        whole = {n: v if n in FLOATS else int(v) for n, v in figures.items()}
        cfg = named(Config("checkpoint", **whole))  # type: ignore[arg-type]
        self.check_tiles(cfg)
        return None if self.problems.found else ModelConfig(cfg, ropes, block)

    def odd(self, name: str, found: str, wanted: str) -> None:
        self.problems.add(f"{CONFIG}: {name}", found, wanted, EDIT)

    def number(self, name: str, data: Mapping[str, Any], path: str = "") -> float:
        """A positive number; 0 with a problem noted for anything else. Whole unless it may be none."""
        value = data.get(name)
        whole = not any(PLAIN_FIELDS.get(f, f) == name for f in FLOATS) and name != "factor"
        good = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not good or not value or value < 0 or not isfinite(value):
            kind = "a whole number above 0" if whole else "a number above 0"
            self.odd(path + name, "nothing" if value is None else repr(value), kind)
            return 0
        return float(value) if not whole else value

    def rope_dim(self, head_dim: int) -> int:
        """From its own field, or from the share of a head that it is; wherever it is said, the same."""
        dim = self.stated_rope_dim(head_dim)
        nested = self.data.get("rope_parameters") or {}
        for label in ("main", "compress"):
            part = nested.get(label)
            share = part.get("partial_rotary_factor") if isinstance(part, dict) else None
            if share is not None and not (_is_share(share) and int(head_dim * share) == dim):
                wanted = f"{dim / head_dim:g}: {dim} of {head_dim} channels"
                path = f"rope_parameters.{label}.partial_rotary_factor"
                self.odd(path, repr(share), wanted)
        return dim

    def stated_rope_dim(self, head_dim: int) -> int:
        data = self.data
        if data.get("qk_rope_head_dim") is not None:
            return int(self.number("qk_rope_head_dim", data))
        share = data.get("partial_rotary_factor")
        if not _is_share(share):
            found = "neither" if share is None else f"partial_rotary_factor {share!r}"
            self.odd("qk_rope_head_dim", found, "it, or partial_rotary_factor between 0 and 1")
            return 0
        return int(head_dim * share)

    def rope_figures(self) -> dict[str, float]:
        """Both bases, and what YaRN needs; factor 1 (which changes nothing) where there is no YaRN."""
        data = self.data
        given = data.get("rope_parameters") or data.get("rope_scaling") or {}
        if not isinstance(given, dict):
            self.odd("rope_parameters", repr(given), "an object")
            return {}
        nested = isinstance(given.get("main"), dict) and isinstance(given.get("compress"), dict)
        main = given["main"] if nested else data
        compress = given["compress"] if nested else given
        path = "rope_parameters.compress." if nested else ""
        theta = ("rope_theta", main, "rope_parameters.main." if nested else "")
        second = ("rope_theta", compress, path) if nested else ("compress_rope_theta", data, "")
        figures = {"rope_theta": self.number(*theta), "compress_rope_theta": self.number(*second)}
        kind = _rope_type(compress)
        if nested and _rope_type(main) != "default":
            self.odd("rope_parameters.main.rope_type", repr(_rope_type(main)), "'default'")
        if kind == "default":
            return {**figures, "rope_factor": 1.0}
        if kind != "yarn":
            self.odd(f"{path}rope_type", repr(kind), "'yarn' or 'default'")
            return figures
        # Transformers fills the field in as 1 where rope_scaling is flat, and not where it is nested.
        given = compress.get("attention_factor", None if nested else 1)
        if given != 1:
            found = "nothing: Transformers would compute one" if given is None else repr(given)
            self.odd(f"{path}attention_factor", found, "1: cos and sin are not scaled")
        return figures | {
            "rope_factor": self.number("factor", compress, path),
            "beta_fast": self.number("beta_fast", {"beta_fast": 32.0, **compress}, path),
            "beta_slow": self.number("beta_slow", {"beta_slow": 1.0, **compress}, path),
            "original_max_positions": self.number(
                "original_max_position_embeddings", compress, path
            ),
        }

    def ropes(self) -> tuple[Rope, ...]:
        """Plain or YaRN, a layer each."""
        layers = int(self.number("num_hidden_layers", self.data))
        name = "layer_types" if self.data.get("layer_types") is not None else "compress_ratios"
        given = self.data.get(name)
        known = list(LAYER_TYPES) if name == "layer_types" else list(LAYER_TYPES.values())
        if not isinstance(given, list):
            found = "neither" if given is None else f"{name} {given!r}"
            self.odd("layer_types", found, "it, or compress_ratios: an entry for each layer")
            return ()
        strange = sorted({repr(item) for item in given if item not in known})
        if strange:
            self.odd(name, listed(strange), f"{', '.join(map(str, known))}")
        if len(given) < layers:  # more are fine: the release counts its extra prediction layers
            self.odd(name, f"{len(given)} entries", f"{layers}, one for each layer")
        plain = known[0]
        return tuple("plain" if item == plain else "yarn" for item in given[:layers])

    def block(self) -> Block:
        """Rows and columns that share an FP8 scale."""
        quantized = self.data.get("quantization_config")
        size = quantized.get("weight_block_size") if isinstance(quantized, dict) else None
        if size is None:
            return FP8_BLOCK
        if not isinstance(size, list) or [type(n) for n in size] != [int, int] or min(size) < 1:
            self.odd("quantization_config.weight_block_size", repr(size), "two whole numbers")
            return FP8_BLOCK
        return size[0], size[1]

    def check_tiles(self, cfg: Config) -> None:
        """The kernels cut these into whole tiles."""
        for name, value, tile in (
            ("q_lora_rank", cfg.q_lora_rank, Q_LORA_TILE),
            ("head_dim", cfg.head_dim, KV_TILE),
            ("num_attention_heads * head_dim", cfg.q_width, SCALE_BLOCK),
        ):
            if value % tile:
                self.odd(name, str(value), f"a multiple of {tile}")
        if cfg.rope_dim % 2 or not 0 < cfg.rope_dim < cfg.head_dim:
            self.odd("qk_rope_head_dim", str(cfg.rope_dim), f"an even number below {cfg.head_dim}")


def _is_share(value: Any) -> TypeGuard[float]:
    return isinstance(value, float) and 0 < value <= 1


def _rope_type(parameters: Mapping[str, Any]) -> Any:
    return parameters.get("rope_type", parameters.get("type", "default"))


def named(cfg: Config) -> Config:
    """The preset that has the same figures, else `cfg` as it is."""
    return next((p for p in PRESETS.values() if replace(cfg, name=p.name) == p), cfg)


def config_json(cfg: Config, layout: Layout, ratios: list[int], fp8: bool) -> dict[str, Any]:
    """What `read_config` reads, in the fields that the layout's own readers know."""
    figures = asdict(cfg)
    yarn = {
        "factor": cfg.rope_factor,
        "beta_fast": cfg.beta_fast,
        "beta_slow": cfg.beta_slow,
        "original_max_position_embeddings": cfg.original_max_positions,
    }
    common: dict[str, Any] = {
        "architectures": ["DeepseekV4ForCausalLM"],
        "model_type": MODEL_TYPE,
        "num_hidden_layers": len(ratios),
        "num_key_value_heads": 1,
        **{name: figures[ours] for ours, name in PLAIN_FIELDS.items()},
        "rope_theta": cfg.rope_theta,
        "compress_rope_theta": cfg.compress_rope_theta,
        "dtype": "bfloat16",
    }
    if fp8:
        common["quantization_config"] = {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "scale_fmt": "ue8m0",
            "weight_block_size": list(FP8_BLOCK),
            "activation_scheme": "dynamic",
        }
    if layout.name == "release":
        return common | {
            "qk_rope_head_dim": cfg.rope_dim,
            "compress_ratios": ratios,
            "rope_scaling": {"type": "yarn", **yarn},
        }
    names = {ratio: name for name, ratio in LAYER_TYPES.items()}
    share = cfg.rope_dim / cfg.head_dim
    return common | {
        "partial_rotary_factor": share,
        "layer_types": [names[ratio] for ratio in ratios],
        "rope_parameters": {
            "main": {
                "rope_type": "default",
                "rope_theta": cfg.rope_theta,
                "partial_rotary_factor": share,
            },
            "compress": {
                "rope_type": "yarn",
                "rope_theta": cfg.compress_rope_theta,
                "partial_rotary_factor": share,
                "attention_factor": 1.0,
                **yarn,
            },
        },
    }
