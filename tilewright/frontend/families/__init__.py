"""How the front end reads each family of operators."""

from __future__ import annotations

from tilewright.frontend.families import (
    arrays,
    cast,
    elementwise,
    gather,
    matmul,
    memory,
    reduce,
    scheduling,
    shape,
    sort,
)
from tilewright.frontend.operands import HANDLERS

__all__ = [
    "HANDLERS",
    "arrays",
    "cast",
    "elementwise",
    "gather",
    "matmul",
    "memory",
    "reduce",
    "scheduling",
    "shape",
    "sort",
]
