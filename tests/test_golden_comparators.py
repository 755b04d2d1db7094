"""Comparators and policies: each accepts what it should and catches the mistake it is there for."""

from __future__ import annotations

import math

import pytest
import torch

from tilewright.golden import (
    close,
    codes_within,
    error_distribution,
    mapped_pool_ratio_allclose,
    ratio_allclose,
    ratio_reldiff,
    topk_pair_compare,
    validate_golden,
)
from tilewright.golden.policies import Case


def compare(cmp, actual, expected, inputs=None, **outputs):
    return cmp(
        actual,
        expected,
        actual_outputs={"y": actual, **outputs},
        expected_outputs={"y": expected},
        inputs=inputs or {},
        rtol=1e-5,
        atol=1e-5,
    )


def judge(policy, actual, expected):
    return policy.judge("y", Case({"y": actual}, {"y": expected}, {}))


# -- the default -----------------------------------------------------------------------------------


def test_the_default_names_every_output_that_is_wrong_and_shows_the_first_twenty():
    wrong, right = torch.ones(2, 30), torch.zeros(2, 30)
    with pytest.raises(AssertionError) as caught:
        validate_golden({"a": wrong, "b": right, "c": wrong}, {"a": right, "b": right, "c": right})
    text = str(caught.value)
    assert text.startswith("Output(s) does not match golden: ['a', 'c']")
    assert "60/60 elements mismatch, rtol=1e-05 atol=1e-05" in text
    assert "[19] actual=1.0, expected=0.0" in text
    assert "[20]" not in text


def test_the_default_takes_equal_infinities_and_never_nan():
    inf, nan = torch.tensor([math.inf]), torch.tensor([math.nan])
    validate_golden({"y": inf}, {"y": inf})
    with pytest.raises(AssertionError):
        validate_golden({"y": inf}, {"y": -inf})
    with pytest.raises(AssertionError):
        validate_golden({"y": nan}, {"y": nan})


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_the_default_compares_fp8_as_the_numbers_they_are(dtype):
    right = torch.tensor([1.0, -2.0, 0.5, 0.0]).to(dtype)
    wrong = torch.tensor([1.0, -2.0, 0.75, 0.0]).to(dtype)
    validate_golden({"y": right}, {"y": right.clone()})
    with pytest.raises(AssertionError, match=r"\[2\] actual=0\.75, expected=0\.5"):
        validate_golden({"y": wrong}, {"y": right})


def test_the_default_wants_one_dtype():
    with pytest.raises(AssertionError, match=r"torch\.int32, the golden is .* torch\.int64"):
        validate_golden(
            {"y": torch.ones(2, dtype=torch.int32)}, {"y": torch.ones(2, dtype=torch.int64)}
        )


def test_a_comparator_for_an_output_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match=r"\['z'\].*\['y'\]"):
        validate_golden(
            {"y": torch.ones(1)}, {"y": torch.ones(1)}, compare_fn={"z": ratio_allclose()}
        )


# -- ratio_allclose --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numel", "wrong", "passes"), [(100, 1, False), (300, 2, True), (300, 3, False)]
)
def test_the_allowed_count_is_the_rounded_share(numel, wrong, passes):
    actual = torch.zeros(numel)
    actual[:wrong] = 1
    cmp = ratio_allclose(atol=0, rtol=0, max_error_ratio=0.005)
    assert compare(cmp, actual, torch.zeros(numel))[0] is passes
    assert cmp.__name__ == "ratio_allclose"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("factory", [ratio_allclose, ratio_reldiff])
def test_nan_and_inf_fail_on_either_side_even_within_the_share(bad, factory):
    spoiled = torch.zeros(1000)
    spoiled[7] = bad
    assert not compare(factory(), spoiled, torch.zeros(1000))[0]
    assert not compare(factory(), torch.zeros(1000), spoiled)[0]


def test_ratio_allclose_takes_the_runs_tolerance_unless_it_has_its_own():
    actual, expected = torch.full((4,), 0.5), torch.zeros(4)
    assert not compare(ratio_allclose(), actual, expected)[0]
    assert compare(ratio_allclose(atol=0.5), actual, expected)[0]


def test_only_leading_rows_are_compared_and_the_tail_may_have_to_be_zero():
    actual, expected = torch.ones(4, 2), torch.ones(4, 2)
    actual[2:] = 9
    assert not compare(ratio_allclose(), actual, expected)[0]
    assert compare(ratio_allclose(valid_rows=2), actual, expected)[0]
    assert not compare(ratio_allclose(valid_rows=2, zero_tail=True), actual, expected)[0]
    actual[2:] = 0
    assert compare(ratio_allclose(valid_rows=2, zero_tail=True), actual, expected)[0]
    assert compare(ratio_allclose(valid_rows=1, valid_axis=1), actual[:2], expected[:2])[0]
    assert compare(ratio_allclose(valid_rows=0), actual, expected)[0]
    assert not compare(ratio_allclose(valid_rows=5), actual, expected)[0]


@pytest.mark.parametrize("ratio", [-0.1, 1.5, math.nan])
def test_a_ratio_outside_zero_to_one_is_refused(ratio):
    with pytest.raises(ValueError, match="share in"):
        ratio_allclose(max_error_ratio=ratio)
    with pytest.raises(ValueError, match="share in"):
        ratio_reldiff(pct_thd=ratio)


# -- ratio_reldiff ---------------------------------------------------------------------------------


def test_small_differences_count_as_they_are_and_large_ones_relatively():
    expected = torch.tensor([100.0, 0.001])
    none = ratio_reldiff(diff_thd=0.01, pct_thd=0)
    assert compare(none, torch.tensor([100.9, 0.009]), expected)[0]
    assert not compare(none, torch.tensor([102.0, 0.001]), expected)[0]


def test_the_worst_difference_is_limited_even_within_the_share():
    actual, expected = torch.ones(100), torch.ones(100)
    actual[0] = 3
    assert compare(ratio_reldiff(), actual, expected)[0]
    assert not compare(ratio_reldiff(max_diff_hd=0.5), actual, expected)[0]


@pytest.mark.parametrize("options", [{"diff_thd": 0}, {"max_diff_hd": -1}])
def test_thresholds_must_be_positive(options):
    with pytest.raises(ValueError, match="above 0"):
        ratio_reldiff(**options)


# -- topk_pair_compare -----------------------------------------------------------------------------


def test_tied_indices_may_change_places():
    values = torch.tensor([[5.0, 3.0, 3.0, 1.0]])
    actual, expected = torch.tensor([[0, 2, 1, 3]]), torch.tensor([[0, 1, 2, 3]])
    assert compare(topk_pair_compare("vals"), actual, expected, vals=values)[0]


def test_an_index_that_differs_where_the_values_are_out_of_order_fails():
    values = torch.tensor([[5.0, 1.0, 3.0]])
    actual, expected = torch.tensor([[0, 2, 1]]), torch.tensor([[0, 1, 2]])
    assert not compare(topk_pair_compare("vals"), actual, expected, vals=values)[0]
    ascending = topk_pair_compare("vals", descending=False)
    assert compare(ascending, actual, expected, vals=torch.tensor([[1.0, 2.0, 3.0]]))[0]


def test_pairing_with_an_output_that_does_not_exist_fails_with_the_names_there_are():
    ok, message = compare(topk_pair_compare("vals"), torch.zeros(1), torch.zeros(1))
    assert not ok
    assert "outputs are y" in message


# -- pools and distributions -----------------------------------------------------------------------


def pool_case(rows, change=None):
    expected = torch.zeros(2, 4, 3)
    actual = expected.clone()
    for row in rows:
        if 0 <= row < 8:
            actual.view(8, 3)[row] += 0.01
    if change is not None:
        actual.view(8, 3)[change] += 1e-30
    cmp = mapped_pool_ratio_allclose(
        "rows", mapping_shape=(len(rows),), block_size=4, atol=0.1, rtol=0
    )
    return compare(cmp, actual, expected, inputs={"rows": torch.tensor(rows, dtype=torch.int32)})


def test_mapped_rows_are_compared_and_the_others_must_keep_their_bits():
    assert pool_case([5, -1, 0])[0]
    ok, message = pool_case([5, -1, 0], change=3)
    assert not ok
    assert "the first is row 3" in message


@pytest.mark.parametrize("rows", [[1, 1], [8], [-2]])
def test_a_mapping_with_duplicates_or_rows_outside_the_pool_fails(rows):
    ok, message = pool_case(rows)
    assert not ok
    assert message.startswith("rows: ")


def test_a_distribution_is_printed_and_passes():
    said = []
    cmp = error_distribution((0.5,), (0.5, 1.0), echo=said.append)
    assert compare(cmp, torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 2.0]))[0]
    assert "> 0.5: 33.333%" in said[1]
    assert "1: 1.000e+00" in said[2]


# -- policies --------------------------------------------------------------------------------------


def test_close_reports_share_and_worst_element_in_units_of_its_tolerance():
    expected = torch.zeros(2, 4)
    actual = expected.clone()
    actual[1, 2] = 0.3
    report = judge(close(atol=0.1), actual, expected)
    assert not report.passed
    assert (report.outside, report.share) == (1, 1 / 8)
    assert report.worst.index == (1, 2)
    assert report.worst.ratio == pytest.approx(3)
    assert judge(close(atol=0.31), actual, expected).passed


def test_close_is_inclusive_and_scales_with_the_expected_value():
    expected = torch.tensor([128.0])
    assert judge(close(rtol=1 / 128), torch.tensor([129.0]), expected).passed
    assert not judge(close(rtol=1 / 128), torch.tensor([129.01]), expected).passed


@pytest.mark.parametrize(
    "pair",
    [
        (math.nan, 0.0),
        (0.0, math.nan),
        (math.nan, math.nan),
        (math.inf, 1.0),
        (1.0, math.inf),
        (math.inf, -math.inf),
    ],
)
def test_close_never_takes_a_nan_or_a_one_sided_infinity(pair):
    actual, expected = (torch.tensor([v]) for v in pair)
    report = judge(close(rtol=1, atol=1), actual, expected)
    assert not report.passed
    assert report.worst.ratio == math.inf


def test_close_takes_equal_infinities_and_exact_values_at_zero_tolerance():
    assert judge(close(), torch.tensor([math.inf, 0.0]), torch.tensor([math.inf, 0.0])).passed


def test_a_policy_wants_the_same_shape_and_dtype():
    report = judge(close(atol=1), torch.zeros(2), torch.zeros(2, dtype=torch.float64))
    assert "torch.float32, wanted (2,) torch.float64" in report.message


def test_codes_may_move_by_one_step_and_only_few_of_them():
    expected = torch.zeros(100, dtype=torch.int8)
    policy = codes_within(step=1, changed=0.05)
    for moved, passes in ((5, True), (6, False)):
        actual = expected.clone()
        actual[:moved] = 1
        assert judge(policy, actual, expected).passed is passes
    actual = expected.clone()
    actual[3] = 2
    report = judge(policy, actual, expected)
    assert report.outside == 1
    assert report.worst.index == (3,)


def test_close_may_ask_that_few_elements_differ_at_all():
    expected = torch.ones(100)
    policy = close(rtol=0.1, changed=0.05)
    for moved, passes in ((5, True), (6, False)):
        actual = expected.clone()
        actual[:moved] = 1.01
        report = judge(policy, actual, expected)
        assert report.passed is passes
        assert report.outside == 0
    assert "6/100 elements differ, at most 5 may" in report.message
    assert report.policy == "close rtol=0.1 atol=0, 5.0% changed"


def test_codes_at_both_ends_of_int8_are_far_apart():
    actual = torch.tensor([127], dtype=torch.int8)
    assert not judge(codes_within(step=1), actual, torch.tensor([-128], dtype=torch.int8)).passed


@pytest.mark.parametrize(
    "bad",
    [
        lambda: close(rtol=-1),
        lambda: close(atol=math.nan),
        lambda: close(changed=1.5),
        lambda: codes_within(-1),
        lambda: codes_within(1, 2),
    ],
)
def test_policies_refuse_impossible_tolerances(bad):
    with pytest.raises(ValueError, match="wanted"):
        bad()
