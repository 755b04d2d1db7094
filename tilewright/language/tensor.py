"""`pl.tensor.…`: the typed spellings for tensor operands. Same values as the plain ones."""

from __future__ import annotations

from tilewright.language.cast import cast
from tilewright.language.elementwise import (
    abs,
    add,
    cmp,
    col_expand,
    col_expand_add,
    col_expand_div,
    col_expand_mul,
    col_expand_sub,
    cos,
    div,
    exp,
    expand_clone,
    expands,
    log,
    maximum,
    minimum,
    mul,
    neg,
    recip,
    row_expand,
    row_expand_add,
    row_expand_div,
    row_expand_mul,
    row_expand_sub,
    rsqrt,
    sin,
    sqrt,
    sub,
)
from tilewright.language.elementwise import add as adds
from tilewright.language.elementwise import div as divs
from tilewright.language.elementwise import mul as muls
from tilewright.language.elementwise import sub as subs
from tilewright.language.matmul import matmul, matmul_acc
from tilewright.language.memory import (
    arange,
    assemble,
    fillpad,
    full,
    read,
    set_validshape,
    slice,
    write,
)
from tilewright.language.memory import arange as ci
from tilewright.language.memory import create_tensor as create
from tilewright.language.reduce import col_max, col_min, col_sum, row_max, row_min, row_sum
from tilewright.language.shape import concat, dim, gather, reshape, scatter, transpose

__all__ = [
    "abs", "add", "adds", "arange", "assemble", "cast", "ci", "cmp", "col_expand",
    "col_expand_add", "col_expand_div", "col_expand_mul", "col_expand_sub", "col_max", "col_min",
    "col_sum", "concat", "cos", "create", "dim", "div", "divs", "exp", "expand_clone", "expands",
    "fillpad", "full", "gather", "log", "matmul", "matmul_acc", "maximum", "minimum", "mul",
    "muls", "neg", "read", "recip", "reshape", "row_expand", "row_expand_add", "row_expand_div",
    "row_expand_mul", "row_expand_sub", "row_max", "row_min", "row_sum", "rsqrt", "scatter",
    "set_validshape", "sin", "slice", "sqrt", "sub", "subs", "transpose", "write",
]  # fmt: skip
