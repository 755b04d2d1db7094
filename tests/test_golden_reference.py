"""A golden that goes wrong is reported at its own line, and before the kernel runs."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from golden_kernels import PythonKernel

from tilewright.golden import TensorSpec, ratio_allclose, run_jit
from tilewright.golden.reference import GoldenError


def double(x, y):
    y.copy_(x * 2)


def specs():
    return [
        TensorSpec("x", (4, 8), torch.float32, torch.randn),
        TensorSpec("y", (4, 8), torch.float32, is_output=True),
    ]


def run(golden, kernel=double, **options):
    stand_in = PythonKernel(kernel)
    return run_jit(stand_in, specs(), golden, **options), stand_in


def test_an_exception_is_told_at_the_line_that_raised_it():
    def asks_for_more(values):
        factor = 2
        values["y"][:] = factor * values["z"]

    with pytest.raises(GoldenError) as caught:
        run(asks_for_more)
    error = caught.value
    assert error.message == "asks_for_more raised KeyError: no value named 'z'"
    assert error.span.file == __file__
    assert error.span.line == asks_for_more.__code__.co_firstlineno + 2
    assert "x is [4, 8] float32" in error.notes
    assert isinstance(error.__cause__, KeyError)


def test_the_blame_stays_in_the_author_s_file_when_torch_raises():
    def multiplies(values):
        values["y"][:] = torch.nn.functional.linear(values["x"], values["x"].T)

    with pytest.raises(GoldenError, match="multiplies raised RuntimeError") as caught:
        run(partial(multiplies))
    assert caught.value.span.file == __file__
    assert caught.value.span.line == multiplies.__code__.co_firstlineno + 1


def test_an_output_of_another_shape_is_told_at_its_assignment():
    def too_narrow(values):
        values["x"] = values["x"] * 2
        values["y"] = values["x"][:, :4]

    result, kernel = run(too_narrow)
    line = too_narrow.__code__.co_firstlineno + 2
    place = f"{__file__}:{line}:9: error: after too_narrow, "
    wanted = "output 'y' is [4, 4] float32; its spec says [4, 8] float32"
    assert result.error.startswith(place + wanted)
    assert '= help: fill it in place: values["y"][:] = …' in result.error
    assert kernel.calls == 0


def test_an_output_of_another_dtype_is_told_with_the_cast():
    def too_wide(values):
        values["y"] = values["x"].double() * 2

    result, _ = run(too_wide)
    assert "output 'y' is [4, 8] float64; its spec says [4, 8] float32" in result.error
    assert ".to(torch.float32)" in result.error


def test_a_comparator_may_take_another_form():
    def some_rows(values):
        values["y"] = (values["x"] * 2).double()

    result, _ = run(some_rows, compare_fn={"y": ratio_allclose()})
    assert result.passed


def test_a_missing_output_is_told_at_the_function():
    def loses_it(values):
        del values["y"]

    result, _ = run(loses_it)
    line = loses_it.__code__.co_firstlineno
    assert f"{__file__}:{line}:5: error: after loses_it, output 'y' is missing" in result.error


def test_a_golden_that_returns_instead_of_filling_is_told_so():
    def returns(values):
        return values["x"] * 2

    result, _ = run(returns)
    assert "returns never writes output 'y': zeros are expected" in result.error
    assert "what it returns is ignored" in result.error


def test_a_golden_of_zeros_is_nobody_s_mistake():
    def nothing(values):
        pass

    def zeros(x, y):
        y.zero_()

    assert run(nothing, zeros)[0].passed


def test_a_golden_that_writes_through_numpy_is_seen_to_write():
    def numpy_golden(values):
        values["y"].numpy()[:] = 1.0

    result, _ = run(numpy_golden)
    assert "never writes" not in result.error
