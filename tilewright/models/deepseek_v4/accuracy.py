"""How far each way to compute the projection is from FP64 with the weights as they were.

The truth rounds nothing: no BF16 between the steps, no codes, RoPE angles in FP64. Ways:

- "rounded": the truth, rounded once to the dtype of the output. No output of that dtype can do better.
- "bf16": our kernel with BF16 weights.
- "w8a8": our kernel with an INT8 wq_b and INT8 codes of the latent.
- "fp8": FP64 with the weights that an FP8 checkpoint keeps: what storing them has cost already.
- "fp8 w8a8": our INT8 kernel on the weights of an FP8 checkpoint: the release as it is served.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tilewright.golden import ScalarSpec
from tilewright.models.deepseek_v4.config import (
    INT8_AMAX_FLOOR,
    INT8_SCALE_MAX,
    Config,
    Query,
    Rope,
)
from tilewright.models.deepseek_v4.reference import (
    heads_from,
    kv_from,
    rms_norm,
    rope_frequencies,
)
from tilewright.models.deepseek_v4.registry import KERNELS, Inputs
from tilewright.models.deepseek_v4.specs import with_values
from tilewright.models.deepseek_v4.weights.layer import FP8, Layer, Matrix
from tilewright.models.deepseek_v4.weights.layouts import GAINS, MATRICES
from tilewright.models.deepseek_v4.weights.problems import Tell, silent
from tilewright.models.deepseek_v4.weights.quantize import FP8_BLOCK, quantize_fp8
from tilewright.models.deepseek_v4.weights.synthetic import original

# What is kept of each output; qr_scale, the scale of a token's codes, is there where there are codes.
KEPT = {
    "q": torch.bfloat16,
    "kv": torch.bfloat16,
    "qr": torch.bfloat16,
    "qr_scale": torch.float32,
}
# An error of so many BF16 steps at most; a step is that of the true value, 2**-7 of its binade. qr_scale is
# FP32 and counted in the same steps: it is made of the largest latent of its token, which is BF16.
ULPS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0)
LEAST_EXPONENT = -125  # of normal BF16: below, steps are 2**-133
# The decode kernel takes a RoPE row for each token and gives the bits of the prefill kernel.
KERNEL_OF: dict[Query, str] = {"int8": "qkv_proj_rope", "bf16": "qkv_proj_rope_bf16"}

Outputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Error:
    """One output by one way, against the truth.

    within: share of elements, 0 to 1, whose error is at most ULPS[i] BF16 steps of the true value but above
            ULPS[i - 1]; one entry more for the rest.
    """

    way: str
    output: str
    relative_l2: float  # |error| / |truth|, both as vectors
    max_abs: float
    within: tuple[float, ...]


@dataclass(frozen=True)
class Question:
    """What to compute: a layer, and `tokens` tokens of one sequence from position start_pos on, drawn from `seed`."""

    layer: Layer
    rope: Rope
    tokens: int
    start_pos: int = 0
    seed: int = 0
    backend: str = "native"


def drawn_layer(cfg: Config, seed: int) -> Layer:
    """Layer 0 of the synthetic checkpoints, before any of its weights is quantised: FP32, 4 bytes an element."""
    values = {role: original(cfg, 0, role, seed) for role in (*GAINS, *MATRICES)}
    gains = {role: values[role] for role in GAINS}
    matrices = {role: Matrix(values[role], "F32") for role in MATRICES}
    return Layer(cfg, 0, None, gains, matrices)


def measure(asked: Question, tell: Tell = silent) -> list[Error]:
    """Errors of every output (q, kv, qr, qr_scale) by every way; without codes there is no qr_scale.

    tell: is called with the way, and how many of how many are done.

    A layer stored in FP8 has no other weights to be compared with: those are then the truth, and
    the ways with "fp8" are left out. Raises ArgumentValueError for impossible tokens or positions.
    """
    x = inputs(asked, "int8")["x"]
    steps = list(_ways(asked, x))
    found = []
    truth: Outputs = {}
    for done, (way, compute) in enumerate(steps):
        tell(way, done, len(steps))
        outputs = compute()
        if way == "truth":
            truth = outputs
            outputs, way = {n: t.to(KEPT[n]) for n, t in truth.items()}, "rounded"
        found += [error(way, name, value, truth[name]) for name, value in outputs.items()]
        tell(way, done + 1, len(steps))
    return found


def _ways(asked: Question, x: Tensor) -> Iterator[tuple[str, Any]]:
    """(name, a call that computes the outputs), the truth first."""
    yield "truth", lambda: exact(asked, x)
    yield "bf16", lambda: kernel(asked, "bf16")
    yield "w8a8", lambda: kernel(asked, "int8")
    if all(matrix.dtype == FP8 for matrix in asked.layer.matrices.values()):
        return
    stored = replace(asked, layer=through_fp8(asked.layer))
    yield "fp8", lambda: exact(stored, x)
    yield "fp8 w8a8", lambda: kernel(stored, "int8")


def through_fp8(layer: Layer) -> Layer:
    """The layer as an FP8 checkpoint keeps it."""
    matrices = {
        role: Matrix(*_swapped(*quantize_fp8(matrix.values())))
        for role, matrix in layer.matrices.items()
    }
    return replace(layer, matrices=matrices)


def _swapped(codes: Tensor, scale: Tensor) -> tuple[Tensor, str, Tensor, tuple[int, int]]:
    return codes, FP8, scale, FP8_BLOCK


def inputs(asked: Question, query: Query) -> dict[str, Any]:
    """Arguments of the kernel with such a query, outputs as zeros."""
    entry = KERNELS[KERNEL_OF[query]]
    cfg = asked.layer.cfg
    inputs = Inputs(asked.tokens, asked.start_pos, None, asked.seed, asked.rope)
    specs = with_values(entry.specs(cfg, inputs), asked.layer.arguments(query))
    return {
        s.name: s.to_python() if isinstance(s, ScalarSpec) else s.create_tensor() for s in specs
    }


def kernel(asked: Question, query: Query) -> Outputs:
    """What our kernel gives; qr as values."""
    values = inputs(asked, query)
    built = KERNELS[KERNEL_OF[query]].build(asked.layer.cfg)
    built.run(**values, backend=asked.backend)
    made = {"q": values["q"], "kv": values["kv"], "qr": values["qr"]}
    if query == "int8":
        made["qr"] = values["qr"].double() * values["qr_scale"].double()
        made["qr_scale"] = values["qr_scale"]
    return made


def exact(asked: Question, x: Tensor) -> Outputs:
    """The projection of x [T, D] in FP64, nothing rounded on the way: q [T, H, HEAD_DIM], kv [T,
    HEAD_DIM], qr [T, Q_LORA], and what the scale of its codes would be, qr_scale [T, 1].
    """
    layer, cfg = asked.layer, asked.layer.cfg
    position = torch.arange(asked.start_pos, asked.start_pos + asked.tokens, dtype=torch.float64)
    angle = position[:, None] * rope_frequencies(cfg, asked.rope)
    cos, sin = angle.cos(), angle.sin()
    x_norm = rms_norm(x.double(), layer.gains["attn_norm"], cfg.rms_norm_eps)
    qr_raw = product(x_norm, layer.matrices["wq_a"])
    qr = rms_norm(qr_raw, layer.gains["q_norm"], cfg.rms_norm_eps)
    return {
        "q": heads_from(product(qr, layer.matrices["wq_b"]), cos, sin, cfg),
        "kv": kv_from(product(x_norm, layer.matrices["wkv"]), cos, sin, layer.gains, cfg),
        "qr": qr,
        "qr_scale": qr.abs().amax(-1, keepdim=True).clamp_min(INT8_AMAX_FLOOR) / INT8_SCALE_MAX,
    }


def product(x: Tensor, weight: Matrix) -> Tensor:
    """x [T, in] FP64 times a weight stored as [out, in]: [T, out] FP64."""
    parts = [x @ weight.rows(*part).double().t() for part in weight.parts()]
    return torch.cat(parts, dim=-1)


def error(way: str, output: str, found: Tensor, truth: Tensor) -> Error:
    """How far `found` is from `truth`, FP64 of the same shape."""
    difference = (found.double() - truth).abs()
    exponent = torch.frexp(truth).exponent  # |truth| in [2**(e - 1), 2**e); 0 for a truth of 0
    exponent = torch.where(truth == 0, LEAST_EXPONENT, exponent).clamp_min(LEAST_EXPONENT)
    steps = difference / torch.exp2((exponent - 8).double())
    bounds = torch.tensor(ULPS, dtype=torch.float64)
    counts = torch.bincount(torch.bucketize(steps.flatten(), bounds), minlength=len(ULPS) + 1)
    return Error(
        way,
        output,
        (difference.norm() / truth.norm()).item(),
        difference.max().item(),
        tuple((counts / steps.numel()).tolist()),
    )
