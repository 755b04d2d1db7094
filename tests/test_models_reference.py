"""The reference against independent, slower ways to say the same mathematics."""

from __future__ import annotations

import math

import pytest
import torch

from tilewright.golden import ScalarSpec
from tilewright.models.deepseek_v4 import reference
from tilewright.models.deepseek_v4.config import DEMO, FLASH, PRESETS, PRO
from tilewright.models.deepseek_v4.specs import decode_specs, prefill_specs


def values_of(specs):
    return {
        s.name: s.to_python() if isinstance(s, ScalarSpec) else s.create_tensor() for s in specs
    }


@pytest.fixture(scope="module")
def demo():
    return values_of(prefill_specs(DEMO, tokens=5, start_pos=100))


def test_presets_are_the_published_figures():
    assert (FLASH.hidden_size, FLASH.num_attention_heads, FLASH.q_lora_rank) == (4096, 64, 1024)
    assert (PRO.hidden_size, PRO.num_attention_heads, PRO.q_lora_rank) == (7168, 128, 1536)
    assert (FLASH.nope_dim, FLASH.rope_dim, FLASH.head_dim) == (448, 64, 512)
    assert (DEMO.nope_dim, DEMO.rope_dim, DEMO.head_dim) == (96, 32, 128)
    assert list(PRESETS) == ["flash", "pro", "demo"]


def test_kv_is_the_formula_element_by_element(demo):
    t, cfg = 3, DEMO
    x = [v.item() for v in demo["x"][t].double()]
    inv_rms = 1 / math.sqrt(sum(v * v for v in x) / len(x) + cfg.rms_norm_eps)
    gamma = demo["attn_norm"][0].tolist()
    x_norm = torch.tensor(
        [v * inv_rms * g for v, g in zip(x, gamma, strict=True)], dtype=torch.float64
    )
    x_norm = x_norm.bfloat16().tolist()
    raw = [
        sum(a * b for a, b in zip(x_norm, column, strict=True))
        for column in demo["wkv"].double().T.tolist()
    ]
    inv = 1 / math.sqrt(sum(v * v for v in raw) / len(raw) + cfg.rms_norm_eps)
    kv = [v * inv * g for v, g in zip(raw, demo["kv_norm"][0].tolist(), strict=True)]
    for i in range(cfg.rope_dim // 2):
        angle = (100 + t) * cfg.rope_theta ** (-2 * i / cfg.rope_dim)
        even, odd = cfg.nope_dim + 2 * i, cfg.nope_dim + 2 * i + 1
        z = complex(kv[even], kv[odd]) * complex(math.cos(angle), math.sin(angle))
        kv[even], kv[odd] = z.real, z.imag
    got = reference.prefill_reference(demo, cfg)["kv"][t].double()
    torch.testing.assert_close(got, torch.tensor(kv).double(), rtol=2**-8, atol=1e-6)


def test_each_head_of_q_is_normalised_on_its_own_and_dequantised_per_column(demo):
    cfg, out = DEMO, reference.prefill_reference(demo, DEMO)
    head = 2
    columns = slice(head * cfg.head_dim, (head + 1) * cfg.head_dim)
    weights = demo["wq_b"][:, columns].double() * demo["wq_b_scale"].double().reshape(-1)[columns]
    row = (out["qr"].double() * out["qr_scale"].double()) @ weights
    row = row / (row.square().mean(-1, keepdim=True) + cfg.rms_norm_eps).sqrt()
    torch.testing.assert_close(
        out["q"][:, head, : cfg.nope_dim].double(), row[:, : cfg.nope_dim], rtol=2**-8, atol=1e-6
    )


def test_quantisation_is_symmetric_rounds_to_even_and_survives_a_row_of_zeros():
    x = torch.tensor([[127.0, -127.0, 2.5, 3.5, -0.5], [0.0, 0.0, 0.0, 0.0, 0.0]])
    codes, scale = reference.quantize_rows(x)
    assert codes.tolist() == [[127, -127, 2, 4, 0], [0, 0, 0, 0, 0]]
    assert scale[0].item() == 1
    assert scale[1].item() == pytest.approx(1e-4 / 127)


def test_the_scale_is_divided_once_and_not_multiplied_by_a_reciprocal():
    amax = torch.linspace(0.5, 8, 4096).bfloat16().float()[:, None]
    _, scale = reference.quantize_rows(amax)
    inv_scale = (
        127 / amax.double()
    ).float()  # FP64 quotients of FP32 numbers round like the FP32 ones
    assert torch.equal(scale, (1 / inv_scale.double()).float())
    assert not torch.equal(inv_scale, amax.reciprocal() * 127)  # what Torch makes of `127.0 / amax`


@pytest.mark.parametrize("k", [1, 1023, 1024, 1025, 2048])
def test_int8_products_are_exact_at_the_largest_codes(k):
    codes = torch.full((2, k), 127, dtype=torch.int8)
    codes[1, ::2] = -127
    weights = torch.full((k, 3), 127, dtype=torch.int8)
    weights[0, 1] = -127
    wanted = codes.long() @ weights.long()
    assert torch.equal(reference.matmul_int8(codes, weights).long(), wanted)


def test_rope_turns_neighbouring_channels_and_keeps_their_length():
    x = torch.arange(8, dtype=torch.float64).reshape(1, 8)
    angle = torch.tensor([0.0, math.pi / 2, math.pi, 0.1], dtype=torch.float64)
    turned = reference.apply_rope(x, angle.cos(), angle.sin())
    wanted = [0, 1, -3, 2, -4, -5]
    torch.testing.assert_close(turned[0, :6], torch.tensor(wanted).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(turned[0, 6:].norm(), x[0, 6:].norm())


@pytest.mark.parametrize("rope", ["plain", "yarn"])
@pytest.mark.parametrize("rows", [1, 4096, 4097, 70000])
def test_a_table_has_the_rows_that_are_computed_one_by_one(rope, rows):
    cos, sin = reference.rope_tables(rows, FLASH, rope)
    positions = torch.tensor(sorted({0, 1, rows // 2, rows - 1} & set(range(rows))))
    wanted_cos, wanted_sin = reference.rope_at(positions, FLASH, rope)
    assert cos.shape == sin.shape == (rows, 64)
    torch.testing.assert_close(cos[positions], wanted_cos, rtol=2**-23, atol=1e-9)
    torch.testing.assert_close(sin[positions], wanted_sin, rtol=2**-23, atol=1e-9)
    assert torch.equal(cos[:, :32], cos[:, 32:])


def test_the_last_position_of_the_model_has_the_right_phase():
    last = FLASH.max_positions - 1
    cos, _ = reference.rope_at(torch.tensor([last]), FLASH, "plain")
    for pair in (0, 1, 31):
        assert cos[0, pair].item() == pytest.approx(
            math.cos(last * 10000 ** (-pair / 32)), abs=1e-7
        )


def test_yarn_keeps_fast_pairs_divides_slow_ones_and_ramps_between():
    plain = 160000.0 ** (-torch.arange(32, dtype=torch.float64) / 32)
    ratio = reference.rope_frequencies(FLASH, "yarn") / plain
    # Pairs that turn 32 times and once over 65536 positions: 15.5 and 24.7, widened to whole pairs.
    assert torch.allclose(ratio[:16], torch.ones(16).double())
    assert torch.allclose(ratio[25:], torch.full((7,), 1 / 16).double())
    ramp = 1 - (torch.arange(16, 25) - 15) / 10 * (15 / 16)
    assert torch.allclose(ratio[16:25], ramp.double())


def test_a_token_has_the_same_reference_in_prefill_and_decode(demo):
    whole = reference.prefill_reference(demo, DEMO)
    rows = values_of(decode_specs(DEMO, tokens=5, positions=range(100, 105)))
    single = reference.decode_reference({**demo, **rows}, DEMO)
    for name, tensor in whole.items():
        assert torch.equal(tensor, single[name]), name


def test_more_tokens_or_another_position_leave_the_weights_alone():
    one = values_of(prefill_specs(DEMO, tokens=1, start_pos=7, seed=3))
    other = values_of(prefill_specs(DEMO, tokens=9, start_pos=0, seed=3))
    assert torch.equal(one["wq_b"], other["wq_b"])
    assert torch.equal(one["x"], other["x"][:1])
    assert not torch.equal(one["wq_b"], values_of(prefill_specs(DEMO, tokens=1, seed=4))["wq_b"])


def test_inputs_have_magnitudes_that_make_every_output_about_one(demo):
    out = reference.prefill_reference(demo, DEMO)
    assert 0.7 < out["q"].float().std() < 1.3
    assert 0.7 < out["kv"].float().std() < 1.3
    assert 10 < out["qr"].float().std() < 80
    weights = demo["wq_b"]
    assert weights.min() == -127
    assert weights.max() == 127
