"""Calls, specs and annotations that do not fit: which argument, what was found, what was wanted, one thing to try."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tilewright.language as pl
from tilewright.errors import KernelError
from tilewright.golden import TensorSpec, run_jit
from tilewright.scripts.names import StandIns
from tilewright.scripts.translate import in_our_words


@pl.jit
def scaled(
    x: pl.Tensor[[4, 8], pl.FP32],
    by: pl.Scalar[pl.FP32],
    n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[4, 8], pl.FP32]],
):
    for _ in pl.range(n):
        with pl.at(level=pl.Level.CORE_GROUP):
            y[:, :] = pl.mul(x, by)


@pl.jit.inline
def helper(x: pl.Tensor, y: pl.Tensor):
    y[:, :] = x


@pl.jit
def roomy(x: pl.Tensor[[4, 8], pl.FP32], y: pl.Out[pl.Tensor[[4, 8], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP):
        block = pl.full([1 << 33, 8], pl.FP32, 1.0)
        y[:, :] = pl.add(x, block[0:4, :])


X, Y = torch.ones(4, 8), torch.zeros(4, 8)
both = torch.zeros(8, 8)

CALLS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "missing": (lambda: scaled(X, 1.0, 1), "missing a required argument: 'y'", "its parameters are x, by, n, y"),
    "too many": (lambda: scaled(X, 1.0, 1, Y, Y), "too many positional arguments: it takes 4, got 5", "parameters"),
    "unknown keyword": (lambda: scaled(X, 1.0, 1, yy=Y), "got an unexpected keyword argument 'yy'", "parameters are"),
    "array": (lambda: scaled(X.numpy(), 1.0, 1, Y), "must be a Torch tensor, got an ndarray", "torch.from_numpy(x)"),
    "list": (lambda: scaled([1.0], 1.0, 1, Y), "'x' must be a Torch tensor, got a list", "torch.tensor(x)"),
    "nothing": (lambda: scaled(None, 1.0, 1, Y), "'x' must be a Torch tensor, got None", "pass a torch.Tensor"),
    "double": (lambda: scaled(X.double(), 1.0, 1, Y), "'x' has dtype torch.float64", "x.to(torch.float32)"),
    "half": (lambda: scaled(X.half(), 1.0, 1, Y), "'x' has dtype FP16, the kernel is annotated FP32", "x.to("),
    "shape": (lambda: scaled(X.T.contiguous(), 1.0, 1, Y), "axis 0 is 8, wanted 4", "pl.dynamic"),
    "strides": (lambda: scaled(both.T[:4], 1.0, 1, Y), "'x' is not contiguous", "x.contiguous()"),
    "strided output": (lambda: scaled(X, 1.0, 1, both.T[:4]), "'y' is not contiguous", "torch.empty([4, 8]"),
    "device": (lambda: scaled(X.to("meta"), 1.0, 1, Y), "'x' is on device meta", "x.cpu()"),
    "sparse": (lambda: scaled(X.to_sparse(), 1.0, 1, Y), "layout torch.sparse_coo", "x.to_dense()"),
    "overlap": (lambda: scaled(both[:4], 1.0, 1, both[2:6]), "'y' is written by 'scaled'", "torch.empty_like(y)"),
    "text": (lambda: scaled(X, "1", 1, Y), "'by' must be a FP32 number, got '1'", "pass a float"),
    "0-d tensor": (lambda: scaled(X, torch.tensor(1.0), 1, Y), "got a Tensor", "by.item()"),
    "too large": (lambda: scaled(X, 1e300, 1, Y), "'by' is 1e+300; a FP32 holds", "a smaller number"),
    "far too large": (lambda: scaled(X, 10**400, 1, Y), "'by' is an integer of 1329 bits", "a smaller number"),
    "fraction": (lambda: scaled(X, 1.0, 1.5, Y), "'n' must be a INT32 integer, got 1.5", "pass an int"),
    "wide": (lambda: scaled(X, 1.0, 1 << 40, Y), "'n' is 1099511627776; a INT32 holds", "pass a number from"),
    "inline": (lambda: helper(X, Y), "only other kernels can call it", "decorated with @pl.jit"),
    "back end": (lambda: scaled.run(X, 1.0, 1, Y, backend="gpu"), "no back end 'gpu'", "native"),
    "threads": (lambda: scaled.run(X, 1.0, 1, Y, threads=0), "threads must be a positive number", "threads=2"),
    "memory": (lambda: roomy(X, Y), "need more memory than there is", "smaller tiles"),
    "called type": (lambda: pl.Tensor([4, 8], pl.FP32), "pl.Tensor is called", "write pl.Tensor[…]"),
    "called out": (lambda: pl.Out(pl.Tensor), "pl.Out is called", "write pl.Out[…]"),
    "swapped type": (lambda: pl.Tensor[pl.FP32, [4, 8]], "needs a list of extents first", "[[rows, columns]"),
    "torch dtype": (lambda: pl.Tensor[[4, 8], torch.float32], "needs a dtype such as pl.FP32", "write pl.FP32"),
    "option": (lambda: pl.jit(autoscope=True), "@pl.jit has no option 'autoscope'", "did you mean auto_scope?"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_told_which_argument_and_what_to_pass(name: str):
    call, message, advice = CALLS[name]
    with pytest.raises(KernelError) as caught:
        call()
    error = caught.value
    assert message in error.message
    assert error.help is not None
    assert advice in error.help
    assert error.also == ()
    if name not in ("back end", "threads"):
        assert error.span is not None
        assert error.span.file == __file__


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float64(2.0), 3, 3.4028234663852886e38])
def test_numbers_that_a_scalar_holds_are_taken(value: Any):
    scaled(X, value, 1, Y)


def test_all_arguments_that_do_not_fit_are_named_at_once():
    with pytest.raises(KernelError) as caught:
        scaled(1.0, X, 1.5, X.half())
    assert [e.message.split("'")[1] for e in (caught.value, *caught.value.also)] == ["x", "by", "n"]
    with pytest.raises(KernelError) as caught:
        scaled(X.half(), 1.0, 1, torch.zeros(8, 4))
    text = str(caught.value)
    assert text.count(": error: ") == 2
    assert "has dtype FP16" in text
    assert "has shape [8, 4]" in text


# -- golden runs -----------------------------------------------------------------------------------


@pl.jit
def doubled(x: pl.Tensor[[4, 8], pl.FP32], y: pl.Out[pl.Tensor[[4, 8], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP):
        y[:, :] = pl.add(x, x)


def golden(values: dict[str, Any]) -> None:
    values["y"][:] = values["x"] * 2


def plain(x, y):
    return x


def spec(name: str = "x", shape: Any = (4, 8), dtype: Any = torch.float32, **options: Any):
    return TensorSpec(name, shape, dtype, **options)


OUT = spec("y", is_output=True)


def run(*specs: Any, fn: Any = doubled, **options: Any) -> None:
    quiet = {"log_level": "quiet", "backend": "interpreter"}
    run_jit(fn, list(specs), golden, **{"runtime_cfg": quiet, **options})


RUNS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "no kernel": (lambda: run(spec(), OUT, fn=plain), "a kernel decorated with @pl.jit, got plain", "@pl.jit above"),
    "no specs": (lambda: run_jit(doubled, None), "the specs are None, wanted a list", "TensorSpec(…)"),
    "no spec": (lambda: run(torch.zeros(3), OUT), "a Tensor is no spec", "TensorSpec("),
    "one too few": (lambda: run(OUT), "missing a required argument: 'y'", "its parameters are x, y"),
    "one too many": (lambda: run(spec(), spec("z"), OUT), "takes 2 arguments and returns nothing", "each of x, y"),
    "twice": (lambda: run(spec(), spec()), "two specs are named 'x'", "its own"),
    "our dtype": (lambda: run(spec(dtype=pl.BF16), OUT), "the dtype of 'x' is pl.BF16", "write torch.bfloat16"),
    "text for a shape": (lambda: run(spec(shape="4x8"), OUT), "the shape of 'x' is '4x8'", "[rows, columns]"),
    "negative": (lambda: run(spec(shape=[-4, 8]), OUT), "wanted extents above 0", "how many rows"),
    "another shape": (lambda: run(spec(shape=[8, 4]), OUT), "'x' has shape [8, 4]", "pl.dynamic"),
    "odd start": (lambda: run(spec(init_value="one"), OUT), "init_value of 'x' is a str", "torch.randn"),
    "start raises": (lambda: run(spec(init_value=lambda: 1 / 0), OUT), "raised ZeroDivisionError", "without arguments"),
    "start's shape": (lambda: run(spec(init_value=torch.zeros(3)), OUT), "has shape (3,), wanted (4, 8)", "[4, 8]"),
    "key": (lambda: run(spec(), OUT, runtime_cfg={"device_idd": 0}), "unknown keys ['device_idd']", "device_id?"),
    "tolerance": (lambda: run(spec(), OUT, rtol="1e-3"), "rtol is '1e-3', wanted a number", "rtol=1e-3"),
    "no output": (lambda: run(spec(), OUT, compare_fn={"z": None}), "compare_fn names ['z']", "is_output=True"),
    "no function": (lambda: run(spec(), OUT, compare_fn={"y": 3}), "compare_fn of 'y' is 3", "leave it out"),
    "comparator raises": (
        lambda: run(spec(), OUT, compare_fn={"y": lambda *_, **__: 1 / 0}), "raised ZeroDivisionError", "called with"),
    "no verdict": (
        lambda: run(spec(), OUT, compare_fn={"y": lambda *_, **__: True}), "gave bool, wanted a pair", "(passed"),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_golden_run_is_told_what_does_not_fit(name: str):
    call, message, advice = RUNS[name]
    with pytest.raises(KernelError) as caught:
        call()
    error = caught.value
    assert message in error.message
    assert error.help is not None
    assert advice in error.help
    assert error.span is not None
    assert error.span.file == __file__


def test_a_spec_that_a_kernel_cannot_take_is_shown_beside_the_parameter():
    with pytest.raises(KernelError) as caught:
        run(spec(shape=[8, 4]), OUT)
    assert [what for _, what in caught.value.places] == ["made from the spec 'x'"]


def test_specs_in_another_order_than_the_parameters_are_pointed_at():
    with pytest.raises(KernelError) as caught:
        run(spec("y", shape=[8, 4], is_output=True), spec())
    assert "specs are taken in the order of the parameters: x, y" in caught.value.notes


# -- scripts ---------------------------------------------------------------------------------------

PRELUDE = "import pypto.language as pl\nimport torch\n"
SCRIPTS = {
    "a module nobody has": ("import not_there_at_all\n", "there is no module not_there_at_all", "pip install"),
    "a misspelt module": ("import pypto.langauge as pl\n", "has no pypto.langauge", "did you mean pypto.language?"),
    "a misspelt word of golden": ("from golden import run_jti\n", "golden has no run_jti", "did you mean run_jit?"),
    "a misspelt keyword": (
        "from golden import TensorSpec\nTensorSpec('x', [4], None, initial=1)\n",
        "unexpected keyword argument 'initial'", "did you mean init_value?"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_python_says_of_our_modules_is_said_in_our_words(
    name: str, tmp_path: Path, monkeypatch
):
    text, message, advice = SCRIPTS[name]
    path = tmp_path / "script.py"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "meta_path", [StandIns(["pypto", "golden"]), *sys.meta_path])
    known = set(sys.modules)
    try:
        exec(compile(text, str(path), "exec"), {})
    except (ImportError, TypeError) as error:
        told = in_our_words(error, str(path))
    finally:
        for module in set(sys.modules) - known:
            if module.startswith(("pypto", "golden")):
                del sys.modules[module]
    assert isinstance(told, KernelError)
    assert message in told.message
    assert told.span is not None
    assert (told.span.file, told.span.line) == (str(path), len(text.splitlines()))
    assert told.help is not None
    assert advice in told.help
