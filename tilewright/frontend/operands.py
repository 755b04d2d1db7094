"""What the operator families share: a bound call, and operands brought into shape."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tilewright.dtypes import ALL, BOOL, FP32, INDEX, NAMED_ONLY, DType, promote
from tilewright.errors import InvalidOperationError, ParserTypeError
from tilewright.frontend.complaints import FROM_PYTHON
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import (
    Block,
    Constant,
    Named,
    Number,
    Overhang,
    Tensor,
    describe,
    full_extents,
    to_number,
    with_valid,
)
from tilewright.ir.nodes import Const, Operand, Value


@dataclass(frozen=True, slots=True)
class Call:
    """A word with its arguments by name, defaults filled in, and the nodes of those that were
    written.
    """

    name: str
    node: ast.Call
    values: dict[str, Named]
    nodes: dict[str, ast.expr]

    def __getitem__(self, parameter: str) -> Named:
        return self.values[parameter]

    def at(self, parameter: str) -> ast.AST:
        """Where to blame an argument."""
        return self.nodes.get(parameter, self.node)

    def given(self, parameter: str) -> bool:
        value = self.values[parameter]
        return not (isinstance(value, Constant) and value.value is None)


Handler = Callable[[Tracer, Call], Named]
HANDLERS: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Enter a function as the front end's reading of these words."""

    def enter(handler: Handler) -> Handler:
        for name in names:
            assert name not in HANDLERS, f"{name!r} is read twice"
            HANDLERS[name] = handler
        return handler

    return enter


def load_whole(t: Tracer, tensor: Tensor, hint: str | None = None) -> Block:
    """A tensor in memory as a block, all of it."""
    shape = tensor.type.shape
    zeros = (Const(0, INDEX),) * len(shape)
    whole = Overhang(zeros, shape, full_extents(shape), ())
    return load_window(t, tensor.value, tensor.overhang or whole, hint)


def load_window(t: Tracer, tensor: Value, window: Overhang, hint: str | None = None) -> Block:
    """A window of a tensor in memory as a block."""
    t.need_region()
    tile = t.emit(
        "load",
        [tensor, *window.offsets, *window.valid],
        hint,
        shape=window.shape,
        drop=window.drop or None,
        outside="zero" if window.zeros else None,
    )
    kept = tuple(v for axis, v in enumerate(window.valid) if axis not in window.drop)
    return padded(t, with_valid(tile, kept), window.pad)


def padded(t: Tracer, x: Block, pad: int | float | None) -> Block:
    """The block with `pad` where it is not valid; itself without one."""
    if pad is None or x.valid is None:
        return x
    return Block(t.emit("fillpad", [x.value, *x.valid], value=pad))


def block(t: Tracer, call: Call, parameter: str) -> Block:
    """An operand as a block.

    A tensor in memory is loaded whole. InvalidOperationError for other kinds.
    """
    value = call[parameter]
    if isinstance(value, Block):
        t.need_region()
        return value
    if isinstance(value, Tensor):
        node = call.nodes.get(parameter)
        return load_whole(t, value, node.id if isinstance(node, ast.Name) else "v")
    t.fail(
        InvalidOperationError,
        f"{call.name}: expected a tensor or a block as {parameter}, got {describe(value)}",
        call.at(parameter),
        help="scalars go second" if to_number(value) else "pass a tensor or a block",
    )


def data(t: Tracer, call: Call, parameter: str) -> Tensor | Block:
    """An operand that is a tensor or a block, as it is."""
    value = call[parameter]
    if isinstance(value, (Tensor, Block)):
        return value
    t.fail(
        InvalidOperationError,
        f"{call.name}: expected a tensor or a block as {parameter}, got {describe(value)}",
        call.at(parameter),
        help="pass a tensor, or a block: pl.full makes one of a number",
    )


def dtype_argument(t: Tracer, call: Call, parameter: str) -> DType:
    value = call[parameter]
    if isinstance(value, Constant) and isinstance(value.value, DType):
        if value.value in NAMED_ONLY:
            t.fail(
                ParserTypeError,
                f"{call.name}: {value.value} is a name only, a CPU has nothing to hold it in",
                call.at(parameter),
                help="use pl.INT8, or pl.FP8E4M3FN",
            )
        return value.value
    t.fail(
        ParserTypeError,
        f"{call.name}: {parameter} must be a dtype such as pl.FP32, got {describe(value)}",
        call.at(parameter),
        help=_dtype_like(value),
    )


def _dtype_like(value: Named) -> str:
    """The dtype that something else than one must mean: a text, or Torch's or NumPy's own."""
    name = str(value.value).rpartition(".")[2] if isinstance(value, Constant) else ""
    found = next((d for d in ALL if name and name.lower() in (d.torch, d.name.lower())), FP32)
    return f"write pl.{found}"


def constant(t: Tracer, call: Call, parameter: str) -> Any:
    """A compile-time Python value."""
    return t.constant(call[parameter], call.at(parameter), f"{call.name}: {parameter}")


def axis_argument(t: Tracer, call: Call, parameter: str, rank: int) -> int:
    """A constant axis; negative ones count from the end."""
    axis = constant(t, call, parameter)
    if isinstance(axis, bool) or not isinstance(axis, int) or not -rank <= axis < rank:
        t.fail(
            InvalidOperationError,
            f"{call.name}: {parameter} must be an axis of {rank}, got {axis!r}",
            call.at(parameter),
            help=f"axes count from 0 to {rank - 1}, or from -1 to {-rank} from the end",
        )
    return axis % rank


def cast_block(t: Tracer, x: Block, to: DType, mode: str = "rint") -> Block:
    """The block in another dtype, itself if it has it."""
    if x.dtype == to:
        return x
    return Block(t.emit("cast", [x.value], to=to, mode=mode), x.valid)


def promoted(t: Tracer, call: Call, a: Block, b: Block) -> tuple[Block, Block]:
    """Two operands in their common dtype."""
    to = promote(a.dtype, b.dtype)
    if to is None:
        t.fail(
            InvalidOperationError,
            f"{call.name}: {a.dtype} and {b.dtype} have no common dtype",
            call.node,
            help="pl.cast one of them first",
            notes=t.notes(call.node),
        )
    return cast_block(t, a, to), cast_block(t, b, to)


def scalar_like(t: Tracer, call: Call, parameter: str, dtype: DType) -> Operand:
    """A scalar operand for a block of `dtype`: FP32 beside floats, the block's own dtype beside
    integers.
    """
    number = to_number(call[parameter])
    node = call.at(parameter)
    if number is None:
        t.fail(
            InvalidOperationError,
            f"{call.name}: expected a block or a scalar as {parameter},"
            f" got {describe(call[parameter])}",
            node,
            help=FROM_PYTHON
            if isinstance(call[parameter], Constant)
            else "pass a block, or a scalar",
        )
    return convert_scalar(t, call.name, number, dtype, node)


def convert_scalar(t: Tracer, what: str, number: Number, dtype: DType, node: ast.AST) -> Operand:
    operand = number.operand
    if dtype.is_float:
        if isinstance(operand, Const):
            return Const(float(literal_as(t, what, operand.value, dtype, node)), FP32)
        return operand if operand.type.dtype == FP32 else t.emit("s.cast", [operand], "s", to=FP32)
    if isinstance(operand, Const):
        return Const(literal_as(t, what, operand.value, dtype, node), dtype)
    if number.dtype.is_float:
        t.fail(
            InvalidOperationError,
            f"{what}: an integer {dtype} block with {describe(number)}",
            node,
            help=f"pl.cast(…, pl.{dtype}) the scalar, or pl.cast the block to FP32",
        )
    return operand if number.dtype == dtype else t.emit("s.cast", [operand], "s", to=dtype)


def literal_as(t: Tracer, what: str, value: Any, dtype: DType, node: ast.AST) -> int | float | bool:
    """A Python number as an element of `dtype`; InvalidOperationError when it does not fit."""
    if isinstance(value, (bool, int, float)):
        if dtype.is_float:
            return float(value)
        if dtype == BOOL:
            return bool(value)
        if float(value).is_integer():
            low, high = dtype.int_range()
            if low <= value <= high:
                return int(value)
            t.fail(
                InvalidOperationError,
                f"{what}: {value!r} is outside {dtype}, which holds {low} to {high}",
                node,
                help="use a smaller number, or pl.cast the block to a wider dtype",
            )
    t.fail(
        InvalidOperationError,
        f"{what}: {value!r} is no {dtype}",
        node,
        help="use an integer, or a block of floats",
    )


def clamp(t: Tracer, value: Operand, low: int, high: int) -> Operand:
    """min(max(value, low), high) as scalars."""
    return t.scalar("s.min", t.scalar("s.max", value, Const(low, INDEX)), Const(high, INDEX))
