"""What is run and how it is judged: inputs of a kernel, copies of its weights, shares in tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tilewright.golden import Case, ScalarSpec, Spec
from tilewright.golden.validate import judge_outputs
from tilewright.models.deepseek_v4.config import Config
from tilewright.models.deepseek_v4.reference import rope_rows
from tilewright.models.deepseek_v4.registry import Entry, Inputs

WEIGHTS = ("wq_a", "wq_b", "wkv")
OUTPUTS = ("q", "kv", "qr", "qr_scale")
# The model has a million rows of RoPE tables, 512 MiB; how many there are does not change the time
# of a call, and these are drawn in an instant.
MAX_SEQ = 4096
JUDGED_AT_ONCE = 128  # rows: their q in FP64 is 32 MiB at FLASH

Outputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Verdict:
    """within: by output the share of elements within tolerance. passed: every policy is content."""

    within: Mapping[str, float]
    passed: bool


@dataclass
class Problem:
    """One kernel on `tokens` tokens. values: every argument by name, outputs as zeros."""

    entry: Entry
    cfg: Config
    tokens: int
    values: dict[str, Any]
    _golden: dict[int, Outputs] = field(default_factory=dict, repr=False)

    @cached_property
    def angles(self) -> tuple[Tensor, Tensor]:
        """cos, sin [T, rope_dim // 2] FP32 of the tokens."""
        cos, sin = rope_rows(self.values, self.cfg)
        return cos.contiguous(), sin.contiguous()

    def weights(self, copies: int) -> list[dict[str, Tensor]]:
        """The weights by name, `copies` times: as they are, then clones."""
        own = {name: self.values[name] for name in WEIGHTS}
        more = [{n: t.clone() for n, t in own.items()} for _ in range(copies - 1)]
        return [own, *more]

    def judge(self, outputs: Outputs, rows: int | None = None) -> Verdict:
        """Judge the outputs of all tokens, or of the first `rows`, by the policies of `tilewright
        check`.

        In favour of whoever is judged, q is judged from the codes emitted also where too many of
        those moved; `passed` is then False all the same.
        """
        policies = self.entry.checks(self.cfg)
        checks = {name: policies[name] for name in OUTPUTS}
        checks["q"] = replace(checks["q"], needs=())
        last = self.tokens if rows is None else min(rows, self.tokens)
        outside, total = dict.fromkeys(OUTPUTS, 0), dict.fromkeys(OUTPUTS, 0)
        passed = True
        for first in range(0, last, JUDGED_AT_ONCE):
            at = slice(first, min(first + JUDGED_AT_ONCE, self.tokens))
            actual = {name: outputs[name][at] for name in OUTPUTS}
            case = Case(actual, self._expected(at), self._part(at))
            for report in judge_outputs(case, compare_fn=checks):
                # A report without a count is one about the wrong shape or dtype.
                outside[report.name] += report.numel if report.outside is None else report.outside
                total[report.name] += report.numel
                passed &= report.passed
        return Verdict({name: 1 - outside[name] / total[name] for name in OUTPUTS}, passed)

    def _part(self, at: slice) -> dict[str, Any]:
        """The inputs of some of the tokens, rows being independent of each other."""
        part = {**self.values, "x": self.values["x"][at]}
        if "start_pos" in part:
            part["start_pos"] += at.start
        else:
            by_token = {"rope_cos", "rope_sin", "slots"} & part.keys()
            part |= {name: part[name][at] for name in by_token}
        return part

    def _expected(self, at: slice) -> Outputs:
        if at.start not in self._golden:
            self._golden[at.start] = self.entry.reference(self._part(at), self.cfg, torch.float64)
        return self._golden[at.start]


class Problems:
    """Problems of one kernel and one set of weights, which are drawn once."""

    def __init__(self, entry: Entry, cfg: Config, seed: int) -> None:
        self.entry, self.cfg, self.seed = entry, cfg, seed
        self._drawn: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def of(self, tokens: int) -> Problem:
        """The problem with that many tokens."""
        asked = Inputs(tokens, max_seq=max(MAX_SEQ, tokens), seed=self.seed)
        values = {s.name: self._value(s) for s in self.entry.specs(self.cfg, asked)}
        return Problem(self.entry, self.cfg, tokens, values)

    def _value(self, spec: Spec) -> Any:
        if isinstance(spec, ScalarSpec):
            return spec.to_python()
        if spec.name not in WEIGHTS:
            return spec.create_tensor()
        key = (spec.name, tuple(spec.shape))
        if key not in self._drawn:
            self._drawn[key] = spec.create_tensor()
        return self._drawn[key]
