"""Scalars on the short way of a call: read anew and checked, and constants tell programs apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from both_ways import draw
from ir_programs import same_bits

import tilewright.language as pl
from tilewright.errors import KernelError

CORE = pl.Level.CORE_GROUP


@pl.jit
def row(x: pl.Tensor, first: pl.Scalar[pl.INT32], up: pl.Scalar[pl.BOOL], y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE, name_hint="row"):
        tile = x[first : first + 1, :]
        if up:
            y[:, :] = pl.add(tile, 1.0)
        else:
            y[:, :] = tile


@pl.jit
def blocks(x: pl.Tensor, count: pl.Scalar[pl.INT32], y: pl.Out[pl.Tensor]):
    """The number of columns is a constant of the program."""
    with pl.at(level=CORE, name_hint="blocks"):
        y[:, 0:count] = pl.add(x[:, 0:count], 1.0)


def test_scalars_of_the_run_are_read_anew_and_checked(long: list[str]):
    x, y = draw((8, 16), torch.float32, 0), torch.zeros(1, 16)
    row(x, 0, False, y)
    del long[:]
    for first in range(8):
        for up in (False, True):
            row(x, first, up, y)
            assert same_bits(y, x[first : first + 1] + up)
    with pytest.raises(KernelError, match=r"outside|out of|beyond|past"):
        row(x, 8, False, y)
    row(x, 3, False, y)
    assert same_bits(y, x[3:4])
    assert not long
    row(x, np.int64(5), False, y)
    assert same_bits(y, x[5:6]), "what needs converting goes the long way"
    for wrong, how in ((2**31, "holds"), (True, "must be"), (1.0, "must be")):
        with pytest.raises(KernelError, match=f"'first'.*{how}"):
            row(x, wrong, False, y)
    with pytest.raises(KernelError, match="'up' must be a bool"):
        row(x, 0, 1, y)


def test_a_scalar_that_became_a_constant_tells_programs_apart(long: list[str]):
    x = torch.ones(2, 32)
    for turn in range(3):
        for count in (8, 16, 8, 32):
            y = torch.zeros(2, 32)
            blocks(x, count, y)
            assert y.sum() == 2 * 2 * count
            if turn == 0 and count == 32:
                del long[:]
    assert not long
