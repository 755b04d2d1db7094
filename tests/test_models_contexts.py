"""Long contexts and mixed batches: the angle of the right base, at the right position, for every row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ir_programs import same_bits
from qkv_layers import CFG, OUTPUTS, TOKENS, assert_same, by_kernel, module, values, x

from tilewright.errors import KernelError
from tilewright.golden import Case
from tilewright.golden.validate import judge_outputs
from tilewright.models.deepseek_v4 import ops, prefill_qkv_proj_rope, reference
from tilewright.models.deepseek_v4.checks import checks
from tilewright.models.deepseek_v4.config import DEMO, FLASH, ROPES, Rope
from tilewright.models.deepseek_v4.module import Projected
from tilewright.models.deepseek_v4.specs import prefill_specs
from tilewright.models.deepseek_v4.weights.config_json import read_config

MILLION = 1 << 20


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two whole chunks and a part of one, at a number of tokens that a test can afford."""
    monkeypatch.setattr(ops, "T_CHUNK", 64)


def verdicts(got: Projected, positions: torch.Tensor, rope: Rope) -> dict[str, bool]:
    """By output, whether it is what the mathematics gives at these positions with this base."""
    given: dict[str, Any] = {**values(), "x": x(len(positions))}
    given["rope_cos"], given["rope_sin"] = reference.rope_at(positions, CFG, rope)
    golden = reference.decode_reference(given, CFG)
    actual = dict(zip(OUTPUTS, got, strict=True))
    reports = judge_outputs(Case(actual, golden, given), compare_fn=checks(CFG))
    return {report.name: report.passed for report in reports}


RIGHT = dict.fromkeys(OUTPUTS, True)
TURNED_WRONG = {**RIGHT, "q": False, "kv": False}


# The base of a layer


@pytest.mark.parametrize("start", [0, 100, 70_000, MILLION - 20])
@pytest.mark.parametrize("rope", ROPES)
def test_a_layer_turns_by_its_own_base_and_the_other_would_be_noticed(rope: Rope, start: int):
    """From 20 tokens on, at any distance; both bases turn the token at position 0 by nothing."""
    at = torch.arange(20) + start
    got = module(rope)(x(20), start_pos=start)
    other: Rope = "plain" if rope == "yarn" else "yarn"
    assert verdicts(got, at, rope) == RIGHT
    assert verdicts(got, at, other) == TURNED_WRONG


def test_the_types_of_layers_name_the_base(tmp_path: Path):
    """A sliding window keeps every key, at base 10000; layers with compressed keys have 160000 and YaRN."""
    types = ["sliding_attention", "heavily_compressed_attention", "compressed_sparse_attention"]
    fields = {
        "hidden_size": CFG.hidden_size,
        "num_attention_heads": CFG.num_attention_heads,
        "q_lora_rank": CFG.q_lora_rank,
        "head_dim": CFG.head_dim,
        "qk_rope_head_dim": CFG.rope_dim,
        "rms_norm_eps": CFG.rms_norm_eps,
        "max_position_embeddings": MILLION,
        "num_hidden_layers": 3,
        "layer_types": types,
        "rope_theta": 10_000,
        "compress_rope_theta": 160_000,
        "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 65_536},
    }
    (tmp_path / "config.json").write_text(json.dumps(fields))
    at = torch.arange(6) + 5000
    for rope, wanted in zip(read_config(tmp_path).ropes, ("plain", "yarn", "yarn"), strict=True):
        assert rope == wanted
        assert verdicts(module(rope)(x(6), start_pos=5000), at, wanted) == RIGHT


@pytest.mark.parametrize("rope", ROPES)
def test_angles_are_right_to_the_last_bit_but_one_a_million_positions_away(rope: Rope):
    """Against 40 digits: an angle in FP32 would be off by up to 1/32 there."""
    mpmath = pytest.importorskip("mpmath")
    frequencies = reference.rope_frequencies(FLASH, rope)
    positions = torch.tensor([MILLION - 1, MILLION - 2, 999_983, 65_537])
    cos, sin = reference.rope_turned(positions, frequencies)
    theta = 10_000 if rope == "plain" else 160_000
    with mpmath.workdps(40):
        for row, position in enumerate(positions.tolist()):
            for pair in (0, 1, 7, 15, 31):
                frequency = mpmath.mpf(theta) ** (mpmath.mpf(-pair) / 32)
                if rope == "yarn" and pair > 25:
                    frequency /= 16
                angle = position * frequency
                assert float(cos[row, pair]) == pytest.approx(float(mpmath.cos(angle)), abs=2**-24)
                assert float(sin[row, pair]) == pytest.approx(float(mpmath.sin(angle)), abs=2**-24)


# Where a token stands


@pytest.mark.parametrize("start", [0, 7, MILLION - TOKENS])
def test_the_second_chunk_of_a_call_stands_behind_the_first(start: int):
    """With the first chunk's start_pos its tokens would be turned as tokens 0 to 63 are."""
    whole = module()(x(), start_pos=start)
    assert verdicts(whole, torch.arange(TOKENS) + start, "plain") == RIGHT
    stale = torch.arange(TOKENS) % 64 + start
    assert verdicts(whole, stale, "plain") == TURNED_WRONG


def test_a_prompt_given_in_two_calls_has_the_bits_of_one():
    layer = module("yarn")
    whole = layer(x(), start_pos=900_000)
    first, second = layer(x()[:70], start_pos=900_000), layer(x()[70:], start_pos=900_070)
    assert_same(Projected(*(torch.cat(pair) for pair in zip(first, second, strict=True))), whole)
    stale = layer(x()[70:], start_pos=900_000)
    assert not same_bits(stale.kv, second.kv)
    assert same_bits(stale.qr, second.qr)  # which has no position in it


def test_the_start_of_a_compiled_layer_is_that_of_the_call():
    layer = module()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for start in (0, 64, 128, MILLION - 70):
        assert_same(compiled(x(70), start), by_kernel(torch.arange(70) + start))


@pytest.mark.parametrize("backend", ["native", "interpreter"])
def test_a_prompt_that_leaves_the_table_stops_before_anything_is_written(backend: str):
    given: dict[str, Any] = {
        s.name: s.create_tensor() if hasattr(s, "create_tensor") else s.to_python()
        for s in prefill_specs(DEMO, 70, start_pos=10, max_seq=80)
    }
    given["start_pos"] = 11
    outputs = [given[name].fill_(77) for name in OUTPUTS]
    with pytest.raises(KernelError, match=r"rope_cos"):
        prefill_qkv_proj_rope.build(DEMO).run(*given.values(), backend=backend)
    assert all(bool((y == 77).all()) for y in outputs)


def test_requests_of_many_lengths_share_a_call_and_a_batch_has_rows_of_its_own():
    """Three prompts and four decoding requests, packed; then as a padded batch."""
    lengths, starts = (70, 1, 40, 1, 1, 1, 9), (0, 5000, 64, 1, MILLION - 1, 0, 65_530)
    layer, row, rows = module("yarn"), 0, []
    positions = torch.cat([torch.arange(n) + s for n, s in zip(lengths, starts, strict=True)])
    packed = layer(x(len(positions)), position_ids=positions)
    padded = torch.full((len(lengths), 70), -1)
    batch = torch.randn(len(lengths), 70, CFG.hidden_size).bfloat16()  # padding is not zeros
    for b, (count, start) in enumerate(zip(lengths, starts, strict=True)):
        alone = layer(x()[row : row + count], start_pos=start)
        assert_same(Projected(*(t[row : row + count] for t in packed)), alone)
        padded[b, :count] = torch.arange(count) + start
        batch[b, :count] = x()[row : row + count]
        rows.append(alone)
        row += count
    got = layer(batch, position_ids=padded)
    for b, alone in enumerate(rows):
        assert_same(Projected(*(t[b, : lengths[b]] for t in got)), alone)
        assert not any(bool(t[b, lengths[b] :].any()) for t in got)


# Rows past the last token


@pytest.fixture
def nan_in_new_memory() -> Iterator[None]:
    """Torch fills what `torch.empty` gives: floats with NaN, integers with their largest value."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.usefixtures("nan_in_new_memory")
@pytest.mark.parametrize("count", [1, 9, 63, 65, TOKENS])
def test_no_row_is_left_as_the_memory_was(count: int):
    """9 tokens are computed as 10 and 150 as 152 rows; with padding, fewer are computed than there are."""
    layer, at = module(), torch.arange(count)
    wanted = by_kernel(at)
    assert_same(layer(x(count)), wanted)
    at[1::3] = -1
    got = layer(x(count), position_ids=at)
    for a, b in zip(got, wanted, strict=True):
        assert same_bits(a[at >= 0], b[at >= 0])
        assert not a[at < 0].any()


def test_padding_may_hold_anything():
    """NaN in a row that is no token reaches no other row, no output."""
    rows = x(6).clone()
    rows[2], rows[5] = float("nan"), float("inf")
    at = torch.tensor([0, 1, -1, 3, 4, -1])
    got = module()(rows, position_ids=at)
    assert all(bool(t.float().isfinite().all()) for t in got)
    assert_same(
        Projected(*(t[at >= 0] for t in got)), module()(x(6)[at >= 0], position_ids=at[at >= 0])
    )
