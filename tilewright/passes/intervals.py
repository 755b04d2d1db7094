"""Between which numbers an integer scalar surely lies."""

from __future__ import annotations

from collections.abc import Mapping

from tilewright.dtypes import DType
from tilewright.ir.nodes import Const, Op, Operand, Value
from tilewright.ir.typed import scalar_type_of
from tilewright.ir.walk import Definition

INFINITY = 1 << 62


class Intervals:
    """Interval arithmetic over the scalars of one function."""

    def __init__(self, defined: Mapping[Value, Definition]) -> None:
        self.defined = defined

    def of(self, x: Operand) -> tuple[int, int]:
        """Smallest and largest value that `x` can take; of a number that is no integer nothing is known."""
        if not scalar_type_of(x).dtype.is_integer:
            return -INFINITY, INFINITY
        if isinstance(x, Const):
            return int(x.value), int(x.value)
        place = self.defined[x]
        if place.op is None:
            return -INFINITY, INFINITY
        if place.block is not None:
            return self._of_variable(place.op) if place.position == 0 else (-INFINITY, INFINITY)
        if not place.op.name.startswith("s."):
            return -INFINITY, INFINITY
        parts = [self.of(y) for y in place.op.operands]
        if place.op.name == "s.cast":
            return _within(place.op.attr("to"), *parts[0])
        return _combine(place.op.name, parts)

    def _of_variable(self, loop: Op) -> tuple[int, int]:
        (low, _), (_, stop), (step, step_high) = (self.of(x) for x in loop.operands[:3])
        if step <= 0:
            return -INFINITY, INFINITY
        if (
            step == step_high
            and abs(low) < INFINITY
            and stop < INFINITY
            and isinstance(loop.operands[0], Const)
        ):
            return low, low + max(0, (stop - 1 - low) // step) * step
        return low, max(low, stop - 1)


def _within(to: DType, low: int, high: int) -> tuple[int, int]:
    """The interval after a cast, which holds numbers to the range of an integer dtype."""
    if not to.is_integer or low <= -INFINITY or high >= INFINITY:
        return -INFINITY, INFINITY
    least, most = to.int_range()
    return min(max(low, least), most), min(max(high, least), most)


def _combine(name: str, parts: list[tuple[int, int]]) -> tuple[int, int]:
    """Interval arithmetic, wide where it gets difficult."""
    if any(abs(bound) >= INFINITY for part in parts for bound in part) and name not in (
        "s.min",
        "s.max",
        "s.mod",
    ):
        return -INFINITY, INFINITY
    match name, parts:
        case "s.add", [(a, b), (c, d)]:
            return a + c, b + d
        case "s.sub", [(a, b), (c, d)]:
            return a - d, b - c
        case "s.mul", [(a, b), (c, d)]:
            corners = (a * c, a * d, b * c, b * d)
            return min(corners), max(corners)
        case "s.min", [(a, b), (c, d)]:
            return min(a, c), min(b, d)
        case "s.max", [(a, b), (c, d)]:
            return max(a, c), max(b, d)
        case "s.floordiv", [(a, b), (c, d)] if c == d and c > 0:
            return a // c, b // c
        case "s.mod", [_, (c, d)] if c > 0:
            return 0, d - 1
        case _:
            return -INFINITY, INFINITY
