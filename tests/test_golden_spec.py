"""Specs: what an initial value may be, and scalars that hold exactly what the kernel will see."""

from __future__ import annotations

import pytest
import torch

from tilewright.golden import ScalarSpec, TensorSpec
from tilewright.golden.guards import GUARD_BYTES, guarded


@pytest.mark.parametrize(
    ("init", "value"),
    [
        (None, [0, 0]),
        (3, [3, 3]),
        (2.5, [2.5, 2.5]),
        (torch.tensor([1, 2]), [1, 2]),
        (torch.ones, [1, 1]),
        (lambda: [4, 5], [4, 5]),
        (lambda: torch.tensor([4, 5]), [4, 5]),
    ],
)
def test_an_initial_value_becomes_a_tensor_of_the_dtype(init, value):
    tensor = TensorSpec("x", (2,), torch.bfloat16, init).create_tensor()
    assert tensor.dtype == torch.bfloat16
    assert tensor.tolist() == value


def test_a_tensor_that_has_the_dtype_is_not_copied():
    mine = torch.zeros(2)
    assert TensorSpec("x", (2,), torch.float32, mine).create_tensor() is mine


def test_other_kinds_of_initial_value_are_refused():
    with pytest.raises(TypeError, match="init_value of 'x' is a str"):
        TensorSpec("x", (2,), torch.float32, "ones").create_tensor()


def test_an_initial_value_of_another_shape_is_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"shape \(3,\), wanted \(2,\)"):
        TensorSpec("x", (2,), torch.float32, torch.zeros(3)).create_tensor()


def test_roles_follow_from_output_and_initial_value():
    roles = [
        TensorSpec("x", (1,), torch.float32).role,
        TensorSpec("x", (1,), torch.float32, is_output=True).role,
        TensorSpec("x", (1,), torch.float32, 0, is_output=True).role,
    ]
    assert roles == ["input", "output", "in-out"]


def test_a_scalar_is_rounded_to_its_dtype_once():
    assert ScalarSpec("eps", torch.bfloat16, 0.1).to_python() == 0.10009765625
    assert ScalarSpec("eps", torch.float32, 0.1).value.shape == ()


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.int32, True),
        (torch.int32, 1.0),
        (torch.bool, 1),
        (torch.float32, True),
        (torch.int32, torch.tensor(1)),
        (torch.int64, torch.tensor([1])),
    ],
)
def test_a_scalar_of_another_kind_is_a_type_error(dtype, value):
    with pytest.raises(TypeError, match="scalar 'n'"):
        ScalarSpec("n", dtype, value)


@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.int8, 128), (torch.uint8, -1), (torch.int32, 2**31)]
)
def test_a_scalar_out_of_range_is_a_value_error(dtype, value):
    with pytest.raises(ValueError, match=f"is {value}, wanted"):
        ScalarSpec("n", dtype, value)


def test_a_scalar_of_a_dtype_that_kernels_do_not_take_is_a_value_error():
    with pytest.raises(ValueError, match="int8, int32, int64, uint8, bool"):
        ScalarSpec("n", torch.float64, 1.0)
    with pytest.raises(ValueError, match="has dtype 'int32'; wanted one of torch's int8, int32"):
        ScalarSpec("n", "int32", 1)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32])
def test_a_guarded_output_starts_on_a_cache_line_with_a_page_on_both_sides(dtype):
    guard = guarded(torch.zeros(3, 5, dtype=dtype))
    assert guard.tensor.data_ptr() % 64 == 0
    assert guard.tensor.is_contiguous()
    assert guard.first >= GUARD_BYTES
    assert guard.memory.numel() - guard.first - guard.nbytes >= GUARD_BYTES
    assert guard.trespass(0x4D) == ""
