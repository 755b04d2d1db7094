"""Views, windows and stores as scripts combine them; the answer is computed by Torch."""

from __future__ import annotations

import pytest
import torch

import tilewright.language as pl
from tilewright.ir.verify import verify


@pytest.fixture(params=["interpreter", "native"])
def run(request):
    """Run a kernel, after the verifier has seen what the front end made of it."""

    def run_verified(kernel, *args):
        verify(kernel.specialize(*args, backend=request.param).function)
        return kernel.run(*args, backend=request.param)

    return run_verified


def small_integers(*shape: int) -> torch.Tensor:
    """Sums and products of these are exact."""
    return torch.randint(-8, 9, shape).float()


# Axes that go away


@pl.jit
def pick(x: pl.Tensor[[3, 4, 8], pl.FP32], rows: pl.Out[pl.Tensor[[3, 8], pl.FP32]]):
    for i in pl.range(3):
        plane = x[i]  # a view without its first axis
        with pl.at(level=pl.Level.CORE_GROUP):
            inner = x[i, :, 0:4]  # a load without it
            head = pl.reshape(inner[1, :], [1, 4])
            tail = plane[2:3, 4:8]
            rows[i, 0:4] = pl.reshape(head, [4])
            rows[i : i + 1, 4:8] = tail


def test_reads_and_writes_drop_axes_of_views_and_of_blocks(run):
    x, rows = torch.randn(3, 4, 8), torch.zeros(3, 8)
    run(pick, x, rows)
    assert torch.equal(rows[:, :4], x[:, 1, :4])
    assert torch.equal(rows[:, 4:], x[:, 2, 4:])


@pl.jit
def scatter_heads(q: pl.Tensor[[6, 8], pl.FP32], o: pl.Out[pl.Tensor[[2, 3, 2, 8], pl.FP32]]):
    for t in pl.parallel(2):
        for h in pl.range(3):
            with pl.at(level=pl.Level.CORE_GROUP):
                row = q[t * 3 + h : t * 3 + h + 1, :]
                o[t, h, 0:1, :] = row
                o[t, h, 1] = pl.reshape(pl.neg(row), [8])


def test_writes_drop_several_axes_at_run_time_offsets(run):
    q, o = torch.randn(6, 8), torch.zeros(2, 3, 2, 8)
    run(scatter_heads, q, o)
    assert torch.equal(o[:, :, 0], q.reshape(2, 3, 8))
    assert torch.equal(o[:, :, 1], -q.reshape(2, 3, 8))


@pl.jit
def read_all(x: pl.Tensor[[2, 3], pl.FP32], o: pl.Out[pl.Tensor[[2, 3], pl.FP32]]):
    for i in pl.range(2):
        row = x[i]
        with pl.at(level=pl.Level.CORE_GROUP):
            block = pl.mul(x, 2.0)
            for j in pl.range(3):
                pl.write(o, [i, j], row[j] + block[i, j])


def test_elements_of_views_and_blocks_are_scalars(run):
    x, o = torch.randn(2, 3), torch.zeros(2, 3)
    run(read_all, x, o)
    assert torch.equal(o, x + 2 * x)


# Sources that are larger, or of higher rank, than the window


@pl.jit
def store_valid_part(
    x: pl.Tensor[[8, 8], pl.FP32], n: pl.Scalar[pl.INDEX], o: pl.InOut[pl.Tensor[[8, 4], pl.FP32]]
):
    with pl.at(level=pl.Level.CORE_GROUP):
        pad = pl.mul(x, 2.0)
        o[0:4, 0:2] = pl.slice(pad, [4, 8], [4, 0], valid_shape=[4, 2])
    with pl.at(level=pl.Level.CORE_GROUP):
        o[4:8, 0:4] = pl.slice(x, [4, 4], [0, 0], valid_shape=[n, 4])


def test_a_larger_source_fills_a_window_that_its_valid_part_equals(run):
    for n in (0, 1, 3, 4):
        x, o = torch.randn(8, 8), torch.zeros(8, 4)
        run(store_valid_part, x, n, o)
        wanted = torch.zeros(8, 4)
        wanted[0:4, 0:2] = 2 * x[4:8, 0:2]
        wanted[4 : 4 + n] = x[:n, :4]
        assert torch.equal(o, wanted), n


@pl.jit
def batched(
    a: pl.Tensor[[1, 16, 32], pl.FP32],
    b: pl.Tensor[[1, 32, 8], pl.FP32],
    o: pl.Out[pl.Tensor[[32, 8], pl.FP32]],
):
    with pl.at(level=pl.Level.CORE_GROUP):
        product = pl.matmul(a, b)
        o = pl.assemble(o, product, [0, 0])
        o[16:32, :] = product


def test_leading_unit_axes_of_a_source_are_dropped(run):
    a, b, o = small_integers(1, 16, 32), small_integers(1, 32, 8), torch.zeros(32, 8)
    run(batched, a, b, o)
    assert torch.equal(o, torch.cat([a[0] @ b[0]] * 2))


# Views of views


@pl.jit
def reshape_of_slice_of_reshape(
    x: pl.Tensor[[4, 6, 8], pl.FP32], o: pl.Out[pl.Tensor[[4, 6, 8], pl.FP32]]
):
    flat = pl.reshape(x, [24, 8])
    target = pl.reshape(o, [24, 8])
    for t in pl.parallel(4):
        rows = pl.slice(flat, [6, 8], [t * 6, 0])
        wide = pl.reshape(rows, [3, 16])
        out_rows = pl.reshape(pl.slice(target, [6, 8], [t * 6, 0]), [1, 48])
        out_half = pl.slice(out_rows, [1, 24], [0, 24])
        with pl.at(level=pl.Level.CORE_GROUP):
            doubled = pl.mul(wide, 2.0)
            out_rows[0:1, 0:16] = doubled[0:1, :]
            out_rows[:, 16:24] = doubled[1:2, 0:8]
            out_half[:, :] = pl.reshape(pl.add(rows[3:6, :], 1.0), [1, 24])


def test_views_of_views_are_one_memory(run):
    x, o = torch.randn(4, 6, 8), torch.zeros(4, 6, 8)
    run(reshape_of_slice_of_reshape, x, o)
    assert torch.equal(o[:, :3], 2 * x[:, :3])
    assert torch.equal(o[:, 3:], x[:, 3:] + 1)


@pl.jit
def aliases_see_each_other(t: pl.InOut[pl.Tensor[[4, 4], pl.FP32]]):
    line = pl.reshape(t, [16])
    lower = pl.slice(t, [2, 4], [2, 0])
    with pl.at(level=pl.Level.CORE_GROUP):
        line[8:12] = line[0:4]  # row 2 becomes row 0
        lower[1:2, :] = pl.add(lower[0:1, :], t[1:2, :])  # row 3 = row 2 + row 1
        t[0:1, :] = lower[1:2, :]


def test_a_write_through_one_alias_is_read_through_another(run):
    t = small_integers(4, 4)
    a, b = t[0].clone(), t[1].clone()
    run(aliases_see_each_other, t)
    assert torch.equal(t, torch.stack([a + b, b, a, a + b]))


# Strided and transposed views


@pl.jit
def transposed_reads(x: pl.Tensor[[6, 4], pl.FP32], o: pl.Out[pl.Tensor[[4, 6], pl.FP32]]):
    turned = pl.transpose(x, 0, 1)
    for i in pl.range(0, 4, 2):
        with pl.at(level=pl.Level.CORE_GROUP):
            o[i : i + 2, :] = pl.add(turned[i : i + 2, :], 0.5)


def test_a_transposed_tensor_is_read_in_windows(run):
    x, o = torch.randn(6, 4), torch.zeros(4, 6)
    run(transposed_reads, x, o)
    assert torch.equal(o, x.T + 0.5)


@pl.jit
def transposed_operands(
    a: pl.Tensor[[32, 16], pl.FP32],
    b: pl.Tensor[[24, 32], pl.FP32],
    o: pl.Out[pl.Tensor[[16, 24], pl.FP32]],
    p: pl.Out[pl.Tensor[[16, 24], pl.FP32]],
):
    at = pl.transpose(a, 0, 1)
    bt = pl.transpose(b, 0, 1)
    with pl.at(level=pl.Level.CORE_GROUP):
        o[:, :] = pl.matmul(at, bt)
    for n in pl.parallel(0, 24, 8):
        part = pl.slice(bt, [32, 8], [0, n])
        with pl.at(level=pl.Level.CORE_GROUP):
            acc = pl.create_tensor([16, 8], dtype=pl.FP32)
            for k in pl.range(0, 32, 8):
                left = at[:, k : k + 8]
                if k == 0:
                    acc = pl.matmul(left, part[k : k + 8, :])
                else:
                    acc = pl.matmul_acc(acc, left, part[k : k + 8, :])
            p[:, n : n + 8] = acc


def test_transposed_views_are_operands_of_a_product(run):
    a, b = small_integers(32, 16), small_integers(24, 32)
    o, p = torch.zeros(16, 24), torch.zeros(16, 24)
    run(transposed_operands, a, b, o, p)
    assert torch.equal(o, a.T @ b.T)
    assert torch.equal(p, a.T @ b.T)


@pl.jit
def strided_operands(
    x: pl.Tensor[[4, 3, 32], pl.BF16],
    w: pl.Tensor[[32, 3, 16], pl.BF16],
    o: pl.Out[pl.Tensor[[3, 4, 16], pl.FP32]],
):
    for h in pl.parallel(3):
        rows = x[:, h]
        columns = w[:, h, :]
        with pl.at(level=pl.Level.CORE_GROUP):
            o[h, :, :] = pl.matmul(rows, columns)


def test_windows_with_gaps_between_rows_are_operands_of_a_product(run):
    x, w = small_integers(4, 3, 32).bfloat16(), small_integers(32, 3, 16).bfloat16()
    o = torch.zeros(3, 4, 16)
    run(strided_operands, x, w, o)
    assert torch.equal(o, torch.einsum("thk,khn->htn", x.float(), w.float()))


@pl.jit
def swapped_middle_axes(x: pl.Tensor[[3, 4, 8], pl.FP32], o: pl.Out[pl.Tensor[[4, 3, 8], pl.FP32]]):
    by_head = pl.transpose(x, 0, 1)
    for h in pl.range(4):
        part = pl.slice(by_head, [1, 3, 8], [h, 0, 0])
        with pl.at(level=pl.Level.CORE_GROUP):
            o[h : h + 1, :, :] = pl.mul(part, 3.0)


def test_other_axes_are_swapped_by_a_view_too(run):
    x, o = torch.randn(3, 4, 8), torch.zeros(4, 3, 8)
    run(swapped_middle_axes, x, o)
    assert torch.equal(o, 3 * x.transpose(0, 1))


@pl.jit
def reshape_in_region_of_strided(
    x: pl.Tensor[[4, 8], pl.FP32], o: pl.Out[pl.Tensor[[1, 16], pl.FP32]]
):
    half = pl.slice(x, [4, 4], [0, 4])
    with pl.at(level=pl.Level.CORE_GROUP):
        o[:, :] = pl.reshape(half, [1, 16])


def test_a_window_with_gaps_is_reshaped_where_it_is_loaded(run):
    x, o = torch.randn(4, 8), torch.zeros(1, 16)
    run(reshape_in_region_of_strided, x, o)
    assert torch.equal(o, x[:, 4:].reshape(1, 16))
