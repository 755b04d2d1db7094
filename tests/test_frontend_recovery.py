"""All mistakes of a kernel at once: one hides no other, and what follows from one is none."""

from __future__ import annotations

import pytest
import torch

import tilewright.language as pl
from tilewright.errors import InvalidOperationError, KernelError, ParserTypeError


def mistakes(kernel, *arguments) -> list[tuple[int, str]]:
    """(line counted from the decorator, what is wrong) of each, as `specialize` reports them."""
    with pytest.raises(KernelError) as caught:
        kernel.specialize(*arguments)
    first = kernel.function.__code__.co_firstlineno
    errors = (caught.value, *caught.value.also)
    return [(e.span.line - first, e.message.split(",")[0].split(":")[0]) for e in errors]


def tensors():
    return torch.zeros(16, 32), torch.zeros(32, 8), torch.zeros(16, 32)


def test_statements_with_mistakes_are_reported_side_by_side():
    @pl.jit
    def kernel(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
        with pl.at(level=pl.Level.CORE_GROUP):
            a = pl.cast(x, pl.FP32)
            b = pl.matmul(x, x)
            y[:, 0:8] = x
        k = 0
        k += 1

    assert mistakes(kernel, *tensors()) == [
        (3, "cast"),
        (4, "matmul needs matching inner dimensions"),
        (5, "the window is [16"),
        (7, "augmented assignment has no place in a kernel"),
    ]


def test_what_uses_an_unknown_value_is_not_blamed():
    @pl.jit
    def kernel(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
        with pl.at(level=pl.Level.CORE_GROUP):
            a = pl.matmul(x, x)
            b = pl.add(a, 1.0)
            c = pl.matmul(b, a)
            y[:, :] = c
        return y

    assert mistakes(kernel, *tensors()) == [(3, "matmul needs matching inner dimensions")]


def test_a_loop_or_branch_with_a_wrong_first_line_has_its_body_read():
    @pl.jit
    def kernel(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
        for i in pl.range(1.5):
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="not a name"):
                y[:, :] = pl.add(x, w)
        if 3:
            z = missing  # type: ignore[name-defined]
        else:
            z = x[i, :, :]

    assert mistakes(kernel, *tensors()) == [
        (2, "a bound of pl.range must be an integer"),
        (3, "name_hint must be an identifier"),
        (4, "add"),
        (5, "the condition must be BOOL"),
        (6, "'missing' is not defined here"),
        (8, "3 subscripts for a [16"),
    ]


def test_a_loop_is_not_blamed_for_what_its_body_left_open():
    @pl.jit
    def kernel(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
        acc = pl.full([16, 8], pl.FP32, 0.0)
        for _ in pl.range(4):
            if acc_is_new:  # type: ignore[name-defined]
                acc = pl.matmul(x, w)
            else:
                acc = pl.matmul_acc(acc, w, x)
        y[:, 0:8] = acc

    found = mistakes(kernel, *tensors())
    assert found[0] == (4, "'acc_is_new' is not defined here")
    assert [line for line, _ in found] == [4, 7]


def test_a_mistake_in_a_helper_is_told_once_however_often_it_is_called():
    @pl.jit.inline
    def helper(a: pl.Tensor, b: pl.Tensor):
        b[:, :] = pl.row_summ(a)
        return b

    @pl.jit
    def kernel(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
        for _ in pl.range(2):
            y = helper(x, y)
        y = helper(x, y)
        y[:, :] = pl.addd(x, x)

    with pytest.raises(InvalidOperationError) as caught:
        kernel.specialize(*tensors())
    text = str(caught.value)
    assert text.count("the language has no") == 2
    assert text.index("pl.row_summ") < text.index("pl.addd")


def test_the_first_mistake_keeps_its_class_and_the_others_follow_in_its_text():
    @pl.jit
    def kernel(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
        y[:, 0:8] = x
        y[:, :] = pl.nothing(x)

    with pytest.raises(ParserTypeError) as caught:
        kernel.specialize(*tensors())
    (other,) = caught.value.also
    assert isinstance(other, InvalidOperationError)
    assert str(caught.value).endswith(str(other))


def test_a_kernel_that_was_mended_compiles():
    """Collecting leaves nothing behind: the same shapes compile once the global is there."""
    kernel = uses_a_global
    with pytest.raises(KernelError):
        kernel.specialize(*tensors())
    globals()["LATER"] = 2.0
    try:
        assert kernel.specialize(*tensors()).function.name == "uses_a_global"
    finally:
        del globals()["LATER"]


@pl.jit
def uses_a_global(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
    y[:, :] = pl.mul(x, LATER)  # type: ignore[name-defined]
