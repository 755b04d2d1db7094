"""How the front end reads each family of operators."""

from __future__ import annotations

from tilewright.frontend.families import (
    cast,
    elementwise,
    gather,
    matmul,
    memory,
    prefetch,
    reduce,
    shape,
    sort,
)
from tilewright.frontend.operands import HANDLERS

__all__ = [
    "HANDLERS",
    "cast",
    "elementwise",
    "gather",
    "matmul",
    "memory",
    "prefetch",
    "reduce",
    "shape",
    "sort",
]
