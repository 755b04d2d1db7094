"""Tiles made from nothing, cut, joined, turned and padded."""

from __future__ import annotations

import torch

from tilewright.interpreter.arrays import constant, leading, wrapped
from tilewright.interpreter.casts import cast_scalar
from tilewright.interpreter.meanings import Call, meaning
from tilewright.interpreter.memory import (
    element_of,
    halves,
    require_inside,
    require_valid,
    scalar_of,
)


@meaning("full")
def full(call: Call) -> torch.Tensor:
    if call.get("fresh"):
        return call.fresh(call.type.shape, call.dtype)
    return constant(cast_scalar(call["value"], call.dtype), call.type.shape, call.dtype)


@meaning("splat")
def splat(call: Call, value: float) -> torch.Tensor:
    return constant(cast_scalar(value, call.dtype), call.type.shape, call.dtype)


@meaning("arange")
def arange(call: Call, start: int) -> torch.Tensor:
    """start + j, or start - j, along the last axis."""
    step = -1 if call.get("descending") else 1
    steps = torch.arange(call.type.shape[-1], dtype=torch.int64)
    return wrapped(start + step * steps, call.dtype).reshape(call.type.shape)


@meaning("extract")
def extract(call: Call, a: torch.Tensor, *offsets: int) -> torch.Tensor:
    shape = tuple(call["shape"])
    require_inside(call.subject(0), "read", a.shape, offsets, shape, call.op.span)
    return _at(a, offsets, shape).clone().reshape(call.type.shape)


@meaning("insert")
def insert(call: Call, a: torch.Tensor, source: torch.Tensor, *numbers: int) -> torch.Tensor:
    """The tile with the valid part of `source` at the window."""
    offsets, valid = halves(numbers)
    shape = tuple(call["shape"])
    require_valid(shape, valid, call.op.span)
    require_inside(call.subject(0), "write", a.shape, offsets, valid, call.op.span)
    out = a.clone()
    _at(out, offsets, valid).copy_(leading(source.reshape(shape), valid))
    return out


def _at(a: torch.Tensor, offsets: tuple[int, ...], counts: tuple[int, ...]) -> torch.Tensor:
    return a[tuple(slice(o, o + n) for o, n in zip(offsets, counts, strict=True))]


@meaning("reshape")
def reshape(call: Call, a: torch.Tensor) -> torch.Tensor:
    return a.reshape(call.type.shape)


@meaning("transpose")
def transpose(call: Call, a: torch.Tensor) -> torch.Tensor:
    return a.transpose(call["axis1"], call["axis2"]).contiguous()


@meaning("concat")
def concat(call: Call, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cat((a, b), 1)


@meaning("limit")
def limit(call: Call, a: torch.Tensor, *valid: int) -> torch.Tensor:
    require_valid(a.shape, valid, call.op.span)
    out = call.blank()
    leading(out, valid).copy_(leading(a, valid))
    return out


@meaning("fillpad")
def fillpad(call: Call, a: torch.Tensor, *valid: int) -> torch.Tensor:
    require_valid(a.shape, valid, call.op.span)
    out = constant(cast_scalar(call["value"], call.dtype), call.type.shape, call.dtype)
    leading(out, valid).copy_(leading(a, valid))
    return out


@meaning("element")
def element(call: Call, a: torch.Tensor, *indices: int) -> float | int | bool:
    ones = (1,) * len(indices)
    require_inside(call.subject(0), "read", a.shape, indices, ones, call.op.span)
    return scalar_of(a[indices], call.op.result.type.dtype)


@meaning("with_element")
def with_element(call: Call, a: torch.Tensor, value: float, *indices: int) -> torch.Tensor:
    ones = (1,) * len(indices)
    require_inside(call.subject(0), "write", a.shape, indices, ones, call.op.span)
    out = a.clone()
    out[indices] = element_of(value, call.dtype)[0]
    return out
