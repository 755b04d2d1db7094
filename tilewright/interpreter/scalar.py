"""Scalar arithmetic: integers in 64 bits, floats rounded to FP32 after every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import add, eq, ge, gt, le, lt, mul, ne, sub

import numpy as np

from tilewright.dtypes import INDEX, UINT64
from tilewright.errors import KernelError
from tilewright.interpreter.arrays import fp32, wrap_int
from tilewright.interpreter.casts import cast_scalar
from tilewright.interpreter.meanings import Call, meaning

Number = float | int | bool


def _float(compute: Callable, *numbers: Number) -> float:
    """One FP32 operation, IEEE: division by zero and overflow give infinities, not exceptions."""
    with np.errstate(all="ignore"):
        return float(np.float32(compute(*(np.float32(x) for x in numbers))))


def _integer(call: Call, value: int) -> int:
    return wrap_int(value, UINT64 if call.op.result.type.dtype == UINT64 else INDEX)


def _arithmetic(name: str, compute: Callable) -> None:
    @meaning(name)
    def run(call: Call, a: Number, b: Number) -> Number:
        if call.op.result.type.dtype.is_float:
            return _float(compute, a, b)
        return _integer(call, compute(a, b))


_arithmetic("s.add", add)
_arithmetic("s.sub", sub)
_arithmetic("s.mul", mul)


@meaning("s.min")
def smallest(call: Call, a: Number, b: Number) -> Number:
    """The smaller; NaN if either is."""
    return a if math.isnan(a) or a <= b else b


@meaning("s.max")
def largest(call: Call, a: Number, b: Number) -> Number:
    """The larger; NaN if either is."""
    return a if math.isnan(a) or a >= b else b


@meaning("s.div")
def quotient(call: Call, a: float, b: float) -> float:
    return _float(lambda x, y: x / y, a, b)


@meaning("s.floordiv")
def floor_quotient(call: Call, a: int, b: int) -> int:
    """Rounded toward minus infinity. Raises KernelError on a zero divisor."""
    return _integer(call, a // _nonzero(call, b))


@meaning("s.mod")
def remainder(call: Call, a: int, b: int) -> int:
    """With the divisor's sign. Raises KernelError on a zero divisor."""
    return _integer(call, a % _nonzero(call, b))


def _nonzero(call: Call, divisor: int) -> int:
    if divisor == 0:
        raise KernelError("integer division by zero", call.op.span, help="check the divisor before")
    return divisor


@meaning("s.shl")
def shift_left(call: Call, a: int, count: int) -> int:
    return _integer(call, a << _shift(call, count))


@meaning("s.shr")
def shift_right(call: Call, a: int, count: int) -> int:
    return _integer(call, a >> _shift(call, count))


def _shift(call: Call, count: int) -> int:
    if not 0 <= count < 64:
        raise KernelError(f"a shift by {count}", call.op.span, help="shift by 0 to 63")
    return count


def _comparison(name: str, holds: Callable[[Number, Number], bool]) -> None:
    @meaning(name)
    def run(call: Call, a: Number, b: Number) -> bool:
        return holds(a, b)


for _name, _holds in (
    ("s.eq", eq),
    ("s.ne", ne),
    ("s.lt", lt),
    ("s.le", le),
    ("s.gt", gt),
    ("s.ge", ge),
):
    _comparison(_name, _holds)


@meaning("s.and")
def both(call: Call, a: bool, b: bool) -> bool:
    return a and b


@meaning("s.or")
def either(call: Call, a: bool, b: bool) -> bool:
    return a or b


@meaning("s.not")
def negation(call: Call, a: bool) -> bool:
    return not a


@meaning("s.neg")
def negative(call: Call, a: Number) -> Number:
    return fp32(-a) if isinstance(a, float) else _integer(call, -a)


@meaning("s.cast")
def cast(call: Call, a: Number) -> Number:
    return cast_scalar(a, call["to"])
