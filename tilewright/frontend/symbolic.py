"""Enough algebra on offsets to see that `(k + 1) * T - k * T` is T."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from tilewright.ir.nodes import Operand, Value


@dataclass(slots=True)
class Symbolic:
    """`constant + sum(coefficient * atom)`; an atom is a name, or an op on symbolic values."""

    constant: int = 0
    terms: dict[Any, int] = field(default_factory=dict)

    @property
    def key(self) -> Any:
        return (self.constant, frozenset(self.terms.items()))

    def plus(self, other: Symbolic, sign: int = 1) -> Symbolic:
        terms = dict(self.terms)
        for atom, coefficient in other.terms.items():
            terms[atom] = terms.get(atom, 0) + sign * coefficient
        return Symbolic(
            self.constant + sign * other.constant, {a: c for a, c in terms.items() if c}
        )

    def times(self, factor: int) -> Symbolic:
        if factor == 0:
            return Symbolic()
        return Symbolic(self.constant * factor, {a: c * factor for a, c in self.terms.items()})


class Symbols:
    """What is known of each scalar of the program, by name; can be cut back to a mark."""

    def __init__(self) -> None:
        self._known: dict[str, Symbolic] = {}

    def of(self, operand: Operand) -> Symbolic:
        """A constant, what was recorded, or an unknown of its own."""
        if isinstance(operand, Value):
            return self._known.get(operand.name) or Symbolic(0, {operand.name: 1})
        if isinstance(operand.value, int):
            return Symbolic(int(operand.value))
        return Symbolic(0, {("const", operand.value): 1})

    def record(self, name: str, operands: Sequence[Operand], result: Value) -> None:
        """Remember what a scalar op computes."""
        if result.name not in self._known:
            self._known[result.name] = self._derive(name, [self.of(x) for x in operands], result)

    def define(self, result: Value, meaning: Symbolic) -> None:
        self._known[result.name] = meaning

    def copy(self, old: Value, new: Value) -> None:
        """`new` is `old` under another name."""
        if old.name in self._known:
            self._known[new.name] = self._known[old.name]

    def mark(self) -> int:
        return len(self._known)

    def cut(self, mark: int) -> None:
        """Forget what was learnt since the mark."""
        while len(self._known) > mark:
            self._known.popitem()

    def names_in(self, operand: Operand, wanted: Collection[str]) -> list[str]:
        """Which of the wanted names decide a value."""
        found: list[str] = []

        def visit(thing: Any) -> None:
            if isinstance(thing, str):
                if thing in wanted:
                    found.append(thing)
            elif isinstance(thing, (tuple, frozenset)):
                for part in thing:
                    visit(part)

        visit(self.of(operand).key)
        return sorted(set(found))

    def _derive(self, name: str, parts: list[Symbolic], result: Value) -> Symbolic:
        if result.type.dtype.is_integer:
            match name:
                case "s.add":
                    return parts[0].plus(parts[1])
                case "s.sub":
                    return parts[0].plus(parts[1], -1)
                case "s.neg":
                    return parts[0].times(-1)
                case "s.mul" if not parts[0].terms:
                    return parts[1].times(parts[0].constant)
                case "s.mul" if not parts[1].terms:
                    return parts[0].times(parts[1].constant)
        return Symbolic(0, {(name, *(part.key for part in parts)): 1})
