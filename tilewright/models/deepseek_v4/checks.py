"""How each output of the Q/KV kernels is judged: every element within tolerance, and none excused.

Two discrete roundings stand between the inputs and the outputs, and a correct kernel may take
either side of each where the exact value lies on the boundary:

- INT8 codes. `qr` may differ by one code; `q` is then judged from the codes and scales emitted.
- BF16 `x_norm`, which is not an output. One element that rounds the other way moves a whole row of
  `kv` (and of `qr`) by up to about 1e-4 of its norm, more than a small element of `kv` is allowed.
  So for a row that fails, the few elements of `x_norm` that lie within `BOUNDARY_ULPS` of a
  boundary are tried both ways, and the row passes if one choice explains `kv`, `qr` and `qr_scale`
  together, in every element.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tilewright.golden import Case, Policy, close, codes_within
from tilewright.golden.report import excess
from tilewright.models.deepseek_v4 import reference
from tilewright.models.deepseek_v4.config import Config, Query

# BF16 has 8 bits of significand: 2**-7 of the value is one step, room for an FP32 epilogue besides.
ROW_ATOL, ROW_RTOL = 1e-4, 2.0**-7
SCALE_ATOL, SCALE_RTOL = 2.5e-5, 5e-3  # one BF16 step of the row's largest element
CODE_STEP = 1
# Seen with FLASH inputs: below 0.1 % of codes change, and of a latent in BF16. A wrong rounding mode
# changes half of them.
CODES_CHANGED = 0.02

# FP32 error of x * inv_rms * gamma: a row sum of squares in any tree (2), its mean and root and
# reciprocal (2), two products (1), and as much again in reserve. One BF16 step is 65536 of these.
BOUNDARY_ULPS = 8
FP32_ULP = 2.0**-23
MOST_AMBIGUOUS = 10  # 2**10 choices; at FLASH a row has one ambiguous element on average
# FP32 error of the largest |qr_norm|, in units of it: a dot product over D and an RMSNorm.
AMAX_ERROR = 2.0**-19


def checks(cfg: Config, query: Query = "int8") -> dict[str, Policy]:
    """The policy of each output, for `run_jit(..., compare_fn=checks(cfg))`."""
    row = close(rtol=ROW_RTOL, atol=ROW_ATOL)

    def explained(name: str, case: Case) -> tuple[Tensor, str]:
        found = explanation(case, cfg)
        count = len(found.rows)
        note = judged(count, "x_norm rounded the other way") if count and name == "kv" else ""
        return found.expected[name], note

    if query == "bf16":
        return {
            "kv": row.given(derive=partial(explained, "kv")),
            "qr": close(ROW_RTOL, ROW_ATOL, CODES_CHANGED).given(derive=partial(explained, "qr")),
            "q": row.given("qr", derive=partial(q_from_latent, cfg=cfg)),
        }
    return {
        "kv": row.given(derive=partial(explained, "kv")),
        "qr": codes_within(CODE_STEP, CODES_CHANGED).given(derive=partial(explained, "qr")),
        "qr_scale": close(SCALE_RTOL, SCALE_ATOL).given(derive=partial(explained, "qr_scale")),
        "q": row.given("qr", "qr_scale", derive=partial(q_from_codes, cfg=cfg)),
    }


def cached_checks(cfg: Config) -> dict[str, Policy]:
    """`checks`, and of the cache every bit: the rows of kv emitted where the slots say, all else as it was."""

    def from_kv(case: Case) -> tuple[Tensor, str]:
        given = case.values
        return reference.with_rows(given["cache"], given["slots"], case.actual["kv"]), ""

    return {**checks(cfg), "cache": close().given("kv", derive=from_kv)}


def judged(rows: int, from_what: str) -> str:
    """A note on an output: `3 rows judged from the codes emitted`."""
    return f"{rows} row{'s' * (rows > 1)} judged from {from_what}"


def q_from_codes(case: Case, cfg: Config) -> tuple[Tensor, str]:
    """q from the codes and scales emitted; rows with the golden's codes keep the golden's q."""
    qr, qr_scale = case.actual["qr"], case.actual["qr_scale"]
    same = (qr == case.expected["qr"]).all(-1) & (qr_scale == case.expected["qr_scale"]).all(-1)
    rows = (~same).nonzero().flatten()
    if not len(rows):
        return case.expected["q"], ""
    cos, sin = reference.rope_rows(case.values, cfg)
    q = case.expected["q"].clone()
    q[rows] = reference.q_from(qr[rows], qr_scale[rows], cos[rows], sin[rows], case.values, cfg)
    return q, judged(len(rows), "the codes emitted")


def q_from_latent(case: Case, cfg: Config) -> tuple[Tensor, str]:
    """q from the BF16 latent emitted; rows with the golden's latent keep the golden's q."""
    qr = case.actual["qr"]
    rows = (qr != case.expected["qr"]).any(-1).nonzero().flatten()
    if not len(rows):
        return case.expected["q"], ""
    cos, sin = reference.rope_rows(case.values, cfg)
    q = case.expected["q"].clone()
    q[rows] = reference.q_from_bf16(qr[rows], cos[rows], sin[rows], case.values, cfg)
    return q, judged(len(rows), "the latent emitted")


# -- rows on a rounding boundary -------------------------------------------------------------------


@dataclass(frozen=True)
class Explanation:
    """What kv, qr and qr_scale (where there is one) should be, given how `x_norm` may have been
    rounded in `rows`.
    """

    expected: Mapping[str, Tensor]
    rows: tuple[int, ...]


def explanation(case: Case, cfg: Config) -> Explanation:
    """The golden's outputs but q, rows that fail replaced where a choice explains them."""
    if "explanation" not in case.memo:
        case.memo["explanation"] = _explain(case, cfg)
    found: Explanation = case.memo["explanation"]
    return found


def _explain(case: Case, cfg: Config) -> Explanation:
    expected = {name: tensor for name, tensor in case.expected.items() if name != "q"}
    usable = all(
        case.actual[name].shape == want.shape and case.actual[name].dtype == want.dtype
        for name, want in expected.items()
    )
    if not usable:
        return Explanation(expected, ())
    right = _rows_right(case.actual, expected)
    suspects = (~right).nonzero().flatten().tolist()
    if not suspects:
        return Explanation(expected, ())
    exact = reference.x_norm_exact(case.values, cfg)
    cos, sin = (t.double() for t in reference.rope_rows(case.values, cfg))
    wide = {name: case.values[name].double() for name in ("wq_a", "wkv")}
    expected = {name: tensor.clone() for name, tensor in expected.items()}
    explained = []
    for t in suspects:
        actual = {name: case.actual[name][t : t + 1] for name in expected}
        choice = _choice(actual, exact[t], cos[t : t + 1], sin[t : t + 1], wide, case.values, cfg)
        if choice is not None:
            explained.append(t)
            for name, row in choice.items():
                expected[name][t] = row
    return Explanation(expected, tuple(explained))


def _choice(
    actual: Mapping[str, Tensor],
    exact: Tensor,
    cos: Tensor,
    sin: Tensor,
    wide: Mapping[str, Tensor],
    values: Mapping[str, Any],
    cfg: Config,
) -> dict[str, Tensor] | None:
    """The row of kv, qr (and qr_scale) under roundings that explain `actual`; None if there are none.

    exact [D] FP64 is the row of x_norm before rounding; cos, sin [1, rope_dim // 2] its angles.
    """
    rounded = exact.to(torch.bfloat16)
    where, other = ambiguous(exact)
    flips = torch.tensor(
        list(itertools.product((0.0, 1.0), repeat=len(where))), dtype=torch.float64
    )
    flips = flips[flips.sum(1).argsort(stable=True)]  # few flips first
    step = (other.double() - rounded[where].double())[:, None]
    kv_raw = rounded.double() @ wide["wkv"] + flips @ (step * wide["wkv"][where])
    kv = reference.kv_from(kv_raw, cos, sin, values, cfg).to(torch.bfloat16)
    fits = (excess(actual["kv"], kv, ROW_RTOL, ROW_ATOL) <= 1).all(-1)
    for choice in fits.nonzero().flatten().tolist():
        x_norm = rounded.clone()
        flipped = flips[choice] > 0
        x_norm[where[flipped]] = other[flipped]
        for latent in _latents(x_norm[None], wide["wq_a"], values, cfg):
            row = {"kv": kv[choice : choice + 1], **latent}
            if bool(_rows_right(actual, row)):
                return {name: tensor[0] for name, tensor in row.items()}
    return None


def ambiguous(exact: Tensor) -> tuple[Tensor, Tensor]:
    """Elements of `exact` [N] FP64 that FP32 arithmetic may round to either of two BF16 values.

    Gives (indices, the BF16 value that rounding to nearest does not take), at most MOST_AMBIGUOUS,
    those closest to their boundary.
    """
    rounded = exact.to(torch.bfloat16)
    margin = BOUNDARY_ULPS * FP32_ULP * exact.abs()
    below, above = (exact - margin).to(torch.bfloat16), (exact + margin).to(torch.bfloat16)
    where = (below != above).nonzero().flatten()
    other = torch.where(rounded == below, above, below)[where]
    middle = (rounded[where].double() + other.double()) / 2
    distance = (exact[where] - middle).abs() / exact[where].abs()
    closest = distance.argsort()[:MOST_AMBIGUOUS]
    return where[closest], other[closest]


def _latents(
    x_norm: Tensor, wq_a: Tensor, values: Mapping[str, Any], cfg: Config
) -> list[dict[str, Tensor]]:
    """qr (and qr_scale) of a row x_norm [1, D]; codes twice where its amax is on a BF16 boundary."""
    qr_raw = x_norm.double() @ wq_a
    exact = reference.rms_norm(qr_raw, values["q_norm"], cfg.rms_norm_eps)
    rounded = exact.to(torch.bfloat16)
    if values["wq_b"].dtype == torch.bfloat16:
        return [{"qr": rounded}]
    top = exact.abs().amax(-1, keepdim=True)
    candidates = [rounded.abs().amax(-1, keepdim=True)]
    for bound in (top * (1 - AMAX_ERROR), top * (1 + AMAX_ERROR)):
        amax = bound.to(torch.bfloat16)
        if not torch.equal(amax, candidates[0]):
            candidates.append(amax)
    quantized = (reference.quantize_rows_with(rounded, amax) for amax in candidates)
    return [{"qr": qr, "qr_scale": qr_scale} for qr, qr_scale in quantized]


def _rows_right(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Tensor:
    """[T] BOOL: rows in which every output but q is as expected."""
    kv = (excess(actual["kv"], expected["kv"], ROW_RTOL, ROW_ATOL) <= 1).all(-1)
    if "qr_scale" not in expected:
        return kv & (excess(actual["qr"], expected["qr"], ROW_RTOL, ROW_ATOL) <= 1).all(-1)
    moved = (actual["qr"] != expected["qr"]).sum(-1)
    few = moved <= max(2, round(CODES_CHANGED * actual["qr"].shape[-1]))
    near = (excess(actual["qr"], expected["qr"], 0.0, CODE_STEP) <= 1).all(-1)
    scale = (excess(actual["qr_scale"], expected["qr_scale"], SCALE_RTOL, SCALE_ATOL) <= 1).all(-1)
    return few & near & kv & scale
