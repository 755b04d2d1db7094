"""The register of meanings, and what a meaning gets to see of the op that it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tilewright.dtypes import DType
from tilewright.interpreter.arrays import unspecified
from tilewright.ir.nodes import Attr, Op, Operand, Value
from tilewright.ir.ops import lookup
from tilewright.ir.types import TileType


@dataclass(frozen=True, slots=True)
class Call:
    """One op being run; `poison` asks for NaN (or 0x4D bytes) where contents are unspecified, and
    `variant` for other contents instead (see `poison_value`).
    """

    op: Op
    poison: bool
    variant: int = 0

    def __getitem__(self, key: str) -> Attr:
        """An attribute that must be there."""
        for name, value in self.op.attrs:
            if name == key:
                return value
        raise KeyError(f"{self.op.name} has no attribute {key!r}")

    def get(self, key: str, default: Attr = None) -> Attr:
        return self.op.attr(key, default)

    @property
    def type(self) -> TileType:
        """The type of the only result."""
        return self.op.results[0].type  # type: ignore[return-value]

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    def dtype_of(self, position: int) -> DType:
        """The element type of an operand."""
        return self.op.operands[position].type.dtype

    def blank(self, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """A tile of unspecified contents, shaped like the result unless told otherwise."""
        shape = self.type.shape if shape is None else shape
        return unspecified(shape, self.dtype, self.poison, self.variant)

    def fresh(self, shape: tuple[int, ...], dtype: DType) -> torch.Tensor:
        """Memory or a tile that a program made and gave no contents."""
        return unspecified(shape, dtype, self.poison)

    def within(self, position: int, index: torch.Tensor, extent: int) -> torch.Tensor:
        """The indices that operand `position` holds, those outside the axis moved to its ends."""
        return index.long().clamp(0, extent - 1)

    def subject(self, position: int) -> str:
        """The author's name for an operand."""
        return author_name(self.op.operands[position])


Meaning = Callable[..., Any]
MEANINGS: dict[str, Meaning] = {}


def meaning(*names: str) -> Callable[[Meaning], Meaning]:
    """Enter a function as what these operators mean: `f(call, *operands) -> result`."""

    def enter(function: Meaning) -> Meaning:
        for name in names:
            lookup(name)
            assert name not in MEANINGS, f"{name!r} has two meanings"
            MEANINGS[name] = function
        return function

    return enter


def author_name(operand: Operand) -> str:
    """The name without the number that keeps it unique."""
    return operand.name.split(".")[0] if isinstance(operand, Value) else str(operand.value)
