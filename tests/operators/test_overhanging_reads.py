"""TILEWRIGHT_BOUNDS=zeros: what a window reads outside its tensor is 0; writes outside stay errors."""

from __future__ import annotations

import pytest
import torch
from both_ways import agree

import tilewright.language as pl
from tilewright import knobs
from tilewright.errors import ArgumentValueError, BoundsError, InvalidOperationError

CORE = pl.Level.CORE_GROUP
BACKENDS = ("interpreter", "native")


@pytest.fixture
def zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_BOUNDS", "zeros")


def window(x: torch.Tensor, start: tuple[int, int], shape: tuple[int, int]) -> torch.Tensor:
    """The window of a matrix that goes on with zeros on every side."""
    out = torch.zeros(shape, dtype=x.dtype)
    for i in range(shape[0]):
        for j in range(shape[1]):
            row, column = start[0] + i, start[1] + j
            if 0 <= row < x.shape[0] and 0 <= column < x.shape[1]:
                out[i, j] = x[row, column]
    return out


@pl.jit
def sixteen_of_eight(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor], z: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        wide = x[0:16, :]
        y[:, :] = pl.matmul(wide, w)[0:8, :]
        z[:, :] = wide


@pytest.mark.usefixtures("zeros")
def test_sixteen_rows_of_eight_are_read_and_the_surplus_is_zero():
    x, w = torch.randint(-3, 4, (8, 32)).float(), torch.randint(-3, 4, (32, 20)).float()
    *_, y, z = agree(sixteen_of_eight, x, w, torch.ones(8, 20), torch.ones(16, 32))
    assert torch.equal(y, x @ w)
    assert torch.equal(z, torch.cat([x, torch.zeros(8, 32)]))


def test_without_the_knob_it_is_a_compile_time_error_again(monkeypatch: pytest.MonkeyPatch):
    args = torch.ones(8, 32), torch.ones(32, 20), torch.ones(8, 20), torch.ones(16, 32)
    with pytest.raises(InvalidOperationError, match="the window 0 : 16 on axis 0 is outside"):
        sixteen_of_eight.run(*args, backend="interpreter")
    monkeypatch.setenv(
        "TILEWRIGHT_BOUNDS", "zeros"
    )  # the same kernel object: the knob is in its key
    for backend in BACKENDS:
        sixteen_of_eight.run(*args, backend=backend)
    monkeypatch.setenv("TILEWRIGHT_BOUNDS", "error")
    with pytest.raises(InvalidOperationError, match="outside"):
        sixteen_of_eight.run(*args, backend="native")


def test_an_unknown_word_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TILEWRIGHT_BOUNDS", "maybe")
    with pytest.raises(ArgumentValueError, match="TILEWRIGHT_BOUNDS is 'maybe'"):
        knobs.zero_reads()


@pl.jit
def anywhere(
    x: pl.Tensor,
    r: pl.Scalar[pl.INT32],
    c: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor],
    row: pl.Out[pl.Tensor],
):
    with pl.at(level=CORE):
        y[:, :] = pl.slice(x, [5, 20], [r, c])
        row[:, :] = pl.reshape(x[r, c : c + 20], [1, 20])


@pytest.mark.usefixtures("zeros")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_a_window_may_lie_anywhere(dtype: torch.dtype):
    x = torch.randint(1, 100, (9, 33)).to(dtype)
    blanks = torch.full((5, 20), 7, dtype=dtype), torch.full((1, 20), 7, dtype=dtype)
    for start in (
        (0, 0),
        (4, 13),
        (6, 20),
        (8, 32),
        (9, 0),
        (100, 100),
        (-2, 5),
        (-7, -3),
        (3, -50),
    ):
        *_, y, row = agree(anywhere, x, *start, *blanks)
        assert torch.equal(y, window(x, start, (5, 20))), start
        assert torch.equal(row, window(x, start, (1, 20))), start


@pl.jit
def through_views(
    x: pl.Tensor,
    r: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor],
    z: pl.Out[pl.Tensor],
    e: pl.Out[pl.Tensor],
):
    rows = pl.slice(x, [8, 16], [r, 0])
    right = rows[:, 8:16]
    first = pl.slice(rows, [1, 16], [0, 0], drop_dims=[0])
    with pl.at(level=CORE):
        y[:, :] = pl.add(right, 1.0)
        z[:, :] = pl.reshape(first, [1, 16])
        pl.write(e, [0, 0], rows[0, 3])


@pytest.mark.usefixtures("zeros")
def test_views_are_looked_through_to_the_tensor_underneath():
    x = torch.randn(10, 16)
    *_, y, z, e = agree(
        through_views, x, 6, torch.zeros(8, 8), torch.zeros(1, 16), torch.zeros(1, 1)
    )
    assert torch.equal(y, window(x, (6, 8), (8, 8)) + 1)
    assert torch.equal(z, x[6:7])
    assert e.item() == x[6, 3]


@pl.jit
def partly_valid(x: pl.Tensor, n: pl.Scalar[pl.INT32], y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        part = pl.slice(x, [8, 16], [4, 0], valid_shape=[n, 16])
        y[:, :] = part


@pytest.mark.usefixtures("zeros")
def test_zeros_count_as_valid_when_the_author_says_so():
    x = torch.randn(6, 16)
    *_, y = agree(partly_valid, x, 5, torch.full((8, 16), 7.0))
    assert torch.equal(y[:5], window(x, (4, 0), (5, 16)))
    assert bool((y[5:] == 7).all())


@pl.jit
def written(x: pl.Tensor, r: pl.Scalar[pl.INT32], y: pl.Out[pl.Tensor]):
    target = pl.slice(y, [4, 8], [r, 0])
    with pl.at(level=CORE):
        target[:, :] = pl.mul(x, 2.0)


@pl.jit
def read_one(x: pl.Tensor, r: pl.Scalar[pl.INT32], y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        pl.write(y, [0, 0], pl.read(x, [r, 0]))


@pytest.mark.usefixtures("zeros")
@pytest.mark.parametrize("backend", BACKENDS)
def test_writes_and_single_elements_outside_stay_errors(backend: str):
    y = torch.zeros(6, 8)
    written.run(torch.ones(4, 8), 2, y, backend=backend)
    assert y.sum() == 2 * 4 * 8
    with pytest.raises(BoundsError, match="write outside y: axis 0 has 6 elements"):
        written.run(torch.ones(4, 8), 3, y, backend=backend)
    with pytest.raises(BoundsError, match="read outside x: axis 0 has 4 elements"):
        read_one.run(torch.ones(4, 8), 4, y, backend=backend)


@pl.jit
def shared(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    for r in pl.parallel(0, 40, 8):
        with pl.at(level=CORE):
            y[r : r + 8, :] = pl.row_sum(x[r : r + 8, :])


@pytest.mark.usefixtures("zeros")
def test_the_last_rows_of_a_parallel_loop():
    x = torch.randint(-3, 4, (37, 50)).float()
    _, y = agree(shared, x, torch.ones(40, 1))
    assert torch.equal(y, torch.cat([x, torch.zeros(3, 50)]).sum(1, keepdim=True))


@pl.jit
def nothing_to_prove(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    for r in pl.parallel(0, 32, 8):
        with pl.at(level=CORE):
            y[r : r + 8, :] = pl.neg(x[r : r + 8, :])


@pytest.mark.usefixtures("zeros")
def test_windows_that_are_provably_inside_cost_nothing():
    from tilewright.ir.printer import to_text

    args = torch.randn(32, 16), torch.zeros(32, 16)
    special = nothing_to_prove.specialize(*args, backend="interpreter")
    text = to_text(special.executable.function)
    assert "outside" not in text
    assert "fillpad" not in text
    assert "check_window" not in text
