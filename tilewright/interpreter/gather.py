"""Elements picked and put by index."""

from __future__ import annotations

import math

import torch

from tilewright.dtypes import FP8
from tilewright.errors import index_outside
from tilewright.interpreter.arrays import leading
from tilewright.interpreter.meanings import Call, meaning
from tilewright.interpreter.memory import Memory, require_valid, unravel

Array = torch.Tensor


@meaning("gather")
def gather(call: Call, a: Array, index: Array) -> Array:
    """Torch's gather; an index outside the axis gives an unspecified element."""
    axis = call["dim"]
    near = call.within(1, index, a.shape[axis])
    if call.dtype in FP8:  # Torch gathers their bytes
        picked = torch.gather(a.view(torch.uint8), axis, near).view(a.dtype)
    else:
        picked = torch.gather(a, axis, near)
    inside = near == index
    return picked if bool(inside.all()) else torch.where(inside, picked, call.blank())


@meaning("find")
def find(call: Call, mask: Array, offset: int, *valid: int) -> Array:
    """Row by row the columns where the mask is not 0."""
    require_valid(mask.shape, valid, call.op.span)
    count = call["count"]
    out = torch.zeros(call.type.shape, dtype=torch.int32)
    set_bits = torch.zeros(mask.shape, dtype=torch.bool)
    leading(set_bits, valid).copy_(leading(mask, valid) != 0)
    for row, bits in zip(out.view(-1, count), set_bits.view(-1, mask.shape[-1]), strict=True):
        columns = bits.nonzero().flatten()[:count]
        row[: len(columns)] = (columns + offset).int()
    return out


@meaning("scatter")
def scatter(call: Call, a: Array, index: Array, source: Array) -> Array:
    """Torch's scatter, in ascending order of the index's elements; indices outside put nothing."""
    axis = call["dim"]
    inside = call.within(1, index, a.shape[axis]) == index
    out = a.clone()
    for at in torch.cartesian_prod(*map(torch.arange, index.shape)).view(-1, index.dim()).tolist():
        if inside[tuple(at)]:
            place = (*at[:axis], int(index[tuple(at)]), *at[axis + 1 :])
            out[place] = source[tuple(at)]
    return out


@meaning("scatter_rows")
def scatter_rows(call: Call, a: Array, index: Array, source: Array) -> Array:
    """Rows replaced one after the other; indices outside put nothing."""
    inside = call.within(1, index, a.shape[0]) == index
    out = a.clone()
    for row, where, fits in zip(source, index.flatten(), inside.flatten(), strict=True):
        if fits:
            out[int(where)] = row
    return out


@meaning("mscatter")
def mscatter(call: Call, target: Memory, a: Array, index: Array, *valid: int) -> None:
    """Elements stored one after the other. Raises BoundsError at an index outside."""
    require_valid(a.shape, valid, call.op.span)
    shape, count = target.type.shape, math.prod(target.type.shape)
    elements = leading(a, valid).reshape(-1)
    for element, where in zip(elements, leading(index, valid).reshape(-1).tolist(), strict=True):
        if not 0 <= where < count:
            raise index_outside(call.subject(0), where, count, call.op.span)
        target.part(unravel(where, shape), (1,) * len(shape)).fill_(element)
