"""Judging all outputs of a run: the default comparison, comparators and policies alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tilewright.errors import KernelError, SpecError, SpecTypeError, author_line, raised_at
from tilewright.golden.comparators import Comparator
from tilewright.golden.policies import Case, Policy
from tilewright.golden.report import DEFAULT, OutputReport, excess, mismatch_lines, worst_of

Judge = Comparator | Policy


def judge_outputs(
    case: Case,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    compare_fn: Mapping[str, Judge] | None = None,
) -> list[OutputReport]:
    """A report on every output of `case`, in their order; all are judged, whatever fails.

    Raises ValueError when `compare_fn` names no output, or policies need each other in a circle.
    """
    judges = dict(compare_fn or {})
    unknown = [name for name in judges if name not in case.actual]
    if unknown:
        raise SpecError(
            f"compare_fn names {unknown}, outputs are {list(case.actual)}",
            author_line(),
            help="name outputs: specs with is_output=True",
        )
    for name in _in_order(case, judges):
        judge = judges.get(name)
        if isinstance(judge, Policy):
            case.reports[name] = judge.judge(name, case)
        else:
            case.reports[name] = _compare(name, case, rtol, atol, judge)
    return [case.reports[name] for name in case.actual]


def validate_golden(
    outputs: Mapping[str, Tensor],
    golden: Mapping[str, Tensor],
    rtol: float = 1e-5,
    atol: float = 1e-5,
    compare_fn: Mapping[str, Judge] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> None:
    """Raise AssertionError with the first mismatches unless every output agrees with `golden`.

    outputs, golden: tensors by name.
    compare_fn:      a comparator or a policy for some of them; the others are compared by `torch.allclose`
                     with rtol and atol.
    inputs:          what comparators may look at.
    Raises ValueError when `compare_fn` names no output.
    """
    case = Case(outputs, golden, inputs or {})
    error = error_of(judge_outputs(case, rtol, atol, compare_fn))
    if error is not None:
        raise AssertionError(error)


def error_of(reports: list[OutputReport]) -> str | None:
    """The error text of a run with these reports; None when all passed."""
    failed = [report for report in reports if not report.passed]
    if not failed:
        return None
    names = [report.name for report in failed]
    return "\n".join([f"Output(s) does not match golden: {names}", *(r.message for r in failed)])


def _in_order(case: Case, judges: Mapping[str, Judge]) -> list[str]:
    """Output names such that what a policy needs comes before it."""
    done: list[str] = []
    waiting = list(case.actual)
    while waiting:
        ready = [n for n in waiting if all(need in done for need in _needs(judges.get(n)))]
        if not ready:
            raise ValueError(
                f"policies of {waiting} need each other, or an output that does not exist"
            )
        done += ready
        waiting = [n for n in waiting if n not in ready]
    return done


def _needs(judge: Judge | None) -> tuple[str, ...]:
    return judge.needs if isinstance(judge, Policy) else ()


def _verdict(
    name: str, label: str, case: Case, rtol: float, atol: float, compare: Comparator
) -> tuple[bool, str]:
    """What a comparator says. SpecError when it raises, or says something else than a verdict."""
    actual, expected = case.actual[name].cpu(), case.expected[name].cpu()
    if not callable(compare):
        raise SpecTypeError(
            f"compare_fn of {name!r} is {compare!r}, wanted a function",
            author_line(),
            help="leave it out: torch.allclose compares",
        )
    try:
        verdict = compare(
            actual,
            expected,
            actual_outputs=case.actual,
            expected_outputs=case.expected,
            inputs={k: v for k, v in case.values.items() if isinstance(v, Tensor)},
            rtol=rtol,
            atol=atol,
        )
    except KernelError:
        raise
    except Exception as error:
        file = getattr(getattr(compare, "__code__", None), "co_filename", "")
        raise SpecError(
            f"the comparator {label} of {name!r} raised {type(error).__name__}: {error}",
            raised_at(error, file) or author_line(),
            help="it is called with (actual, expected, *, actual_outputs, expected_outputs, inputs,"
            " rtol, atol)",
        ) from error
    if not isinstance(verdict, tuple) or len(verdict) != 2:
        raise SpecTypeError(
            f"the comparator {label} of {name!r} gave {type(verdict).__name__}, wanted a pair",
            author_line(),
            help="return (passed, message)",
        )
    return verdict


def _compare(
    name: str, case: Case, rtol: float, atol: float, compare: Comparator | None
) -> OutputReport:
    """A comparator's verdict or, without one, that of `torch.allclose`."""
    actual, expected = case.actual[name].cpu(), case.expected[name].cpu()
    shape, dtype = tuple(actual.shape), actual.dtype
    alike = actual.shape == expected.shape and actual.dtype == expected.dtype
    ratio = excess(actual, expected, rtol, atol) if alike else None
    worst = None if ratio is None else worst_of(ratio, actual, expected)
    if compare is not None:
        label = str(getattr(compare, "__name__", type(compare).__name__))
        passed, message = _verdict(name, label, case, rtol, atol, compare)
        text = "" if passed else f"'{name}': {message}"
        return OutputReport(name, passed, label, shape, dtype, None, worst, (), text)
    if ratio is None:
        message = (
            f"'{name}' is {shape} {dtype}, the golden is {tuple(expected.shape)} {expected.dtype}"
        )
        return OutputReport(name, False, DEFAULT, shape, dtype, message=message)
    if actual.is_floating_point() and actual.element_size() == 1:  # FP8, which Torch cannot compare
        actual, expected = actual.float(), expected.float()
    outside = ~torch.isclose(actual, expected, rtol=rtol, atol=atol)
    count = int(outside.sum())
    if count == 0:
        return OutputReport(name, True, DEFAULT, shape, dtype, 0, worst)
    lines = [f"'{name}': {count}/{actual.numel()} elements mismatch, rtol={rtol:g} atol={atol:g}"]
    lines += mismatch_lines(outside, actual, expected)
    return OutputReport(name, False, DEFAULT, shape, dtype, count, worst, (), "\n".join(lines))
