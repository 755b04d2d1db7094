"""The grammar of a program, on one page.

A `Function` has parameters and one `Block`; a block is a list of `Op`; an op reads operands (values or
literal constants), has attributes known at compile time, gives results, and may own blocks (loops,
branches, regions). Every value is assigned once. Nodes are frozen: a pass builds new ones.
Spans ride along but take no part in equality, so two programs compare by what they say.

What each operator takes, gives and means to memory stands in `tilewright.ir.ops`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tilewright.dtypes import INDEX, DType
from tilewright.ir.types import ScalarType, Type
from tilewright.span import NOWHERE, Span

# int, float, bool, str, DType, None, or a tuple of these
Attr = Any


@dataclass(frozen=True, slots=True)
class Value:
    """A name assigned once. Names are unique within a function; the printer writes `%name`."""

    name: str
    type: Type


@dataclass(frozen=True, slots=True)
class Const:
    """A literal scalar operand."""

    value: int | float | bool
    dtype: DType

    @property
    def type(self) -> ScalarType:
        return ScalarType(self.dtype)


Operand = Value | Const


@dataclass(frozen=True, slots=True)
class Op:
    """`results = name(operands) {attrs} blocks`."""

    name: str
    operands: tuple[Operand, ...] = ()
    results: tuple[Value, ...] = ()
    attrs: tuple[tuple[str, Attr], ...] = ()  # sorted by key
    blocks: tuple[Block, ...] = ()
    span: Span = field(default=NOWHERE, compare=False)

    def attr(self, key: str, default: Attr = None) -> Attr:
        for name, value in self.attrs:
            if name == key:
                return value
        return default

    @property
    def result(self) -> Value:
        """The only result."""
        (value,) = self.results
        return value


@dataclass(frozen=True, slots=True)
class Block:
    """Statements in order. `args` are what a loop hands in: its variable, then the carried values.

    The block of a `for`, `if`, `at` or `sweep` ends with a `yield` of what it hands out.
    """

    args: tuple[Value, ...] = ()
    ops: tuple[Op, ...] = ()


# "frozen": an input whose contents stay the same from call to call (Kernel.bind)
Direction = Literal["in", "out", "inout", "frozen"]


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter: a tensor (always a reference) or a scalar."""

    value: Value
    direction: Direction = "in"
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Function:
    """A whole program. `returns` names the results in return style, as indices into nothing but values."""

    name: str
    params: tuple[Param, ...]
    body: Block
    span: Span = field(default=NOWHERE, compare=False)


def make_attrs(
    attrs: Mapping[str, Attr] | Iterable[tuple[str, Attr]],
) -> tuple[tuple[str, Attr], ...]:
    """Attributes in their canonical order; a None is the same as absent."""
    return tuple(sorted((key, value) for key, value in dict(attrs).items() if value is not None))


def index(value: int) -> Const:
    """An INDEX literal."""
    return Const(value, INDEX)
