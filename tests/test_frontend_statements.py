"""Less common statements and operators, run both ways: scopes, merges, clamped windows, gathers."""

from __future__ import annotations

import pytest
import torch

import tilewright.language as pl
from tilewright.ir.verify import verify

REGION = pl.Level.CORE_GROUP


@pytest.fixture(params=["interpreter", "native"])
def run(request):
    """Run a kernel, after the verifier has seen what the front end made of it."""

    def run_verified(kernel, *args):
        verify(kernel.specialize(*args, backend=request.param).function)
        return kernel.run(*args, backend=request.param)

    return run_verified


@pl.jit
def nested(x: pl.Tensor[[4, 6, 8], pl.FP32], y: pl.Out[pl.Tensor[[4, 8], pl.FP32]]):
    M, N, _ = x.shape
    for i in pl.parallel(M):
        acc = pl.create_tensor([1, 8], dtype=pl.FP32)
        count = 0
        for j in pl.range(N):
            if j % 2 == 0:
                for twice in pl.range(2):
                    acc = pl.add(acc, x[i, j : j + 1, :])
                    count = count + twice
            elif j == 3:
                acc = pl.sub(acc, 1.0)
        with pl.at(level=REGION):
            y = pl.assemble(y, pl.add(acc, pl.cast(count, pl.FP32)), [i, 0])
    return y


def test_names_are_carried_through_nested_loops_and_elif_outside_any_region(run):
    x, y = torch.randint(-9, 9, (4, 6, 8)).float(), torch.empty(4, 8)
    run(nested, x, y)
    assert torch.equal(y, 2 * x[:, ::2].sum(1) - 1 + 3)


@pl.jit.inline
def one_row(x: pl.Tensor, y: pl.Tensor):
    row = pl.tile.get_block_idx()
    y[row : row + 1, :] = pl.neg(x[row : row + 1, :])
    return y


@pl.jit
def launched(x: pl.Tensor[[4, 8], pl.FP32], y: pl.Out[pl.Tensor[[4, 8], pl.FP32]]):
    with pl.spmd(4, name_hint="rows") as tid:  # noqa: F841
        y = one_row(x, y)


def test_blocks_of_a_launch_read_their_number(run):
    x, y = torch.randn(4, 8), torch.empty(4, 8)
    run(launched, x, y)
    assert torch.equal(y, -x)


@pl.jit
def clamped(
    x: pl.Tensor[[10, 8], pl.FP32],
    first: pl.Scalar[pl.INT32],
    y: pl.InOut[pl.Tensor[[4, 8], pl.FP32]],
):
    with pl.at(level=REGION):
        y[:, :] = pl.slice(x, [4, 8], [first, 0], clamp=True)


@pytest.mark.parametrize(("first", "rows"), [(0, 4), (7, 3), (9, 1), (10, 0)])
def test_a_clamped_window_ends_where_its_tensor_does(run, first, rows):
    x, y = torch.randn(10, 8), torch.full((4, 8), -1.0)
    run(clamped, x, first, y)
    assert torch.equal(y[:rows], x[first : first + rows])
    assert (y[rows:] == -1).all()


@pl.jit
def swapped_pairs(
    x: pl.Tensor[[3, 8], pl.FP32],
    index: pl.Tensor[[3, 8], pl.INT32],
    y: pl.Out[pl.Tensor[[3, 8], pl.FP32]],
):
    with pl.at(level=REGION):
        y[:, :] = pl.gather(x, dim=-1, index=index)


def test_index_gather_picks_along_an_axis(run):
    x, y = torch.randn(3, 8), torch.empty(3, 8)
    index = (torch.arange(8, dtype=torch.int32) ^ 1).expand(3, 8).contiguous()
    run(swapped_pairs, x, index, y)
    assert torch.equal(y, x.gather(1, index.long()))


@pl.jit
def masks(x: pl.Tensor[[2, 8], pl.FP32], y: pl.Out[pl.Tensor[[2, 8], pl.FP32]]):
    with pl.at(level=REGION):
        positive = pl.cmp(x, 0.0, 4)
        y[:, :] = pl.sel(positive, x, pl.expands(x, -1.0))


def test_a_comparison_selects(run):
    x, y = torch.randn(2, 8), torch.empty(2, 8)
    run(masks, x, y)
    assert torch.equal(y, torch.where(x > 0, x, -torch.ones(())))


@pl.jit
def counted(start: pl.Scalar[pl.INT32], y: pl.Out[pl.Tensor[[2, 8], pl.INT32]]):
    with pl.at(level=REGION):
        y[0:1, :] = pl.arange(start, [1, 8])
        y[1:2, :] = pl.arange(start, [1, 8], dtype=pl.INT32, descending=True)


def test_arange_counts_up_and_down(run):
    y = torch.empty(2, 8, dtype=torch.int32)
    run(counted, 5, y)
    assert y[0].tolist() == list(range(5, 13))
    assert y[1].tolist() == list(range(5, -3, -1))


@pl.jit
def block_parts(
    x: pl.Tensor[[4, 8], pl.FP32], n: pl.Scalar[pl.INT32], y: pl.Out[pl.Tensor[[4, 8], pl.FP32]]
):
    with pl.at(level=REGION):
        tile = pl.load(x, [0, 0], [4, 8])
        tile[0:2, 4:8] = x[2:4, 0:4]
        pl.write(tile, [n, 0], 100.0)
        first = tile[1, :]
        tile[3, :] = first
        y[:, :] = tile


def test_blocks_are_written_by_window_by_row_and_by_element(run):
    x, y = torch.randn(4, 8), torch.empty(4, 8)
    run(block_parts, x, 2, y)
    wanted = x.clone()
    wanted[:2, 4:] = x[2:, :4]
    wanted[2, 0] = 100
    wanted[3] = wanted[1]
    assert torch.equal(y, wanted)


@pl.jit
def valid_parts_of_blocks(
    x: pl.Tensor[[4, 8], pl.FP32], n: pl.Scalar[pl.INT32], y: pl.InOut[pl.Tensor[[2, 1], pl.FP32]]
):
    with pl.at(level=REGION):
        v = pl.set_validshape(x, n, 6)
        y[:, :] = pl.row_sum(v[2:4, 4:8])


@pytest.mark.parametrize("n", [0, 3, 4])
def test_a_window_of_a_block_keeps_the_valid_part_inside_it(run, n):
    x, y = torch.randint(-9, 9, (4, 8)).float(), torch.full((2, 1), -50.0)
    run(valid_parts_of_blocks, x, n, y)
    wanted = torch.full((2, 1), -50.0)
    rows = max(0, n - 2)
    wanted[:rows] = x[2 : 2 + rows, 4:6].sum(1, keepdim=True)
    assert torch.equal(y, wanted)


@pl.jit
def larger_source(x: pl.Tensor[[8, 8], pl.FP32], y: pl.InOut[pl.Tensor[[8, 4], pl.FP32]]):
    with pl.at(level=REGION):
        y[0:8, 0:4] = pl.slice(x, [8, 8], [0, 0], valid_shape=[8, 4])
        doubled = pl.reshape(pl.mul(x[0:2, 0:4], 2.0), [1, 2, 4])
        pl.assemble(y, doubled, [6, 0])


def test_a_source_may_be_larger_than_its_window_by_what_is_invalid_or_by_unit_axes(run):
    x, y = torch.randn(8, 8), torch.empty(8, 4)
    run(larger_source, x, y)
    assert torch.equal(y[:6], x[:6, :4])
    assert torch.equal(y[6:], 2 * x[:2, :4])


@pl.jit
def transposed(
    x: pl.Tensor[[4, 8], pl.FP32],
    w: pl.Tensor[[16, 8], pl.FP32],
    y: pl.Out[pl.Tensor[[4, 16], pl.FP32]],
    z: pl.Out[pl.Tensor[[8, 4], pl.FP32]],
):
    t = pl.transpose(x, 0, 1)
    with pl.at(level=REGION):
        y[:, :] = pl.matmul(x, w, b_trans=True)
        z[:, :] = t


def test_operands_are_taken_transposed(run):
    x, w = torch.randint(-4, 4, (4, 8)).float(), torch.randint(-4, 4, (16, 8)).float()
    y, z = torch.empty(4, 16), torch.empty(8, 4)
    run(transposed, x, w, y, z)
    assert torch.equal(y, x @ w.t())
    assert torch.equal(z, x.t())


@pl.jit
def predicated(
    flags: pl.Tensor[[4], pl.INT32],
    x: pl.Tensor[[4, 8], pl.FP32],
    y: pl.InOut[pl.Tensor[[4, 8], pl.FP32]],
):
    for i in pl.parallel(4):
        with pl.at(level=REGION, predicate=(flags[i] > 0)):
            y[i : i + 1, :] = x[i : i + 1, :]


def test_a_region_with_a_false_predicate_is_skipped(run):
    x, y = torch.randn(4, 8), torch.zeros(4, 8)
    flags = torch.tensor([1, 0, 2, -1], dtype=torch.int32)
    run(predicated, flags, x, y)
    assert torch.equal(y, x * (flags > 0).float()[:, None])


@pl.jit.incore
def squares(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    s = pl.mul(x, x)
    y[:, :] = s
    return y


@pl.jit
def calls_incore(x: pl.Tensor[[2, 8], pl.FP32], y: pl.Out[pl.Tensor[[2, 8], pl.FP32]]):
    y = squares(x, y)
    return y  # noqa: RET504 - a kernel names its result first


def test_an_incore_function_is_one_region(run):
    x, y = torch.randn(2, 8), torch.empty(2, 8)
    assert run(calls_incore, x, y) is None
    assert torch.equal(y, x * x)
    regions = [op for op in calls_incore.specialize(x, y).function.body.ops if op.name == "at"]
    assert [op.attr("name") for op in regions] == ["squares"]


@pl.jit
def half_floats(x: pl.Tensor[[2, 64], pl.BF16], y: pl.Out[pl.Tensor[[2, 64], pl.BF16]]):
    with pl.at(level=REGION):
        y[:, :] = pl.add(pl.mul(x, 1.1), x)


def test_a_bf16_block_meets_an_fp32_scalar_and_rounds_once_per_operator(run):
    x, y = torch.randn(2, 64).bfloat16(), torch.empty(2, 64).bfloat16()
    run(half_floats, x, y)
    product = (x.float() * torch.tensor(1.1)).bfloat16()
    assert torch.equal(y, (product.float() + x.float()).bfloat16())


@pl.jit
def gathered_rows(
    ids: pl.Tensor[[4], pl.INT32],
    src: pl.Tensor[[9, 8], pl.FP32],
    y: pl.Out[pl.Tensor[[8, 4], pl.FP32]],
):
    with pl.at(level=REGION):
        acc = pl.create_l1([8, 4], pl.FP32)
        for i in pl.range(4):
            acc = pl.gather_row(acc, src, [0, i], [pl.read(ids, [i]), 0], [1, 8], transpose=True)
        y[:, :] = acc


def test_rows_are_gathered_into_columns(run):
    src, y = torch.randn(9, 8), torch.empty(8, 4)
    ids = torch.tensor([8, 0, 3, 3], dtype=torch.int32)
    run(gathered_rows, ids, src, y)
    assert torch.equal(y, src[ids.long()].t())


@pl.jit.inline
def raised(x: pl.Tensor, y: pl.Tensor):
    with pl.at(level=REGION):
        y = pl.add(x, 1.0)
    return y  # noqa: RET504


@pl.jit
def outputs_rebound(
    x: pl.Tensor[[4, 8], pl.FP32],
    y: pl.Out[pl.Tensor[[4, 8], pl.FP32]],
    z: pl.Out[pl.Tensor[[4, 8], pl.FP32]],
):
    y = raised(x, y)
    z = y
    return y, z


def test_an_output_s_name_for_a_block_is_that_output_once_it_is_returned(run):
    x, y, z = torch.randn(4, 8), torch.zeros(4, 8), torch.zeros(4, 8)
    assert run(outputs_rebound, x, y, z) is None
    assert torch.equal(y, x + 1)
    assert torch.equal(z, x + 1)


@pl.jit
def index_arithmetic_written(ids: pl.Tensor[[4], pl.INT32], y: pl.Out[pl.Tensor[[4], pl.INT32]]):
    for i in pl.range(4):
        pl.write(y, [i], pl.read(ids, [i]) * 16 + i)


def test_a_write_narrows_what_was_computed_in_index(run):
    ids, y = torch.tensor([3, -1, 7, 0], dtype=torch.int32), torch.zeros(4, dtype=torch.int32)
    run(index_arithmetic_written, ids, y)
    assert y.tolist() == [48, -15, 114, 3]


@pl.jit
def output_rebound_and_left(x: pl.Tensor[[4, 8], pl.FP32], y: pl.Out[pl.Tensor[[4, 16], pl.FP32]]):
    with pl.at(level=REGION):
        y = pl.tensor.scatter(x, mask_pattern=pl.tile.MaskPattern.P0101, dst=y)
        y = pl.tensor.scatter(pl.neg(x), mask_pattern=pl.tile.MaskPattern.P1010, dst=y)


def test_a_block_left_under_an_output_s_name_is_that_output_if_nothing_else_is(run):
    x, y = torch.randn(4, 8), torch.zeros(4, 16)
    run(output_rebound_and_left, x, y)
    assert torch.equal(y, torch.stack([x, -x], -1).flatten(1))
