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
    """Sum over the axis before the last. [M,N] -> [1,N].

    FP16 adds in FP16 and rounds every step: row after row, or with a tmp_tile as a tree.
    """


@operator()
def col_max(x, tmp_tile=None):
    """Largest over the axis before the last. [M,N] -> [1,N]."""


@operator()
def col_min(x, tmp_tile=None):
    """Smallest over the axis before the last. [M,N] -> [1,N]."""


@operator("tile.sum")
def sum(tile, axis, keepdim=False):
    """Sum over an axis of a 2-D block: axis 1 as row_sum, axis 0 as col_sum.

    Without keepdim the axis goes away: [M,N] -> [M] or [N].
    """


@operator("tile.max")
def max(tile, axis, keepdim=False):
    """Largest over an axis of a 2-D block: axis 1 as row_max, axis 0 as col_max.

    Without keepdim the axis goes away: [M,N] -> [M] or [N].
    """


@operator("tile.min")
def min(tile, axis, keepdim=False):
    """Smallest over an axis of a 2-D block: axis 1 as row_min, axis 0 as col_min.

    Without keepdim the axis goes away: [M,N] -> [M] or [N].
    """
