"""What the harness says about one output: verdict, how much is outside, and the worst element."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Worst:
    """The element that is furthest from where it should be, relative to what it is allowed."""

    index: tuple[int, ...]
    actual: float
    expected: float
    ratio: float  # error over allowance: 1 is just inside; inf for a NaN, or where none is allowed

    def __str__(self) -> str:
        at = ", ".join(map(str, self.index))
        return f"[{at}] {self.actual:.6g} for {self.expected:.6g}, {self.ratio:.2f} tol"


@dataclass(frozen=True)
class OutputReport:
    """The verdict on one output.

    notes:   remarks of the policy, such as where the expected values are from.
    message: what is wrong, with the first elements that are; empty when it passed.
    """

    name: str
    passed: bool
    policy: str  # in a few words; "allclose" is the default comparison
    shape: tuple[int, ...]
    dtype: torch.dtype
    outside: int | None = None  # elements outside tolerance; None where a comparator does not say
    worst: Worst | None = None
    notes: tuple[str, ...] = ()
    message: str = ""

    @property
    def numel(self) -> int:
        """Elements of the output."""
        return torch.Size(self.shape).numel()

    @property
    def share(self) -> float | None:
        """Fraction of elements outside tolerance."""
        return None if self.outside is None else self.outside / max(1, self.numel)

    def line(self) -> str:
        """As it is printed: `'y' PASS  shape=(64, 256) dtype=torch.bfloat16`."""
        label = "" if self.policy == DEFAULT else f" ({self.policy})"
        return (
            f"'{self.name}' {'PASS' if self.passed else 'FAIL'}{label}"
            f"  shape={self.shape} dtype={self.dtype}"
        )


DEFAULT = "allclose"  # the policy that goes without saying


def excess(actual: Tensor, expected: Tensor, rtol: float, atol: float) -> Tensor:
    """|actual - expected| / (atol + rtol * |expected|), element by element; over 1 is outside.

    FP64, so that the sum of tolerances is not itself rounded. NaN anywhere is infinitely far off;
    equal values, infinities too, are 0; where nothing is allowed any difference is infinite.
    """
    a, e = actual.to(torch.float64), expected.to(torch.float64)
    allowed = atol + rtol * e.abs()
    error = (a - e).abs()
    ratio = torch.where(allowed > 0, error / allowed, torch.full_like(error, torch.inf))
    ratio = torch.where(a == e, torch.zeros_like(ratio), ratio)
    unlike = (
        a.isinf() | e.isinf()
    )  # inf / inf above is NaN or, with a finite partner, no measure at all
    ratio = torch.where(unlike & (a != e), torch.full_like(ratio, torch.inf), ratio)
    return ratio.nan_to_num_(nan=torch.inf, posinf=torch.inf)


def worst_of(ratio: Tensor, actual: Tensor, expected: Tensor) -> Worst | None:
    """The element with the largest ratio; None for an empty tensor."""
    if ratio.numel() == 0:
        return None
    flat = int(ratio.flatten().argmax())
    index, rest = [], flat
    for extent in reversed(ratio.shape):
        rest, i = divmod(rest, extent)
        index.append(i)
    return Worst(
        tuple(reversed(index)),
        actual.flatten()[flat].item(),
        expected.flatten()[flat].item(),
        ratio.flatten()[flat].item(),
    )


def mismatch_lines(outside: Tensor, actual: Tensor, expected: Tensor, most: int = 20) -> list[str]:
    """The first mismatches by flat index, one line each."""
    where = outside.flatten().nonzero().flatten()[:most].tolist()
    a, e = actual.flatten(), expected.flatten()
    return [f"    [{i}] actual={a[i].item()}, expected={e[i].item()}" for i in where]
