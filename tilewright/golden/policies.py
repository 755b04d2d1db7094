"""Comparison policies: an object that judges one output, its reason in its name.

    CHECKS = {
        "qr": codes_within(step=1, changed=0.05),
        "q": close(rtol=2**-7, atol=1e-4).given("qr", "qr_scale", derive=q_from_codes),
    }
    run_jit(kernel, specs, golden_fn=reference, compare_fn=CHECKS)

A policy stands wherever a comparator may stand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from tilewright.golden.report import OutputReport, excess, mismatch_lines, worst_of


@dataclass
class Case:
    """Everything about one run that a policy may look at."""

    actual: Mapping[str, Tensor]  # outputs as the kernel left them
    expected: Mapping[str, Tensor]  # outputs of the golden
    values: Mapping[str, Any]  # inputs by name, scalars as Python numbers
    reports: dict[str, OutputReport] = field(default_factory=dict)  # verdicts so far, in order
    memo: dict[str, Any] = field(default_factory=dict)  # work that several policies share


Derive = Callable[[Case], tuple[Tensor, str]]


@dataclass(frozen=True)
class Policy(ABC):
    """A way to judge one output.

    needs:  outputs that are judged before this one.
    derive: computes what is expected, with a remark for the report ("" for none); None takes the
            golden's.
    """

    needs: tuple[str, ...] = field(default=(), kw_only=True)
    derive: Derive | None = field(default=None, kw_only=True)

    def given(self, *needs: str, derive: Derive) -> Policy:
        """The same policy, with the expected values computed by `derive(case)`.

        With `needs`, from outputs as emitted, once those have passed their own policies. If one of
        them failed, the golden's own values are expected: a wrong output must not vouch for
        another.
        """
        return replace(self, needs=needs, derive=derive)

    def judge(self, name: str, case: Case) -> OutputReport:
        """The verdict on output `name`."""
        actual = case.actual[name]
        expected, note = self._expected(name, case)
        notes = (note,) if note else ()
        if actual.dtype != expected.dtype or actual.shape != expected.shape:
            found = f"{tuple(actual.shape)} {actual.dtype}"
            wanted = f"{tuple(expected.shape)} {expected.dtype}"
            message = f"'{name}' is {found}, wanted {wanted}"
            return OutputReport(
                name,
                False,
                self.label,
                tuple(actual.shape),
                actual.dtype,
                notes=notes,
                message=message,
            )
        ratio = self.ratio(actual, expected)
        outside = ratio > 1
        count = int(outside.sum())
        complaint = self.complaint(actual, expected)
        lines = [f"'{name}': {complaint}"] if complaint else []
        if count:
            lines.append(f"'{name}': {count}/{actual.numel()} elements outside {self.label}")
            lines += mismatch_lines(outside, actual, expected)
        return OutputReport(
            name,
            passed=not lines,
            policy=self.label,
            shape=tuple(actual.shape),
            dtype=actual.dtype,
            outside=count,
            worst=worst_of(ratio, actual, expected),
            notes=notes,
            message="\n".join(lines),
        )

    def _expected(self, name: str, case: Case) -> tuple[Tensor, str]:
        if self.derive is None:
            return case.expected[name], ""
        failed = [need for need in self.needs if not case.reports[need].passed]
        if failed:
            return case.expected[
                name
            ], f"judged from the golden's {', '.join(failed)}: those emitted failed"
        return self.derive(case)

    @abstractmethod
    def ratio(self, actual: Tensor, expected: Tensor) -> Tensor:
        """Error over allowance, element by element, FP64; over 1 is outside."""

    def complaint(self, actual: Tensor, expected: Tensor) -> str:
        """What is wrong with the output as a whole, "" for nothing."""
        return ""

    @property
    @abstractmethod
    def label(self) -> str:
        """The policy in a few words, for the printed line."""


@dataclass(frozen=True)
class Close(Policy):
    """Every element within atol + rtol * |expected|; NaN is never close, equal infinities are.

    changed: the share of elements that may differ at all. Only those next to a rounding boundary
    have a reason to where both sides round the same value to 16 bits.
    """

    rtol: float
    atol: float
    changed: float = 1.0

    def ratio(self, actual: Tensor, expected: Tensor) -> Tensor:
        return excess(actual, expected, self.rtol, self.atol)

    def complaint(self, actual: Tensor, expected: Tensor) -> str:
        return too_many(actual, expected, self.changed, "elements")

    @property
    def label(self) -> str:
        few = "" if self.changed == 1 else f", {self.changed:.1%} changed"
        return f"close rtol={self.rtol:.3g} atol={self.atol:.3g}{few}"


@dataclass(frozen=True)
class CodesWithin(Policy):
    """Integer codes: none more than `step` apart, at most a share `changed` of them moved at all.

    A value on a rounding boundary may move by one code; a wrong rounding mode moves half of them by
    one, which is what `changed` catches.
    """

    step: int
    changed: float

    def ratio(self, actual: Tensor, expected: Tensor) -> Tensor:
        return excess(actual, expected, rtol=0.0, atol=float(self.step))

    def complaint(self, actual: Tensor, expected: Tensor) -> str:
        return too_many(actual, expected, self.changed, "codes")

    @property
    def label(self) -> str:
        return f"codes within {self.step}, {self.changed:.1%} changed"


def too_many(actual: Tensor, expected: Tensor, changed: float, what: str) -> str:
    """A complaint if more than a share `changed` differs; one may even in the shortest tensor."""
    if changed == 1:
        return ""
    moved, allowed = int((actual != expected).sum()), max(1, round(changed * actual.numel()))
    return (
        f"{moved}/{actual.numel()} {what} differ, at most {allowed} may" if moved > allowed else ""
    )


def close(rtol: float = 0.0, atol: float = 0.0, changed: float = 1.0) -> Close:
    """Every element within atol + rtol * |expected|; NaN is never close, equal infinities are.

    changed: the share of elements, 0 to 1, that may differ at all.
    Raises ValueError for a negative or NaN tolerance or a share outside [0, 1].
    """
    if not (rtol >= 0 and atol >= 0 and 0 <= changed <= 1):
        raise ValueError(
            f"rtol={rtol}, atol={atol}, changed={changed};"
            " wanted tolerances of at least 0 and a share in [0, 1]"
        )
    return Close(rtol, atol, changed)


def codes_within(step: int, changed: float = 1.0) -> CodesWithin:
    """Integer codes none of which is more than `step` apart, and at most a share `changed` moved at all.

    Raises ValueError for a negative step or a share outside [0, 1].
    """
    if step < 0 or not 0 <= changed <= 1:
        raise ValueError(f"step={step}, changed={changed}; wanted step >= 0 and a share in [0, 1]")
    return CodesWithin(step, changed)
