"""`pl.tile.…`: the typed spellings for blocks. Same values as the plain ones."""

from __future__ import annotations

from tilewright.language.cast import cast
from tilewright.language.elementwise import (
    abs,
    add,
    cmp,
    cmps,
    col_expand,
    col_expand_add,
    col_expand_div,
    col_expand_mul,
    col_expand_sub,
    cos,
    div,
    exp,
    expands,
    log,
    maximum,
    minimum,
    mul,
    neg,
    recip,
    relu,
    row_expand,
    row_expand_add,
    row_expand_div,
    row_expand_mul,
    row_expand_sub,
    rsqrt,
    sel,
    sin,
    sqrt,
    sub,
)
from tilewright.language.elementwise import add as adds
from tilewright.language.elementwise import div as divs
from tilewright.language.elementwise import maximum as maxs
from tilewright.language.elementwise import minimum as mins
from tilewright.language.elementwise import mul as muls
from tilewright.language.elementwise import sub as subs
from tilewright.language.matmul import (
    batch_matmul,
    gemv,
    gemv_acc,
    gemv_bias,
    matmul,
    matmul_acc,
    matmul_bias,
)
from tilewright.language.memory import (
    arange,
    assemble,
    extract,
    fillpad,
    full,
    load,
    move,
    read,
    set_validshape,
    slice,
    store,
    write,
)
from tilewright.language.memory import arange as ci
from tilewright.language.memory import create_tile as create
from tilewright.language.reduce import (
    col_max,
    col_min,
    col_sum,
    max,
    min,
    row_max,
    row_min,
    row_sum,
    sum,
)
from tilewright.language.shape import concat, gather_mask, get_block_idx, reshape, transpose
from tilewright.language.shape import gather_flat as gather
from tilewright.language.types import MaskPattern

__all__ = [
    "MaskPattern", "abs", "add", "adds", "arange", "assemble", "batch_matmul", "cast", "ci",
    "cmp", "cmps", "col_expand", "col_expand_add", "col_expand_div", "col_expand_mul",
    "col_expand_sub", "col_max", "col_min", "col_sum", "concat", "cos", "create", "div", "divs",
    "exp", "expands", "extract", "fillpad", "full", "gather", "gather_mask", "gemv", "gemv_acc",
    "gemv_bias", "get_block_idx", "load", "log", "matmul", "matmul_acc", "matmul_bias", "max",
    "maximum", "maxs", "min", "minimum", "mins", "move", "mul", "muls", "neg", "read", "recip",
    "relu", "reshape", "row_expand", "row_expand_add", "row_expand_div", "row_expand_mul",
    "row_expand_sub", "row_max", "row_min", "row_sum", "rsqrt", "sel", "set_validshape", "sin",
    "slice", "sqrt", "store", "sub", "subs", "sum", "transpose", "write",
]  # fmt: skip
