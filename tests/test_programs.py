"""`@pl.program`: what its class means, when mistakes are reported, and how it is called."""

from __future__ import annotations

import inspect
import sys

import postponed_annotations
import pytest
import torch

import tilewright.language as pl
from tilewright.errors import (
    ArgumentError,
    KernelError,
    ParserTypeError,
    UndefinedVariableError,
    UnsupportedFeatureError,
)
from tilewright.golden import TensorSpec, run
from tilewright.ir.walk import ops_in
from tilewright.language.kernel import Kernel

BACKENDS = pytest.mark.parametrize("backend", ["interpreter", "native"])
CORE = pl.Level.CORE_GROUP


def build(n: int = 16, factor: float = 2.0):
    @pl.program
    class Twice:
        """Doubles."""

        @pl.function(type=pl.FunctionType.Opaque)
        def run(
            self, x: pl.Tensor[[n, n], pl.FP32], y: pl.Out[pl.Tensor[[n, n], pl.FP32]]
        ) -> pl.Tensor[[n, n], pl.FP32]:
            with pl.at(level=CORE):
                y[:, :] = pl.mul(x, factor)
            return y

    return Twice


# Calling


@BACKENDS
def test_a_program_is_called_like_a_kernel(backend):
    twice = build()
    assert isinstance(twice, pl.Program)
    assert isinstance(twice, Kernel)
    x, y = torch.randn(16, 16), torch.zeros(16, 16)
    assert twice.run(x, y=y, backend=backend) is None
    assert torch.equal(y, 2 * x)
    y.zero_()
    assert twice(x, y, config={"platform": "a2a3"}) is None
    assert torch.equal(y, 2 * x)


def test_its_name_and_documentation_are_those_of_the_class():
    twice = build()
    assert (twice.__name__, twice.__doc__, twice.__module__) == ("Twice", "Doubles.", __name__)
    assert twice.__qualname__ == "build.<locals>.Twice"
    assert list(inspect.signature(twice.function).parameters) == ["self", "x", "y"]
    assert list(twice.signature.parameters) == ["x", "y"]
    assert repr(twice) == "<program build.<locals>.Twice: run>"


def test_an_instance_of_a_program_is_the_program():
    twice = build()
    assert twice() is twice
    x, y = torch.randn(16, 16), torch.zeros(16, 16)
    twice()(x, y)
    assert torch.equal(y, 2 * x)


@pytest.mark.parametrize("instance", [False, True])
def test_golden_run_takes_the_class_or_an_instance(instance, capsys):
    specs = [
        TensorSpec("x", [16, 16], torch.float32, torch.randn),
        TensorSpec("y", [16, 16], torch.float32, is_output=True),
    ]

    def golden(values):
        values["y"][:] = values["x"] * 2

    program = build()() if instance else build()
    result = run(program, specs, golden, compile_cfg={"dump_passes": True}, rtol=0, atol=0)
    assert result.passed, result.error
    assert "[RUN]   'y' PASS" in capsys.readouterr().out


def test_arguments_that_do_not_fit_are_refused_and_name_the_program():
    twice, x = build(), torch.zeros(16, 16)
    with pytest.raises(
        ArgumentError, match=r"@pl\.program 'Twice': missing a required argument: 'y'"
    ):
        twice(x)
    with pytest.raises(ArgumentError, match=r"argument 'x' has shape \[8, 16\]"):
        twice(torch.zeros(8, 16), x)


def test_annotations_are_binding_whatever_the_knob_says(monkeypatch):
    monkeypatch.setenv("TILEWRIGHT_CHECK_ANNOTATIONS", "0")
    with pytest.raises(ArgumentError, match="has dtype BF16"):
        build()(torch.zeros(16, 16).bfloat16(), torch.zeros(16, 16))


def test_what_was_read_at_the_definition_is_not_read_again(monkeypatch):
    twice = build()
    monkeypatch.setattr(
        sys.modules["tilewright.jit"], "trace", lambda *_: pytest.fail("read again")
    )
    x, y = torch.randn(16, 16), torch.zeros(16, 16)
    twice(x, y)
    assert torch.equal(y, 2 * x)


# The scope around the class


def test_constants_are_those_of_the_moment_the_class_was_made(monkeypatch):
    programs = []
    for n in (4, 8):
        factor = float(n)

        @pl.program
        class Scale:
            @pl.function
            def run(self, x: pl.Tensor[[n, n], pl.FP32], y: pl.Out[pl.Tensor[[n, n], pl.FP32]]):
                y[:, :] = pl.mul(x, factor)  # noqa: B023

        programs.append(Scale)
    for n, program in zip((4, 8), programs, strict=True):
        x, y = torch.randn(n, n), torch.zeros(n, n)
        program(x, y)
        assert torch.equal(y, x * n)


ROWS, SHIFT = 4, 1.0


@pl.program
class OnAnyColumns:
    """One class for several shapes: the columns are not fixed by the annotation."""

    COLS = pl.dynamic("COLS")

    @pl.function
    def run(self, x: pl.Tensor[[ROWS, COLS], pl.FP32], y: pl.Out[pl.Tensor[[ROWS, COLS], pl.FP32]]):
        with pl.at(level=CORE):
            y[:, :] = pl.add(x, SHIFT)


def test_a_program_of_dynamic_extents_keeps_its_globals_too(monkeypatch):
    monkeypatch.setitem(globals(), "SHIFT", 100.0)
    for columns in (8, 24):
        x, y = torch.randn(4, columns), torch.zeros(4, columns)
        OnAnyColumns(x, y)
        assert torch.equal(y, x + 1)


def test_names_that_only_postponed_annotations_mention_are_found():
    program = postponed_annotations.program_of(8, 16)
    x, y = torch.randn(8, 16), torch.zeros(8, 16)
    program(x, y)
    assert torch.equal(y, -x)
    with pytest.raises(ArgumentError, match="wanted 16"):
        program(torch.zeros(8, 8), y)


# When mistakes are reported


def test_a_mistake_is_reported_where_the_class_is_defined():
    with pytest.raises(ParserTypeError, match=r"\[8, 16\], the source is \[16, 16\]") as caught:

        @pl.program
        class Wrong:
            @pl.function
            def run(self, x: pl.Tensor[[16, 16], pl.FP32], y: pl.Out[pl.Tensor[[8, 16], pl.FP32]]):
                y[:, :] = pl.add(x, x)

    assert "y[:, :] = pl.add(x, x)" in str(caught.value)


def test_form_is_checked_at_the_definition_also_where_extents_are_open():
    N = pl.dynamic("N")
    with pytest.raises(UnsupportedFeatureError, match="assert has no place"):

        @pl.program
        class Wrong:
            @pl.function
            def run(self, x: pl.Tensor[[N], pl.FP32]):
                assert x


def test_a_mistake_in_a_value_waits_for_the_call_where_extents_are_open():
    N = pl.dynamic("N")

    @pl.program
    class Wrong:
        @pl.function
        def run(self, x: pl.Tensor[[N], pl.FP32]):
            y = z  # noqa: F821, F841

    with pytest.raises(UndefinedVariableError, match="'z'"):
        Wrong(torch.zeros(4))


def test_a_scalar_that_sizes_a_tile_waits_for_its_value():
    @pl.program
    class Sized:
        @pl.function
        def run(self, n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor[[4, 4], pl.FP32]]):
            with pl.at(level=CORE):
                y[0:n, :] = pl.full([n, 4], dtype=pl.FP32, value=7.0)

    for n in (1, 3):
        y = torch.zeros(4, 4)
        Sized(n, y)
        assert torch.equal(y, torch.where(torch.arange(4)[:, None] < n, 7.0, 0.0).expand(4, 4))


def test_static_print_speaks_once(capsys):
    @pl.program
    class Speaks:
        @pl.function
        def run(self, x: pl.Tensor[[4, 4], pl.FP32]):
            pl.static_print("shape", x.shape)

    assert capsys.readouterr().out == "shape [4, 4]\n"
    Speaks(torch.zeros(4, 4))
    assert capsys.readouterr().out == ""


# The entry


def test_without_orchestration_the_function_that_nobody_calls_is_the_entry():
    @pl.program
    class Pair:
        @pl.function(type=pl.FunctionType.Inline)
        def spare(self, x: pl.Tensor):
            return pl.abs(x)

        @pl.function(type=pl.FunctionType.InCore)
        def inner(self, x: pl.Tensor[[4, 4], pl.FP32]):
            return pl.neg(x)

        @pl.function(type=pl.FunctionType.Group, attrs={"note": 1})
        def outer(self, x: pl.Tensor[[4, 4], pl.FP32], y: pl.Out[pl.Tensor[[4, 4], pl.FP32]]):
            z = self.inner(x)
            y[:, :] = z

    assert Pair.function.__name__ == "outer"
    assert list(Pair.functions) == ["outer", "spare", "inner"]
    x, y = torch.randn(4, 4), torch.zeros(4, 4)
    Pair(x, y)
    assert torch.equal(y, -x)


@BACKENDS
def test_a_lone_incore_function_is_one_region(backend):
    @pl.program(strict_ssa=True)
    class Lone:
        @pl.function(type=pl.FunctionType.AIV, strict_ssa=True)
        def run(
            self, x: pl.Tensor[[4, 8], pl.FP32], y: pl.Out[pl.Tensor[[4, 8], pl.FP32]]
        ) -> pl.Tensor[[4, 8], pl.FP32]:
            tile = pl.create_tile([4, 8], dtype=pl.FP32, target_memory=pl.MemorySpace.Vec)
            for _ in pl.range(3):
                tile = pl.add(tile, pl.load(x, [0, 0], [4, 8]))
            return pl.store(tile, [0, 0], y)

    x, y = torch.randint(-8, 9, (4, 8)).float(), torch.zeros(4, 8)
    Lone.run(x, y, backend=backend)
    assert torch.equal(y, 3 * x)
    function = Lone.specialize(x, y, backend=backend).function
    assert [op.name for op in function.body.ops] == ["at", "return"]
    assert sum(op.name == "at" for op in ops_in(function)) == 1


def test_a_first_incore_function_may_be_called_region_after_region():
    @pl.program
    class Steps:
        @pl.function(type=pl.FunctionType.InCore)
        def step(self, x: pl.Tensor[[4, 4], pl.FP32], n: pl.Scalar[pl.INDEX]):
            result = pl.create_tensor([4, 4], dtype=pl.FP32)
            for _ in pl.range(n):
                result = pl.add(result, x)
            return result, pl.row_sum(result)

        @pl.function(type=pl.FunctionType.Orchestration)
        def main(self, x: pl.Tensor[[4, 4], pl.FP32], y: pl.Out[pl.Tensor[[4, 4], pl.FP32]]):
            a, sums = self.step(x, 2)
            b, _ = self.step(a, n=3)
            with pl.at(level=CORE):
                y[:, :] = pl.row_expand_add(b, sums)

    x, y = torch.randint(-8, 9, (4, 4)).float(), torch.zeros(4, 4)
    Steps(x, y)
    assert torch.equal(y, 6 * x + (2 * x).sum(1, keepdim=True))


# What is no program


def test_a_marked_function_outside_a_program_cannot_be_called():
    @pl.function
    def alone(self, x: pl.Tensor):
        pass

    with pytest.raises(UnsupportedFeatureError, match="is a function of a program"):
        alone(torch.zeros(4))


def test_source_that_cannot_be_read_is_refused_with_that_reason():
    text = """
@pl.program
class Typed:
    @pl.function
    def run(self, x: pl.Tensor):
        pass
"""
    with pytest.raises(KernelError, match="cannot be read"):
        exec(text, {"pl": pl})


# A program with fixed weights


def test_weights_of_a_program_are_bound():
    @pl.program
    class Linear:
        @pl.function
        def run(
            self,
            x: pl.Tensor[[8, 32], pl.FP32],
            w: pl.Tensor[[32, 16], pl.FP32],
            y: pl.Out[pl.Tensor[[8, 16], pl.FP32]],
        ):
            with pl.at(level=CORE):
                y[:, :] = pl.matmul(x, w)

    x, w = torch.randint(-8, 9, (8, 32)).float(), torch.randint(-8, 9, (32, 16)).float()
    y = torch.zeros(8, 16)
    bound = Linear.bind(w=w)
    for _ in range(2):
        y.zero_()
        bound(x=x, y=y)
        assert torch.equal(y, x @ w)


# Two results, one with a run-time scalar in it


@pl.program
class SplitSigns:
    ROWS = 8

    @pl.function(type=pl.FunctionType.Opaque)
    def split(
        self, x: pl.Tensor[[ROWS, 16], pl.FP32], limit: pl.Scalar[pl.FP32]
    ) -> tuple[pl.Tensor[[ROWS, 16], pl.FP32], pl.Tensor[[ROWS, 1], pl.FP32]]:
        clipped = pl.create_tensor([8, 16], dtype=pl.FP32)
        sums = pl.create_tensor([8, 1], dtype=pl.FP32)
        with pl.at(level=pl.Level.CORE_GROUP):
            low = pl.minimum(x, limit)
            clipped[:, :] = low
            sums[:, :] = pl.row_sum(low)
        return clipped, sums


@BACKENDS
def test_a_program_returns_a_tuple(backend):
    x = torch.randint(-8, 9, (8, 16)).float()
    for limit in (0.5, -2.0):
        clipped, sums = SplitSigns.run(x, limit, backend=backend)
        assert torch.equal(clipped, x.clamp(max=limit))
        assert torch.equal(sums, x.clamp(max=limit).sum(1, keepdim=True))
    assert len(SplitSigns.specializations["state"].entries) == 1, "a scalar needs one program"


# Blocks of a launch


def build_blocks(rows: int, blocks: int):
    height = rows // blocks

    @pl.program
    class Blocks:
        @pl.function(type=pl.FunctionType.InCore)
        def one_block(
            self,
            x: pl.Tensor[[rows, 16], pl.FP32],
            y: pl.Out[pl.Tensor[[rows, 16], pl.FP32]],
        ) -> pl.Tensor[[rows, 16], pl.FP32]:
            r0 = pl.tile.get_block_idx() * height
            y = pl.store(pl.neg(pl.load(x, [r0, 0], [height, 16])), [r0, 0], y)
            return y

        @pl.function(type=pl.FunctionType.Spmd, attrs={"core_num": blocks})
        def all_blocks(
            self,
            x: pl.Tensor[[rows, 16], pl.FP32],
            y: pl.Out[pl.Tensor[[rows, 16], pl.FP32]],
        ) -> pl.Tensor[[rows, 16], pl.FP32]:
            y = self.one_block(x, y)
            return y

        @pl.function(type=pl.FunctionType.Orchestration)
        def main(
            self,
            x: pl.Tensor[[rows, 16], pl.FP32],
            y: pl.Out[pl.Tensor[[rows, 16], pl.FP32]],
        ) -> pl.Tensor[[rows, 16], pl.FP32]:
            y = self.all_blocks(x, y)
            return y

    return Blocks


@BACKENDS
def test_an_spmd_function_runs_its_body_on_every_block(backend):
    x, y = torch.randn(64, 16), torch.zeros(64, 16)
    build_blocks(64, 4).run(x, y, backend=backend)
    assert torch.equal(y, -x)
