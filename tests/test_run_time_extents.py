"""Extents that the author leaves open: one source for many token counts, tails of blocks included."""

from __future__ import annotations

import pytest
import torch
from both_ways import agree

import tilewright.language as pl
from tilewright.errors import KernelError

CORE = pl.Level.CORE_GROUP
T, B = pl.dynamic("T"), pl.dynamic("B")
D, TILE = 32, 8


@pl.jit.inline
def add_one(x: pl.Tensor[[T, D], pl.FP32], y: pl.Tensor, t0: pl.Scalar[pl.INDEX]):
    t_dim = pl.tensor.dim(x, 0)
    part = pl.slice(x, [TILE, D], [t0, 0], valid_shape=[pl.min(TILE, t_dim - t0), D])
    y[t0 : t0 + TILE, :] = pl.add(part, 1.0)


@pl.jit
def many_token_counts(
    x: pl.Tensor[[T, D], pl.FP32],
    table: pl.Tensor,
    y: pl.Out[pl.Tensor[[T, D], pl.FP32]],
):
    x.bind_dynamic(0, T)
    table.bind_dynamic(-2, B)
    t_dim = pl.tensor.dim(x, 0)
    width = pl.dim(x, -1)
    doubled = pl.create_tensor([t_dim, D], dtype=pl.FP32)
    flat = pl.reshape(doubled, [t_dim * width])
    for b in pl.spmd((t_dim + TILE - 1) // TILE):
        t0 = b * TILE
        part = pl.slice(x, [TILE, D], [t0, 0], valid_shape=[pl.min(TILE, t_dim - t0), D])
        doubled = pl.assemble(doubled, pl.mul(part, 2.0), [t0, 0])
    if t_dim > TILE:
        pl.write(flat, [t_dim * D - 1], pl.read(table, [pl.dim(table, 0) - 1, 0]))
    for t0 in pl.parallel(0, t_dim, TILE):
        add_one(doubled, y, t0)


@pytest.mark.parametrize("tokens", [0, 1, 8, 13, 16])
@pytest.mark.parametrize("rows", [1, 3])
def test_one_source_serves_many_token_counts(tokens: int, rows: int):
    x, table = torch.randn(tokens, D), torch.arange(float(rows))[:, None] + 100
    *_, y = agree(many_token_counts, x, table, torch.zeros(tokens, D), threads=(1, 3))
    wanted = 2 * x + 1
    if tokens > TILE:
        wanted[-1, -1] = table[-1, 0] + 1
    assert torch.equal(y, wanted)


@pl.jit
def rows_asked_for(x: pl.Tensor, n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    kept = pl.create_tensor([n, D], dtype=pl.FP32)
    for i in pl.range(n):
        with pl.at(level=CORE):
            kept[i : i + 1, :] = x[i : i + 1, :]
    wide = pl.reshape(kept, [1, n * D])
    for b in pl.spmd(n // 2):
        y[b : b + 1, :] = pl.slice(wide, [1, D], [0, 2 * b * D])


@pytest.mark.parametrize("n", [0, 2, 5])
def test_a_scalar_sizes_a_tensor_and_a_launch(n: int):
    x = torch.randn(6, D)
    _, y = agree(rows_asked_for, x, n, torch.zeros(3, D))
    wanted = torch.zeros(3, D)
    wanted[: n // 2] = x[0 : n // 2 * 2 : 2]
    assert torch.equal(y, wanted)


@pl.jit
def whole_blocks_only(x: pl.Tensor[[T, D], pl.FP32], y: pl.Out[pl.Tensor[[B, D], pl.FP32]]):
    for c in pl.range(pl.tensor.dim(x, 0) // TILE):
        with pl.at(level=CORE):
            y[c : c + 1, :] = pl.col_max(x[c * TILE : c * TILE + TILE, :])


@pl.jit
def whole_blocks_and_a_tail(x: pl.Tensor[[T, D], pl.FP32], y: pl.Out[pl.Tensor[[T, D], pl.FP32]]):
    t_dim = pl.tensor.dim(x, 0)
    for t0 in pl.range(0, t_dim, TILE):
        with pl.at(level=CORE):
            if t0 + TILE <= t_dim:
                y[t0 : t0 + TILE, :] = pl.add(x[t0 : t0 + TILE, :], 1.0)
            else:
                rest = pl.slice(x, [TILE, D], [t0, 0], valid_shape=[t_dim - t0, D])
                y[t0 : t0 + TILE, :] = pl.add(rest, 1.0)


@pl.jit
def as_many_as_it_says(n: pl.Tensor, x: pl.Tensor[[T, D], pl.FP32], y: pl.Out[pl.Tensor]):
    for c in pl.range(pl.read(n, [0])):
        with pl.at(level=CORE):
            y[c : c + 1, :] = pl.col_max(x[c * TILE : c * TILE + TILE, :])


@pytest.mark.parametrize("tokens", [0, 5, 8, 21])
def test_fewer_tokens_than_a_block_are_fine_where_the_block_is_never_touched(tokens):
    x, blocks = torch.randn(tokens, D), tokens // TILE
    _, y = agree(whole_blocks_only, x, torch.zeros(3, D))
    wanted = torch.zeros(3, D)
    wanted[:blocks] = x[: blocks * TILE].view(blocks, TILE, D).amax(1) if blocks else 0
    assert torch.equal(y, wanted)
    assert torch.equal(agree(whole_blocks_and_a_tail, x, torch.zeros(tokens, D))[1], x + 1)


@pytest.mark.parametrize("backend", ["native", "interpreter"])
def test_a_block_that_only_a_run_shows_to_be_outside_is_told_then(monkeypatch, backend):
    monkeypatch.setenv("TILEWRIGHT_BACKEND", backend)
    x, y = torch.randn(5, D), torch.zeros(3, D)
    as_many_as_it_says(torch.tensor([0], dtype=torch.int32), x, y)
    assert not y.any()
    with pytest.raises(KernelError, match=r"test_run_time_extents\.py:\d+"):
        as_many_as_it_says(torch.tensor([1], dtype=torch.int32), x, y)


# Tiles beyond the end, and what their valid part leaves


@pl.jit
def more_blocks_than_rows(x: pl.Tensor[[T, D], pl.FP32], y: pl.Out[pl.Tensor[[T, D], pl.FP32]]):
    t_dim = pl.tensor.dim(x, 0)
    for b in pl.spmd(5):
        t0 = b * TILE
        exists = pl.max(0, pl.min(TILE, t_dim - t0))
        part = pl.slice(x, [TILE, D], [t0, 0], valid_shape=[exists, D])
        y = pl.assemble(y, pl.add(part, 1.0), [t0, 0])
    for b in pl.unroll(5):
        with pl.at(level=CORE):
            exists = pl.max(0, pl.min(TILE, t_dim - b * TILE))
            part = pl.load(y, [b * TILE, 0], [TILE, D], valid_shape=[exists, D])
            pl.store(pl.mul(part, 2.0), [b * TILE, 0], y)


@pytest.mark.parametrize("tokens", [3, 21])
def test_a_window_of_nothing_may_lie_anywhere(tokens: int):
    x = torch.randn(tokens, D)
    _, y = agree(more_blocks_than_rows, x, torch.zeros(tokens, D), threads=(1, 2))
    assert torch.equal(y, 2 * (x + 1))


@pl.jit
def one_row_beyond(x: pl.Tensor, n: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        part = pl.slice(x, [TILE, D], [pl.read(n, [0]), 0], valid_shape=[pl.read(n, [1]), D])
        y[0:TILE, :] = part


@pytest.mark.parametrize("backend", ["native", "interpreter", "checked"])
def test_a_window_of_something_may_not(monkeypatch, backend):
    monkeypatch.setenv("TILEWRIGHT_BACKEND", backend)
    x, y = torch.randn(TILE, D), torch.zeros(TILE, D)
    for start in (TILE + 5, -5):
        one_row_beyond(x, torch.tensor([start, 0], dtype=torch.int32), y)
    for start, rows in ((TILE, 1), (-1, 1), (1, -1)):
        with pytest.raises(KernelError, match=r"test_run_time_extents\.py:\d+"):
            one_row_beyond(x, torch.tensor([start, rows], dtype=torch.int32), y)
    if backend != "checked":  # which shows what is never written
        assert not y.any()


@pl.jit
def narrow_window(x: pl.Tensor[[T, D], pl.FP32], y: pl.Out[pl.Tensor[[T, 4], pl.FP32]]):
    t_dim = pl.tensor.dim(x, 0)
    for t0 in pl.parallel(0, t_dim, TILE):
        with pl.at(level=CORE):
            rows = pl.min(TILE, t_dim - t0)
            wide = pl.add(pl.slice(x, [TILE, D], [t0, 0], valid_shape=[rows, D]), 1.0)
            y[t0 : t0 + TILE, 0:4] = pl.slice(wide, [TILE, 8], [0, 0], valid_shape=[rows, 4])


def test_a_larger_block_fills_a_window_that_holds_its_valid_part():
    x = torch.randn(13, D)
    _, y = agree(narrow_window, x, torch.zeros(13, 4))
    assert torch.equal(y, x[:, :4] + 1)


# Symbols in a body


@pl.jit.inline
def copy_rows(x: pl.Tensor[[T, D], pl.FP32], y: pl.Tensor):
    N = pl.dynamic("N")
    y.bind_dynamic(0, N)
    for t0 in pl.parallel(0, T, TILE):
        with pl.at(level=CORE):
            part = pl.slice(x, [TILE, D], [t0, 0], valid_shape=[pl.min(TILE, N - t0), D])
            y = pl.assemble(y, part, [t0, 0])
    return y


@pl.jit
def symbols_in_the_body(x: pl.Tensor[[T, D], pl.FP32], y: pl.Out[pl.Tensor[[T, D], pl.FP32]]):
    kept: pl.Tensor[[T, D], pl.FP32] = pl.create_tensor([T, D], dtype=pl.FP32)
    for b in pl.spmd((T + TILE - 1) // TILE):
        part = pl.slice(x, [TILE, D], [b * TILE, 0], valid_shape=[pl.min(TILE, T - b * TILE), D])
        kept = pl.assemble(kept, pl.add(part, 1.0), [b * TILE, 0])
    y = copy_rows(kept, y)


@pytest.mark.parametrize("tokens", [5, 16])
def test_a_symbol_is_the_extent_that_it_stands_for(tokens: int):
    x = torch.randn(tokens, D)
    assert torch.equal(agree(symbols_in_the_body, x, torch.zeros(tokens, D))[1], x + 1)
