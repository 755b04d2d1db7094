"""Casts, bit for bit: seven rounding modes, saturation into integers, IEEE overflow into floats.

Every source value is exact in double (INT64 after a rounding to odd that no later rounding can
see), so rounding happens once, on the target's own grid.
"""

from __future__ import annotations

import math

import torch

from tilewright.dtypes import (
    BF16,
    BOOL,
    FP8E4M3FN,
    FP8E5M2,
    FP16,
    FP32,
    INT32,
    INT64,
    UINT64,
    DType,
)
from tilewright.interpreter.arrays import fp32, storage

# Significand bits, smallest and largest exponent of a normal number.
GRID = {
    FP32: (24, -126, 127),
    BF16: (8, -126, 127),
    FP16: (11, -14, 15),
    FP8E4M3FN: (4, -6, 8),
    FP8E5M2: (3, -14, 15),
}
E4M3FN_LARGEST = 448.0  # the next code is its NaN; it has no infinities
TWO_63, TWO_64 = 2.0**63, 2.0**64


def cast_tile(x: torch.Tensor, source: DType, target: DType, mode: str) -> torch.Tensor:
    """`x` of dtype `source` as `target`, rounded as `mode` says."""
    if target == BOOL:
        return x != 0
    if target.is_float:
        if (
            source in GRID
            and GRID[source][0] <= GRID[target][0]
            and GRID[source][1] >= GRID[target][1]
        ):
            return x.to(storage(target))  # every value of the source is one of the target
        nearest = mode in ("rint", "none") or (mode == "odd" and target == BF16)
        if source.is_float and nearest and target != FP8E4M3FN:
            return x.float().to(storage(target))
        return _narrow(x, source, target, mode)
    if source.is_float:
        return _to_integer(x.double(), target, mode)
    return _between_integers(x, source, target)


def _narrow(x: torch.Tensor, source: DType, target: DType, mode: str) -> torch.Tensor:
    if source == INT32 and target == FP16:
        mode = "rint"  # the dequantisation unit's only way
    value = x.double() if source.is_float else _exact_double(x, source)
    return round_to_grid(value, target, mode).float().to(storage(target))


def _exact_double(x: torch.Tensor, source: DType) -> torch.Tensor:
    """Integers as doubles; large ones rounded to odd: the last bit says that others were lost."""
    wide = x.to(torch.int64)
    if source.bits < 64:
        return wide.double()
    upper = wide >> 11
    if source == UINT64:
        upper = upper & ((1 << 53) - 1)
    upper = upper | ((wide & 0x7FF) != 0)
    small = (wide >= (0 if source == UINT64 else -(1 << 52))) & (wide <= 1 << 52)
    return torch.where(small, wide.double(), upper.double() * 2048.0)


def round_to_grid(x: torch.Tensor, target: DType, mode: str) -> torch.Tensor:
    """Doubles rounded to values of the float type `target`, as doubles; overflow as in IEEE."""
    bits, lowest, highest = GRID[target]
    size = x.abs()
    exponent = (torch.frexp(size).exponent - 1).clamp(min=lowest)
    step = torch.ldexp(torch.ones_like(x), exponent - (bits - 1))
    units = size / step
    whole = torch.floor(units)
    away = _away(units, whole, torch.signbit(x), mode, target)
    out = (whole + away) * step
    limit = math.ldexp((1 << bits) - 1, highest - bits + 1)
    beyond = torch.where(_stops_at_limit(x, mode, target), limit, math.inf)
    out = torch.where(out > limit, beyond, out)
    out = torch.where(torch.isfinite(x), out, size)
    if target == FP8E4M3FN:
        out = torch.where(out > E4M3FN_LARGEST, E4M3FN_LARGEST, out)
    return torch.copysign(out, x)


def _away(
    units: torch.Tensor, whole: torch.Tensor, negative: torch.Tensor, mode: str, target: DType
) -> torch.Tensor:
    """1 where the magnitude goes to the next step away from zero, else 0."""
    rest = units - whole
    even = torch.remainder(whole, 2.0) == 0
    match mode:
        case "trunc":
            up = torch.zeros_like(negative)
        case "floor":
            up = (rest > 0) & negative
        case "ceil":
            up = (rest > 0) & ~negative
        case "round":
            up = rest >= 0.5
        case "odd" if target != BF16:
            up = (rest > 0) & even
        case _:
            up = (rest > 0.5) | ((rest == 0.5) & ~even)
    return up.double()


def _stops_at_limit(x: torch.Tensor, mode: str, target: DType) -> torch.Tensor:
    """Where an overflow gives the largest finite number, not an infinity: rounding toward zero."""
    if mode == "trunc" or (mode == "odd" and target != BF16):
        return torch.ones_like(x, dtype=torch.bool)
    if mode == "floor":
        return ~torch.signbit(x)
    if mode == "ceil":
        return torch.signbit(x)
    return torch.zeros_like(x, dtype=torch.bool)


def _to_integer(x: torch.Tensor, target: DType, mode: str) -> torch.Tensor:
    """Doubles to an integer type: rounded, saturated, NaN to 0."""
    size = x.abs()
    match mode:
        case "rint":
            whole = torch.round(x)
        case "round":
            whole = torch.copysign(torch.floor(size) + (size - torch.floor(size) >= 0.5), x)
        case "floor":
            whole = torch.floor(x)
        case "ceil":
            whole = torch.ceil(x)
        case _:
            whole = torch.trunc(x)
    whole = torch.nan_to_num(whole, nan=0.0, posinf=math.inf, neginf=-math.inf)
    low, high = target.int_range()
    if target.bits < 64:
        return whole.clamp(low, high).to(torch.int64).to(storage(target))
    if target == UINT64:
        upper = torch.where(whole >= TWO_64, -1.0, whole.clamp(0.0, TWO_64) - TWO_64).to(
            torch.int64
        )
        lower = whole.clamp(0.0, TWO_63 - 1024).to(torch.int64)
        return torch.where(whole >= TWO_63, upper, lower)
    inside = whole.clamp(-TWO_63, TWO_63 - 1024).to(torch.int64)
    return torch.where(whole >= TWO_63, high, inside)


def _between_integers(x: torch.Tensor, source: DType, target: DType) -> torch.Tensor:
    """Integer to integer, saturated. UINT64 is kept as the bits of an int64."""
    wide = x.to(torch.int64)
    low, high = target.int_range()
    if source == UINT64:
        top = torch.full_like(wide, min(high, (1 << 63) - 1))
        return torch.where(wide < 0, top, wide.clamp(max=min(high, (1 << 63) - 1))).to(
            storage(target)
        )
    return wide.clamp(low, min(high, INT64.int_range()[1])).to(storage(target))


def cast_scalar(value: float | bool, target: DType) -> float | int | bool:
    """A scalar as `target`: integers truncate and saturate (NaN gives 0), floats round to even."""
    if target == BOOL:
        return bool(value)
    if target == FP32:
        return fp32(_odd_double(value))
    if target.is_float:
        exact = torch.tensor(_odd_double(value), dtype=torch.float64)
        return float(round_to_grid(exact, target, "rint"))
    low, high = target.int_range()
    if isinstance(value, float):
        if math.isnan(value):
            return 0
        if math.isinf(value):
            return high if value > 0 else low
    return min(max(int(value), low), high)


def _odd_double(value: float | bool) -> float:
    """A double that rounds to any float type as `value` itself does."""
    if isinstance(value, float) or abs(value) <= 1 << 53:
        return float(value)
    return float(value >> 11 | bool(value & 0x7FF)) * 2048.0
