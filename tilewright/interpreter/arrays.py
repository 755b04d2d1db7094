"""How elements live in Torch arrays: storage types, wrapping, unspecified contents.

Torch has no arithmetic on UINT16, UINT32 and UINT64. The first two live in the next wider signed
type, UINT64 as the bits of an int64.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from tilewright.dtypes import BOOL, FP32, INDEX, UINT16, UINT32, UINT64, DType

STORAGE = {UINT16: torch.int32, UINT32: torch.int64, UINT64: torch.int64, INDEX: torch.int64}
POISON_BYTE = 0x4D


def storage(dtype: DType) -> torch.dtype:
    """The Torch type that elements of `dtype` are kept in."""
    return STORAGE[dtype] if dtype in STORAGE else getattr(torch, str(dtype.torch))


def wrapped(x: torch.Tensor, dtype: DType) -> torch.Tensor:
    """int64 values modulo 2^bits, in the storage of the integer type `dtype`."""
    if dtype in (UINT16, UINT32):
        x = x & ((1 << dtype.bits) - 1)
    return x.to(storage(dtype))


def poison_value(dtype: DType, variant: int = 0) -> float | int | bool:
    """What unspecified elements hold in poison mode: NaN, or 0x4D in every byte.

    Variants 1 and 2 are other contents that they may as well have: what differs between the three
    depends on them.
    """
    if dtype.is_float:
        return (math.nan, 0.0, -1.75)[variant]
    if dtype == BOOL:
        return variant != 1
    pattern = int.from_bytes(bytes([POISON_BYTE]) * dtype.nbytes, "little")
    return (pattern, 0, wrap_int(~pattern, dtype))[variant]


def fresh_value(dtype: DType, variant: int) -> float | int | bool:
    """What memory that a program made holds: zeros; or other numbers that it may as well hold."""
    if dtype.is_float:
        return (0.0, 208.0, -176.0)[variant]  # no float is too narrow for these
    return poison_value(dtype, (1, 0, 2)[variant])


def unspecified(
    shape: tuple[int, ...], dtype: DType, poison: bool, variant: int = 0
) -> torch.Tensor:
    """An array whose contents a program may not rely on: zeros, or poison."""
    if not poison:
        return torch.zeros(shape, dtype=storage(dtype))
    return constant(poison_value(dtype, variant), shape, dtype)


def leading(x: torch.Tensor, extents: tuple[int, ...]) -> torch.Tensor:
    """View of the first `extents` elements along each axis."""
    return x[tuple(slice(0, extent) for extent in extents)]


def fp32(value: float) -> float:
    """The nearest FP32 number, ties to even; beyond the range, an infinity."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.float32(value))


def wrap_int(value: int, dtype: DType) -> int:
    """An integer modulo 2^bits, in the range of `dtype`."""
    low, high = dtype.int_range()
    return (value - low) % (high - low + 1) + low


def constant(value: float | bool, shape: tuple[int, ...], dtype: DType) -> torch.Tensor:
    """Every element `value`, a Python number already in the range of `dtype`."""
    if dtype == UINT64:
        value = wrap_int(int(value), INDEX)
    if dtype.is_float:
        value = fp32(value)
    return torch.full(shape, value, dtype=torch.float32 if dtype.is_float else storage(dtype)).to(
        storage(dtype)
    )


def compute_in(x: torch.Tensor, dtype: DType) -> torch.Tensor:
    """The operand in the type that arithmetic happens in: FP32 for floats, int64 for the rest."""
    return x.to(torch.float32 if dtype.is_float else torch.int64)


def scalar_operand(value: float, block: DType) -> torch.Tensor:
    """A scalar next to a block: FP32 for a float block, else converted to the block's type."""
    if block.is_float:
        return torch.tensor(fp32(value), dtype=torch.float32)
    if block == BOOL:
        return torch.tensor(int(bool(value)), dtype=torch.int64)
    within = wrap_int(int(value), block)
    return torch.tensor(wrap_int(within, INDEX), dtype=torch.int64)


def rounded(x: torch.Tensor, dtype: DType) -> torch.Tensor:
    """A result from `compute_in` back in `dtype`: one rounding to nearest even, or wrapped."""
    if dtype.is_float:
        return x if dtype == FP32 else x.to(storage(dtype))
    if dtype == BOOL:
        return x != 0
    return wrapped(x, dtype)
