"""Element-wise operators: promotion, scalars, the row and column forms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from tilewright.dtypes import BOOL, FP32, INDEX, DType, promote
from tilewright.errors import InvalidOperationError, ParserTypeError
from tilewright.frontend.operands import (
    Call,
    block,
    cast_block,
    constant,
    data,
    dtype_argument,
    handles,
    literal_as,
    promoted,
    scalar_like,
)
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import (
    Block,
    Constant,
    Named,
    Number,
    Tensor,
    describe,
    full_extents,
    is_number,
    with_valid,
)
from tilewright.frontend.windows import store_window
from tilewright.ir.nodes import Const, Operand
from tilewright.ir.ops.elementwise import BINARY, FLOAT_ONLY, UNARY, compute_dtype
from tilewright.ir.ops.table import dims

CMP_TYPES = ("eq", "ne", "lt", "le", "gt", "ge")


@handles(*BINARY)
def binary(t: Tracer, call: Call) -> Named:
    """A block with a block or a scalar."""
    return pair(t, call, call.name)


@handles("cmp", "cmps")
def cmp(t: Tracer, call: Call) -> Named:
    """1 where the relation holds, else 0."""
    return replace(pair(t, call, "cmp", kind=relation(t, call, "cmp_type")), predicate=True)


def relation(t: Tracer, call: Call, parameter: str) -> str:
    """A comparison by its name or its number."""
    kind = constant(t, call, parameter)
    if isinstance(kind, int) and not isinstance(kind, bool) and 0 <= kind < len(CMP_TYPES):
        kind = CMP_TYPES[kind]
    if kind not in CMP_TYPES:
        t.fail(
            InvalidOperationError,
            f"{call.name}: unknown comparison {kind!r}",
            call.at(parameter),
            help="0 eq, 1 ne, 2 lt, 3 le, 4 gt, 5 ge",
        )
    return str(kind)


def pair(
    t: Tracer, call: Call, name: str, first: Block | None = None, second: str = "rhs", **attrs: Any
) -> Block:
    """`first` (the operand lhs unless given) with the operand called `second`."""
    a = block(t, call, "lhs") if first is None else first
    other = call[second]
    if isinstance(other, (Block, Tensor)):
        a, b = promoted(t, call, a, block(t, call, second))
        return with_valid(t.emit(name, [a.value, b.value], **attrs), wide_valid(a, b))
    scalar = scalar_like(t, call, second, a.dtype)
    by_zero = not a.dtype.is_float and isinstance(scalar, Const) and scalar.value == 0
    if name in ("div", "rem") and by_zero:
        t.fail(
            InvalidOperationError,
            f"{name}: an integer block divided by zero",
            call.at(second),
            help="divide by something else, or pl.cast the block to pl.FP32 first",
        )
    return Block(t.emit(name, [a.value, scalar], **attrs), a.valid)


@handles("addc", "subc")
def three(t: Tracer, call: Call) -> Named:
    """Two sums or differences with one rounding at the end."""
    name, a = call.name[:3], block(t, call, "lhs")
    kind = a.dtype
    for parameter in ("rhs", "rhs2"):
        other = call[parameter]
        if isinstance(other, (Block, Tensor)):
            found = promote(kind, other.dtype)
            if found is None:
                t.fail(
                    InvalidOperationError,
                    f"{call.name}: {kind} and {other.dtype} have no common dtype",
                    call.at(parameter),
                    help="pl.cast one of them first",
                    notes=t.notes(call.node),
                )
            kind = found
    wide = cast_block(t, a, compute_dtype(kind))
    result = pair(t, call, name, pair(t, call, name, wide), "rhs2")
    return cast_block(t, result, kind)


# What an element is that only the other operand has: leaves every number as it is.
NEUTRAL = {"part_add": "add", "part_mul": "mul", "part_max": "maximum", "part_min": "minimum"}


@handles(*NEUTRAL)
def partial(t: Tracer, call: Call) -> Named:
    """Invalid elements take no part; the result is valid where either operand is."""
    a, b = promoted(t, call, block(t, call, "lhs"), block(t, call, "rhs"))
    if a.shape != b.shape:
        t.fail(
            InvalidOperationError,
            f"{call.name} needs two blocks of one shape, got {dims(a.shape)} and {dims(b.shape)}",
            call.node,
            notes=t.notes(call.node),
            help="slice both with the same extents",
        )
    neutral = _neutral(call.name, a.dtype)
    parts = [
        x.value if x.valid is None else t.emit("fillpad", [x.value, *x.valid], value=neutral)
        for x in (a, b)
    ]
    valid = None
    if a.valid is not None and b.valid is not None:
        valid = [t.scalar("s.max", x, y) for x, y in zip(a.valid, b.valid, strict=True)]
    return with_valid(t.emit(NEUTRAL[call.name], parts), valid)


def _neutral(name: str, dtype: DType) -> int | float:
    if name == "part_add":
        return -0.0 if dtype.is_float else 0
    if name == "part_mul":
        return 1.0 if dtype.is_float else 1
    if dtype.is_float:
        return -math.inf if name == "part_max" else math.inf
    return 0 if dtype == BOOL else dtype.int_range()[name == "part_min"]


@handles("lrelu", "prelu")
def leaky(t: Tracer, call: Call) -> Named:
    """x where it is positive, else slope * x."""
    x = block(t, call, "x")
    slope = call["slope"]
    if isinstance(slope, (Block, Tensor)) != (call.name == "prelu"):
        wanted = "a block" if call.name == "prelu" else "a scalar"
        t.fail(
            InvalidOperationError,
            f"{call.name}: slope must be {wanted}, got {describe(slope)}",
            call.at("slope"),
            help="pl.lrelu takes a scalar, pl.prelu a block",
        )
    scaled = pair(t, call, "mul", x, "slope")
    x = cast_block(t, x, scaled.dtype)
    zero = Const(0.0, FP32) if x.dtype.is_float else Const(0, x.dtype)
    positive = t.emit("cmp", [x.value, zero], kind="gt")
    return with_valid(t.emit("sel", [positive, x.value, scaled.value]), scaled.valid)


def wide_valid(a: Block, b: Block) -> tuple[Operand, ...] | None:
    """Valid extents of `a op b`: the first operand's, the second's where only that is wide."""
    if a.valid is None and b.valid is None:
        return None
    rank = max(len(a.shape), len(b.shape))
    first = (None,) * (rank - len(a.shape)) + tuple(zip(a.shape, a.extents, strict=True))
    second = (None,) * (rank - len(b.shape)) + tuple(zip(b.shape, b.extents, strict=True))
    valid = []
    for x, y in zip(first, second, strict=True):
        if x is None or (y is not None and x[0] == 1 and y[0] > 1):
            assert y is not None
            valid.append(y[1])
        else:
            valid.append(x[1])
    return tuple(valid)


@handles(*UNARY)
def unary(t: Tracer, call: Call) -> Named:
    """One operand; integers become FP32 where the result is fractional."""
    x = block(t, call, "x")
    if call.name in ("sin", "cos") and x.dtype != FP32:
        t.fail(
            InvalidOperationError,
            f"{call.name}: needs FP32, got {describe(x)}",
            call.node,
            help="pl.cast it to FP32 first",
            notes=t.notes(call.node),
        )
    if call.name in FLOAT_ONLY and not x.dtype.is_float:
        x = cast_block(t, x, FP32)
    return Block(t.emit(call.name, [x.value]), x.valid)


@handles(
    "row_expand_add",
    "row_expand_sub",
    "row_expand_mul",
    "row_expand_div",
    "row_expand_expdif",
    "col_expand_add",
    "col_expand_sub",
    "col_expand_mul",
    "col_expand_div",
    "col_expand_expdif",
)
def expanded(t: Tracer, call: Call) -> Named:
    """x [M,N] with v [M,1] (row forms) or w [1,N] (column forms)."""
    rows = call.name.startswith("row")
    narrow = "v" if rows else "w"
    x, v = promoted(t, call, block(t, call, "x"), block(t, call, narrow))
    _require_narrow(t, call, x.shape, v.shape, narrow)
    kind = call.name.rsplit("_", 1)[1]
    if kind != "expdif":
        return Block(t.emit(kind, [x.value, v.value]), x.valid)
    if not x.dtype.is_float:
        t.fail(
            InvalidOperationError,
            f"{call.name}: needs floats, got {describe(x)}",
            call.node,
            help="pl.cast(…, pl.FP32) it first",
        )
    return Block(t.emit("exp", [t.emit("sub", [x.value, v.value])]), x.valid)


def _require_narrow(
    t: Tracer, call: Call, x: tuple[int, ...], v: tuple[int, ...], narrow: str
) -> None:
    rows = narrow == "v"
    if len(x) < 2 or len(v) != len(x):
        wanted = "rank 2 or more on both sides"
    else:
        expected = (*x[:-1], 1) if rows else (*x[:-2], 1, x[-1])
        if v == expected:
            return
        wanted = f"{narrow} to be {dims(expected)} beside {dims(x)}"
    t.fail(
        InvalidOperationError,
        f"{call.name} needs {wanted}, got {dims(v)}",
        call.node,
        help=f"pl.reshape it: the {'last dimension must be 1' if rows else 'row count must be 1'}",
        notes=t.notes(call.node),
    )


@handles("row_expand", "col_expand")
def expand(t: Tracer, call: Call) -> Named:
    """A narrow block repeated to the target's shape."""
    narrow = "v" if call.name == "row_expand" else "w"
    target, v = data(t, call, "target"), block(t, call, narrow)
    _require_narrow(t, call, target.shape, v.shape, narrow)
    valid = target.valid if isinstance(target, Block) else None
    return Block(t.emit("broadcast", [v.value], shape=target.shape), valid)


@handles("expands")
def expands(t: Tracer, call: Call) -> Named:
    """A scalar everywhere."""
    t.need_region()
    target = data(t, call, "target")
    value = scalar_like(t, call, "value", target.dtype)
    valid = target.valid if isinstance(target, Block) else None
    if isinstance(value, Const):
        number = literal_as(t, call.name, value.value, target.dtype, call.at("value"))
        return Block(
            t.emit("full", [], shape=target.shape, dtype=target.dtype, value=number), valid
        )
    return Block(t.emit("splat", [value], shape=target.shape, dtype=target.dtype), valid)


@handles("expand_clone")
def expand_clone(t: Tracer, call: Call) -> Named:
    """src broadcast to the target's shape, stored there when the target is memory."""
    target, src = data(t, call, "target"), block(t, call, "src")
    wide = Block(t.emit("broadcast", [src.value], shape=target.shape))
    if isinstance(target, Block):
        return wide
    zeros: tuple[Operand, ...] = (Const(0, INDEX),) * len(target.shape)
    store_window(t, target, wide, zeros, full_extents(target.shape), call.node)
    return target


@handles("sel")
def sel(t: Tracer, call: Call) -> Named:
    """lhs where mask is not 0, else rhs."""
    mask = block(t, call, "mask")
    a, b = promoted(t, call, block(t, call, "lhs"), block(t, call, "rhs"))
    return Block(t.emit("sel", [mask.value, a.value, b.value]), a.valid)


@handles("min", "max")
def extreme(t: Tracer, call: Call) -> Named:
    """The smaller or larger of two scalars."""
    a, b = call["a"], call["b"]
    if (
        isinstance(a, Constant)
        and isinstance(b, Constant)
        and is_number(a.value)
        and is_number(b.value)
    ):
        return Constant((min if call.name == "min" else max)(a.value, b.value))
    for parameter in ("a", "b"):
        if isinstance(call[parameter], (Block, Tensor)):
            t.fail(
                InvalidOperationError,
                f"pl.{call.name} is for scalars, got {describe(call[parameter])}",
                call.at(parameter),
                help=f"write pl.{call.name}imum for blocks",
            )
    x, y = t.operand(a, call.at("a"), "a"), t.operand(b, call.at("b"), "b")
    return Number(t.scalar(f"s.{call.name}", x, y, node=call.node))


@handles("const")
def const(t: Tracer, call: Call) -> Named:
    """A scalar literal with a dtype."""
    dtype = dtype_argument(t, call, "dtype")
    value = constant(t, call, "value")
    if not is_number(value):
        t.fail(
            ParserTypeError,
            f"const: needs a number, got {value!r}",
            call.node,
            help="write pl.const(1.0, pl.FP32)",
        )
    return Number(Const(literal_as(t, call.name, value, dtype, call.node), dtype))
