"""Small IR programs for tests: one operator between loads and a store, or a text as it stands."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tilewright.dtypes import ALL, DType
from tilewright.interpreter import run
from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block, Const, Function, Param, index
from tilewright.ir.parser import parse
from tilewright.ir.types import tensor_type
from tilewright.ir.verify import verify

DTYPE_OF = {d.torch: d for d in ALL if d.torch is not None}


def dtype_of(array: torch.Tensor) -> DType:
    return DTYPE_OF[str(array.dtype).removeprefix("torch.")]


def run_text(text: str, *args, **options) -> tuple[torch.Tensor, ...]:
    """Parse, verify and interpret; what the program returns."""
    program = parse(text)
    verify(program)
    return run(program, args, **options)


def apply(
    name: str,
    *operands: torch.Tensor | Const,
    extra: Sequence[int] = (),
    poison: bool = False,
    **attrs,
) -> torch.Tensor:
    """One operator on whole tiles (tensors here) and literals; `extra` are its last operands."""
    builder = Builder()
    params, values = [], []
    for position, operand in enumerate(operands):
        if isinstance(operand, Const):
            values.append(operand)
            continue
        shape = tuple(operand.shape)
        x = builder.fresh(tensor_type(shape, dtype_of(operand)), f"x{position}")
        params.append(x)
        zeros, full = [index(0)] * len(shape), [index(n) for n in shape]
        values.append(builder.value("load", (x, *zeros, *full), shape=shape))
    result = builder.value(name, (*values, *map(index, extra)), "r", **attrs)
    y = builder.value("create", (), "y", shape=result.type.shape, dtype=result.type.dtype, value=77)
    zeros = [index(0)] * len(y.type.shape)
    full = [index(n) for n in y.type.shape]
    builder.op("store", (result, y, *zeros, *full), shape=y.type.shape)
    builder.op("return", (y,))
    function = Function("f", tuple(map(Param, params)), Block((), builder.ops))
    verify(function)
    arrays = [x for x in operands if isinstance(x, torch.Tensor)]
    (out,) = run(function, arrays, poison=poison)
    return out


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal dtype, shape and every byte."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
