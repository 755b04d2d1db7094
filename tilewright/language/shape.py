"""Shapes: reinterpreted, turned, joined."""

from __future__ import annotations

from tilewright.language.operator import operator


@operator()
def reshape(x, shape):
    """Row-major reinterpretation; a view in orchestration, a value in a region."""


@operator()
def transpose(x, axis1, axis2):
    """Two axes swapped; a strided view in orchestration, a value in a region."""


@operator()
def concat(a, b):
    """[M,N1] and [M,N2] joined to [M,N1+N2]."""


@operator()
def dim(t, axis):
    """Extent of an axis as INDEX; a negative axis counts from the end."""


@operator("tile.get_block_idx")
def get_block_idx():
    """The number of this block in a `pl.spmd`."""


@operator("tile.get_block_num")
def get_block_num():
    """How many blocks the `pl.spmd` around has."""
