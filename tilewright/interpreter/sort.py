"""Sorting on pairs: the value's bits and the index beside it. NaN is the largest value, ties are stable."""

from __future__ import annotations

import torch

from tilewright.interpreter.meanings import Call, meaning
from tilewright.ir.ops.sort import RUN, pair_lanes

Array = torch.Tensor


@meaning("sort32")
def sort32(call: Call, values: Array, index: Array) -> Array:
    """Runs of 32 columns, descending, as (value, index) pairs."""
    runs = values.reshape(-1, RUN)
    order = torch.sort(runs, dim=-1, descending=True, stable=True).indices
    words = index.reshape(-1, RUN).gather(1, order).to(torch.int32)
    pairs = torch.zeros(runs.numel(), pair_lanes(call.dtype), dtype=values.dtype)
    pairs[:, 0] = runs.gather(1, order).flatten()
    room = words.element_size() // values.element_size()
    pairs[:, -room:] = words.reshape(-1, 1).view(values.dtype)
    return pairs.reshape(call.type.shape)


@meaning("mrgsort")
def mrgsort(call: Call, *lists: Array) -> Array:
    """Complete groups of four runs merged, or the lists as they are given."""
    if len(lists) > 1:
        return _merged(torch.cat(lists, 1), call)
    (row,) = lists
    out = row.clone()
    group = 4 * call["block_len"]
    for start in range(0, row.shape[1] - group + 1, group):
        out[:, start : start + group] = _merged(row[:, start : start + group], call)
    return out


def _merged(row: Array, call: Call) -> Array:
    """Sorted lists end to end, merged: what a stable sort of their pairs gives."""
    pairs = row.reshape(-1, pair_lanes(call.dtype))
    order = torch.sort(pairs[:, 0], descending=True, stable=True).indices
    return pairs[order].reshape(1, -1)
