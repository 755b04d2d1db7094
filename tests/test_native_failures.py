"""Machine code that fails: the author's line, and a right call afterwards."""

from __future__ import annotations

import pytest
import torch
from both_ways import agree, guarded, ramp, share_even_small

import tilewright.language as pl
from tilewright.errors import BoundsError, KernelError

CORE = pl.Level.CORE_GROUP
THREADS = (1, 2, 3, 5)


@pl.jit
def window_at(x: pl.Tensor, at: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        y[:, :] = pl.add(x[at : at + 2, :], 1.0)


@pl.jit
def store_at(x: pl.Tensor, at: pl.Tensor, y: pl.Out[pl.Tensor]):
    for i in pl.parallel(8):
        with pl.at(level=CORE):
            row = pl.read(at, [i])
            y[row : row + 1, :] = x[i : i + 1, :]


@pl.jit
def column_at(x: pl.Tensor, at: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        tile = pl.mul(x[:, :], 2.0)
        for i in pl.range(8):
            c = pl.read(at, [i])
            y[i : i + 1, 0:3] = tile[i : i + 1, c : c + 3]


@pl.jit
def element_at(x: pl.Tensor, at: pl.Tensor, y: pl.Out[pl.Tensor]):
    for i in pl.range(8):
        pl.write(y, [i, 0], pl.read(x, [pl.read(at, [i]), 0]))


@pl.jit
def by_a_fraction(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    for i in pl.range(4):
        at = pl.cast(pl.cast(i, pl.FP32) * 2.5 * 2.5, pl.INT32)
        with pl.at(level=CORE):
            y[i : i + 1, :] = x[at : at + 1, :]


@pl.jit
def too_much_valid(x: pl.Tensor, n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        part = pl.slice(x, [4, 4], [0, 0], valid_shape=[n, n])
        y[0:4, 0:4] = pl.add(part, 1.0)


def line_of(kernel: pl.Kernel, text: str) -> int:
    """The line of this file on which `text` stands in a kernel."""
    import inspect

    lines, first = inspect.getsourcelines(kernel.function)
    return first + next(i for i, line in enumerate(lines) if text in line)


FAILURES: dict[str, tuple[pl.Kernel, tuple, str]] = {
    "a window below": (window_at, (ramp(8, 16), -1, torch.zeros(2, 16)), "x[at"),
    "a window above": (window_at, (ramp(8, 16), 7, torch.zeros(2, 16)), "x[at"),
    "a window far above": (window_at, (ramp(8, 16), 1 << 62, torch.zeros(2, 16)), "x[at"),
    "a store in a parallel loop": (
        store_at,
        (
            ramp(8, 16),
            torch.tensor([0, 1, 2, 3, 4, 8, 5, 6], dtype=torch.int32),
            torch.zeros(8, 16),
        ),
        "y[row",
    ),
    "a negative store in a parallel loop": (
        store_at,
        (ramp(8, 16), torch.tensor([-1] * 8, dtype=torch.int32), torch.zeros(8, 16)),
        "y[row",
    ),
    "columns of a tile": (
        column_at,
        (
            ramp(8, 16),
            torch.tensor([0, 1, 13, 14, 0, 0, 0, 0], dtype=torch.int32),
            torch.zeros(8, 16),
        ),
        "tile[i",
    ),
    "one element": (
        element_at,
        (
            ramp(8, 16),
            torch.tensor([0, 1, 7, 8, 0, 0, 0, 0], dtype=torch.int32),
            torch.zeros(8, 16),
        ),
        "pl.read(x",
    ),
    "an offset that was a fraction": (by_a_fraction, (ramp(16, 16), torch.zeros(4, 16)), "x[at"),
    "more valid than there is": (
        too_much_valid,
        (ramp(10, 10), 6, torch.zeros(10, 10)),
        "pl.slice",
    ),
    "less than nothing valid": (
        too_much_valid,
        (ramp(10, 10), -1, torch.zeros(10, 10)),
        "pl.slice",
    ),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", FAILURES)
def test_an_access_outside_is_stopped_and_names_the_authors_line(name: str, threads: int):
    kernel, args, text = FAILURES[name]
    share_even_small(kernel.specialize(*args, backend="native").executable)
    for _ in range(2):  # and the process is well afterwards
        got = guarded(args)
        with pytest.raises(BoundsError) as caught:
            kernel.run(*got.args, backend="native", threads=threads)
        assert got.complaints() == []
        assert caught.value.span is not None
        assert caught.value.span.line == line_of(kernel, text)
    with pytest.raises(BoundsError) as wanted:
        kernel.run(*guarded(args).args, backend="interpreter")
    assert wanted.value.message == caught.value.message


def test_a_call_after_a_failed_one_is_right():
    x, at, y = ramp(8, 16), torch.tensor([9] * 8, dtype=torch.int32), torch.zeros(8, 16)
    with pytest.raises(BoundsError):
        store_at.run(x, at, y, backend="native", threads=2)
    at = torch.arange(8, dtype=torch.int32).flip(0).contiguous()
    agree(store_at, x, at, y, threads=THREADS)


@pl.jit
def quotients(a: pl.Scalar[pl.INDEX], b: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    for i in pl.parallel(2):
        pl.write(y, [i * 2], pl.cast(a // b, pl.INT64))
        pl.write(y, [i * 2 + 1], pl.cast(a % b, pl.INT64))


@pytest.mark.parametrize("a", [7, -7, 0, -(1 << 63)])
@pytest.mark.parametrize("b", [2, -2, 1, -1, 9])
def test_division_floors_and_the_remainder_has_the_divisors_sign(a: int, b: int):
    agree(quotients, a, b, torch.zeros(4, dtype=torch.int64))


def test_division_by_zero_is_an_error():
    for backend in ("native", "interpreter"):
        with pytest.raises(KernelError, match="division by zero"):
            quotients.run(1, 0, torch.zeros(4, dtype=torch.int64), backend=backend)


@pl.jit
def shifted(n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    pl.write(y, [0], pl.cast(3 << n, pl.INT64))
    pl.write(y, [1], pl.cast((0 - 100) >> n, pl.INT64))


@pytest.mark.parametrize("n", [0, 1, 40, 63])
def test_shifts_shift(n: int):
    agree(shifted, n, torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("n", [64, -1])
def test_a_shift_by_too_much_is_an_error(n: int):
    for backend in ("native", "interpreter"):
        with pytest.raises(KernelError, match="shift"):
            shifted.run(n, torch.zeros(2, dtype=torch.int64), backend=backend)
