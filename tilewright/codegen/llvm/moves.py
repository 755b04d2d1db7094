"""Data moved across rows: what a sweep cannot do. Plain loops, element by element or row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.codegen.llvm.lanes import Lanes
from tilewright.codegen.llvm.places import Extent, Place, value_of
from tilewright.codegen.llvm.rows import LANES, Chunk, RowEmitter
from tilewright.codegen.llvm.types import I64, const, counted, memory_type, vector, zero
from tilewright.dtypes import FP16, DType
from tilewright.ir.nodes import Op
from tilewright.ir.ops.elementwise import compute_dtype
from tilewright.ir.typed import shape_of, tile_type_of

if TYPE_CHECKING:
    from tilewright.codegen.llvm.function import FunctionEmitter

Indices = tuple[Extent, ...]


def each(
    owner: FunctionEmitter,
    bounds: Sequence[Extent],
    body: Callable[[Indices], None],
    done: Indices = (),
) -> None:
    """`body` at every index below the bounds, last axis fastest."""
    if len(done) == len(bounds):
        body(done)
        return
    with counted(owner.b, 0, value_of(bounds[len(done)]), name="at") as loop:
        each(owner, bounds, body, (*done, loop.i))


def load(owner: FunctionEmitter, place: Place, at: Indices) -> ir.Value:
    return owner.b.load(place.at(owner.b, at), typ=memory_type(place.dtype))


def fill(owner: FunctionEmitter, place: Place, element: ir.Value) -> None:
    """Every element of a tensor."""
    each(owner, place.shape, lambda at: owner.b.store(element, place.at(owner.b, at)))


def clear_tile(owner: FunctionEmitter, place: Place) -> None:
    """Every element 0, so that what a window does not cover is defined."""
    fill(owner, place, zero(memory_type(place.dtype)))


def gather_elements(owner: FunctionEmitter, target: Place, source: Place) -> None:
    """Copy the valid elements of a place whose columns are not next to each other."""
    if not source.all_valid:
        clear_tile(owner, target)
    each(
        owner,
        source.valid,
        lambda at: owner.b.store(load(owner, source, at), target.at(owner.b, at)),
    )


def _result(owner: FunctionEmitter, op: Op, place: Place) -> None:
    owner.env[op.result] = place
    owner.owned.add(op.result)


def emit_store(owner: FunctionEmitter, op: Op) -> None:
    """A store that no sweep could do: atomic, or to columns that are not next to each other."""
    target, source = owner.window_place(op), owner.place(op.operands[0])
    bounds = target.valid

    def put(at: Indices) -> None:
        element = load(owner, source, at)
        address = target.at(owner.b, at)
        if op.attr("atomic"):
            old = owner.b.load(address, typ=memory_type(target.dtype))
            element = owner.lanes.binary("add", target.dtype, old, element)
        owner.b.store(element, address)

    each(owner, bounds, put)


def emit_transpose(owner: FunctionEmitter, op: Op) -> None:
    source = owner.place(op.operands[0])
    i, j = op.attr("axis1"), op.attr("axis2")
    target = owner.new_tile(tile_type_of(op.result))

    def put(at: Indices) -> None:
        turned = list(at)
        turned[i], turned[j] = turned[j], turned[i]
        owner.b.store(_valid_or_zero(owner, source, tuple(turned)), target.at(owner.b, at))

    each(owner, target.shape, put)
    _result(owner, op, target)


def emit_reshape(owner: FunctionEmitter, op: Op) -> None:
    """An alias when only axes of extent 1 come or go, else a copy in row-major order."""
    source = owner.place(op.operands[0])
    shape = shape_of(op.result)
    if (
        [n for n in shape if n != 1] == [n for n in source.shape if n != 1]
        and source.all_valid
        and shape[-1] != 1
    ):
        strides = _strides_of(source, shape)
        alias = Place(source.address, source.dtype, shape, strides, shape, source.padded)
        if alias.is_dense:
            owner.env[op.result] = alias
            return
    target = owner.new_tile(tile_type_of(op.result))
    b = owner.b

    def put(at: Indices) -> None:
        flat: ir.Value = const(I64, 0)
        for i, n in zip(at, source.shape, strict=True):
            flat = b.add(b.mul(flat, const(I64, n)), value_of(i))
        where: list[Extent] = []
        for n in reversed(shape):
            where.insert(0, b.srem(flat, const(I64, n)))
            flat = b.sdiv(flat, const(I64, n))
        b.store(_valid_or_zero(owner, source, at), target.at(b, where))

    each(owner, source.shape, put)
    _result(owner, op, target)


def _strides_of(source: Place, shape: Sequence[int]) -> tuple[int, ...]:
    """Strides for `shape`, which differs from the source's in axes of extent 1 only."""
    own = [stride for n, stride in zip(source.shape, source.strides, strict=True) if n != 1]
    return tuple(own.pop(0) if n != 1 else 0 for n in shape)


def _valid_or_zero(owner: FunctionEmitter, place: Place, at: Indices) -> ir.Value:
    """An element, or 0 where the place is not valid: nothing is read there."""
    if place.all_valid:
        return load(owner, place, at)
    b = owner.b
    ok: ir.Value | None = None
    for i, n, extent in zip(at, place.valid, place.shape, strict=True):
        if n != extent:
            here = b.icmp_signed("<", value_of(i), value_of(n))
            ok = here if ok is None else b.and_(ok, here)
    assert ok is not None
    element = b.load(b.select(ok, place.at(b, at), owner.spare()), typ=memory_type(place.dtype))
    return b.select(ok, element, zero(element.type))


def emit_concat(owner: FunctionEmitter, op: Op) -> None:
    first, second = (owner.place(x) for x in op.operands)
    target = owner.new_tile(tile_type_of(op.result))
    for source, column in ((first, 0), (second, first.shape[1])):
        _copy_elements(owner, owner.cut(target, [0, column], source.shape), source)
    _result(owner, op, target)


def _copy_elements(owner: FunctionEmitter, target: Place, source: Place) -> None:
    each(
        owner,
        target.valid,
        lambda at: owner.b.store(_valid_or_zero(owner, source, at), target.at(owner.b, at)),
    )


def emit_extract(owner: FunctionEmitter, op: Op) -> None:
    """A window of a tile is the same memory: tiles do not change while somebody may read them. A column of one
    as a row of its own is a copy, because rows are read by the vector."""
    source = owner.place(op.operands[0])
    starts = [owner.extent(x) for x in op.operands[1:]]
    shape = op.attr("shape")
    counts: list[Extent] = []
    for start, n, valid, extent in zip(starts, shape, source.valid, source.shape, strict=True):
        counts.append(n if valid == extent else _overlap(owner, start, n, valid))
    window = owner.cut(source, starts, shape, op.attr("drop") or (), counts)
    if window.is_dense:
        owner.env[op.result] = window
        return
    target = owner.new_tile(tile_type_of(op.result))
    gather_elements(owner, target, window)
    _result(owner, op, target)


def _overlap(owner: FunctionEmitter, start: Extent, n: int, valid: Extent) -> Extent:
    """How many of the `n` elements from `start` lie below `valid`."""
    if isinstance(start, int) and isinstance(valid, int):
        return max(0, min(n, valid - start))
    b = owner.b
    left = b.sub(value_of(valid), value_of(start))
    left = b.select(b.icmp_signed("<", left, const(I64, 0)), const(I64, 0), left)
    return b.select(b.icmp_signed("<", left, const(I64, n)), left, const(I64, n))


def emit_insert(owner: FunctionEmitter, op: Op) -> None:
    rank = len(shape_of(op.result))
    source = owner.place(op.operands[1])
    target = owner.owned_tile(op.operands[0])
    starts = [owner.extent(x) for x in op.operands[2 : 2 + rank]]
    counts = [owner.extent(x) for x in op.operands[2 + rank :]]
    window = owner.cut(target, starts, op.attr("shape"), op.attr("drop") or (), counts)
    if window.is_dense and window.shape[-1] != 1:
        RowEmitter(owner).copy(window, source)
    else:
        _copy_elements(owner, window, source)
    _result(owner, op, target)


def emit_gather(owner: FunctionEmitter, op: Op) -> None:
    """Indices are held to the source's extent: one outside gives what is not defined, and reads nothing else."""
    source, index = (owner.place(x) for x in op.operands)
    target, dim, b = owner.new_tile(tile_type_of(op.result)), op.attr("dim"), owner.b
    last = const(I64, source.shape[dim] - 1)

    def put(at: Indices) -> None:
        wanted = b.sext(_valid_or_zero(owner, index, at), I64)
        wanted = b.select(b.icmp_signed("<", wanted, const(I64, 0)), const(I64, 0), wanted)
        wanted = b.select(b.icmp_signed(">", wanted, last), last, wanted)
        where = (*at[:dim], wanted, *at[dim + 1 :])
        b.store(_valid_or_zero(owner, source, where), target.at(b, at))

    each(owner, target.shape, put)
    _result(owner, op, target)


def emit_element(owner: FunctionEmitter, op: Op) -> None:
    source = owner.place(op.operands[0])
    at = tuple(owner.extent(x) for x in op.operands[1:])
    owner.env[op.result] = owner.element_as_scalar(source.dtype, _valid_or_zero(owner, source, at))


def emit_with_element(owner: FunctionEmitter, op: Op) -> None:
    target = owner.owned_tile(op.operands[0])
    at = [owner.extent(x) for x in op.operands[2:]]
    owner.b.store(owner.scalar_as(op.operands[1], target.dtype), target.at(owner.b, at))
    _result(owner, op, target)


_JOIN = {"col_sum": "add", "col_max": "maximum", "col_min": "minimum"}


def emit_column_reduction(owner: FunctionEmitter, op: Op) -> None:
    """Down the rows, sixteen columns at a time; one accumulator a column, rows in order.

    16-bit floats add up in FP32 and round once, but an FP16 sum rounds every step (language.md 5.7).
    """
    source = owner.place(op.operands[0])
    dtype: DType = source.dtype
    rows = owner.extent(op.operands[-2])
    target = owner.new_tile(tile_type_of(op.result))
    sum_dtype = dtype if (dtype, op.name) == (FP16, "col_sum") else compute_dtype(dtype)
    start = _identity(op.name, sum_dtype, LANES)
    emitter = RowEmitter(owner)

    def column_chunk(leading: Indices, chunk: Chunk) -> None:
        with counted(owner.b, 0, value_of(rows), 1, [start], name="down") as loop:
            emitter.rows = [*leading, loop.i]
            lanes = emitter.load_chunk(source, chunk)
            lanes = lanes if sum_dtype == dtype else owner.lanes.widen(dtype, lanes)
            loop.next = [owner.lanes.binary(_JOIN[op.name], sum_dtype, loop.carried[0], lanes)]
        emitter.rows = [*leading, 0]
        total = loop.results[0]
        emitter.put(
            total if sum_dtype == dtype else owner.lanes.narrow(dtype, total), target, chunk
        )

    def matrix(leading: Indices) -> None:
        if source.shape[-1] == 1:
            _one_column(owner, op, source, target, leading, rows)
        else:
            emitter.over_columns(source.shape[-1], lambda chunk: column_chunk(leading, chunk))

    each(owner, source.shape[:-2], matrix)
    _result(owner, op, target)


def _one_column(
    owner: FunctionEmitter, op: Op, source: Place, target: Place, leading: Indices, rows: Extent
) -> None:
    """A column reduction of [M, 1]."""
    dtype = source.dtype
    sum_dtype = dtype if (dtype, op.name) == (FP16, "col_sum") else compute_dtype(dtype)
    with counted(
        owner.b, 0, value_of(rows), 1, [_identity(op.name, sum_dtype, 1)], name="down"
    ) as loop:
        element = _valid_or_zero(owner, source, (*leading, loop.i, 0))
        element = element if sum_dtype == dtype else owner.lanes.widen(dtype, element)
        loop.next = [owner.lanes.binary(_JOIN[op.name], sum_dtype, loop.carried[0], element)]
    total = loop.results[0]
    total = total if sum_dtype == dtype else owner.lanes.narrow(dtype, total)
    owner.b.store(total, target.at(owner.b, (*leading, 0, 0)))


def _identity(name: str, dtype: DType, lanes: int) -> ir.Constant:
    kind = memory_type(dtype) if lanes == 1 else vector(memory_type(dtype), lanes)
    if name.endswith("sum"):
        return zero(kind)
    low = float("-inf") if dtype.is_float else dtype.int_range()[0]
    high = float("inf") if dtype.is_float else dtype.int_range()[1]
    return Lanes.constant(kind, low if name.endswith("max") else high)


EMITTERS = {
    "store": emit_store,
    "transpose": emit_transpose,
    "reshape": emit_reshape,
    "concat": emit_concat,
    "extract": emit_extract,
    "insert": emit_insert,
    "gather": emit_gather,
    "element": emit_element,
    "with_element": emit_with_element,
    **dict.fromkeys(_JOIN, emit_column_reduction),
}
