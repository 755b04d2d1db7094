"""What a kernel may say: `import tilewright.language as pl`.

Signatures, shapes and documentation only. What the words mean stands in the interpreter, how they
are
compiled in the code generator; all floors meet by operator name.
"""

from __future__ import annotations

from tilewright.dtypes import (
    BF16,
    BOOL,
    FP4,
    FP8E4M3FN,
    FP8E5M2,
    FP16,
    FP32,
    HF4,
    HF8,
    INDEX,
    INT4,
    INT8,
    INT16,
    INT32,
    INT64,
    TASK_ID,
    UINT4,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
)
from tilewright.language import prefetch, tensor, tile
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
    const,
    cos,
    div,
    exp,
    expand_clone,
    expands,
    log,
    lrelu,
    max,
    maximum,
    min,
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
from tilewright.language.gather import gather, mscatter, scatter, scatter_update
from tilewright.language.kernel import Kernel, jit
from tilewright.language.loops import (
    Level,
    SplitMode,
    at,
    auto_chunk,
    auto_incore,
    chunked_loop_optimizer,
    cluster,
    cross_core_slot,
    incore,
    manual_scope,
    parallel,
    pipeline,
    range,
    scope,
    split,
    spmd,
    static_assert,
    static_print,
    unroll,
    yield_,
)
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
    create_tensor,
    create_tile,
    fillpad,
    full,
    gather_row,
    load,
    move,
    no_dep,
    read,
    set_validshape,
    slice,
    store,
    write,
)
from tilewright.language.reduce import col_max, col_min, col_sum, row_max, row_min, row_sum
from tilewright.language.shape import concat, dim, reshape, transpose
from tilewright.language.sort import mrgsort, sort32
from tilewright.language.types import (
    AtomicType,
    InOut,
    MemorySpace,
    Out,
    PadValue,
    Scalar,
    Tensor,
    TensorLayout,
    Tile,
    dynamic,
)

__all__ = [
    "BF16", "BOOL", "FP4", "FP8E4M3FN", "FP8E5M2", "FP16", "FP32", "HF4", "HF8", "INDEX", "INT4",
    "INT8", "INT16", "INT32", "INT64", "TASK_ID", "UINT4", "UINT8", "UINT16", "UINT32", "UINT64",
    "AtomicType", "InOut", "Kernel", "Level", "MemorySpace", "Out", "PadValue", "Scalar",
    "SplitMode", "Tensor", "TensorLayout", "Tile", "abs", "add", "addc", "adds", "and_", "ands",
    "arange", "assemble", "at", "auto_chunk", "auto_incore", "batch_matmul", "cast",
    "chunked_loop_optimizer", "cluster", "cmp", "cmps", "col_expand", "col_expand_add",
    "col_expand_div", "col_expand_expdif", "col_expand_mul", "col_expand_sub", "col_max", "col_min",
    "col_sum", "concat", "const", "cos", "create_l1", "create_tensor", "create_tile",
    "cross_core_slot", "dim", "div", "divs", "dynamic", "exp", "expand_clone", "expands", "fillpad",
    "full", "gather", "gather_row", "gemv", "gemv_acc", "gemv_bias", "incore", "jit", "load", "log",
    "lrelu", "manual_scope", "matmul", "matmul_acc", "matmul_bias", "max", "maximum", "maxs", "min",
    "minimum", "mins", "move", "mrgsort", "mscatter", "mul", "muls", "neg", "no_dep", "not_", "or_",
    "ors", "parallel", "part_add", "part_max", "part_min", "part_mul", "pipeline", "prefetch",
    "prelu", "range", "read", "recip", "relu", "rem", "rems", "reshape", "row_expand",
    "row_expand_add", "row_expand_div", "row_expand_expdif", "row_expand_mul", "row_expand_sub",
    "row_max", "row_min", "row_sum", "rsqrt", "scatter", "scatter_update", "scope", "sel",
    "set_validshape", "shl", "shls", "shr", "shrs", "sin", "slice", "sort32", "split", "spmd",
    "sqrt", "static_assert", "static_print", "store", "sub", "subc", "subs", "tensor", "tile",
    "transpose", "unroll", "write", "xor", "xors", "yield_",
]  # fmt: skip
