"""Shapes: reinterpreted, turned, joined; elements picked by pattern or by index."""

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


@operator()
def gather(x, dim=None, index=None, *, mask_pattern=None, output_dtype=None):
    """By index: out[…,j,…] = x[…,index[…,j,…],…] along dim, shaped like index (INT32).

    By mask_pattern: the columns kept, [M,N] -> [M,N/2] or [M,N/4]; output_dtype reinterprets bits.
    """


@operator("tile.gather")
def gather_flat(x, index, tmp=None):
    """out[i,j] = x.flat[index[i,j]]."""


@operator("tile.gather_mask")
def gather_mask(x, mask_pattern, output_dtype=None):
    """The columns kept by the pattern."""


@operator()
def scatter(x, *, mask_pattern, dst):
    """dst with the columns named by the pattern replaced by x's columns in order."""


@operator("tile.get_block_idx")
def get_block_idx():
    """The number of this block in a `pl.spmd`."""
