"""Element-wise operators. Same dtype in, same dtype out; two dtypes promote (float over integer,
wide over
narrow); a scalar takes the block's dtype. 16-bit floats compute in FP32 and round once to nearest
even.
"""

from __future__ import annotations

from tilewright.language.operator import operator


@operator()
def add(lhs, rhs):
    """lhs + rhs. lhs [M,N]; rhs [M,N], [M,1], [1,N] or a scalar -> [M,N]."""


@operator()
def sub(lhs, rhs):
    """lhs - rhs. lhs [M,N]; rhs [M,N], [M,1], [1,N] or a scalar -> [M,N]."""


@operator()
def mul(lhs, rhs):
    """lhs * rhs. lhs [M,N]; rhs [M,N], [M,1], [1,N] or a scalar -> [M,N]."""


@operator()
def div(lhs, rhs):
    """lhs / rhs, the IEEE quotient.

    Integers truncate. lhs [M,N]; rhs [M,N], [M,1], [1,N] or a scalar.
    """


@operator()
def maximum(lhs, rhs):
    """The larger of each pair.

    NaN if either is NaN. lhs [M,N]; rhs [M,N], [M,1], [1,N] or a scalar.
    """


@operator()
def minimum(lhs, rhs):
    """The smaller of each pair.

    NaN if either is NaN. lhs [M,N]; rhs [M,N], [M,1], [1,N] or a scalar.
    """


@operator()
def rem(lhs, rhs, tmp=None):
    """lhs - floor(lhs / rhs) * rhs, with the sign of rhs; integers by 0 give 0.

    lhs [M,N]; rhs [M,N], [M,1], [1,N] or a scalar.
    """


@operator()
def and_(lhs, rhs):
    """The bits that both have. Integers or BOOL; lhs [M,N]; rhs [M,N], [M,1], [1,N] or a scalar."""


@operator()
def or_(lhs, rhs):
    """The bits that either has. Integers or BOOL; lhs [M,N]; rhs [M,N], [M,1], [1,N] or a scalar."""


@operator()
def xor(lhs, rhs, tmp=None):
    """The bits that just one has. Integers or BOOL; lhs [M,N]; rhs [M,N], [M,1], [1,N] or a scalar."""


@operator()
def shl(lhs, rhs):
    """lhs * 2^rhs on the bits of integers; by the width or more, and by less than 0, it is 0.

    lhs [M,N]; rhs [M,N], [M,1], [1,N] or a scalar.
    """


@operator()
def shr(lhs, rhs):
    """Bits moved down: signed integers bring in their sign, unsigned ones 0.

    By the width or more, and by less than 0, nothing else is left. lhs [M,N]; rhs as for shl.
    """


@operator()
def not_(x):
    """Every bit turned over, any shape. Integers or BOOL."""


@operator()
def addc(lhs, rhs, rhs2):
    """lhs + rhs + rhs2, rounded once. lhs [M,N]; the others [M,N], [M,1], [1,N] or a scalar."""


@operator()
def subc(lhs, rhs, rhs2):
    """lhs - rhs - rhs2, rounded once. lhs [M,N]; the others [M,N], [M,1], [1,N] or a scalar."""


@operator()
def part_add(lhs, rhs):
    """lhs + rhs where both are valid, the valid one elsewhere. Both [M,N] -> [M,N], valid where either is."""


@operator()
def part_mul(lhs, rhs):
    """lhs * rhs where both are valid, the valid one elsewhere. Both [M,N] -> [M,N], valid where either is."""


@operator()
def part_max(lhs, rhs):
    """The larger where both are valid, the valid one elsewhere. Both [M,N] -> [M,N], valid where either is."""


@operator()
def part_min(lhs, rhs):
    """The smaller where both are valid, the valid one elsewhere. Both [M,N] -> [M,N], valid where either is."""


@operator()
def neg(x):
    """-x, any shape."""


@operator()
def abs(x):
    """|x|, any shape."""


@operator()
def exp(x):
    """e to the x, any shape; integers give FP32."""


@operator()
def log(x):
    """Natural logarithm, any shape; log(0) = -inf, below 0 NaN. Integers give FP32."""


@operator()
def sqrt(x):
    """Square root, correctly rounded, any shape. Integers give FP32."""


@operator()
def rsqrt(x, high_precision=False):
    """1 / sqrt(x), both IEEE, any shape; the flag is accepted and changes nothing."""


@operator()
def recip(x):
    """1 / x by IEEE division, any shape. Integers give FP32."""


@operator()
def sin(x):
    """Sine of an FP32 block, any shape."""


@operator()
def cos(x):
    """Cosine of an FP32 block, any shape."""


@operator()
def relu(x):
    """max(x, 0), any shape."""


@operator()
def lrelu(x, slope):
    """x where x > 0, else slope * x. Any shape; slope is a scalar."""


@operator()
def prelu(x, slope, tmp=None):
    """x where x > 0, else slope * x. x [M,N]; slope [M,N], [M,1] or [1,N]."""


@operator()
def row_expand_add(x, v):
    """x[i,j] + v[i,0]. x [M,N], v [M,1] -> [M,N]."""


@operator()
def row_expand_sub(x, v):
    """x[i,j] - v[i,0]. x [M,N], v [M,1] -> [M,N]."""


@operator()
def row_expand_mul(x, v):
    """x[i,j] * v[i,0]. x [M,N], v [M,1] -> [M,N]."""


@operator()
def row_expand_div(x, v):
    """x[i,j] / v[i,0]. x [M,N], v [M,1] -> [M,N]."""


@operator()
def row_expand_expdif(x, v):
    """exp(x[i,j] - v[i,0]). x [M,N], v [M,1] -> [M,N]."""


@operator()
def col_expand_add(x, w):
    """x[i,j] + w[0,j]. x [M,N], w [1,N] -> [M,N]."""


@operator()
def col_expand_sub(x, w):
    """x[i,j] - w[0,j]. x [M,N], w [1,N] -> [M,N]."""


@operator()
def col_expand_mul(x, w):
    """x[i,j] * w[0,j]. x [M,N], w [1,N] -> [M,N]."""


@operator()
def col_expand_div(x, w):
    """x[i,j] / w[0,j]. x [M,N], w [1,N] -> [M,N]."""


@operator()
def col_expand_expdif(x, w):
    """exp(x[i,j] - w[0,j]). x [M,N], w [1,N] -> [M,N]."""


@operator()
def row_expand(target, v):
    """v[i,0] in every column. v [M,1] -> the shape of target; target's values do not matter."""


@operator()
def col_expand(target, w):
    """w[0,j] in every row. w [1,N] -> the shape of target; target's values do not matter."""


@operator()
def expands(target, value):
    """The scalar everywhere, in target's shape and dtype."""


@operator()
def expand_clone(src, target):
    """src broadcast to target's shape.

    When target is a tensor in memory the result is stored there.
    """


@operator()
def cmp(lhs, rhs, cmp_type):
    """1 where the relation holds, else 0, in the promoted dtype; NaN compares false except `ne`.

    cmp_type: 0 eq, 1 ne, 2 lt, 3 le, 4 gt, 5 ge, or the name. lhs [M,N]; rhs [M,N], [M,1], [1,N] or a
    scalar. The result may be annotated as packed bits: pl.Tile[[M, 32], pl.UINT8].
    """


@operator()
def cmps(lhs, rhs, cmp_type):
    """pl.cmp against a scalar: 1 where the relation holds, else 0."""


@operator()
def sel(mask, lhs, rhs, tmp=None):
    """lhs where mask is not 0, else rhs. All [M,N]; mask is what pl.cmp gives."""


@operator()
def min(a, b):
    """The smaller of two scalars."""


@operator()
def max(a, b):
    """The larger of two scalars."""


@operator()
def const(value, dtype):
    """A typed scalar literal: pl.const(1, pl.INT32)."""
