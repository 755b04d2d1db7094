"""Bad arguments are refused before anything runs: each message names the argument, found and
wanted.
"""

from __future__ import annotations

import pytest
import torch

import tilewright.language as pl
from tilewright.errors import (
    ArgumentError,
    ArgumentValueError,
    BoundsError,
    UnsupportedFeatureError,
)

T = pl.dynamic("T")


@pl.jit
def shift(
    x: pl.Tensor[[T, 8], pl.FP32],
    start: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[4, 8], pl.FP32]],
    by: pl.Scalar[pl.FP32] = 1.0,
):
    """Rows start to start + 4 of x, plus `by`."""
    with pl.at(level=pl.Level.CORE_GROUP):
        y[:, :] = pl.add(x[start : start + 4, :], by)


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setenv("TILEWRIGHT_BACKEND", "interpreter")


def good():
    return {"x": torch.randn(6, 8), "start": 0, "y": torch.zeros(4, 8), "by": 1.0}


BAD = {
    "rank": (
        {"x": torch.zeros(48)},
        r"'x' has rank 1, shape \[48\]; the kernel is annotated \[any, 8\]",
    ),
    "shape": ({"y": torch.zeros(5, 8)}, r"'y' has shape \[5, 8\].*axis 0 is 5, wanted 4"),
    "dtype": ({"x": torch.zeros(6, 8).half()}, "'x' has dtype FP16, the kernel is annotated FP32"),
    "unknown dtype": (
        {"x": torch.zeros(6, 8).double()},
        "'x' has dtype torch.float64; kernels take torch.float32",
    ),
    "no tensor": ({"x": [[1.0]]}, "'x' must be a Torch tensor, got a list"),
    "device": ({"x": torch.zeros(6, 8, device="meta")}, "'x' is on device meta"),
    "layout": (
        {"x": torch.zeros(8, 6).t()},
        r"'x' is not contiguous: shape \[6, 8\], strides \[1, 6\]",
    ),
    "sparse": ({"x": torch.zeros(6, 8).to_sparse()}, "'x' has layout torch.sparse_coo"),
    "empty": ({"y": torch.zeros(0, 8)}, r"'y' has shape \[0, 8\].*axis 0 is 0, wanted 4"),
    "scalar": ({"start": 1.5}, "'start' must be a INT32 integer, got 1.5"),
    "bool": ({"start": True}, "'start' must be a INT32 number, got True"),
    "tensor for a scalar": (
        {"start": torch.tensor(1)},
        "'start' must be a INT32 number, got a Tensor",
    ),
    "text for a float": ({"by": "1"}, "'by' must be a FP32 number, got '1'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_argument_is_named_with_what_was_found_and_wanted(case):
    change, message = BAD[case]
    arguments = {**good(), **change}
    before = good()["y"]
    with pytest.raises(ArgumentError, match=message) as caught:
        shift(**arguments)
    (name,) = change
    assert caught.value.span is not None
    assert name in str(caught.value).splitlines()[1], "the parameter's line"
    if "y" not in change:
        assert torch.equal(arguments["y"], before), "nothing ran"


def test_a_scalar_out_of_its_dtype_is_a_value_error():
    with pytest.raises(ArgumentValueError, match="'start' is 2147483648; a INT32 holds"):
        shift(**{**good(), "start": 1 << 31})


def test_a_missing_argument_is_named():
    with pytest.raises(TypeError, match="'shift': missing a required argument: 'y'"):
        shift(torch.zeros(6, 8), 0)


def test_an_unknown_keyword_is_named():
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        shift(**good(), z=1)


def test_the_runtime_takes_config_for_itself():
    assert shift(**good(), config=object()) is None


@pytest.mark.parametrize("start", [-1, 3, 2**31 - 1])
def test_a_run_time_window_outside_its_tensor_raises_before_the_access(start):
    arguments = {**good(), "start": start}
    with pytest.raises(BoundsError) as caught:
        shift(**arguments)
    assert "x[start : start + 4, :]" in str(caught.value)
    assert not arguments["y"].any()


def test_an_output_that_overlaps_an_input_is_refused():
    memory = torch.zeros(10, 8)
    with pytest.raises(
        ArgumentError, match="'y' is written by 'shift' and shares memory with argument 'x'"
    ):
        shift(memory[:6], 0, memory[5:9])
    shift(memory[:6], 0, memory[6:])  # neighbours are fine


@pl.jit
def two_outputs(x: pl.Tensor, a: pl.Out[pl.Tensor], b: pl.Out[pl.Tensor]):
    a[:, :] = x
    b[:, :] = x


def test_two_outputs_may_not_share_memory_while_inputs_may():
    x, memory = torch.ones(4, 8), torch.zeros(4, 8)
    with pytest.raises(ArgumentError, match="shares memory"):
        two_outputs(x, memory, memory)
    with pytest.raises(ArgumentError, match=r"'a' is written.*shares memory with argument 'x'"):
        two_outputs(x, x, memory)


@pl.jit(check_annotations=False)
def loose(x: pl.Tensor[[16, 32], pl.FP32], y: pl.Out[pl.Tensor[[16, 32], pl.FP32]]):
    y[:, :] = pl.add(x, x)


def test_annotations_bind_unless_the_author_opts_out():
    x, y = torch.ones(2, 4).bfloat16(), torch.empty(2, 4).bfloat16()
    loose(x, y)
    assert y.tolist() == [[2.0] * 4] * 2


def test_annotations_bind_unless_the_knob_says_otherwise(monkeypatch):
    arguments = {**good(), "x": torch.zeros(6, 9)}
    with pytest.raises(ArgumentError, match="annotated"):
        shift(**arguments)
    monkeypatch.setenv("TILEWRIGHT_CHECK_ANNOTATIONS", "0")
    with pytest.raises(Exception, match="window"):  # the program itself does not fit such an x
        shift(**arguments)


def test_one_program_serves_all_values_of_a_run_time_scalar_and_one_each_shape():
    shift(**good())
    entries = shift.specializations["state"].entries
    before = len(entries)
    shift(**{**good(), "start": 2, "by": 3.0})
    assert len(entries) == before
    first = shift.specialize(**good())
    assert shift.specialize(**{**good(), "start": 1}) is first
    assert shift.specialize(**{**good(), "x": torch.zeros(7, 8)}) is not first
    assert first.compile_seconds > 0


def test_specialising_reads_no_data():
    meta = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in good().items()}
    assert shift.specialize(**meta) is shift.specialize(**good())


def test_an_unknown_back_end_is_refused():
    with pytest.raises(ArgumentValueError, match="no back end 'gpu'"):
        shift.run(**good(), backend="gpu")
    with pytest.raises(ArgumentValueError, match="threads must be a positive number"):
        shift.run(**good(), threads=0)


@pl.jit.inline
def helper(x: pl.Tensor):
    return x


def test_an_inline_kernel_is_called_from_kernels_only():
    with pytest.raises(UnsupportedFeatureError, match="only other kernels can call it"):
        helper(torch.zeros(1))


def test_a_kernel_keeps_its_name_and_documentation():
    assert shift.__name__ == "shift"
    assert "plus `by`" in shift.__doc__
