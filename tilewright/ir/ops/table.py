"""The operator table: for each word what it takes, what it gives, and what it does to memory.

Every floor looks an operator up here by name, so a misspelt one raises at once. `infer` is the single
place where shape and dtype rules live: the front end turns a broken rule into the author's error, the
verifier into a compiler bug.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tilewright.ir.nodes import Attr, Operand
from tilewright.ir.types import PanelType, ScalarType, TensorType, TileType, Type

Attrs = Mapping[str, Attr]
Infer = Callable[[tuple[Operand, ...], Attrs], tuple[Type, ...]]

# What running an op does: nothing but give results, look at memory, change memory, steer, stop the run, or
# nothing that a value depends on.
Effect = Literal["pure", "read", "write", "control", "check"]


class RuleBroken(Exception):
    """Operands that an operator cannot take: the rule and what was found, with one thing to try."""

    def __init__(self, message: str, help: str | None = None) -> None:
        self.message = message
        self.help = help
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Operator:
    """One row of the table. `takes` documents the operands in order; `*` marks a repeated group."""

    name: str
    takes: str
    doc: str
    infer: Infer
    effect: Effect = "pure"


TABLE: dict[str, Operator] = {}


def operator(name: str, takes: str, effect: Effect = "pure") -> Callable[[Infer], Infer]:
    """Enter `name` into the table with the decorated function as its typing rule and its doc."""

    def enter(infer: Infer) -> Infer:
        assert name not in TABLE, f"operator {name!r} is defined twice"
        TABLE[name] = Operator(name, takes, (infer.__doc__ or "").strip(), infer, effect)
        return infer

    return enter


def operators(names: Sequence[str], takes: str) -> Callable[[Infer], Infer]:
    """Enter several operators that share one typing rule."""

    def enter(infer: Infer) -> Infer:
        for name in names:
            operator(name, takes)(infer)
        return infer

    return enter


def lookup(name: str) -> Operator:
    """The row of `name`; KeyError on a name that is in no table."""
    return TABLE[name]


# Checks that the families share. Each raises RuleBroken in the words of the author's mistake.


def tile(operand: Operand, what: str) -> TileType:
    if not isinstance(operand.type, TileType):
        raise RuleBroken(f"{what} must be a block of data, got {operand.type}")
    return operand.type


def tensor(operand: Operand, what: str) -> TensorType:
    if not isinstance(operand.type, TensorType):
        raise RuleBroken(f"{what} must be a tensor in memory, got {operand.type}")
    return operand.type


def scalar(operand: Operand, what: str) -> ScalarType:
    if not isinstance(operand.type, ScalarType):
        raise RuleBroken(f"{what} must be a scalar, got {operand.type}")
    return operand.type


def panel(operand: Operand, what: str) -> PanelType:
    if not isinstance(operand.type, PanelType):
        raise RuleBroken(f"{what} must be a packed panel, got {operand.type}")
    return operand.type


def integer(operand: Operand, what: str) -> ScalarType:
    found = scalar(operand, what)
    if not found.dtype.is_integer:
        raise RuleBroken(
            f"{what} must be an integer scalar, got {found.dtype}",
            help="pl.cast(…, pl.INT32) it first",
        )
    return found


def same_dtype(a: TileType | TensorType, b: TileType | TensorType, what: str) -> None:
    if a.dtype != b.dtype:
        raise RuleBroken(
            f"{what} must have one dtype, got {a.dtype} and {b.dtype}",
            help="pl.cast one of them first",
        )


def dims(shape: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def integers(operands: Sequence[Operand], count: int, what: str) -> None:
    if len(operands) != count:
        raise RuleBroken(f"expected {count} {what}, got {len(operands)}")
    for operand in operands:
        integer(operand, what)


def keep_axes(shape: Sequence[int], drop: Sequence[int]) -> tuple[int, ...]:
    """`shape` without the axes in `drop`, each of which must have extent 1."""
    for axis in drop:
        if shape[axis] != 1:
            raise RuleBroken(
                f"axis {axis} has extent {shape[axis]}; only an axis of extent 1 can be dropped",
                help="take one element of it, or keep the axis",
            )
    return tuple(extent for axis, extent in enumerate(shape) if axis not in drop)
