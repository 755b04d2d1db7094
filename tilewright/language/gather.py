"""Elements picked and put by pattern or by index. An index is INT32; what one outside picks is undefined."""

from __future__ import annotations

from tilewright.language.operator import operator


@operator()
def gather(
    x,
    dim=None,
    index=None,
    *,
    mask_pattern=None,
    output_dtype=None,
    kvalue=None,
    cmp_mode=None,
    out_cols=None,
    offset=0,
    count_dtype=None,
):
    """By index: out[…,j,…] = x[…,index[…,j,…],…] along dim, shaped like index.

    By mask_pattern: the columns kept, [M,N] -> [M,N/2] or [M,N/4]; output_dtype reinterprets bits.
    By kvalue, a scalar or [M,1]: the first out_cols columns of each row where `x cmp_mode kvalue` holds
    (0 to 5 or the name, as in pl.cmp), plus offset, then 0: INT32 [M,out_cols]; and how many there are:
    count_dtype (INT32 unless given) [1,M].
    """


@operator("tile.gather")
def gather_flat(x, index, tmp=None):
    """out[i,j] = x.flat[index[i,j]], shaped like index."""


@operator("tile.gather_mask")
def gather_mask(x, mask_pattern, output_dtype=None):
    """The columns kept by the pattern, [M,N] -> [M,N/2] or [M,N/4]; output_dtype reinterprets bits."""


@operator()
def scatter(x, dim=None, index=None, src=None, *, mask_pattern=None, dst=None):
    """By index: x with out[…,index[…,j,…],…] = src[…,j,…] along dim; the last one stays.

    By mask_pattern: dst with the columns named by the pattern replaced by x's columns in order.
    """


@operator()
def scatter_update(x, dim=-2, index=None, src=None):
    """x with its rows replaced: row index.flat[k] by row k of src; the last one stays.

    x [R,D], index [B,S], src [B*S,D]; or x [P,Q,1,D] of P*Q rows and src [B,S,1,D].
    """


@operator()
def mscatter(tile, index, t):
    """t.flat[index[i,j]] = tile[i,j] for the valid part of tile, into a tensor in memory; returns t.

    The last element stored in one place stays. An index outside t stops the run.
    """
