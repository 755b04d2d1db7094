"""Scalar arithmetic. Integers compute in 64 bits, floats in FP32; `//` and `%` floor as in Python."""

from __future__ import annotations

from tilewright.dtypes import BOOL, FP32, INDEX, DType
from tilewright.ir.nodes import Operand
from tilewright.ir.ops.table import Attrs, RuleBroken, operator, operators, scalar
from tilewright.ir.types import ScalarType, Type

COMPARISONS = ("s.eq", "s.ne", "s.lt", "s.le", "s.gt", "s.ge")


def _category(dtype: DType) -> str:
    return "float" if dtype.is_float else "bool" if dtype == BOOL else "integer"


def _common(a: ScalarType, b: ScalarType) -> ScalarType:
    if _category(a.dtype) != _category(b.dtype):
        raise RuleBroken(
            f"both scalars must be of one kind, got {a.dtype} and {b.dtype}",
            help="pl.cast one of them first",
        )
    if a.dtype.is_float:
        return ScalarType(FP32)
    if a.dtype == INDEX or b.dtype == INDEX:
        return ScalarType(INDEX)
    return a if a.dtype.bits >= b.dtype.bits else b


@operators(("s.add", "s.sub", "s.mul", "s.min", "s.max"), "a, b")
def _arithmetic(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """a op b; both integers or both floats."""
    a, b = (scalar(x, "operand") for x in operands)
    return (_common(a, b),)


@operator("s.div", "a, b")
def _div(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """IEEE quotient of two FP32 scalars."""
    a, b = (scalar(x, "operand") for x in operands)
    if not (a.dtype.is_float and b.dtype.is_float):
        raise RuleBroken(
            f"/ on run-time integers ({a.dtype} / {b.dtype})",
            help="write // for the floor of a quotient",
        )
    return (ScalarType(FP32),)


@operators(("s.floordiv", "s.mod", "s.shl", "s.shr"), "a, b")
def _integer_arithmetic(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """a op b on integers; the quotient is floored, the remainder has the divisor's sign."""
    a, b = (scalar(x, "operand") for x in operands)
    if not (a.dtype.is_integer and b.dtype.is_integer):
        raise RuleBroken(
            f"needs integer scalars, got {a.dtype} and {b.dtype}", help="pl.cast(…, pl.INT32) first"
        )
    return (_common(a, b),)


@operators(COMPARISONS, "a, b")
def _compare(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """1 when the relation holds, else 0; NaN compares false except ne."""
    a, b = (scalar(x, "operand") for x in operands)
    _common(a, b)
    return (ScalarType(BOOL),)


@operators(("s.and", "s.or"), "a, b")
def _logic(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Both sides are evaluated."""
    for x in operands:
        if scalar(x, "operand").dtype != BOOL:
            raise RuleBroken(
                f"needs BOOL, got {x.type}", help="compare explicitly, for instance n != 0"
            )
    return (ScalarType(BOOL),)


@operator("s.not", "a")
def _not(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Logical negation."""
    if scalar(operands[0], "operand").dtype != BOOL:
        raise RuleBroken(
            f"not needs BOOL, got {operands[0].type}",
            help="compare explicitly, for instance n == 0",
        )
    return (ScalarType(BOOL),)


@operator("s.neg", "a")
def _neg(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """-a."""
    (a,) = (scalar(x, "operand") for x in operands)
    if a.dtype == BOOL:
        raise RuleBroken("- on BOOL", help="write not for the opposite of a condition")
    return (a if not a.dtype.is_float else ScalarType(FP32),)


@operator("s.cast", "a")
def _cast(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Convert to attrs['to']; float to integer truncates and saturates, NaN gives 0."""
    scalar(operands[0], "operand")
    return (ScalarType(attrs["to"]),)
