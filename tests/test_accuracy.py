"""Errors against FP64 with the original weights: the truth, the measure, and who is closer."""

from __future__ import annotations

import cmath
import json
import math
import re
from collections import Counter

import pytest
import torch
from checkpoints import written
from test_cli import invoke

from tilewright.models.deepseek_v4.accuracy import (
    ULPS,
    Question,
    drawn_layer,
    error,
    exact,
    inputs,
    measure,
    through_fp8,
)
from tilewright.models.deepseek_v4.config import DEMO
from tilewright.models.deepseek_v4.weights import open_checkpoint
from tilewright.models.deepseek_v4.weights.synthetic import original

TOKENS = 16


@pytest.fixture(scope="module")
def asked():
    return Question(drawn_layer(DEMO, 3), "yarn", TOKENS, start_pos=1000, seed=3)


@pytest.fixture(scope="module")
def errors(asked):
    return {(found.way, found.output): found for found in measure(asked)}


def unit(values):
    """RMSNorm of a list of numbers, without a gain."""
    mean = math.fsum(v * v for v in values) / len(values)
    return [v / math.sqrt(mean + DEMO.rms_norm_eps) for v in values]


def times(vector, matrix):
    """A vector times a matrix stored as [out, in]."""
    return [math.fsum(a * b for a, b in zip(vector, row, strict=True)) for row in matrix.tolist()]


def turned(head, angles):
    """RoPE on the tail, pairs as complex numbers."""
    out = list(head)
    for i, angle in enumerate(angles):
        even = DEMO.nope_dim + 2 * i
        z = complex(head[even], head[even + 1]) * cmath.exp(1j * angle)
        out[even], out[even + 1] = z.real, z.imag
    return out


def test_the_truth_is_the_formula_with_nothing_rounded(asked):
    t, head = 5, 2
    x = inputs(asked, "int8")["x"]
    weight = {
        role: original(DEMO, 0, role, 3).double()
        for role in ("attn_norm", "wq_a", "q_norm", "wq_b", "wkv", "kv_norm")
    }

    def gained(values, role):
        return [v * g for v, g in zip(unit(values), weight[role].tolist(), strict=True)]

    x_norm = gained(x[t].double().tolist(), "attn_norm")
    qr = gained(times(x_norm, weight["wq_a"]), "q_norm")
    rows = slice(head * DEMO.head_dim, (head + 1) * DEMO.head_dim)
    half = DEMO.rope_dim // 2
    from tilewright.models.deepseek_v4.reference import rope_frequencies

    angles = [(1000 + t) * f for f in rope_frequencies(DEMO, "yarn").tolist()]
    assert len(angles) == half
    q = turned(unit(times(qr, weight["wq_b"][rows])), angles)
    kv = turned(gained(times(x_norm, weight["wkv"]), "kv_norm"), angles)
    truth = exact(asked, x)
    assert truth["qr_scale"][t].item() == pytest.approx(max(map(abs, qr)) / 127, rel=1e-12)
    for found, wanted in ((truth["q"][t, head], q), (truth["kv"][t], kv), (truth["qr"][t], qr)):
        torch.testing.assert_close(found, torch.tensor(wanted).double(), rtol=1e-5, atol=1e-6)
        wide = torch.tensor(wanted, dtype=torch.float64)
        torch.testing.assert_close(found, wide, rtol=1e-12, atol=1e-12)


def test_errors_are_counted_in_bf16_steps_of_the_true_value():
    truth = torch.tensor([1.0, 1.0, -2.0, 0.75, 4.0, 3.0], dtype=torch.float64)
    step = torch.tensor([2.0**-7, 2.0**-7, 2.0**-6, 2.0**-8, 2.0**-5, 2.0**-6])
    steps = torch.tensor([0.0, 0.5, -0.75, 2.0, 3.0, 100.0])
    found = error("way", "q", truth + step * steps, truth)
    assert found.within == pytest.approx([2 / 6, 1 / 6, 1 / 6, 1 / 6, 0, 0, 0, 1 / 6])
    assert len(found.within) == len(ULPS) + 1
    difference = (step * steps).double()
    assert found.max_abs == difference.abs().max().item()
    assert found.relative_l2 == pytest.approx((difference.norm() / truth.norm()).item())


def test_a_true_zero_and_a_nan_are_counted_and_not_dropped():
    truth = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    found = error("way", "q", torch.tensor([0.0, 1e-3, float("nan")]), truth)
    assert found.within[0] == pytest.approx(1 / 3)
    assert found.within[-1] == pytest.approx(2 / 3)
    assert math.isnan(found.max_abs)


def test_formats_cost_what_their_bits_say(errors):
    def cost(way, output):
        return errors[way, output].relative_l2

    for output in ("q", "kv", "qr"):
        # Half a step of 2**-7 at most, spread evenly: about 2**-8 / sqrt(3) and less within a binade.
        assert 1.4e-3 < cost("rounded", output) < 1.9e-3
        assert errors["rounded", output].within[0] > 0.999
        assert cost("rounded", output) < cost("bf16", output) < 3 * cost("rounded", output)
        assert 0.02 < cost("fp8", output) < 0.05
        assert cost("fp8", output) < cost("fp8 w8a8", output) < 0.05
    assert errors["w8a8", "kv"] == errors["bf16", "kv"].__class__(
        **{**vars(errors["bf16", "kv"]), "way": "w8a8"}
    ), "kv has no codes in it"
    # The scale of a token is its largest latent, rounded to BF16 once: 2**-9 at most, and then in FP32.
    assert cost("rounded", "qr_scale") < 2**-24
    assert ("bf16", "qr_scale") not in errors
    assert cost("w8a8", "qr_scale") < cost("bf16", "qr") < cost("fp8", "qr_scale") < 0.05
    for output in ("q", "qr"):
        assert 2 * cost("bf16", output) < cost("w8a8", output) < cost("fp8", output) / 2


@pytest.mark.parametrize("way", ["bf16", "w8a8"])
def test_the_interpreter_is_as_far_from_the_truth_as_machine_code(asked, errors, way):
    other = Question(asked.layer, "yarn", TOKENS, 1000, 3, "interpreter")
    found = {(e.way, e.output): e for e in measure(other)}
    for output in ("q", "kv", "qr"):
        native = errors[way, output].relative_l2
        assert found[way, output].relative_l2 == pytest.approx(native, rel=0.02)


def test_an_fp8_checkpoint_is_its_own_truth(tmp_path):
    layer = open_checkpoint(written(tmp_path / "c", seed=3)).layer(0)
    found = measure(Question(layer, "plain", 4))
    assert {e.way for e in found} == {"rounded", "bf16", "w8a8"}
    wide = open_checkpoint(written(tmp_path / "b", stored="bf16", seed=3)).layer(0)
    again = through_fp8(drawn_layer(DEMO, 3))
    for role, matrix in layer.matrices.items():
        assert torch.equal(matrix.values(), again.matrices[role].values())
    assert {e.way for e in measure(Question(wide, "plain", 4))} >= {"fp8", "fp8 w8a8"}


def test_accuracy_prints_a_table_and_writes_json(tmp_path):
    file = tmp_path / "a.json"
    result = invoke("accuracy", "--preset", "demo", "--tokens", "5", "--json", str(file))
    assert result.exit_code == 0
    assert "relative L2" in result.output
    assert "<= 0.5 ulp" in result.output
    assert "fp8 w8a8" in result.output
    shares = re.findall(r"(\d+\.\d)%", next(x for x in result.output.splitlines() if " bf16 " in x))
    *within, beyond = map(float, shares)
    assert within == sorted(within)
    assert within[-1] + beyond == pytest.approx(100, abs=0.11)
    data = json.loads(file.read_text())
    assert data["config"]["hidden_size"] == 256
    assert (data["tokens"], data["rope"], data["ulps"]) == (5, "plain", list(ULPS))
    ways = Counter(row["output"] for row in data["errors"])
    assert ways == {"q": 5, "kv": 5, "qr": 5, "qr_scale": 4}
    assert all(sum(row["within"]) == pytest.approx(1) for row in data["errors"])


def test_accuracy_of_a_checkpoint_names_its_layer_and_its_rope(tmp_path):
    folder = written(tmp_path / "c")
    result = invoke("accuracy", "--checkpoint", str(folder), "--layer", "1", "--tokens", "3")
    assert result.exit_code == 0
    assert f"layer 1 of {folder}" in result.output
    assert "rope yarn" in result.output
    assert "stored in FP8: the truth is FP64 with these" in result.output
