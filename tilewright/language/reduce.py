"""Reductions over rows and columns. Only valid elements take part; the dtype is kept."""

from __future__ import annotations

from tilewright.language.operator import operator


@operator()
def row_sum(x, tmp_tile=None):
    """Sum over the last axis. [M,N] -> [M,1]."""


@operator()
def row_max(x, tmp_tile=None):
    """Largest over the last axis. [M,N] -> [M,1]."""


@operator()
def row_min(x, tmp_tile=None):
    """Smallest over the last axis. [M,N] -> [M,1]."""


@operator()
def col_sum(x, tmp_tile=None):
    """Sum over the axis before the last. [M,N] -> [1,N]."""


@operator()
def col_max(x, tmp_tile=None):
    """Largest over the axis before the last. [M,N] -> [1,N]."""


@operator()
def col_min(x, tmp_tile=None):
    """Smallest over the axis before the last. [M,N] -> [1,N]."""


@operator("tile.sum")
def sum(x, axis, keepdim=True):
    """Sum over an axis of a 2-D block: axis 1 as row_sum, axis 0 as col_sum."""


@operator("tile.max")
def max(x, axis, keepdim=True):
    """Largest over an axis of a 2-D block: axis 1 as row_max, axis 0 as col_max."""


@operator("tile.min")
def min(x, axis, keepdim=True):
    """Smallest over an axis of a 2-D block: axis 1 as row_min, axis 0 as col_min."""
