"""Which elements of a result depend on undefined ones: those that change when these do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tilewright.dtypes import DType
from tilewright.errors import KernelError
from tilewright.interpreter.arrays import constant, fresh_value, poison_value
from tilewright.interpreter.meanings import Call
from tilewright.interpreter.run import meant
from tilewright.interpreter.shadow import SILENT, Origins
from tilewright.ir.ops.elementwise import broadcast_shapes
from tilewright.ir.ops.table import RuleBroken

Array = torch.Tensor

# Operators that put elements elsewhere and look at none: marks move as the elements do.
MOVES = frozenset(
    ("reshape", "transpose", "concat", "extract", "insert", "broadcast", "interleave", "element")
)
# Three other contents are too few to tell whether any would change the result.
ANY_MATTERS = frozenset(("cmp",))
VARIANTS = (1, 2)


def marks_of_result(
    call: Call,
    values: Sequence[Any],
    marks: Sequence[Any],
    result: Any,
    told: set[str],
    origins: Origins,
) -> Any:
    """Marks of what an operator without memory gave; None where all of it is defined.

    told: what `Watched` heard: "blank", some of the result is the operator's to choose; "outside",
    that has been reported.
    """
    given = [m for m in marks if m is not None]
    if not given and not told:
        return None
    if "fresh" in told:
        return origins.born(call.op, tuple(result.shape))
    if call.op.name in MOVES:
        return _moved(call, values, marks)
    if not isinstance(result, Array):
        return max(int(torch.as_tensor(m).max()) for m in given)
    undefined = _changing(call, values, marks, result, origins)
    if not bool(undefined.any()):
        return None
    blame = _blame(tuple(result.shape), given)
    if "outside" in told:
        unknown = torch.full(result.shape, SILENT)
    elif "blank" in told or not given:
        unknown = origins.born(call.op, tuple(result.shape))
    else:
        unknown = torch.full(result.shape, max(int(torch.as_tensor(m).max()) for m in given))
    return torch.where(undefined, torch.where(blame == 0, unknown, blame), 0)


def _moved(call: Call, values: Sequence[Any], marks: Sequence[Any]) -> Any:
    """The marks, sent the way of the elements."""
    sent = [
        torch.zeros(v.shape, dtype=torch.int64) if m is None and isinstance(v, Array) else m
        for v, m in zip(values, marks, strict=True)
    ]
    numbers = [v if m is None else m for v, m in zip(values, sent, strict=True)]
    moved = meant(Call(call.op, True), numbers)
    if isinstance(moved, Array):
        return moved if bool(moved.any()) else None
    return int(moved) or None


def _changing(
    call: Call, values: Sequence[Any], marks: Sequence[Any], result: Array, origins: Origins
) -> Array:
    """Where the result is another one with other contents in undefined elements."""
    changed = torch.zeros(result.shape, dtype=torch.bool)
    for variant in VARIANTS:
        other = [
            v if m is None else _filled(v, m, call.dtype_of(position), variant, origins)
            for position, (v, m) in enumerate(zip(values, marks, strict=True))
        ]
        try:
            again = meant(Call(call.op, True, variant), other)
        except KernelError:
            return torch.ones_like(changed)
        a, b = _exactly(result), _exactly(again)
        changed |= (_bits(a) != _bits(b)) & ((a != 0) | (b != 0))
    if call.op.name in ANY_MATTERS:
        changed |= _blame(tuple(result.shape), [m for m in marks if m is not None]) != 0
    return changed


def _filled(value: Any, marks: Any, dtype: DType, variant: int, origins: Origins) -> Any:
    """The operand with other contents where it is undefined; what was never more than fresh is a number."""
    if not isinstance(value, Array):
        return poison_value(dtype, variant)
    other = constant(poison_value(dtype, variant), (), dtype)
    number = constant(fresh_value(dtype, variant), (), dtype)
    contents = torch.where(origins.are_fresh(marks), number, other)
    return torch.where(marks != 0, contents, value)


def _exactly(x: Array) -> Array:
    """The same numbers in a dtype that Torch compares: FP8 has no operators of its own."""
    return x.float() if x.is_floating_point() and x.element_size() == 1 else x


def _bits(x: Array) -> Array:
    """What two results are compared by: a NaN is equal to itself."""
    if not x.is_floating_point():
        return x
    return x.contiguous().view({2: torch.int16, 4: torch.int32}[x.element_size()])


def _blame(shape: tuple[int, ...], marks: Sequence[Any]) -> Array:
    """For each element of an element-wise result a mark of what it depends on; 0 for the rest."""
    out = torch.zeros(shape, dtype=torch.int64)
    for m in marks:
        tile = torch.as_tensor(m)
        try:
            fits = broadcast_shapes(tuple(tile.shape), shape) == shape
        except RuleBroken:
            fits = False
        if fits:
            out = torch.maximum(out, tile.broadcast_to(shape))
    return out
