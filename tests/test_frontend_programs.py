"""Whole programs, read by the front end and run by the interpreter: the answer is in
view.
"""

from __future__ import annotations

import pytest
import torch

import tilewright.language as pl
from tilewright.ir.verify import verify

ROWS, COLS, TILE = 64, 256, 16
K, KT = 128, 32


@pytest.fixture(params=["interpreter", "native"])
def run(request):
    """Run a kernel, after the verifier has seen what the front end made of it."""

    def run_verified(kernel, *args):
        verify(kernel.specialize(*args, backend=request.param).function)
        return kernel.run(*args, backend=request.param)

    return run_verified


@pl.jit
def scale_rows(
    x: pl.Tensor[[ROWS, COLS], pl.FP32],
    gain: pl.Tensor[[ROWS, 1], pl.FP32],
    y: pl.Out[pl.Tensor[[ROWS, COLS], pl.BF16]],
):
    for r0 in pl.parallel(0, ROWS, TILE):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="scale"):
            part = x[r0 : r0 + TILE, :]
            scaled = pl.row_expand_mul(part, gain[r0 : r0 + TILE, :])
            y[r0 : r0 + TILE, :] = pl.cast(scaled, target_type=pl.BF16, mode="rint")
    return y


def test_the_first_program_of_the_language_reference(run):
    x, gain, y = torch.randn(ROWS, COLS), torch.randn(ROWS, 1), torch.empty(ROWS, COLS).bfloat16()
    assert run(scale_rows, x, gain, y) is None
    assert torch.equal(y, (x * gain).bfloat16())


@pl.jit
def accumulate(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
    acc = pl.create_tensor([16, 32], dtype=pl.FP32)
    with pl.at(level=pl.Level.CORE_GROUP):
        for kb in pl.pipeline(K // KT, stage=2):
            a = x[:, kb * KT : kb * KT + KT]
            b = w[kb * KT : (kb + 1) * KT, :]
            if kb == 0:
                acc = pl.matmul(a, b, out_dtype=pl.FP32)
            else:
                acc = pl.matmul_acc(acc, a, b)
        y[:, :] = acc


def test_an_accumulator_is_declared_first_and_only_rebound(run):
    x, w, y = (
        torch.randint(-8, 8, (16, K)).float(),
        torch.randint(-8, 8, (K, 32)).float(),
        torch.empty(16, 32),
    )
    run(accumulate, x, w, y)
    assert torch.equal(y, x @ w)


@pl.jit
def write_through_views(o: pl.Out[pl.Tensor[[4, 2], pl.FP32]]):
    f = pl.reshape(o, [1, 8])
    win = pl.slice(f, [1, 2], [0, 6])
    with pl.at(level=pl.Level.CORE_GROUP):
        f[0:1, 2:4] = pl.full([1, 2], dtype=pl.FP32, value=7.0)
        win[:, :] = pl.full([1, 2], dtype=pl.FP32, value=9)


def test_outputs_are_written_through_reshaped_names_and_windows(run):
    o = torch.zeros(4, 2)
    run(write_through_views, o)
    assert o.tolist() == [[0, 0], [7, 7], [0, 0], [9, 9]]


@pl.jit
def load_then_store(t: pl.InOut[pl.Tensor[[1, 4], pl.FP32]], o: pl.Out[pl.Tensor[[2, 4], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP):
        a = t[0:1, :]
        t[0:1, :] = pl.add(a, 1.0)
        b = t[0:1, :]
        o[0:1, :] = a
        o[1:2, :] = b


def test_a_load_is_a_copy_of_the_data_at_that_moment(run):
    t, o = torch.tensor([[1.0, 2, 3, 4]]), torch.empty(2, 4)
    run(load_then_store, t, o)
    assert o.tolist() == [[1, 2, 3, 4], [2, 3, 4, 5]]


@pl.jit
def carry(n: pl.Scalar[pl.INT32], o: pl.Out[pl.Tensor[[1], pl.INT32]]):
    k = 0
    for i in pl.range(n):
        if i > 2:
            k = k + i
    pl.write(o, [0], pl.cast(k, pl.INT32))


@pytest.mark.parametrize(("n", "answer"), [(5, 7), (0, 0)])
def test_a_rebound_name_is_carried_through_loops_and_branches(run, n, answer):
    o = torch.full((1,), -1, dtype=torch.int32)
    run(carry, n, o)
    assert o.item() == answer
    assert len(carry.specializations["state"].entries) == 1, "a run-time bound needs one program"


@pl.jit
def explicit_carry(x: pl.Tensor[[4, 8], pl.FP32], o: pl.Out[pl.Tensor[[1, 8], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP):
        start = x[0:1, :]
        for i, (best,) in pl.range(4, init_values=(start,)):
            nxt = pl.maximum(best, x[i : i + 1, :])
            best_out = pl.yield_(nxt)
        o[:, :] = best_out


def test_init_values_and_yield_carry_like_rebinding(run):
    x, o = torch.randn(4, 8), torch.empty(1, 8)
    run(explicit_carry, x, o)
    assert torch.equal(o, x.amax(0, keepdim=True))


@pl.jit
def valid_rows(
    x: pl.Tensor,
    n: pl.Scalar[pl.INT32],
    m: pl.Scalar[pl.INT32],
    o: pl.InOut[pl.Tensor],
    s: pl.InOut[pl.Tensor],
    pad: pl.Out[pl.Tensor],
    product: pl.Out[pl.Tensor],
):
    with pl.at(level=pl.Level.CORE_GROUP):
        v = pl.slice(x, [2, 4], [0, 0], valid_shape=[n, m])
        o[:, :] = pl.add(v, 10.0)
        s[:, :] = pl.row_sum(v)
        pad[:, :] = pl.fillpad(v, pl.PadValue.min)
        product[:, :] = pl.matmul(v, pl.full([4, 1], dtype=pl.FP32, value=1.0))


def test_only_the_valid_part_is_reduced_multiplied_and_stored(run):
    x = torch.arange(1.0, 9).reshape(2, 4)
    o, s, pad, product = torch.zeros(2, 4), torch.zeros(2, 1), torch.empty(2, 4), torch.empty(2, 1)
    run(valid_rows, x, 1, 3, o, s, pad, product)
    inf = float("inf")
    assert o.tolist() == [[11, 12, 13, 0], [0, 0, 0, 0]]
    assert s.tolist() == [[6], [0]]
    assert pad.tolist() == [[1, 2, 3, -inf], [-inf, -inf, -inf, -inf]]
    assert product.tolist() == [[6], [0]]


@pl.jit
def tails(x: pl.Tensor, y: pl.InOut[pl.Tensor]):
    t_dim = pl.tensor.dim(x, 0)
    for t0 in pl.parallel(0, t_dim, 4):
        rows = pl.min(4, t_dim - t0)
        part = pl.slice(x, [4, 8], [t0, 0], valid_shape=[rows, 8])  # a window that may overhang
        with pl.at(level=pl.Level.CORE_GROUP):
            acc = pl.full([4, 8], dtype=pl.FP32, value=0.0)
            for i in pl.range(3):
                if i == 0:
                    acc = part
                else:
                    acc = pl.add(acc, part)
            y[t0 : t0 + 4, :] = acc


def test_valid_extents_travel_through_loops_branches_and_overhanging_views(run):
    x, y = torch.randn(6, 8), torch.zeros(8, 8)
    run(tails, x, y)
    assert torch.equal(y[:6], x + x + x)
    assert not y[6:].any(), "rows past the tokens were written"


@pl.jit
def drop_axes(x: pl.Tensor[[3, 4, 8], pl.FP32], o: pl.Out[pl.Tensor[[4, 3, 8], pl.FP32]]):
    for i in pl.range(3):
        with pl.at(level=pl.Level.CORE_GROUP):
            o[:, i, :] = x[i]


def test_an_integer_subscript_drops_its_axis_on_both_sides(run):
    x, o = torch.randn(3, 4, 8), torch.empty(4, 3, 8)
    run(drop_axes, x, o)
    assert torch.equal(o, x.transpose(0, 1))


@pl.jit.inline
def shifted(v: pl.Tensor, by: pl.Scalar[pl.FP32] = 1.0, *, twice: pl.Scalar[pl.BOOL] = False):
    r = pl.add(v, by)
    if twice:
        r = pl.add(r, by)
    return r


@pl.jit.inline
def put_first_row(buffer: pl.Tensor, value: pl.Tensor):
    buffer[0:1, :] = value


@pl.jit
def calls(x: pl.Tensor[[2, 4], pl.FP32], o: pl.Out[pl.Tensor[[2, 4], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP):
        r = 5.0
        a = shifted(x)
        b = shifted(v=a, by=r, twice=True)
        put_first_row(b, x[0:1, :])
        o[:, :] = b


def test_inline_kernels_take_defaults_and_keywords_and_write_what_the_caller_named(run):
    x, o = torch.randn(2, 4), torch.empty(2, 4)
    run(calls, x, o)
    assert torch.equal(o[1], x[1] + 1 + 5 + 5)
    assert torch.equal(o[0], x[0]), "a slice-assignment to a parameter is one to the caller's block"


@pl.jit
def return_style(x: pl.Tensor[[4, 8], pl.FP32]):
    doubled = pl.create_tensor([4, 8], dtype=pl.FP32)
    for i in pl.spmd(4, name_hint="double"):
        doubled[i : i + 1, :] = pl.mul(x[i : i + 1, :], 2.0)
    return doubled, pl.row_sum(doubled)


def test_a_kernel_that_creates_its_results_returns_them(run):
    x = torch.ones(4, 8)
    doubled, sums = run(return_style, x)
    assert torch.equal(doubled, 2 * x)
    assert sums.tolist() == [[16.0]] * 4


@pl.jit
def tile_sized_by_a_scalar(x: pl.Tensor, n: pl.Scalar[pl.INT32], o: pl.Out[pl.Tensor]):
    o[:, :] = pl.full([n, 2], dtype=pl.FP32, value=1.0)


def test_a_scalar_that_sizes_a_tile_becomes_a_constant_of_the_program(run):
    for n in (2, 3):
        o = torch.empty(n, 2)
        run(tile_sized_by_a_scalar, o.clone(), n, o)
        assert o.tolist() == [[1, 1]] * n
    assert tile_sized_by_a_scalar.specialize(o, 3, o, backend="interpreter").traced.constants == (
        "n",
    )


@pl.jit
def read_bounds(
    ids: pl.Tensor[[4], pl.INT32],
    x: pl.Tensor[[16, 8], pl.FP32],
    o: pl.Out[pl.Tensor[[4, 8], pl.FP32]],
):
    for i in pl.range(4):
        row = pl.read(ids, [i]) * 2
        with pl.at(level=pl.Level.CORE_GROUP):
            o[i : i + 1, :] = x[row : row + 1, :]


def test_offsets_may_come_from_memory(run):
    x, o = torch.randn(16, 8), torch.empty(4, 8)
    ids = torch.tensor([3, 0, 7, 1], dtype=torch.int32)
    run(read_bounds, ids, x, o)
    assert torch.equal(o, x[ids.long() * 2])


@pl.jit
def constant_branch(x: pl.Tensor[[4, 8], pl.FP32], o: pl.Out[pl.Tensor[[4, 8], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP):
        for i in pl.unroll(0, 4, 2):
            part = x[i : i + 2, :]
            if i + 4 <= 4:
                part = pl.add(
                    part, x[i + 2 : i + 4, :]
                )  # outside x when i is 2, but then it never runs
            o[i : i + 2, :] = part


def test_an_arm_that_never_runs_may_reach_outside(run):
    x, o = torch.randn(4, 8), torch.empty(4, 8)
    run(constant_branch, x, o)
    assert torch.equal(o, torch.cat([x[:2] + x[2:], x[2:]]))


@pl.jit
def halves(x: pl.Tensor[[2, 8], pl.FP32], o: pl.Out[pl.Tensor[[2, 8], pl.FP32]]):
    with pl.at(level=pl.Level.CORE_GROUP):
        even = pl.gather(x, mask_pattern=pl.tile.MaskPattern.P0101)
        odd = pl.gather(x, mask_pattern=pl.tile.MaskPattern.P1010)
        o[:, :] = pl.concat(even, odd)


def test_mask_gather_keeps_the_columns_it_names(run):
    x, o = torch.arange(16.0).reshape(2, 8), torch.empty(2, 8)
    run(halves, x, o)
    assert o[0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


@pl.jit
def quantize(x: pl.Tensor[[4, 256], pl.FP32], o: pl.Out[pl.Tensor[[4, 256], pl.INT8]]):
    with pl.at(level=pl.Level.CORE_GROUP):
        as_int = pl.cast(x, target_type=pl.INT32, mode="rint")
        as_half = pl.cast(as_int, target_type=pl.FP16, mode="round")
        o[:, :] = pl.cast(as_half, target_type=pl.INT8, mode="trunc")


def test_three_casts_quantise_to_nearest_even(run):
    x, o = torch.linspace(-127, 127, 1024).reshape(4, 256), torch.empty(4, 256, dtype=torch.int8)
    run(quantize, x, o)
    assert torch.equal(o, torch.round(x).to(torch.int8))


@pl.jit
def branch_on_data(
    x: pl.Tensor[[4, 8], pl.FP32], flag: pl.Scalar[pl.BOOL], o: pl.Out[pl.Tensor[[4, 8], pl.FP32]]
):
    scratch = pl.create_tensor([4, 8], dtype=pl.FP32)
    if flag:
        scratch = pl.add(x, 1.0)
    o[:, :] = scratch


@pytest.mark.parametrize("flag", [True, False])
def test_a_fresh_tensor_rebound_in_one_arm_is_zeros_in_the_other(run, flag):
    x, o = torch.randn(4, 8), torch.empty(4, 8)
    run(branch_on_data, x, flag, o)
    assert torch.equal(o, x + 1 if flag else torch.zeros(4, 8))


@pl.jit
def split_k(
    x: pl.Tensor[[8, 64], pl.FP32],
    w: pl.Tensor[[64, 16], pl.FP32],
    o: pl.InOut[pl.Tensor[[8, 16], pl.FP32]],
):
    for k in pl.parallel(4):
        with pl.at(level=pl.Level.CORE_GROUP):
            part = pl.matmul(x[:, k * 16 : k * 16 + 16], w[k * 16 : k * 16 + 16, :])
            pl.assemble(o, part, [0, 0], atomic=pl.AtomicType.Add)


def test_atomic_stores_add_to_what_is_there(run):
    x, w = torch.randint(-4, 4, (8, 64)).float(), torch.randint(-4, 4, (64, 16)).float()
    o = torch.ones(8, 16)
    run(split_k, x, w, o)
    assert torch.equal(o, x @ w + 1)


@pl.jit
def mixed_dtypes(
    x: pl.Tensor[[2, 4], pl.FP32],
    k: pl.Tensor[[2, 4], pl.INT32],
    o: pl.Out[pl.Tensor[[2, 4], pl.FP32]],
):
    with pl.at(level=pl.Level.CORE_GROUP):
        o[:, :] = pl.sub(pl.add(k, x), pl.row_max(k))


def test_a_float_beats_an_integer_and_a_narrow_operand_broadcasts(run):
    x, k, o = torch.randn(2, 4), torch.randint(-9, 9, (2, 4), dtype=torch.int32), torch.empty(2, 4)
    run(mixed_dtypes, x, k, o)
    assert torch.equal(o, (k + x) - k.amax(1, keepdim=True).float())
