"""`pl.tile.…`: the typed spellings for blocks. Same values as the plain ones."""

from __future__ import annotations

from tilewright.language.cast import cast
from tilewright.language.elementwise import (
    abs,
    add,
    addc,
    and_,
    cmp,
    cmps,
    col_expand,
    col_expand_add,
    col_expand_div,
    col_expand_expdif,
    col_expand_mul,
    col_expand_sub,
    cos,
    div,
    exp,
    expand_clone,
    expands,
    log,
    lrelu,
    maximum,
    minimum,
    mul,
    neg,
    not_,
    or_,
    part_add,
    part_max,
    part_min,
    part_mul,
    prelu,
    recip,
    relu,
    rem,
    row_expand,
    row_expand_add,
    row_expand_div,
    row_expand_expdif,
    row_expand_mul,
    row_expand_sub,
    rsqrt,
    sel,
    shl,
    shr,
    sin,
    sqrt,
    sub,
    subc,
    xor,
)
from tilewright.language.elementwise import add as adds
from tilewright.language.elementwise import and_ as ands
from tilewright.language.elementwise import div as divs
from tilewright.language.elementwise import maximum as maxs
from tilewright.language.elementwise import minimum as mins
from tilewright.language.elementwise import mul as muls
from tilewright.language.elementwise import or_ as ors
from tilewright.language.elementwise import rem as rems
from tilewright.language.elementwise import shl as shls
from tilewright.language.elementwise import shr as shrs
from tilewright.language.elementwise import sub as subs
from tilewright.language.elementwise import xor as xors
from tilewright.language.gather import gather_flat as gather
from tilewright.language.gather import gather_mask, mscatter, scatter, scatter_update
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
    create_l1,
    create_tile,
    extract,
    fillpad,
    full,
    gather_row,
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
from tilewright.language.shape import concat, dim, get_block_idx, get_block_num, reshape, transpose
from tilewright.language.sort import mrgsort, sort32
from tilewright.language.types import MaskPattern

__all__ = [
    "MaskPattern", "abs", "add", "addc", "adds", "and_", "ands", "arange", "assemble",
    "batch_matmul", "cast", "ci", "cmp", "cmps", "col_expand", "col_expand_add", "col_expand_div",
    "col_expand_expdif", "col_expand_mul", "col_expand_sub", "col_max", "col_min", "col_sum",
    "concat", "cos", "create", "create_l1", "create_tile", "dim", "div", "divs", "exp",
    "expand_clone", "expands", "extract", "fillpad", "full", "gather", "gather_mask", "gather_row",
    "gemv", "gemv_acc", "gemv_bias", "get_block_idx", "get_block_num", "load", "log", "lrelu",
    "matmul", "matmul_acc", "matmul_bias", "max", "maximum", "maxs", "min", "minimum", "mins",
    "move", "mrgsort", "mscatter", "mul", "muls", "neg", "not_", "or_", "ors", "part_add",
    "part_max", "part_min", "part_mul", "prelu", "read", "recip", "relu", "rem", "rems", "reshape",
    "row_expand", "row_expand_add", "row_expand_div", "row_expand_expdif", "row_expand_mul",
    "row_expand_sub", "row_max", "row_min", "row_sum", "rsqrt", "scatter", "scatter_update", "sel",
    "set_validshape", "shl", "shls", "shr", "shrs", "sin", "slice", "sort32", "sqrt", "store",
    "sub", "subc", "subs", "sum", "transpose", "write", "xor", "xors",
]  # fmt: skip
