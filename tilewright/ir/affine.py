"""Integer scalars as sums: what an offset is made of, and how far it moves when a loop turns once."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from tilewright.ir.nodes import Const, Op, Operand, Value
from tilewright.ir.walk import Definition, defined_in


@dataclass(frozen=True, slots=True)
class Affine:
    """`const + sum(factor * value)`. Values are what no sum can be seen through: parameters, loop variables,
    elements read from memory, products of two of them."""

    const: int
    terms: tuple[tuple[Value, int], ...] = ()  # sorted by name, no zero factors

    def factor(self, value: Value) -> int:
        """How often `value` counts."""
        return dict(self.terms).get(value, 0)

    def without(self, value: Value) -> Affine:
        """The rest of the sum."""
        return Affine(self.const, tuple(t for t in self.terms if t[0] != value))

    def plus(self, other: Affine, times: int = 1) -> Affine:
        """self + times * other."""
        total = dict(self.terms)
        for value, factor in other.terms:
            total[value] = total.get(value, 0) + times * factor
        terms = sorted(((v, f) for v, f in total.items() if f), key=lambda t: t[0].name)
        return Affine(self.const + times * other.const, tuple(terms))


def affine(x: Operand, defined: Mapping[Value, Definition]) -> Affine:
    """The operand as a sum; at worst, itself once."""
    if isinstance(x, Const):
        return Affine(int(x.value))
    place = defined.get(x)
    op = None if place is None or place.block is not None else place.op
    if op is not None and op.name in ("s.add", "s.sub"):
        a, b = (affine(y, defined) for y in op.operands)
        return a.plus(b, 1 if op.name == "s.add" else -1)
    if op is not None and op.name == "s.mul":
        a, b = (affine(y, defined) for y in op.operands)
        if not b.terms:
            return Affine(0).plus(a, b.const)
        if not a.terms:
            return Affine(0).plus(b, a.const)
    return Affine(0, ((x, 1),))


class Movement:
    """What a loop does to scalars: which differ from turn to turn, and by how much."""

    def __init__(self, loop: Op, defined: Mapping[Value, Definition]) -> None:
        self.variable = loop.blocks[0].args[0]
        self._inside: Set[Value] = defined_in(loop)
        self._defined = defined

    def varies(self, x: Operand) -> bool:
        """True when `x` may differ between two turns."""
        if isinstance(x, Const) or x not in self._inside:
            return False
        place = self._defined[x]
        if place.op is None or place.block is not None or not place.op.name.startswith("s."):
            return True
        return any(map(self.varies, place.op.operands))

    def of(self, x: Operand) -> int | None:
        """How far `x` moves when the loop variable goes up by 1; None when that is no fixed number."""
        total = affine(x, self._defined)
        rest = total.without(self.variable)
        return None if any(self.varies(v) for v, _ in rest.terms) else total.factor(self.variable)
