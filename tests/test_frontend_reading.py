"""What the front end makes of a text: spans, constants of the surrounding Python, fresh
specialisations.
"""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch

import tilewright.language as pl
from tilewright.errors import ArgumentError, ParserTypeError, UnsupportedFeatureError
from tilewright.frontend import NeedsConstant, ScalarArgument, TensorArgument, signature_of, trace
from tilewright.ir.nodes import Block, Op

OFFSET = 1.0
SIZES = [4, 8]
CONFIG = SimpleNamespace(scale=2.0)
KIND = pl.BF16


def ops(block: Block, name: str) -> list[Op]:
    found = []
    for op in block.ops:
        found += [op] if op.name == name else []
        for inner in op.blocks:
            found += ops(inner, name)
    return found


def tensor(*shape, dtype=pl.FP32) -> TensorArgument:
    return TensorArgument(shape, dtype)


@pl.jit.inline
def doubled(v: pl.Tensor):
    return pl.add(v, v)


class Holder:
    @pl.jit
    def indented(x: pl.Tensor[[4, 8], pl.FP32], y: pl.Out[pl.Tensor[[4, 8], pl.FP32]]):  # noqa: N805
        with pl.at(level=pl.Level.CORE_GROUP):
            z = doubled(x)
            y[:, :] = pl.neg(z)


def test_every_op_knows_its_line_and_column_and_the_call_it_was_pasted_at():
    kernel = Holder.indented
    function = trace(kernel, {"x": tensor(4, 8), "y": tensor(4, 8)}).function
    lines, first = inspect.getsourcelines(kernel.function)
    (neg,) = ops(function.body, "neg")
    text = lines[neg.span.line - first]
    assert text[neg.span.col : neg.span.end_col] == "pl.neg(z)"
    (add,) = ops(function.body, "add")
    text = inspect.getsource(doubled.function).splitlines()[
        add.span.line - inspect.getsourcelines(doubled.function)[1]
    ]
    assert text[add.span.col : add.span.end_col] == "pl.add(v, v)"
    caller = add.span.caller
    assert caller is not None
    assert lines[caller.line - first][caller.col : caller.end_col] == "doubled(x)"


@pl.jit
def constants(x: pl.Tensor[[4, 8], pl.FP32], y: pl.Out[pl.Tensor[[4, 8], pl.BF16]]):
    y[:, :] = pl.cast(pl.mul(pl.add(x, OFFSET), CONFIG.scale), KIND, mode="rint")
    pl.static_assert(x.shape == [SIZES[0], SIZES[1]], "unexpected shape")


def test_a_changed_constant_makes_a_new_program(monkeypatch):
    x, y = torch.zeros(4, 8), torch.empty(4, 8, dtype=torch.bfloat16)

    def answer() -> float:
        constants.run(x, y, backend="interpreter")
        return y[0, 0].item()

    assert answer() == 2.0
    monkeypatch.setattr(f"{__name__}.OFFSET", 3.0)
    assert answer() == 6.0, "a global is part of the program"
    monkeypatch.setattr(CONFIG, "scale", 4.0)
    assert answer() == 12.0, "so is an attribute"


def test_the_consulted_values_say_when_they_change(monkeypatch):
    traced = trace(constants, {"x": tensor(4, 8), "y": tensor(4, 8, dtype=pl.BF16)})
    assert {c.name for c in traced.consulted} >= {
        "OFFSET",
        "CONFIG",
        "CONFIG.scale",
        "KIND",
        "SIZES",
    }
    assert not any(c.changed() for c in traced.consulted)
    SIZES.append(3)
    try:
        assert [c.name for c in traced.consulted if c.changed()] == ["SIZES"]
    finally:
        SIZES.pop()


def make(factor):
    @pl.jit
    def scaled(x: pl.Tensor[[factor, 8], pl.FP32], y: pl.Out[pl.Tensor[[factor, 8], pl.FP32]]):
        y[:, :] = pl.mul(x, factor)

    return scaled


def test_constants_of_the_enclosing_function_are_constants_of_the_program():
    for factor in (2, 5):
        x, y = torch.ones(factor, 8), torch.empty(factor, 8)
        make(factor).run(x, y, backend="interpreter")
        assert y[0, 0] == factor


def test_annotations_are_read_with_directions_and_dynamic_extents():
    x, y = signature_of(make(3))
    assert (x.shape, x.dtype, x.direction) == ((3, 8), pl.FP32, "in")
    assert y.direction == "out"


@pl.jit
def sized(x: pl.Tensor, n: pl.Scalar[pl.INT32], y: pl.Out[pl.Tensor]):
    half = n // 2
    y[:, :] = pl.add(x[0:half, :], 1.0)


def test_a_parameter_that_decides_an_extent_is_asked_for_as_a_constant():
    arguments = {"x": tensor(8, 4), "n": ScalarArgument(pl.INT32), "y": tensor(4, 4)}
    with pytest.raises(NeedsConstant) as needed:
        trace(sized, arguments)
    assert needed.value.parameter == "n"
    traced = trace(sized, {**arguments, "n": ScalarArgument(pl.INT32, 8)})
    assert [p.value.name for p in traced.function.params] == ["x", "y"]


@pl.jit
def writes_its_input(x: pl.Tensor, y: pl.Tensor):
    view = pl.reshape(x, [32])
    with pl.at(level=pl.Level.CORE_GROUP):
        view[0:8] = y[0, 0:8]


def test_a_plain_parameter_that_is_written_through_a_view_counts_as_written():
    function = trace(writes_its_input, {"x": tensor(4, 8), "y": tensor(4, 8)}).function
    assert [p.direction for p in function.params] == ["inout", "in"]


@pl.jit
def named_regions(x: pl.Tensor[[4, 8], pl.FP32], y: pl.Out[pl.Tensor[[4, 8], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="first"):
        a = pl.add(x, 1.0)
        unused = pl.mul(a, 2.0)  # noqa: F841
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="second"):
        y[:, :] = a


def test_a_region_keeps_its_name_and_hands_out_only_what_is_read_later():
    function = trace(named_regions, {"x": tensor(4, 8), "y": tensor(4, 8)}).function
    first, second = ops(function.body, "at")
    assert [first.attr("name"), second.attr("name")] == ["first", "second"]
    assert [r.name for r in first.results] == ["a.1"]
    assert second.results == ()


@pl.jit
def statements_on_blocks(x: pl.Tensor[[4, 8], pl.FP32], y: pl.Out[pl.Tensor[[4, 8], pl.FP32]]):
    a = pl.add(x, 1.0)
    b = pl.mul(a, 2.0)
    y[:, :] = b


def test_neighbouring_statements_on_blocks_outside_a_region_share_one():
    function = trace(statements_on_blocks, {"x": tensor(4, 8), "y": tensor(4, 8)}).function
    assert len(ops(function.body, "at")) == 1


def test_source_that_cannot_be_read_is_refused_with_that_reason():
    names = {"pl": pl}
    with pytest.raises(UnsupportedFeatureError, match="cannot be read"):
        exec("@pl.jit\ndef k(x: pl.Tensor):\n    pass\n", names)


def test_operators_outside_a_kernel_say_so():
    with pytest.raises(UnsupportedFeatureError, match=r"pl\.add was called outside a kernel"):
        pl.add(1, 2)


def test_a_tensor_annotation_without_extents_is_refused():
    with pytest.raises(ParserTypeError, match="list of extents"):
        pl.Tensor[pl.FP32]


def test_annotations_that_python_leaves_as_text_see_the_names_around_the_kernel():
    from postponed_annotations import scale_by_two

    x, y = torch.arange(12.0).reshape(3, 4), torch.zeros(3, 4)
    scale_by_two(3, 4)(x, y)
    assert torch.equal(y, 2 * x)
    with pytest.raises(ArgumentError, match="axis 0 is 2, wanted 3"):
        scale_by_two(3, 4)(x[:2].clone(), y[:2].clone())
