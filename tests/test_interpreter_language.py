"""The conformance vectors of the language, from the author's text to numbers."""

from __future__ import annotations

import pytest
import torch
from pl_programs import interpret

import tilewright.language as pl
from tilewright.errors import BoundsError

INF = float("inf")
X = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
EVERY_WAY = [{}, {"poison": True}, {"order": "reverse"}, {"order": "shuffled"}]


@pl.jit
def scale_rows(x: pl.Tensor, gain: pl.Tensor, y: pl.Out[pl.Tensor]):
    for r0 in pl.parallel(0, 64, 16):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="scale"):
            part = x[r0 : r0 + 16, :]
            scaled = pl.row_expand_mul(part, gain[r0 : r0 + 16, :])
            y[r0 : r0 + 16, :] = pl.cast(scaled, target_type=pl.BF16, mode="rint")
    return y


@pytest.mark.parametrize("options", EVERY_WAY)
def test_the_first_program_of_the_reference_runs(options: dict):
    x, gain, y = torch.randn(64, 256), torch.randn(64, 1), torch.zeros(64, 256).bfloat16()
    (result,) = interpret(scale_rows, x, gain, y, **options)
    assert result is y
    assert torch.equal(y, (x * gain).bfloat16())


@pl.jit
def valid_regions(
    x: pl.Tensor,
    s: pl.Out[pl.Tensor],
    f: pl.Out[pl.Tensor],
    y: pl.Out[pl.Tensor],
    c: pl.Out[pl.Tensor],
):
    with pl.at(level=pl.Level.CORE_GROUP):
        v = pl.slice(x, [2, 4], [0, 0], valid_shape=[1, 3])
        s[:, :] = pl.row_sum(v)
        f[:, :] = pl.fillpad(v, pad_value=pl.PadValue.min)
        y[:, :] = pl.add(v, 10.0)
        ones = pl.full([4, 1], dtype=pl.FP32, value=1.0)
        c[:, :] = pl.matmul(v, ones)


@pytest.mark.parametrize("options", EVERY_WAY)
def test_valid_regions_are_those_of_the_reference(options: dict):
    s, f, y, c = torch.zeros(2, 1), torch.zeros(2, 4), torch.zeros(2, 4), torch.ones(2, 1)
    interpret(valid_regions, X, s, f, y, c, **options)
    assert s.tolist() == [[6], [0]]
    assert f.tolist() == [[1, 2, 3, -INF], [-INF] * 4]
    assert y.tolist() == [[11, 12, 13, 0], [0, 0, 0, 0]]
    assert c.tolist() == [[6], [0]]


@pl.jit
def write_through_a_view(o: pl.Out[pl.Tensor]):
    f = pl.reshape(o, [1, 8])
    with pl.at(level=pl.Level.CORE_GROUP):
        f[0:1, 2:4] = pl.full([1, 2], dtype=pl.FP32, value=7.0)
    return o


def test_a_reshape_in_orchestration_is_a_view():
    o = torch.zeros(4, 2)
    interpret(write_through_a_view, o)
    assert o.tolist() == [[0, 0], [7, 7], [0, 0], [0, 0]]


@pl.jit
def load_then_store(t: pl.InOut[pl.Tensor], old: pl.Out[pl.Tensor], new: pl.Out[pl.Tensor]):
    with pl.at(level=pl.Level.CORE_GROUP):
        a = t[0:1, :]
        t[0:1, :] = pl.add(a, 1.0)
        b = t[0:1, :]
        old[:, :] = a
        new[:, :] = b


def test_a_load_is_a_copy():
    t, old, new = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), torch.zeros(1, 2)
    interpret(load_then_store, t, old, new)
    assert (old.tolist(), new.tolist()) == ([[1, 2]], [[2, 3]])


@pl.jit
def carried(n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    k = 0
    for i in pl.range(n):
        if i > 2:
            k = k + i
    pl.write(y, [0], pl.cast(k, pl.INT32))


@pytest.mark.parametrize(("n", "wanted"), [(5, 7), (0, 0)])
def test_a_rebound_name_is_carried(n: int, wanted: int):
    y = torch.full((1,), -1, dtype=torch.int32)
    interpret(carried, n, y)
    assert y.item() == wanted


@pl.jit
def split_pairs(x: pl.Tensor, even: pl.Out[pl.Tensor], odd: pl.Out[pl.Tensor]):
    with pl.at(level=pl.Level.CORE_GROUP):
        b = x[:, :]
        even[:, :] = pl.gather(b, mask_pattern=pl.tile.MaskPattern.P0101)
        odd[:, :] = pl.gather(b, mask_pattern=pl.tile.MaskPattern.P1010)


def test_mask_gathers_split_pairs():
    x, even, odd = torch.arange(8.0).reshape(1, 8), torch.zeros(1, 4), torch.zeros(1, 4)
    interpret(split_pairs, x, even, odd)
    assert (even.tolist(), odd.tolist()) == ([[0, 2, 4, 6]], [[1, 3, 5, 7]])


@pl.jit
def quantise(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=pl.Level.CORE_GROUP):
        as_int = pl.cast(x[:, :], target_type=pl.INT32, mode="rint")
        as_half = pl.cast(as_int, target_type=pl.FP16, mode="round")
        y[:, :] = pl.cast(as_half, target_type=pl.INT8, mode="trunc")


def test_the_three_cast_chain_is_one_rounding():
    x = torch.linspace(-127, 127, 1024).reshape(4, 256)
    x[0, :4] = torch.tensor([0.5, 1.5, -0.5, -2.5])
    y = torch.zeros(4, 256, dtype=torch.int8)
    interpret(quantise, x, y)
    assert torch.equal(y, torch.round(x).to(torch.int8))


@pl.jit
def product(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
    acc = pl.create_tensor([8, 16], dtype=pl.FP32)
    with pl.at(level=pl.Level.CORE_GROUP):
        for kb in pl.pipeline(4, stage=2):
            a = x[:, kb * 32 : kb * 32 + 32]
            b = w[kb * 32 : kb * 32 + 32, :]
            if kb == 0:
                acc = pl.matmul(a, b, out_dtype=pl.FP32)
            else:
                acc = pl.matmul_acc(acc, a, b)
        y[:, :] = acc


@pytest.mark.parametrize("options", EVERY_WAY)
def test_an_accumulator_starts_from_the_first_product(options: dict):
    x, w = torch.randint(-8, 8, (8, 128)).float(), torch.randint(-8, 8, (128, 16)).float()
    y = torch.zeros(8, 16)
    interpret(product, x.bfloat16(), w.bfloat16(), y, **options)
    assert torch.equal(y, x @ w)


@pl.jit
def tail(x: pl.Tensor, n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    for t0 in pl.range(0, n, 4):
        with pl.at(level=pl.Level.CORE_GROUP):
            rows = pl.min(4, n - t0)
            part = pl.slice(x, [4, 2], [t0, 0], valid_shape=[rows, 2])
            y[t0 : t0 + 4, :] = pl.mul(part, 2.0)


@pytest.mark.parametrize("poison", [False, True])
def test_a_tail_reads_and_writes_only_what_exists(poison: bool):
    x, y = torch.ones(6, 2), torch.zeros(6, 2)
    interpret(tail, x, 6, y, poison=poison)
    assert (y == 2).all()


def test_a_tail_past_the_end_is_stopped_at_the_author_s_line():
    with pytest.raises(BoundsError) as caught:
        interpret(tail, torch.ones(6, 2), 7, torch.zeros(6, 2))
    assert "test_interpreter_language.py" in str(caught.value)
    assert "pl.slice(x, [4, 2], [t0, 0], valid_shape=[rows, 2])" in str(caught.value)
