"""Element-wise operators on tiles. Same dtype in, same dtype out, but for `cast`, `cmp` and `sel`.

The front end has already made dtypes equal and turned `row_expand_mul` and its
siblings into the plain operator: a `[M, 1]` or `[1, N]` operand broadcasts.
"""

from __future__ import annotations

from tilewright.dtypes import FP8, FP32, DType
from tilewright.ir.nodes import Operand
from tilewright.ir.ops.table import (
    Attrs,
    RuleBroken,
    dims,
    operator,
    operators,
    same_dtype,
    scalar,
    tile,
)
from tilewright.ir.types import ScalarType, TileType, Type

ARITHMETIC = ("add", "sub", "mul", "div", "rem", "maximum", "minimum")
BITWISE = ("and_", "or_", "xor", "shl", "shr")  # on integers
BINARY = (*ARITHMETIC, *BITWISE)
UNARY = ("neg", "abs", "exp", "log", "sqrt", "rsqrt", "recip", "sin", "cos", "relu", "not_")
FLOAT_ONLY = ("exp", "log", "sqrt", "rsqrt", "recip", "sin", "cos")
INTEGER_ONLY = (*BITWISE, "not_")
ROUNDING_MODES = ("none", "rint", "round", "floor", "ceil", "trunc", "odd")


def broadcast_shapes(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """NumPy's rule: align at the right, extents equal or 1."""
    rank = max(len(a), len(b))
    left = (1,) * (rank - len(a)) + a
    right = (1,) * (rank - len(b)) + b
    out = []
    for x, y in zip(left, right, strict=True):
        if x != y and 1 not in (x, y):
            raise RuleBroken(
                f"shapes {dims(a)} and {dims(b)} do not broadcast",
                help="axes must agree or be 1; pl.reshape or pl.slice one of them",
            )
        out.append(max(x, y))
    return tuple(out)


def computable(a: TileType) -> None:
    """FP8 is for storing, moving and casting."""
    if a.dtype in FP8:
        raise RuleBroken(f"arithmetic on a {a.dtype} block", help="pl.cast it to pl.FP32 first")


@operators(ARITHMETIC, "tile, tile or scalar")
def _binary(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """a op b, broadcast. With 16-bit floats: computed in FP32, rounded once to nearest even.

    Integers wrap; div truncates, rem has the sign of b, and both give 0 by a zero.
    """
    a = tile(operands[0], "the first operand")
    computable(a)
    if isinstance(operands[1].type, ScalarType):
        s = scalar(operands[1], "the second operand")
        if s.dtype.is_float and not a.dtype.is_float:
            raise RuleBroken(
                f"a {a.dtype} block with a {s.dtype} scalar", help="pl.cast the block first"
            )
        return (a,)
    b = tile(operands[1], "the second operand")
    same_dtype(a, b, "both operands")
    return (TileType(broadcast_shapes(a.shape, b.shape), a.dtype),)


@operators(BITWISE, "tile, tile or scalar")
def _bitwise(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """a op b on the bits of integers, broadcast.

    A count is taken as unsigned: shifting by the width or more leaves 0, or the sign of a signed `shr`.
    """
    _integers_only(tile(operands[0], "the first operand"))
    return _binary(operands, attrs)


def _integers_only(a: TileType) -> None:
    if a.dtype.is_float:
        raise RuleBroken(
            f"bits of a {a.dtype} block", help="pl.cast it to an integer dtype of its width first"
        )


@operator("not_", "tile")
def _not(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Every bit of an integer turned over; of a BOOL, the other one."""
    a = tile(operands[0], "the operand")
    _integers_only(a)
    return (a,)


@operators([name for name in UNARY if name != "not_"], "tile")
def _unary(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """op a. Full precision: rsqrt is 1 / sqrt, recip is 1 / x, both IEEE."""
    a = tile(operands[0], "the operand")
    computable(a)
    return (a,)


@operator("cmp", "tile, tile or scalar")
def _cmp(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """1 where attrs['kind'] (eq ne lt le gt ge) holds, else 0, in the operands' dtype."""
    if attrs["kind"] not in ("eq", "ne", "lt", "le", "gt", "ge"):
        raise RuleBroken(
            f"unknown comparison {attrs['kind']!r}", help="0 eq, 1 ne, 2 lt, 3 le, 4 gt, 5 ge"
        )
    return _binary(operands, attrs)


@operator("sel", "mask, tile, tile")
def _sel(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """a where mask is not 0, else b."""
    mask, a, b = (tile(x, "operand") for x in operands)
    same_dtype(a, b, "both choices")
    return (TileType(broadcast_shapes(mask.shape, broadcast_shapes(a.shape, b.shape)), a.dtype),)


@operator("cast", "tile")
def _cast(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Convert to attrs['to'], rounding as attrs['mode'] says, saturating into integers."""
    a = tile(operands[0], "the operand")
    if attrs["mode"] not in ROUNDING_MODES:
        raise RuleBroken(
            f"unknown rounding mode {attrs['mode']!r}", help=f"one of {', '.join(ROUNDING_MODES)}"
        )
    if a.dtype == attrs["to"]:
        raise RuleBroken(f"the operand is {a.dtype} already", help="leave the cast out")
    return (TileType(a.shape, attrs["to"]),)


@operator("broadcast", "tile")
def _broadcast(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """The operand repeated to attrs['shape']."""
    a, shape = tile(operands[0], "the operand"), tuple(attrs["shape"])
    if broadcast_shapes(a.shape, shape) != shape:
        raise RuleBroken(
            f"{dims(a.shape)} does not broadcast to {dims(shape)}",
            help="an axis of extent 1 is repeated, others must agree",
        )
    return (TileType(shape, a.dtype),)


@operator("gather_mask", "tile")
def _gather_mask(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Columns kept by attrs['pattern'] (`P0101` keeps even ones); attrs['to'] reinterprets bits."""
    a = tile(operands[0], "the operand")
    stride, _ = mask_pattern(attrs["pattern"])
    if a.shape[-1] % stride:
        raise RuleBroken(
            f"pattern {attrs['pattern']} needs columns in multiples of {stride}, got {a.shape[-1]}",
            help=f"pl.slice or pl.concat to a multiple of {stride} columns",
        )
    to = attrs.get("to") or a.dtype
    if to.bits != a.dtype.bits:
        raise RuleBroken(
            f"output_dtype reinterprets bits: {a.dtype} and {to} differ in width",
            help="pl.cast the result instead, or name a dtype of the same width",
        )
    return (TileType((*a.shape[:-1], a.shape[-1] // stride), to),)


@operator("scatter_mask", "tile, dst")
def _scatter_mask(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """`dst` with the columns named by attrs['pattern'] replaced by the tile's columns in order."""
    a, dst = tile(operands[0], "the source"), tile(operands[1], "dst")
    same_dtype(a, dst, "source and dst")
    stride, _ = mask_pattern(attrs["pattern"])
    if (*a.shape[:-1], a.shape[-1] * stride) != dst.shape:
        raise RuleBroken(
            f"pattern {attrs['pattern']} scatters {dims(a.shape)} into {stride} times its columns,"
            f" got {dims(dst.shape)}",
            help=f"give dst {stride} times the columns",
        )
    return (dst,)


@operator("interleave", "even, odd")
def _interleave(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """out[…, 2j] = even[…, j], out[…, 2j+1] = odd[…, j]."""
    even, odd = (tile(x, "operand") for x in operands)
    same_dtype(even, odd, "both operands")
    if even.shape != odd.shape:
        raise RuleBroken(
            f"shapes {dims(even.shape)} and {dims(odd.shape)} differ",
            help="slice both with the same extents",
        )
    return (TileType((*even.shape[:-1], 2 * even.shape[-1]), even.dtype),)


def mask_pattern(name: str) -> tuple[int, int]:
    """(stride, phase) of a mask pattern: it keeps columns j with j mod stride == phase."""
    patterns = {
        "P0101": (2, 0),
        "P1010": (2, 1),
        "P0001": (4, 0),
        "P0010": (4, 1),
        "P0100": (4, 2),
        "P1000": (4, 3),
    }
    patterns["P1111"] = (1, 0)
    if name not in patterns:
        raise RuleBroken(f"unknown mask pattern {name!r}", help=f"one of {', '.join(patterns)}")
    return patterns[name]


def compute_dtype(dtype: DType) -> DType:
    """The dtype that arithmetic on `dtype` happens in: narrow floats compute in FP32."""
    return FP32 if dtype.is_float and dtype.bits < FP32.bits else dtype
