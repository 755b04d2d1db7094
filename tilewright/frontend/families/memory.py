"""Fresh data, windows, elements, valid regions."""

from __future__ import annotations

import ast
import math
from typing import Any

from tilewright.dtypes import BOOL, FP16, FP32, INDEX, INT8, INT16, INT32, DType
from tilewright.errors import InvalidOperationError, ParserTypeError
from tilewright.frontend.operands import (
    Call,
    block,
    constant,
    data,
    dtype_argument,
    handles,
    literal_as,
    padded,
)
from tilewright.frontend.options import check_options
from tilewright.frontend.symbolic import Symbolic
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import (
    Block,
    Constant,
    Items,
    Named,
    Nothing,
    Number,
    Tensor,
    describe,
    to_number,
    with_valid,
)
from tilewright.frontend.windows import (
    as_source,
    check_valid,
    element_place,
    fit_rank,
    read_window,
    write_window,
)
from tilewright.ir.nodes import Const, Operand
from tilewright.language.types import AtomicType, MemorySpace, PadValue

ATOMIC_DTYPES = (FP32, FP16, INT32, INT16, INT8)


@handles("create_tensor")
def create_tensor(t: Tracer, call: Call) -> Named:
    """Memory in orchestration, a block in a region; zeros unless init_value says otherwise."""
    check_options(t, call)
    shape, dtype = (
        t.shape(call["shape"], call.at("shape"), "the shape", least=int(t.in_region)),
        dtype_argument(t, call, "dtype"),
    )
    value: Any = None
    if call.given("init_value"):
        value = literal_as(
            t, "create_tensor", constant(t, call, "init_value"), dtype, call.at("init_value")
        )
    if t.in_region:
        return _fresh(t, shape, dtype) if value is None else _filled(t, shape, dtype, value)
    tensor = t.emit(
        "create", [], None if t.hint != "v" else "t", shape=shape, dtype=dtype, value=value
    )
    return Tensor(tensor, tensor.name, fresh=True)


def check_place(t: Tracer, call: Call) -> None:
    """A block lies in one of a core's own memories; which one changes no value."""
    place = call.values.get("target_memory", Constant(MemorySpace.Vec))
    space = place.value if isinstance(place, Constant) else None
    if not isinstance(space, MemorySpace) or space is MemorySpace.DDR:
        found = describe(place) if not isinstance(space, MemorySpace) else f"{space}"
        t.fail(
            InvalidOperationError,
            f"{call.name}: target_memory must be a memory of a core, got {found}",
            call.at("target_memory"),
            help="pl.MemorySpace.Vec, Mat, Left, Right, Acc or Bias; pl.store writes to a tensor",
        )


@handles("create_tile", "create_l1")
def create_block(t: Tracer, call: Call) -> Named:
    """A block of zeros, shaped as written: `transpose` of `create_l1` says how a core would lay it out."""
    check_place(t, call)
    shape, dtype = (
        t.shape(call["shape"], call.at("shape"), "the shape"),
        dtype_argument(t, call, "dtype"),
    )
    return _fresh(t, shape, dtype)


@handles("full")
def full(t: Tracer, call: Call) -> Named:
    """A constant everywhere."""
    shape, dtype = (
        t.shape(call["shape"], call.at("shape"), "the shape"),
        dtype_argument(t, call, "dtype"),
    )
    value = constant(t, call, "value")
    return _filled(t, shape, dtype, literal_as(t, "full", value, dtype, call.at("value")))


def _filled(
    t: Tracer, shape: tuple[int, ...], dtype: DType, value: Any, fresh: bool = False
) -> Block:
    t.need_region()
    if value == 0 and not math.copysign(1, value) < 0:
        value = False if dtype == BOOL else 0.0 if dtype.is_float else 0
    return Block(t.emit("full", [], shape=shape, dtype=dtype, value=value, fresh=fresh or None))


def _fresh(t: Tracer, shape: tuple[int, ...], dtype: DType) -> Block:
    """A block that the author was promised no contents of; it holds zeros."""
    return _filled(t, shape, dtype, 0, fresh=True)


@handles("arange")
def arange(t: Tracer, call: Call) -> Named:
    """start + j along the last axis."""
    t.need_region()
    shape = t.shape(call["shape"], call.at("shape"), "the shape")
    dtype = dtype_argument(t, call, "dtype") if call.given("dtype") else INT32
    number = to_number(call["start"])
    if number is None or not number.dtype.is_integer:
        t.fail(
            InvalidOperationError,
            f"arange: start must be an integer scalar, got {describe(call['start'])}",
            call.at("start"),
            help="write pl.arange(0, [1, n]) and pl.cast the result",
        )
    start = number.operand
    if isinstance(start, Const):
        start = Const(literal_as(t, "arange", start.value, dtype, call.at("start")), dtype)
    elif number.dtype != dtype:
        if number.dtype != INDEX:
            t.fail(
                InvalidOperationError,
                f"arange: start is {number.dtype}, dtype is {dtype}",
                call.at("start"),
                help=f"pl.cast(start, pl.{dtype})",
            )
        start = t.emit("s.cast", [start], "s", to=dtype)
    descending = bool(constant(t, call, "descending")) or None
    return Block(t.emit("arange", [start], shape=shape, dtype=dtype, descending=descending))


@handles("slice")
def slice_(t: Tracer, call: Call) -> Named:
    """A window: a view in orchestration, a value in a region."""
    base = data(t, call, "t")
    rank = len(base.shape)
    shape = t.shape(call["shape"], call.at("shape"), "the shape of a window")
    offsets = t.indices(call["offset"], call.at("offset"), "the offset", rank)
    drop: tuple[int, ...] = ()
    if call.given("drop_dims"):
        axes = call["drop_dims"]
        if not isinstance(axes, Items):
            t.fail(
                ParserTypeError,
                f"slice: drop_dims must be a list of axes, got {describe(axes)}",
                call.at("drop_dims"),
                help="write drop_dims=[0]",
            )
        drop = tuple(
            sorted(t.extent(a, call.at("drop_dims"), "an axis") % rank for a in axes.values)
        )
    return read_window(
        t,
        base,
        shape,
        offsets,
        call.node,
        valid=_valid(t, call, "valid_shape", rank),
        drop=drop,
        overhangs=bool(constant(t, call, "clamp")),
        pad=pad_number(t, call, base.dtype) if call.given("pad_value") else None,
    )


def _valid(t: Tracer, call: Call, parameter: str, rank: int) -> tuple[Operand, ...] | None:
    if not call.given(parameter):
        return None
    return t.indices(call[parameter], call.at(parameter), "the valid shape", rank)


@handles("load")
def load(t: Tracer, call: Call) -> Named:
    """A window of memory as a block."""
    t.need_region()
    check_place(t, call)
    base = data(t, call, "t")
    rank = len(base.shape)
    offsets = t.indices(call["offsets"], call.at("offsets"), "the offsets", rank)
    shape = t.shape(call["shapes"], call.at("shapes"), "the shape of a window")
    valid = _valid(t, call, "valid_shapes", rank) or _valid(t, call, "valid_shape", rank)
    window = read_window(
        t, base, shape, offsets, call.node, valid=valid, overhangs=bool(constant(t, call, "clamp"))
    )
    assert isinstance(window, Block)
    if not constant(t, call, "transpose"):
        return window
    tile = t.emit("transpose", [window.value], axis1=rank - 2, axis2=rank - 1)
    v = window.valid
    return Block(tile, None if v is None else (*v[:-2], v[-1], v[-2]))


@handles("tile.extract")
def extract(t: Tracer, call: Call) -> Named:
    """A window of a 2-D block."""
    check_place(t, call)
    base = block(t, call, "tile")
    shape = t.shape(call["shape"], call.at("shape"), "the shape of a window")
    offsets = tuple(t.index(call[p], call.at(p), p) for p in ("row", "col"))
    return read_window(t, base, shape, offsets, call.node)


@handles("assemble")
def assemble(t: Tracer, call: Call) -> Named:
    """source put into target at offset."""
    target = data(t, call, "target")
    source = as_source(t, call["source"], call.at("source"), "assemble")
    return _put(t, call, target, source, "offset")


@handles("store")
def store(t: Tracer, call: Call) -> Named:
    """A block put into a tensor at offsets."""
    target = data(t, call, "t")
    source = as_source(t, call["tile"], call.at("tile"), "store")
    if call.given("shapes"):
        shape = t.shape(call["shapes"], call.at("shapes"), "the shapes of a store")
        if shape != source.shape:
            source = Block(t.emit("reshape", [source.value], shape=shape))
    return _put(t, call, target, source, "offsets")


def _put(
    t: Tracer, call: Call, target: Tensor | Block, source: Block, offsets: str
) -> Tensor | Block:
    rank = len(target.shape)
    where = t.indices(call[offsets], call.at(offsets), "the offset", rank)
    source = fit_rank(t, source, rank)
    return write_window(
        t, target, source, source.shape, where, call.node, atomic=_atomic(t, call, target)
    )


def _atomic(t: Tracer, call: Call, target: Tensor | Block) -> str | None:
    value = call["atomic"]
    kind = value.value if isinstance(value, Constant) else None
    if not isinstance(kind, AtomicType):
        t.fail(
            ParserTypeError,
            f"atomic must be a pl.AtomicType, got {describe(value)}",
            call.at("atomic"),
            help="write atomic=pl.AtomicType.Add",
        )
    if kind is AtomicType.None_:
        return None
    if target.dtype not in ATOMIC_DTYPES:
        t.fail(
            InvalidOperationError,
            f"atomic add works on {', '.join(map(str, ATOMIC_DTYPES))}, got {target.dtype}",
            call.node,
            help="add into an FP32 tensor, and pl.cast at the end",
        )
    return "add"


@handles("move")
def move(t: Tracer, call: Call) -> Named:
    """The block itself; a tensor is loaded."""
    check_place(t, call)
    return block(t, call, "x")


@handles("no_dep")
def no_dep(t: Tracer, call: Call) -> Named:
    """The tensor itself."""
    return data(t, call, "t")


@handles("gather_row")
def gather_row(t: Tracer, call: Call) -> Named:
    """acc with a window of src at dst_offset."""
    acc, src = block(t, call, "acc"), data(t, call, "src")
    rank = len(src.shape)
    shape = t.shape(call["shapes"], call.at("shapes"), "the shapes")
    offsets = t.indices(call["src_offset"], call.at("src_offset"), "the source offset", rank)
    where = t.indices(
        call["dst_offset"], call.at("dst_offset"), "the destination offset", len(acc.shape)
    )
    window = read_window(
        t, src, shape, offsets, call.node, valid=_valid(t, call, "valid_shape", rank)
    )
    assert isinstance(window, Block)
    if constant(t, call, "transpose"):
        v = window.valid
        turned = t.emit("transpose", [window.value], axis1=rank - 2, axis2=rank - 1)
        window = Block(turned, None if v is None else (*v[:-2], v[-1], v[-2]))
    window = fit_rank(t, window, len(acc.shape))
    return write_window(t, acc, window, window.shape, where, call.node)


@handles("read")
def read(t: Tracer, call: Call) -> Named:
    """One element."""
    base = data(t, call, "t")
    indices = t.indices(call["indices"], call.at("indices"), "the indices", len(base.shape))
    return read_element(t, base, indices, call.node)


def read_element(
    t: Tracer, base: Tensor | Block, indices: tuple[Operand, ...], node: ast.AST
) -> Number:
    """`base[i, j]` as a scalar."""
    _check_element(t, base, indices, node)
    if isinstance(base, Tensor):
        memory, indices = element_place(t, base, indices, node)
        element = t.emit("read", [memory, *indices], None if t.hint != "v" else "s")
        # The same element read twice with no write between is the same number, so extents may
        # cancel it.
        places = (t.symbolic(i).key for i in indices)
        t.symbols.define(element, Symbolic(0, {("read", memory.name, t.writes, *places): 1}))
        return Number(element)
    t.need_region()
    return Number(t.emit("element", [base.value, *indices], "s"))


def _check_element(
    t: Tracer, base: Tensor | Block, indices: tuple[Operand, ...], node: ast.AST
) -> None:
    for axis, (i, n) in enumerate(zip(indices, base.shape, strict=True)):
        if isinstance(i, Const) and not 0 <= i.value < n and not (t.dead or t.doubts):
            t.fail(
                InvalidOperationError,
                f"index {i.value} on axis {axis} is outside {describe(base)}",
                node,
                help=f"indices count from 0 to {n - 1}",
                notes=t.notes(node),
            )


@handles("write")
def write(t: Tracer, call: Call) -> Named:
    """Store one element in place."""
    target = data(t, call, "t")
    indices = t.indices(call["indices"], call.at("indices"), "the indices", len(target.shape))
    _check_element(t, target, indices, call.node)
    value = call["value"]
    number = to_number(value)
    if number is None:
        t.fail(
            InvalidOperationError,
            f"write: the value must be a scalar, got {describe(value)}",
            call.at("value"),
            help=f"{ast.unparse(call.at('t'))}[…] = block stores a block; pl.read takes a scalar out of one",
        )
    operand = number.operand
    if isinstance(value, Constant):
        operand = Const(
            literal_as(t, "write", value.value, target.dtype, call.at("value")), target.dtype
        )
    else:
        operand = as_integer(t, number, target.dtype)
    if isinstance(target, Tensor):
        memory, indices = element_place(t, target, indices, call.node)
        t.note_write(target)
        t.builder.op("write", [memory, operand, *indices])
        return Nothing()
    t.need_region()
    new = Block(t.emit("with_element", [target.value, operand, *indices]), target.valid)
    name = call.nodes["t"]
    if not isinstance(name, ast.Name):
        t.fail(
            InvalidOperationError,
            "write: a block must be named to be written to",
            call.at("t"),
            help="bind the block to a name first",
        )
    t.update(name.id, new)
    return Nothing()


def as_integer(t: Tracer, number: Number, dtype: DType) -> Operand:
    """An integer as one of another width, for a place in memory of that width; others as they are."""
    if number.dtype == dtype or not (number.dtype.is_integer and dtype.is_integer):
        return number.operand
    return t.emit("s.cast", [number.operand], "s", to=dtype)


@handles("set_validshape")
def set_validshape(t: Tracer, call: Call) -> Named:
    """The same data, valid in its leading rows and columns."""
    x = block(t, call, "x")
    if len(x.shape) != 2:
        t.fail(
            InvalidOperationError,
            f"set_validshape takes a 2-D block, got {describe(x)}",
            call.node,
            help="pl.reshape it to two axes first",
        )
    valid = tuple(t.index(call[p], call.at(p), p) for p in ("rows", "cols"))
    check_valid(t, valid, x.shape, call.node)
    return with_valid(t.emit("limit", [x.value, *valid]), valid)


@handles("fillpad")
def fillpad(t: Tracer, call: Call) -> Named:
    """Invalid elements replaced; fully valid."""
    x = block(t, call, "x")
    return padded(t, x, pad_number(t, call, x.dtype))


def pad_number(t: Tracer, call: Call, dtype: DType) -> int | float:
    """The pad value as a number of the dtype."""
    pad = constant(t, call, "pad_value")
    kinds = {0: PadValue.zero, math.inf: PadValue.max, -math.inf: PadValue.min}
    kind = (
        pad
        if isinstance(pad, PadValue)
        else kinds.get(pad)
        if isinstance(pad, (int, float))
        else None
    )
    if kind is None:
        t.fail(
            InvalidOperationError,
            f"{call.name}: the pad value must be zero, min or max, got {pad!r}",
            call.at("pad_value"),
            help="pl.PadValue.zero, .min or .max, 0, math.inf or -math.inf",
        )
    if kind is PadValue.zero:
        return 0.0 if dtype.is_float else 0
    if dtype.is_float:
        return -math.inf if kind is PadValue.min else math.inf
    low, high = dtype.int_range()
    return low if kind is PadValue.min else high
