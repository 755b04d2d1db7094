"""Kernels as PyTorch operators: the same bits, whoever calls them and however."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from both_ways import draw
from ir_programs import same_bits

import tilewright.language as pl
from tilewright.errors import ArgumentError, ArgumentValueError
from tilewright.torch_ext import register

ROWS, K, N = 8, 96, 128
M = pl.dynamic("M")
CORE = pl.Level.CORE_GROUP
_numbers = itertools.count()


def fresh_name(word: str = "op") -> str:
    """Operators are registered for good, so every test takes names of its own."""
    return f"tilewright_tests::{word}_{next(_numbers)}"


@pl.jit
def product(
    x: pl.Tensor[[M, K], pl.BF16],
    w: pl.Tensor[[K, N], pl.BF16],
    times: pl.Scalar[pl.FP32],
    first: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[M, N], pl.FP32]],
):
    for m in pl.parallel(0, x.shape[0]):
        with pl.at(level=CORE, name_hint="product"):
            row = pl.matmul(x[m : m + 1, :], w[:, :], out_dtype=pl.FP32)
            y[m : m + 1, :] = pl.add(pl.mul(row, times), pl.cast(first, pl.FP32))


@pl.jit
def accumulate(x: pl.Tensor[[M, N], pl.FP32], total: pl.InOut[pl.Tensor[[M, N], pl.FP32]]):
    with pl.at(level=CORE, name_hint="accumulate"):
        total[:, :] = pl.add(total[:, :], x[:, :])


@pl.jit
def doubled(x: pl.Tensor[[ROWS, N], pl.FP32]):
    y = pl.create_tensor([ROWS, N], dtype=pl.FP32)
    with pl.at(level=CORE, name_hint="double"):
        y[:, :] = pl.add(x, x)
    return y


@pl.jit
def doubled_of_any_shape(x: pl.Tensor):
    y = pl.create_tensor([x.shape[0], x.shape[1]], dtype=pl.FP32)
    with pl.at(level=CORE, name_hint="double"):
        y[:, :] = pl.add(x[:, :], x[:, :])
    return y


@pl.jit
def writes_in_silence(x: pl.Tensor[[ROWS, N], pl.FP32], y: pl.Tensor[[ROWS, N], pl.FP32]):
    with pl.at(level=CORE, name_hint="double"):
        y[:, :] = pl.add(x, x)


@pl.jit
def bare(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE, name_hint="copy"):
        y[:, :] = pl.add(x[:, :], x[:, :])


def inputs(rows: int = ROWS, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        draw((rows, K), torch.bfloat16, seed, plain=True),
        draw((K, N), torch.bfloat16, seed + 1, plain=True),
    )


def wanted(x: torch.Tensor, w: torch.Tensor, times: float = 0.5, first: int = 3) -> torch.Tensor:
    """What the kernel itself gives."""
    y = torch.empty(x.shape[0], N)
    product(x, w, times, first, y)
    return y


@pytest.fixture(scope="module")
def mutating() -> Any:
    return register(product, fresh_name("mutating"))


@pytest.fixture(scope="module")
def functional() -> Any:
    return register(product, fresh_name("functional"), functional=True)


# Torch's own checks


def test_opcheck_finds_no_fault_with_either_form(mutating: Any, functional: Any):
    x, w = inputs()
    torch.library.opcheck(mutating, (x, w, 0.5, 3, torch.zeros(ROWS, N)))
    torch.library.opcheck(functional, (x, w, 0.5, 3))


def test_opcheck_finds_no_fault_with_in_out_and_with_created_results():
    x, total = (
        draw((ROWS, N), torch.float32, 0, plain=True),
        draw((ROWS, N), torch.float32, 1, plain=True),
    )
    torch.library.opcheck(register(accumulate, fresh_name()), (x, total.clone()))
    torch.library.opcheck(register(accumulate, fresh_name(), functional=True), (x, total))
    torch.library.opcheck(register(doubled, fresh_name()), (x,))
    any_shape = register(doubled_of_any_shape, fresh_name(), example=(x,))
    torch.library.opcheck(any_shape, (x[:3].contiguous(),))
    by_hand = register(
        bare, fresh_name(), functional=True, outputs=lambda x: {"y": (x.shape, x.dtype)}
    )
    torch.library.opcheck(by_hand, (x,))


def test_opcheck_finds_no_fault_with_a_bound_kernel():
    x, w = inputs()
    op = register(product.bind(w=w, release=True), fresh_name(), functional=True)
    torch.library.opcheck(op, (x, 0.5, 3))
    assert same_bits(op(x, 0.5, 3), wanted(x, w))


# The same bits


def test_both_forms_give_the_kernels_bits(mutating: Any, functional: Any):
    for rows in (1, 5, ROWS):
        x, w = inputs(rows, rows)
        y = torch.full((rows, N), float("nan"))
        assert mutating(x, w, 0.5, 3, y) is None
        assert same_bits(y, wanted(x, w))
        assert same_bits(functional(x, w, 0.5, 3), wanted(x, w))


def test_the_functional_form_reads_in_out_and_leaves_it():
    op = register(accumulate, fresh_name(), functional=True)
    x, total = (
        draw((ROWS, N), torch.float32, 0, plain=True),
        draw((ROWS, N), torch.float32, 1, plain=True),
    )
    before = total.clone()
    assert same_bits(op(x, total), x + total)
    assert same_bits(total, before)


def test_created_results_are_returned():
    x = draw((ROWS, N), torch.float32, 0, plain=True)
    assert same_bits(register(doubled, fresh_name())(x), x + x)
    assert same_bits(register(doubled_of_any_shape, fresh_name(), example=(x,))(x[:2]), (x + x)[:2])


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_graph_has_no_break_and_the_same_bits(
    mutating: Any, functional: Any, dynamic: bool
):
    def program(x: torch.Tensor, w: torch.Tensor, first: int) -> torch.Tensor:
        y = torch.empty(x.shape[0], N)
        mutating(x * 1, w, 0.5, first, y)
        return functional(x, w, 0.5, first) + y

    compiled = torch.compile(program, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for rows, first in ((ROWS, 3), (5, 3), (5, 4)):
        x, w = inputs(rows, rows)
        assert same_bits(compiled(x, w, first), wanted(x, w, first=first) * 2)


@pytest.mark.slow
def test_inductor_takes_it(mutating: Any):
    def program(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        y = torch.zeros(x.shape[0], N)
        mutating(x, w, 0.5, 3, y)
        return y

    x, w = inputs()
    assert same_bits(torch.compile(program, fullgraph=True)(x, w), wanted(x, w))


# Gradients


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_weights_that_could_have_gradients_are_taken_where_none_is_wanted(
    mutating: Any, functional: Any, mode: Any
):
    x, w = inputs()
    right = wanted(x, w)
    w.requires_grad_()
    with mode():
        assert same_bits(functional(x, w, 0.5, 3), right)
        for y in (torch.zeros(ROWS, N), torch.zeros(ROWS, N)):
            mutating(x * 1, w, 0.5, 3, y)
            assert same_bits(y, right)


def test_a_gradient_through_the_functional_form_is_refused_when_it_is_wanted(functional: Any):
    x, w = inputs()
    y = functional(x, w.requires_grad_(), 0.5, 3)
    assert same_bits(y.detach(), wanted(x, w.detach()))
    with pytest.raises(ArgumentValueError, match=r"gradient through tilewright_tests::functional"):
        y.sum().backward()


def test_the_mutating_form_does_not_cut_a_gradient_in_silence(mutating: Any):
    x, w = inputs()
    with pytest.raises(ArgumentValueError, match=r"have none\n.*torch\.no_grad"):
        mutating(x, w.requires_grad_(), 0.5, 3, torch.zeros(ROWS, N))


# Layout


def test_inputs_with_unusual_strides_are_copied_and_outputs_are_refused(
    mutating: Any, functional: Any
):
    x, w = inputs()
    strided_x, strided_w = x.repeat(1, 2)[:, :K], w.t().contiguous().t()
    assert not strided_x.is_contiguous()
    assert same_bits(functional(strided_x, strided_w, 0.5, 3), wanted(x, w))
    columns = torch.zeros(N, ROWS).t()
    with pytest.raises(ArgumentError, match="'y' is not contiguous"):
        mutating(x, w, 0.5, 3, columns)
    y = torch.zeros(ROWS, N)
    mutating(strided_x, strided_w, 0.5, 3, y)
    assert same_bits(y, wanted(x, w))


def test_an_output_that_shares_memory_is_refused():
    op = register(accumulate, fresh_name())
    x = torch.zeros(ROWS, N)
    with pytest.raises(ArgumentError, match="shares memory"):
        op(x, x)


# What cannot be registered


def test_a_name_is_taken_once():
    name = fresh_name()
    register(doubled, name)
    with pytest.raises(ArgumentValueError, match="already"):
        register(doubled, name)


def test_a_kernel_that_writes_what_it_does_not_say_is_refused():
    x = torch.zeros(ROWS, N)
    with pytest.raises(ArgumentError, match=r"writes to 'y', which is not annotated so") as refused:
        register(writes_in_silence, fresh_name())
    assert "test_torch_ext.py" in str(refused.value)
    with pytest.raises(ArgumentError, match="example"):
        register(doubled_of_any_shape, fresh_name())
    op = register(bare, fresh_name(), functional=True)
    with pytest.raises(ArgumentError, match=r"'y', whose annotation has no shape"):
        op(x)


# Threads


@pytest.fixture
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_several_python_threads_get_the_same_bits(functional: Any, torch_threads: None):
    x, w = inputs(512)
    right = wanted(x, w)
    wrong: list[int] = []

    def call(number: int) -> None:
        for _ in range(20):
            if not same_bits(functional(x, w, 0.5, 3), right):
                wrong.append(number)

    callers = [threading.Thread(target=call, args=(n,), daemon=True) for n in range(4)]
    for caller in callers:
        caller.start()
    for count in (1, 3, 2):  # while they run
        torch.set_num_threads(count)
        assert same_bits(functional(x, w, 0.5, 3), right)
    for caller in callers:
        caller.join(timeout=120)
    assert not any(caller.is_alive() for caller in callers)
    assert wrong == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_torchs_number_of_threads_changes_no_bit(functional: Any, count: int, torch_threads: None):
    x, w = inputs(512)
    right = wanted(x, w)
    torch.set_num_threads(count)
    assert same_bits(functional(x, w, 0.5, 3), right)
