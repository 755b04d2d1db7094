"""Kernels that call kernels: inline, in-core and opaque ones, and the names and constants they see."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch

import tilewright.language as pl
from tilewright.errors import InvalidOperationError, ParserTypeError, UnsupportedFeatureError
from tilewright.ir.verify import verify
from tilewright.ir.walk import ops_in

BACKENDS = ["interpreter", "native"]
CORE = pl.Level.CORE_GROUP


@pytest.fixture(params=BACKENDS)
def run(request):
    """Run a kernel, after the verifier has seen what the front end made of it."""

    def run_verified(kernel, *args):
        verify(kernel.specialize(*args, backend=request.param).function)
        return kernel.run(*args, backend=request.param)

    return run_verified


# In-core and opaque kernels


@pl.jit.incore
def scaled_rows(
    x: pl.Tensor[[8, 16], pl.FP32],
    y: pl.Out[pl.Tensor[[8, 16], pl.FP32]],
    by: pl.Scalar[pl.FP32] = 2.0,
    *,
    shift: pl.Scalar[pl.FP32] = 0.0,
):
    """A whole region as a function."""
    part = pl.mul(x, by)
    y[:, :] = pl.add(part, shift)
    return y


@pl.jit.incore(level=pl.Level.CORE_GROUP)
def row_sums(x: pl.Tensor):
    return pl.row_sum(x), pl.row_max(x)


@pl.jit.opaque
def both(x: pl.Tensor, y: pl.Out[pl.Tensor], sums: pl.Out[pl.Tensor]):
    for r in pl.parallel(0, 16, 8):
        upper = pl.slice(x, [8, 16], [r, 0])
        lower = pl.slice(y, [8, 16], [r, 0])
        lower = scaled_rows(upper, lower, shift=1.0)
        total, largest = row_sums(lower)
        with pl.at(level=CORE):
            sums[r : r + 8, :] = pl.add(total, largest)
    return y, sums


@pl.jit
def call_every_kind(
    x: pl.Tensor[[16, 16], pl.FP32],
    y: pl.Out[pl.Tensor[[16, 16], pl.FP32]],
    z: pl.Out[pl.Tensor[[8, 16], pl.FP32]],
    sums: pl.Out[pl.Tensor[[16, 1], pl.FP32]],
):
    y, sums = both(x, sums=sums, y=y)
    scaled_rows(pl.slice(x, [8, 16], [4, 0]), z, by=-1.0)
    return y, z, sums


def test_incore_and_opaque_kernels_are_called_with_keywords_and_defaults(run):
    x = torch.randint(-8, 9, (16, 16)).float()
    y, z, sums = torch.zeros(16, 16), torch.zeros(8, 16), torch.zeros(16, 1)
    assert run(call_every_kind, x, y, z, sums) is None
    assert torch.equal(y, 2 * x + 1)
    assert torch.equal(z, -x[4:12])
    assert torch.equal(sums, y.sum(1, keepdim=True) + y.amax(1, keepdim=True))


def test_each_call_of_an_incore_kernel_is_a_region_of_its_name():
    shapes = [torch.zeros(16, 16), torch.zeros(16, 16), torch.zeros(8, 16), torch.zeros(16, 1)]
    function = call_every_kind.specialize(*shapes, backend="interpreter").function
    names = [op.attr("name") for op in ops_in(function) if op.name == "at"]
    assert names.count("scaled_rows") == 2
    assert names.count("row_sums") == 1


# Inline kernels


@pl.jit.inline
def centre(x: pl.Tensor, by: pl.Scalar[pl.FP32] = 0.5):
    mean = pl.mul(pl.row_sum(x), 1.0 / x.shape[1])
    centred = pl.row_expand_sub(x, mean)
    return pl.mul(centred, by), mean


@pl.jit.inline
def centre_twice(x: pl.Tensor, *, last: pl.Scalar[pl.FP32] = 1.0):
    x, first = centre(x)
    again, second = centre(by=last, x=x)
    return again, first, second


@pl.jit
def nested_inlines(
    x: pl.Tensor[[4, 8], pl.FP32],
    o: pl.Out[pl.Tensor[[4, 8], pl.FP32]],
    m: pl.Out[pl.Tensor[[4, 2], pl.FP32]],
):
    with pl.at(level=CORE):
        x_again = x
        mean = pl.full([4, 1], dtype=pl.FP32, value=3.0)  # a name that the inlined kernels use too
        out, first, second = centre_twice(x, last=4.0)
        o[:, :] = pl.add(out, pl.sub(x, x_again))
        m[:, :] = pl.concat(first, pl.add(second, mean))


def test_inlines_nest_give_several_results_and_keep_their_names_private(run):
    x = torch.randint(-8, 9, (4, 8)).float() * 8
    o, m = torch.zeros(4, 8), torch.zeros(4, 2)
    run(nested_inlines, x, o, m)
    mean = x.mean(1, keepdim=True)
    assert torch.equal(o, (x - mean) * 2)
    assert torch.equal(m, torch.cat([mean, torch.full((4, 1), 3.0)], 1))


@pl.jit.inline
def bump(buffer: pl.Tensor, row: pl.Scalar[pl.INDEX]):
    buffer[row : row + 1, :] = pl.add(buffer[row : row + 1, :], 1.0)


@pl.jit
def written_in_a_loop(x: pl.Tensor[[4, 8], pl.FP32], o: pl.Out[pl.Tensor[[4, 8], pl.FP32]]):
    with pl.at(level=CORE):
        work = pl.mul(x, 1.0)
        for i in pl.range(4):
            if i != 2:
                bump(work, i)
        o[:, :] = work


def test_a_block_that_an_inline_kernel_writes_is_carried_through_loop_and_branch(run):
    x, o = torch.randn(4, 8), torch.zeros(4, 8)
    run(written_in_a_loop, x, o)
    assert torch.equal(o, x + torch.tensor([[1.0], [1], [0], [1]]))


@pl.jit.inline
def with_out(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    y[:, :] = pl.neg(x)
    return y


@pl.jit
def calls_with_out(x: pl.Tensor[[4, 8], pl.FP32], y: pl.Out[pl.Tensor[[4, 8], pl.FP32]]):
    y = with_out(x, y)


def test_out_on_a_parameter_of_an_inline_kernel_is_deprecated(run):
    x, y = torch.randn(4, 8), torch.zeros(4, 8)
    calls_with_out.specializations.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(calls_with_out, x, y)
    assert torch.equal(y, -x)
    (warning,) = caught
    assert issubclass(warning.category, DeprecationWarning)
    assert "'y' of an inline function" in str(warning.message)
    assert warning.filename == __file__


@pl.jit
def an_entry(x: pl.Tensor, o: pl.Out[pl.Tensor]):
    o[:, :] = x


@pl.jit
def calls_an_entry(x: pl.Tensor, o: pl.Out[pl.Tensor]):
    an_entry(x, o)


def test_an_entry_is_not_called_from_a_kernel():
    with pytest.raises(UnsupportedFeatureError, match="'an_entry' is an entry"):
        calls_an_entry(torch.zeros(2, 2), torch.zeros(2, 2))


def test_other_kinds_are_not_called_from_python():
    for kernel in (scaled_rows, both, centre):
        with pytest.raises(UnsupportedFeatureError, match="only other kernels can call it"):
            kernel(torch.zeros(8, 16))


# Constants around a kernel

SCALE, SIZES, NAME = 3, (4, 8), "tail"
CFG = SimpleNamespace(dim=8, eps=0.25, dtype=pl.FP32, parts={"half": 4})


def build_with_closure(offset: float, negate: bool, tiles: list[int]):
    rows, cols = SIZES
    kind = "neg" if negate else "id"

    @pl.jit
    def kernel(
        x: pl.Tensor[[rows, cols], pl.FP32],
        o: pl.Out[pl.Tensor[[SIZES[0], CFG.dim], CFG.dtype]],
    ):
        width = tiles[-1] if len_is_two else tiles[0]
        half, eps = CFG.dim // 2, CFG.eps * 2
        low, high = 0, half
        low, high = high, low  # both sides are read before either name changes
        with pl.at(level=CORE, name_hint=f"{NAME}_{width}"):
            for c in pl.range(0, cols, width):
                part = x[:, c : c + width]
                value = pl.neg(part) if kind == "neg" else part
                shifted = pl.add(value, offset if SCALE > 2 and not negate else eps)
                o[:, c : c + width] = pl.mul(shifted, -((-SCALE) ** 2) / 2.0)
            o[0:1, high:low] = pl.full([1, CFG.parts["half"]], dtype=CFG.dtype, value=1 << 3)

    len_is_two = len(tiles) == 2
    return kernel


@pytest.mark.parametrize("negate", [False, True])
def test_constants_come_from_globals_closures_attributes_lists_and_expressions(run, negate):
    kernel = build_with_closure(1.5, negate, [8, 2])
    x, o = torch.randn(4, 8), torch.zeros(4, 8)
    run(kernel, x, o)
    wanted = ((-x + 0.5) if negate else (x + 1.5)) * -4.5
    wanted[0, 0:4] = 8
    assert torch.equal(o, wanted)


def test_a_constant_that_changes_makes_a_new_program(run, monkeypatch):
    kernel = build_with_closure(1.5, False, [8, 2])
    x, o = torch.randn(4, 8), torch.zeros(4, 8)
    run(kernel, x, o)
    monkeypatch.setitem(globals(), "SCALE", 5)
    run(kernel, x, o)
    assert torch.equal(o[1:], ((x + 1.5) * -12.5)[1:])
    monkeypatch.setattr(CFG, "eps", 9.0)
    run(kernel, x, o)
    monkeypatch.setitem(CFG.parts, "half", 2)
    with pytest.raises(ParserTypeError, match="window is"):
        run(kernel, x, o)


def test_annotations_see_the_enclosing_function_before_globals_of_the_same_name(run):
    SIZES = (2, 6)  # noqa: F841 - not the module's

    @pl.jit
    def kernel(x: pl.Tensor[[*SIZES], pl.FP32], o: pl.Out[pl.Tensor[[SIZES[0], 6], pl.FP32]]):
        o[:, :] = pl.neg(x)

    x, o = torch.randn(2, 6), torch.zeros(2, 6)
    run(kernel, x, o)
    assert torch.equal(o, -x)


# Shapes, dtypes and annotations in the body


@pl.jit
def by_shape(
    x: pl.Tensor,
    first: pl.Scalar[pl.INDEX],
    flip: pl.Scalar[pl.BOOL],
    o: pl.Out[pl.Tensor],
    count: pl.Scalar[pl.INT32] = 2,
):
    M, N = x.shape
    TILE: pl.Scalar[pl.INDEX] = x.shape[1] // 2
    pl.static_assert(N % 2 == 0, "columns come in pairs")
    pl.static_assert(x.dtype == o.dtype)
    pl.static_print("rows", M, "of", x.shape, x.dtype, pl.const(3, pl.INT32), TILE)
    start: pl.Scalar[pl.INDEX] = first * 1
    for _ in pl.range(count):
        for c in pl.range(0, N, TILE):
            with pl.at(level=CORE):
                part: pl.Tile[[1, TILE], x.dtype, pl.Mem.Vec] = x[start : start + 1, c : c + TILE]
                wide: pl.Tensor[[1, N // 2], pl.FP32] = pl.cast(part, pl.FP32)
                if flip:
                    wide = pl.neg(wide)
                o[0:1, c : c + TILE] = pl.cast(wide, x.dtype, mode="rint")


def test_shapes_and_dtypes_are_constants_and_scalars_are_not(run, capsys):
    by_shape.specializations.clear()
    for dtype in (torch.bfloat16, torch.float16):
        for first, flip in ((0, True), (2, False)):
            x, o = torch.randn(3, 8).to(dtype), torch.zeros(1, 8, dtype=dtype)
            run(by_shape, x, first, flip, o)
            assert torch.equal(o[0], -x[first] if flip else x[first])
    entries = by_shape.specializations["state"].entries
    assert [len(e) for e in entries.values()] == [1, 1], (
        "one program per dtype, whatever the scalars"
    )
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "rows 3 of [3, 8] BF16 the INT32 constant 3 4"
    with pytest.raises(InvalidOperationError, match="columns come in pairs"):
        run(by_shape, torch.zeros(1, 7), 0, True, torch.zeros(1, 7))


@pl.jit
def blocks_of(
    x: pl.Tensor, tile: pl.Scalar[pl.INDEX], by: pl.Scalar[pl.FP32], o: pl.Out[pl.Tensor]
):
    for c in pl.range(0, x.shape[1], tile):
        with pl.at(level=CORE):
            o[:, c : c + tile] = pl.mul(x[:, c : c + tile], by)


def test_a_scalar_joins_the_key_only_where_a_constant_must_stand(run):
    blocks_of.specializations.clear()
    x = torch.randn(2, 8)
    for tile, by in ((4, 1.5), (4, 2.5), (8, 2.5)):
        o = torch.zeros(2, 8)
        run(blocks_of, x, tile, by, o)
        assert torch.equal(o, x * by)
    state = blocks_of.specializations["state"]
    assert state.constants == {"tile"}
    assert len(state.entries) == 2


# Results


@pl.jit
def mixed_results(x: pl.Tensor[[4, 8], pl.FP32], o: pl.Out[pl.Tensor[[4, 8], pl.FP32]]):
    made = pl.create_tensor([4, 1], dtype=pl.FP32, init_value=1.0)
    with pl.at(level=CORE):
        o[:, :] = pl.add(x, 1.0)
        made[0:2, :] = pl.row_sum(x[0:2, :])
    return made, o, pl.row_max(x)


def test_created_supplied_and_computed_results_are_returned_together(run):
    x, o = torch.randint(-8, 9, (4, 8)).float(), torch.zeros(4, 8)
    made, same, largest = run(mixed_results, x, o)
    assert same is o
    assert torch.equal(o, x + 1)
    assert torch.equal(made, torch.cat([x[:2].sum(1, keepdim=True), torch.ones(2, 1)]))
    assert torch.equal(largest, x.amax(1, keepdim=True))


@pl.jit
def one_result(x: pl.Tensor) -> pl.Tensor:
    doubled = pl.create_tensor(x.shape, dtype=x.dtype)
    for r in pl.parallel(x.shape[0]):
        with pl.at(level=CORE):
            doubled[r] = pl.mul(x[r], 2.0)
    return doubled


def test_a_created_result_has_the_argument_s_shape(run):
    for shape in ((2, 8), (5, 3)):
        x = torch.randn(shape)
        assert torch.equal(run(one_result, x), 2 * x)
