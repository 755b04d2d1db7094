"""Comparators: factories of functions that give a verdict and a message.

`cmp(actual, expected, *, actual_outputs, expected_outputs, inputs, rtol, atol) -> (ok, message)`
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

Verdict = tuple[bool, str]


class Comparator(Protocol):
    """Judges one output; may look at the others and at the inputs."""

    @property
    def __name__(self) -> str: ...

    def __call__(
        self,
        actual: Tensor,
        expected: Tensor,
        *,
        actual_outputs: Mapping[str, Tensor],
        expected_outputs: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
        rtol: float,
        atol: float,
    ) -> Verdict: ...


def ratio_allclose(
    atol: float | None = None,
    rtol: float | None = None,
    max_error_ratio: float = 0.005,
    max_show: int = 10,
    *,
    valid_rows: int | None = None,
    valid_axis: int = 0,
    zero_tail: bool = False,
) -> Comparator:
    """Passes when few elements, a share `max_error_ratio`, differ by more than atol + rtol * |e|.

    FP32, round(share * numel) elements; NaN or Inf on either side fails. None takes the run's
    tolerance. With `valid_rows` only the leading rows along `valid_axis` count, and with
    `zero_tail` the others must be zero in `actual`. Raises ValueError for a ratio outside [0, 1].
    """
    _check_ratio("max_error_ratio", max_error_ratio)
    own_rtol, own_atol = rtol, atol

    def ratio_allclose(
        actual: Tensor, expected: Tensor, *, rtol: float, atol: float, **_: object
    ) -> Verdict:
        allowed_rtol = rtol if own_rtol is None else own_rtol
        allowed_atol = atol if own_atol is None else own_atol
        window = _window(actual, expected, valid_rows, valid_axis, zero_tail)
        if isinstance(window, str):
            return False, window
        a, e = window
        difference = (a - e).abs()
        outside = difference > allowed_atol + allowed_rtol * e.abs()
        count, threshold = int(outside.sum()), round(max_error_ratio * a.numel())
        if count <= threshold:
            return True, ""
        header = (
            f"{count}/{a.numel()} elements exceed atol={allowed_atol:g} rtol={allowed_rtol:g}, "
            f"at most {threshold} may (max_error_ratio={max_error_ratio:g})"
        )
        return False, "\n".join([header, *_worst_lines(difference, outside, a, e, max_show)])

    return ratio_allclose


def ratio_reldiff(
    diff_thd: float = 0.01,
    pct_thd: float = 0.05,
    max_diff_hd: float = math.inf,
    max_show: int = 10,
    *,
    valid_rows: int | None = None,
    valid_axis: int = 0,
    zero_tail: bool = False,
) -> Comparator:
    """Passes when few elements are relatively far off, and none of them beyond `max_diff_hd`.

    With d = |a - e|: r = d where d < diff_thd, else d / (max(|a|, |e|, 2**-14 / diff_thd) + 1e-9).
    At most round(pct_thd * numel) elements may have r > diff_thd, and the worst of those must be
    below `max_diff_hd`. `valid_rows` and the rest as in `ratio_allclose`. Raises ValueError for a
    threshold that is not positive or a share outside [0, 1].
    """
    if not (diff_thd > 0 and max_diff_hd > 0):
        raise ValueError(f"diff_thd={diff_thd}, max_diff_hd={max_diff_hd}; wanted both above 0")
    _check_ratio("pct_thd", pct_thd)

    def ratio_reldiff(actual: Tensor, expected: Tensor, **_: object) -> Verdict:
        window = _window(actual, expected, valid_rows, valid_axis, zero_tail)
        if isinstance(window, str):
            return False, window
        a, e = window
        difference = (a - e).abs()
        scale = torch.maximum(a.abs(), e.abs()).clamp_min(2.0**-14 / diff_thd) + 1e-9
        relative = torch.where(difference < diff_thd, difference, difference / scale)
        outside = relative > diff_thd
        count, threshold = int(outside.sum()), round(pct_thd * a.numel())
        worst = relative[outside].max().item() if count else 0.0
        problems = []
        if count > threshold:
            problems.append(
                f"{count}/{a.numel()} elements exceed {diff_thd:g}, at most {threshold} may"
            )
        if count and worst >= max_diff_hd:
            problems.append(
                f"the worst relative difference is {worst:g}, wanted below {max_diff_hd:g}"
            )
        if not problems:
            return True, ""
        return False, "\n".join(
            ["; ".join(problems), *_worst_lines(relative, outside, a, e, max_show)]
        )

    return ratio_reldiff


def topk_pair_compare(
    vals_name: str, *, dim: int = -1, descending: bool = True, max_show: int = 10
) -> Comparator:
    """For indices of a top-k whose values are output `vals_name`: ties may come in either order.

    Where an index differs from the golden's, the actual values must still be ordered with both
    neighbours along `dim`. The values themselves are checked by their own entry.
    """

    def topk_pair_compare(
        actual: Tensor, expected: Tensor, *, actual_outputs: Mapping[str, Tensor], **_: object
    ) -> Verdict:
        if vals_name not in actual_outputs:
            known = ", ".join(actual_outputs)
            return False, f"there is no output {vals_name!r} to pair with; outputs are {known}"
        values = actual_outputs[vals_name]
        if not actual.shape == expected.shape == values.shape:
            return False, (
                f"shapes differ: indices {tuple(actual.shape)}, golden {tuple(expected.shape)}, "
                f"values {tuple(values.shape)}"
            )
        left, right = values.movedim(dim, -1)[..., :-1], values.movedim(dim, -1)[..., 1:]
        in_order = left >= right if descending else left <= right  # False next to a NaN
        edge = torch.ones_like(in_order[..., :1])
        with_left = torch.cat((edge, in_order), dim=-1)
        with_right = torch.cat((in_order, edge), dim=-1)
        ordered = (with_left & with_right).movedim(-1, dim)
        wrong = (actual != expected) & ~ordered
        count = int(wrong.sum())
        if not count:
            return True, ""
        lines = [f"{count} indices differ where the values of {vals_name!r} are out of order"]
        lines += _lines(wrong.flatten().nonzero().flatten()[:max_show], actual, expected)
        return False, "\n".join(lines)

    return topk_pair_compare


def error_distribution(
    diff_thds: Sequence[float] = (1e-3, 1e-2, 1e-1),
    quantiles: Sequence[float] = (0.5, 0.9, 0.99, 0.999),
    always_pass: bool = True,
    echo: Callable[[str], None] = print,
) -> Comparator:
    """Prints the spread of |a - e|: relative L2, cosine, shares beyond `diff_thds`, quantiles.

    Passes; with `always_pass=False` a NaN or Inf in `actual` fails.
    """

    def error_distribution(actual: Tensor, expected: Tensor, **_: object) -> Verdict:
        a, e = actual.double().flatten(), expected.double().flatten()
        difference = (a - e).abs().sort().values
        norm = e.norm().clamp_min(torch.finfo(torch.float64).tiny)
        cosine = torch.nn.functional.cosine_similarity(a, e, dim=0).item()
        echo(f"    relative L2 {((a - e).norm() / norm).item():.3e}   cosine {cosine:.9f}")
        beyond = (f"> {t:g}: {(difference > t).double().mean().item():.3%}" for t in diff_thds)
        echo(f"    share {'   '.join(beyond)}")
        last = difference.numel() - 1
        points = (
            (f"{q:g}: {difference[round(q * last)].item():.3e}" for q in quantiles)
            if last >= 0
            else ()
        )
        echo(f"    quantiles {'   '.join(points)}")
        if always_pass or bool(a.isfinite().all()):
            return True, ""
        return False, f"{int((~a.isfinite()).sum())} elements are NaN or Inf"

    return error_distribution


# -- shared ----------------------------------------------------------------------------------------


def _check_ratio(name: str, ratio: float) -> None:
    if not 0 <= ratio <= 1:
        raise ValueError(f"{name} is {ratio}, wanted a share in [0, 1]")


def _window(
    actual: Tensor, expected: Tensor, valid_rows: int | None, axis: int, zero_tail: bool
) -> tuple[Tensor, Tensor] | str:
    """The parts to compare, in FP32, or the reason why there is nothing to compare."""
    if actual.shape != expected.shape:
        return f"shapes differ: {tuple(actual.shape)}, wanted {tuple(expected.shape)}"
    a, e = actual.float(), expected.float()
    if valid_rows is not None:
        if not -a.dim() <= axis < a.dim() or not 0 <= valid_rows <= a.shape[axis]:
            return f"valid_rows={valid_rows} on axis {axis} is outside shape {tuple(a.shape)}"
        tail = a.narrow(axis, valid_rows, a.shape[axis] - valid_rows)
        if zero_tail and bool((tail != 0).any()):
            return f"{int((tail != 0).sum())} elements past row {valid_rows} are not zero"
        a, e = a.narrow(axis, 0, valid_rows), e.narrow(axis, 0, valid_rows)
    for side, tensor in (("actual", a), ("expected", e)):
        unusable = int((~tensor.isfinite()).sum())
        if unusable:
            return f"{unusable}/{tensor.numel()} elements of {side} are NaN or Inf"
    return a, e


def _worst_lines(
    measure: Tensor, outside: Tensor, actual: Tensor, expected: Tensor, most: int
) -> list[str]:
    """The worst elements outside, worst first."""
    ranked = torch.where(outside, measure, torch.full_like(measure, -1.0)).flatten()
    worst = ranked.topk(min(most, int(outside.sum()))).indices
    return _lines(worst, actual, expected)


def _lines(where: Tensor, actual: Tensor, expected: Tensor) -> list[str]:
    a, e = actual.flatten(), expected.flatten()
    return [f"    [{i}] actual={a[i].item()}, expected={e[i].item()}" for i in where.tolist()]
