"""The checks against a correct operator in FP32, and against some wrong in one place."""

from __future__ import annotations

import pytest
import torch
from golden_kernels import PythonKernel

from tilewright.errors import ArgumentValueError
from tilewright.golden import Case, ScalarSpec, run_jit
from tilewright.golden.validate import judge_outputs
from tilewright.models.deepseek_v4 import reference
from tilewright.models.deepseek_v4.checks import ambiguous, checks, explanation
from tilewright.models.deepseek_v4.config import DEMO, FLASH
from tilewright.models.deepseek_v4.registry import KERNELS, Inputs, find
from tilewright.models.deepseek_v4.specs import decode_specs, prefill_specs

TOKENS = 16
OUTPUTS = ("q", "kv", "qr", "qr_scale")


@pytest.fixture(scope="module")
def values():
    specs = prefill_specs(DEMO, TOKENS, start_pos=64)
    return {
        s.name: s.to_python() if isinstance(s, ScalarSpec) else s.create_tensor() for s in specs
    }


@pytest.fixture(scope="module")
def golden(values):
    return reference.prefill_reference(values, DEMO)


def judged(actual, golden, values):
    reports = judge_outputs(Case(actual, golden, values), compare_fn=checks(DEMO))
    return {report.name: report for report in reports}


def verdicts(actual, golden, values):
    return {name: report.passed for name, report in judged(actual, golden, values).items()}


def from_x_norm(x_norm, values, position=0):
    """All outputs from a BF16 x_norm: what a kernel gives that rounded it like this."""
    cos, sin = reference.rope_rows({**values, "start_pos": values["start_pos"] + position}, DEMO)
    qr, qr_scale = reference.quantize_rows(
        reference.qr_norm_exact(x_norm, values, DEMO).to(torch.bfloat16)
    )
    kv_raw = x_norm.double() @ values["wkv"].double()
    kv = reference.kv_from(kv_raw, cos.double(), sin.double(), values, DEMO).to(torch.bfloat16)
    return {
        "q": reference.q_from(qr, qr_scale, cos, sin, values, DEMO),
        "kv": kv,
        "qr": qr,
        "qr_scale": qr_scale,
    }


def on_the_boundary(values, token=3, elements=(10, 20, 30)):
    """Inputs with elements of x_norm a hair above a BF16 boundary, and the x_norm rounded down."""
    exact = reference.x_norm_exact(values, DEMO)[token]
    gamma = values["attn_norm"].double().clone()
    for i in elements:
        step = 2.0 ** (exact[i].abs().log2().floor().item() - 7)
        boundary = (exact[i].bfloat16().double() + step / 2).item()
        gamma[0, i] *= boundary * (1 + 2.0**-24) / exact[i].item()
    moved = {**values, "attn_norm": gamma.float()}
    rounded = reference.x_norm_exact(moved, DEMO).to(torch.bfloat16)
    where, other = ambiguous(reference.x_norm_exact(moved, DEMO)[token])
    assert set(elements) <= set(where.tolist())
    for i, value in zip(where.tolist(), other, strict=True):
        if i in elements:
            rounded[token, i] = value
    return moved, rounded


def test_the_golden_agrees_with_itself(values, golden):
    assert verdicts(golden, golden, values) == dict.fromkeys(OUTPUTS, True)


@pytest.mark.parametrize("seed", range(6))
def test_the_same_operator_in_fp32_passes_in_every_element(seed):
    specs = prefill_specs(DEMO, 64, start_pos=9, seed=seed)
    values = {
        s.name: s.to_python() if isinstance(s, ScalarSpec) else s.create_tensor() for s in specs
    }
    golden = reference.prefill_reference(values, DEMO)
    plain = reference.prefill_reference(values, DEMO, torch.float32)
    reports = judged(plain, golden, values)
    assert all(report.passed and report.outside == 0 for report in reports.values())


def test_rows_whose_x_norm_fell_the_other_way_are_explained_and_counted(values):
    moved, x_norm = on_the_boundary(values)
    golden, actual = reference.prefill_reference(moved, DEMO), from_x_norm(x_norm, moved)
    rows = explanation(Case(actual, golden, moved), DEMO).rows
    assert rows == (3,)
    reports = judged(actual, golden, moved)
    assert all(report.passed for report in reports.values())
    assert reports["kv"].notes == ("1 row judged from x_norm rounded the other way",)


@pytest.mark.parametrize("error", [1e-2, -1e-2])
@pytest.mark.parametrize("column", [0, 50, 127])
def test_one_wrong_element_of_kv_fails_even_in_a_row_that_may_be_explained(values, error, column):
    moved, x_norm = on_the_boundary(values)
    golden, actual = reference.prefill_reference(moved, DEMO), from_x_norm(x_norm, moved)
    small = actual["kv"][3].float().abs() < 0.5
    column = int(small.nonzero()[min(column, int(small.sum()) - 1)])
    actual["kv"][3, column] += error
    report = judged(actual, golden, moved)["kv"]
    assert not report.passed
    assert report.worst.index[0] == 3


def test_kv_at_a_wrong_position_fails(values, golden):
    shifted = {**values, "start_pos": values["start_pos"] + 1}
    wrong = {**golden, "kv": reference.prefill_reference(shifted, DEMO)["kv"]}
    assert verdicts(wrong, golden, values) == {"q": True, "kv": False, "qr": True, "qr_scale": True}


def test_an_element_of_x_norm_that_is_not_on_a_boundary_excuses_nothing(values, golden):
    exact = reference.x_norm_exact(values, DEMO)
    x_norm = exact.to(torch.bfloat16)
    sure = int((exact[5] - x_norm[5].double()).abs().argmin())  # as far from a boundary as there is
    x_norm[5, sure] = torch.nextafter(x_norm[5, sure].float(), torch.tensor(9e9)) + 2.0**-6
    assert not judged(from_x_norm(x_norm, values), golden, values)["kv"].passed


def test_one_choice_must_explain_kv_and_qr_together(values):
    moved, x_norm = on_the_boundary(values)
    golden, other = reference.prefill_reference(moved, DEMO), from_x_norm(x_norm, moved)
    mixed = {**other, "qr": golden["qr"].clone()}
    mixed["qr"][3] = (mixed["qr"][3].float() * 0.9).to(torch.int8)
    assert not judged(mixed, golden, moved)["qr"].passed


def test_q_is_judged_from_the_codes_emitted(values, golden):
    actual = {name: tensor.clone() for name, tensor in golden.items()}
    actual["qr"][2, 40] += 1
    cos, sin = reference.rope_rows(values, DEMO)
    actual["q"] = reference.q_from(actual["qr"], actual["qr_scale"], cos, sin, values, DEMO)
    reports = judged(actual, golden, values)
    assert all(report.passed for report in reports.values())
    assert reports["q"].notes == ("1 row judged from the codes emitted",)
    stale = {**actual, "q": golden["q"]}
    assert not judged(stale, golden, values)["q"].passed


def test_wrong_codes_cannot_vouch_for_q(values, golden):
    actual = {name: tensor.clone() for name, tensor in golden.items()}
    actual["qr"][2, 40:60] = 0
    cos, sin = reference.rope_rows(values, DEMO)
    actual["q"] = reference.q_from(actual["qr"], actual["qr_scale"], cos, sin, values, DEMO)
    assert verdicts(actual, golden, values) == {
        "q": False,
        "kv": True,
        "qr": False,
        "qr_scale": True,
    }


def wrong_rope_pairing(out, values):
    cos, sin = reference.rope_rows(values, DEMO)
    half = DEMO.rope_dim // 2
    plain = reference.prefill_reference({**values, "start_pos": 0}, DEMO)["q"][:1]
    first, second = plain[..., -2 * half : -half].double(), plain[..., -half:].double()
    c, s = cos[:1, None].double(), sin[:1, None].double()
    out["q"][:1, :, -2 * half :] = torch.cat(
        (first * c - second * s, first * s + second * c), -1
    ).bfloat16()


def forgotten_head(out, values):
    out["q"][:, -1] = out["q"][:, 0]


def swapped_tokens(out, values):
    out["kv"][[0, 1]] = out["kv"][[1, 0]]


def truncated_codes(out, values):
    x_norm = reference.x_norm_exact(values, DEMO).to(torch.bfloat16)
    row = reference.qr_norm_exact(x_norm, values, DEMO).to(torch.bfloat16).float()
    out["qr"][:] = (row / out["qr_scale"]).trunc().to(torch.int8)


def code_off_by_two(out, values):
    out["qr"][7, 7] += 2 if out["qr"][7, 7] < 100 else -2


def scale_inverted(out, values):
    out["qr_scale"].reciprocal_()


def unwritten_row(out, values):
    out["kv"][9] = torch.nan


@pytest.mark.parametrize(
    ("mistake", "output"),
    [
        (wrong_rope_pairing, "q"),
        (forgotten_head, "q"),
        (swapped_tokens, "kv"),
        (truncated_codes, "qr"),
        (code_off_by_two, "qr"),
        (scale_inverted, "qr_scale"),
        (unwritten_row, "kv"),
    ],
)
def test_each_mistake_is_caught_in_its_output(values, golden, mistake, output):
    actual = {name: tensor.clone() for name, tensor in golden.items()}
    mistake(actual, values)
    assert not verdicts(actual, golden, values)[output]


# -- the BF16 query --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide():
    specs = prefill_specs(DEMO, TOKENS, start_pos=64, query="bf16")
    return {
        s.name: s.to_python() if isinstance(s, ScalarSpec) else s.create_tensor() for s in specs
    }


def judged_wide(actual, wide):
    golden = reference.prefill_reference(wide, DEMO)
    case = Case(actual, golden, wide)
    reports = judge_outputs(case, compare_fn=checks(DEMO, "bf16"))
    return {report.name: report for report in reports}


def test_the_bf16_operator_in_fp32_passes_in_every_element_and_has_no_codes(wide):
    plain = reference.prefill_reference(wide, DEMO, torch.float32)
    assert list(plain) == ["q", "kv", "qr"]
    assert plain["qr"].dtype == torch.bfloat16
    reports = judged_wide(plain, wide)
    assert all(report.passed and report.outside == 0 for report in reports.values())


def test_a_latent_one_step_away_is_allowed_and_q_judged_from_it(wide):
    actual = dict(reference.prefill_reference(wide, DEMO))
    actual["qr"] = actual["qr"].clone()
    actual["qr"][2, 40] *= 1 + 2.0**-7
    cos, sin = reference.rope_rows(wide, DEMO)
    stale = judged_wide(actual, wide)
    assert stale["qr"].passed
    actual["q"] = reference.q_from_bf16(actual["qr"], cos, sin, wide, DEMO)
    reports = judged_wide(actual, wide)
    assert all(report.passed for report in reports.values())
    assert reports["q"].notes == ("1 row judged from the latent emitted",)


def test_rows_whose_x_norm_fell_the_other_way_are_explained_in_bf16(wide):
    moved, x_norm = on_the_boundary(wide)
    cos, sin = reference.rope_rows(moved, DEMO)
    qr = reference.qr_norm_exact(x_norm, moved, DEMO).to(torch.bfloat16)
    kv_raw = x_norm.double() @ moved["wkv"].double()
    kv = reference.kv_from(kv_raw, cos.double(), sin.double(), moved, DEMO).to(torch.bfloat16)
    q = reference.q_from_bf16(qr, cos, sin, moved, DEMO)
    reports = judged_wide({"q": q, "kv": kv, "qr": qr}, moved)
    assert all(report.passed for report in reports.values())
    assert reports["kv"].notes == ("1 row judged from x_norm rounded the other way",)


def truncated_latent(out, values):
    x_norm = reference.x_norm_exact(values, DEMO).to(torch.bfloat16)
    exact = reference.qr_norm_exact(x_norm, values, DEMO).float()
    bits = exact.view(torch.int32) & -65536  # rounded toward zero: within a step, and wrong
    out["qr"][:] = bits.view(torch.float32).bfloat16()


def one_wrong_latent(out, values):
    out["qr"][7, 7] *= 1.05


@pytest.mark.parametrize(
    ("mistake", "output"),
    [
        (forgotten_head, "q"),
        (swapped_tokens, "kv"),
        (truncated_latent, "qr"),
        (one_wrong_latent, "qr"),
        (unwritten_row, "kv"),
    ],
)
def test_each_mistake_is_caught_in_its_output_in_bf16(wide, mistake, output):
    actual = {n: t.clone() for n, t in reference.prefill_reference(wide, DEMO).items()}
    mistake(actual, wide)
    assert not judged_wide(actual, wide)[output].passed


# -- rounding boundaries, sizes, positions ---------------------------------------------------------


def test_ambiguous_elements_are_those_within_a_few_ulps_of_the_middle():
    middle = 1 + 2.0**-8
    exact = torch.tensor(
        [1.0, middle * (1 + 2.0**-22), middle * (1 - 2.0**-22), middle + 2.0**-18, 0.0]
    )
    where, other = ambiguous(exact.double())
    assert dict(zip(where.tolist(), other.tolist(), strict=True)) == {1: 1.0, 2: 1 + 2.0**-7}


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_the_whole_harness_accepts_the_fp32_operator_at_flash_size(name):
    entry = find(name)

    def operator(*arguments):
        values = dict(zip((s.name for s in specs), arguments, strict=True))
        for key, tensor in entry.reference(values, FLASH, torch.float32).items():
            values[key].copy_(tensor)

    specs = entry.specs(FLASH, Inputs(tokens=32, start_pos=5, max_seq=64))
    result = run_jit(
        PythonKernel(operator),
        specs,
        golden_fn=entry.golden(FLASH),
        compare_fn=entry.checks(FLASH),
        strict=True,
        repeats=1,
    )
    assert result.passed, result.error


@pytest.mark.parametrize(
    ("start_pos", "tokens", "complaint"),
    [
        (-1, 8, "start_pos is -1, wanted 0 to 4088"),
        (4089, 8, "start_pos is 4089, wanted 0 to 4088"),
        (0, 5000, "5000 tokens do not fit in RoPE tables of 4096 rows"),
        (0, 0, "tokens is 0"),
    ],
)
def test_positions_outside_the_tables_are_refused_with_the_largest_that_fits(
    start_pos, tokens, complaint
):
    with pytest.raises(ArgumentValueError, match=complaint):
        prefill_specs(DEMO, tokens, start_pos)


def test_decode_positions_are_pairs_inside_the_model_and_refused_outside():
    drawn = decode_specs(DEMO, tokens=7)
    assert [s.shape for s in drawn if s.name == "rope_cos"] == [(7, 32)]
    with pytest.raises(ArgumentValueError, match="wanted 0 to 4095"):
        decode_specs(DEMO, tokens=1, positions=[4096])
    with pytest.raises(ArgumentValueError, match="2 positions for 3 tokens"):
        decode_specs(DEMO, tokens=3, positions=[1, 2])


def test_kernels_are_found_by_name_and_alias_and_others_are_refused_with_the_names_there_are():
    assert find("decode") is KERNELS["qkv_proj_rope"]
    with pytest.raises(KeyError, match="prefill_qkv_proj_rope"):
        find("attention")
