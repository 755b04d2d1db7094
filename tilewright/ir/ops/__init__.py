"""The operator table, filled by one module per family."""

from tilewright.ir.ops import (
    control,
    elementwise,
    gather,
    matmul,
    memory,
    reduce,
    scalar,
    shape,
    sort,
)
from tilewright.ir.ops.table import TABLE, Operator, RuleBroken, lookup

__all__ = [
    "TABLE",
    "Operator",
    "RuleBroken",
    "control",
    "elementwise",
    "gather",
    "lookup",
    "matmul",
    "memory",
    "reduce",
    "scalar",
    "shape",
    "sort",
]
