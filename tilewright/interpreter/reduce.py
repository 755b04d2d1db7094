"""Reductions over the valid part of a tile.

Float sums are added in double and rounded once: to FP32, and from there to a 16-bit type. That is
the value every order of FP32 additions approximates, and it depends on the row alone. FP16
`col_sum` is the exception: it adds in FP16, row by row, rounding every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from tilewright.dtypes import FP16, UINT64, DType
from tilewright.interpreter.arrays import constant, leading, rounded, wrapped
from tilewright.interpreter.elementwise import INT64_MIN
from tilewright.interpreter.meanings import Call, meaning
from tilewright.interpreter.memory import require_valid

Array = torch.Tensor
Reduce = Callable[[Array, int], Array]


@meaning("row_sum")
def row_sum(call: Call, a: Array, *valid: int) -> Array:
    """[…, M, N] -> […, M, 1]."""
    return _reduce(call, a, valid, -1, lambda x, axis: _sum(x, axis, call.dtype))


@meaning("row_max")
def row_max(call: Call, a: Array, *valid: int) -> Array:
    return _reduce(call, a, valid, -1, lambda x, axis: _largest(x, axis, call.dtype))


@meaning("row_min")
def row_min(call: Call, a: Array, *valid: int) -> Array:
    return _reduce(call, a, valid, -1, lambda x, axis: _smallest(x, axis, call.dtype))


@meaning("col_sum")
def col_sum(call: Call, a: Array, *valid: int) -> Array:
    """[…, M, N] -> […, 1, N]."""
    if call.dtype == FP16:
        order = _sum_pair_by_pair if call.get("tree") else _sum_row_after_row
        return _reduce(call, a, valid, -2, order)
    return _reduce(call, a, valid, -2, lambda x, axis: _sum(x, axis, call.dtype))


@meaning("col_max")
def col_max(call: Call, a: Array, *valid: int) -> Array:
    return _reduce(call, a, valid, -2, lambda x, axis: _largest(x, axis, call.dtype))


@meaning("col_min")
def col_min(call: Call, a: Array, *valid: int) -> Array:
    return _reduce(call, a, valid, -2, lambda x, axis: _smallest(x, axis, call.dtype))


def _reduce(call: Call, a: Array, valid: tuple[int, ...], axis: int, reduce: Reduce) -> Array:
    """Reduce the valid part; results that belong to no valid row (column) stay unspecified."""
    require_valid(a.shape, valid, call.op.span)
    reduced = reduce(leading(a, valid), axis)
    if reduced.shape == call.type.shape:
        return reduced.contiguous()
    out = call.blank()
    leading(out, tuple(reduced.shape)).copy_(reduced)
    return out


def _sum(x: Array, axis: int, dtype: DType) -> Array:
    if not dtype.is_float:
        return wrapped(x.sum(axis, keepdim=True, dtype=torch.int64), dtype)
    return rounded(x.contiguous().double().sum(axis, keepdim=True).float(), dtype)


def _sum_row_after_row(x: Array, axis: int) -> Array:
    """FP16 additions in order, each rounded to nearest even."""
    if x.shape[axis] == 0:
        return x.new_zeros((*x.shape[:-2], 1, x.shape[-1]))
    total = x[..., :1, :]
    for row in range(1, x.shape[axis]):
        total = (total.float() + x[..., row : row + 1, :].float()).half()
    return total


def _sum_pair_by_pair(x: Array, axis: int) -> Array:
    """Rows 2i and 2i + 1 become row i, an odd last row goes into row 0, until one is left."""
    if x.shape[axis] == 0:
        return x.new_zeros((*x.shape[:-2], 1, x.shape[-1]))
    while x.shape[axis] > 1:
        half = x.shape[axis] // 2
        pairs = (x[..., : 2 * half : 2, :].float() + x[..., 1 : 2 * half : 2, :].float()).half()
        if x.shape[axis] % 2:
            pairs[..., :1, :] = (pairs[..., :1, :].float() + x[..., -1:, :].float()).half()
        x = pairs
    return x


def _largest(x: Array, axis: int, dtype: DType) -> Array:
    if x.shape[axis] == 0:
        low = -math.inf if dtype.is_float else dtype.int_range()[0]
        return _constant_like(x, axis, low, dtype)
    if dtype == UINT64:
        return (x ^ INT64_MIN).amax(axis, keepdim=True) ^ INT64_MIN
    return _signed_zero(x, axis, x.amax(axis, keepdim=True), dtype, negative=False)


def _smallest(x: Array, axis: int, dtype: DType) -> Array:
    if x.shape[axis] == 0:
        high = math.inf if dtype.is_float else dtype.int_range()[1]
        return _constant_like(x, axis, high, dtype)
    if dtype == UINT64:
        return (x ^ INT64_MIN).amin(axis, keepdim=True) ^ INT64_MIN
    return _signed_zero(x, axis, x.amin(axis, keepdim=True), dtype, negative=True)


def _signed_zero(x: Array, axis: int, best: Array, dtype: DType, negative: bool) -> Array:
    """`best`, where it is 0 with the sign asked for if any zero has it: Torch takes any of them."""
    if not dtype.is_float:
        return best
    found = ((x == 0) & (torch.signbit(x) == negative)).any(axis, keepdim=True)
    zeros = torch.where(found == negative, -0.0, 0.0).to(best.dtype)
    return torch.where(best == 0, zeros, best)


def _constant_like(x: Array, axis: int, value: float, dtype: DType) -> Array:
    shape = list(x.shape)
    shape[axis] = 1
    return constant(value, tuple(shape), dtype)
