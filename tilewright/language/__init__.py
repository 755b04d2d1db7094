"""What a kernel may say: `import tilewright.language as pl`.

Signatures, shapes and documentation only. What the words mean stands in the interpreter, how they
are
compiled in the code generator; all floors meet by operator name.
"""

from __future__ import annotations

from tilewright.dtypes import (
    BF16,
    BOOL,
    FP16,
    FP32,
    INDEX,
    INT8,
    INT16,
    INT32,
    INT64,
    TASK_ID,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
)
from tilewright.language import tensor, tile
from tilewright.language.cast import cast
from tilewright.language.elementwise import (
    abs,
    add,
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
    max,
    maximum,
    min,
    minimum,
    mul,
    neg,
    recip,
    relu,
    row_expand,
    row_expand_add,
    row_expand_div,
    row_expand_expdif,
    row_expand_mul,
    row_expand_sub,
    rsqrt,
    sel,
    sin,
    sqrt,
    sub,
)
from tilewright.language.kernel import Kernel, inline, jit
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
from tilewright.language.program import FunctionType, Program, function, program
from tilewright.language.reduce import col_max, col_min, col_sum, row_max, row_min, row_sum
from tilewright.language.shape import concat, dim, gather, reshape, scatter, transpose
from tilewright.language.types import (
    AtomicType,
    InOut,
    MemorySpace,
    MemRef,
    Out,
    PadValue,
    Scalar,
    Tensor,
    TensorLayout,
    Tile,
    dynamic,
)

Mem = MemorySpace

__all__ = [
    "BF16", "BOOL", "FP16", "FP32", "INDEX", "INT8", "INT16", "INT32", "INT64", "TASK_ID",
    "UINT8", "UINT16", "UINT32", "UINT64", "AtomicType", "FunctionType", "InOut", "Kernel", "Level",
    "Mem", "MemRef", "MemorySpace", "Out", "PadValue", "Program", "Scalar", "SplitMode",
    "Tensor", "TensorLayout", "Tile",
    "abs", "add", "arange", "assemble", "at", "auto_chunk", "auto_incore", "batch_matmul", "cast",
    "chunked_loop_optimizer", "cluster", "cmp", "cmps", "col_expand", "col_expand_add",
    "col_expand_div", "col_expand_expdif", "col_expand_mul", "col_expand_sub", "col_max",
    "col_min", "col_sum", "concat", "const", "cos", "create_l1", "create_tensor", "create_tile",
    "cross_core_slot", "dim", "div", "dynamic", "exp", "expand_clone", "expands", "fillpad",
    "full", "function", "gather", "gather_row", "gemv", "gemv_acc", "gemv_bias", "incore", "inline", "jit", "load",
    "log", "manual_scope", "matmul", "matmul_acc", "matmul_bias", "max", "maximum", "min",
    "minimum", "move", "mul", "neg", "no_dep", "parallel", "pipeline", "program", "range", "read", "recip",
    "relu", "reshape", "row_expand", "row_expand_add", "row_expand_div", "row_expand_expdif",
    "row_expand_mul", "row_expand_sub", "row_max", "row_min", "row_sum", "rsqrt", "scatter",
    "scope", "sel", "set_validshape", "sin", "slice", "split", "spmd", "sqrt", "static_assert",
    "static_print", "store", "sub", "tensor", "tile", "transpose", "unroll", "write", "yield_",
]  # fmt: skip
