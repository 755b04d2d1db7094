"""Data moved across rows: what a sweep cannot do. Row by row where rows are dense, by turned squares or element
by element where not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd, prod
from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.codegen.llvm.places import Extent, Place, value_of
from tilewright.codegen.llvm.rows import RowEmitter
from tilewright.codegen.llvm.turn import copy_turned
from tilewright.codegen.llvm.types import I64, const, counted, memory_type, zero
from tilewright.ir.nodes import Op
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


def copy_anyhow(owner: FunctionEmitter, target: Place, source: Place) -> None:
    """A place into a tile of its shape, whatever the strides; what is not valid becomes 0."""
    if source.is_dense:
        RowEmitter(owner).copy(target, source)
        return
    if not source.all_valid:
        owner.clear(target.address, target.shape[0] * target.strides[0])
    copy_turned(owner, target, source)


def give(owner: FunctionEmitter, op: Op, place: Place) -> None:
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
    target = owner.new_tile(tile_type_of(op.result))
    order = list(range(len(source.shape)))
    i, j = op.attr("axis1"), op.attr("axis2")
    order[i], order[j] = j, i
    shape, strides, valid = (
        tuple(own[axis] for axis in order) for own in (source.shape, source.strides, source.valid)
    )
    copy_anyhow(owner, target, Place(source.address, source.dtype, shape, strides, valid))
    give(owner, op, target)


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
    if source.all_valid and source.is_dense and gcd(source.shape[-1], shape[-1]) > 1:
        _reshape_by_pieces(owner, target, source)
    else:
        _reshape_by_elements(owner, target, source)
    give(owner, op, target)


def _reshape_by_pieces(owner: FunctionEmitter, target: Place, source: Place) -> None:
    """The longest pieces of rows that are whole in both shapes."""
    b, rows = owner.b, RowEmitter(owner)
    length = gcd(source.shape[-1], target.shape[-1])

    def piece(place: Place, number: ir.Value) -> Place:
        """The piece of that number as a row."""
        many = const(I64, place.shape[-1] // length)
        row, at = b.sdiv(number, many), b.mul(b.srem(number, many), const(I64, length))
        address = place.at(b, _indices(owner, row, place.shape[:-1], at))
        return Place(address, place.dtype, (1, length), (0, place.dtype.nbytes), (1, length))

    with counted(b, 0, prod(source.shape) // length, name="piece") as loop:
        rows.copy(piece(target, loop.i), piece(source, loop.i))


def _reshape_by_elements(owner: FunctionEmitter, target: Place, source: Place) -> None:
    b = owner.b

    def put(at: Indices) -> None:
        flat: ir.Value = const(I64, 0)
        for i, n in zip(at, source.shape, strict=True):
            flat = b.add(b.mul(flat, const(I64, n)), value_of(i))
        b.store(valid_or_zero(owner, source, at), target.at(b, _indices(owner, flat, target.shape)))

    each(owner, source.shape, put)


def _indices(
    owner: FunctionEmitter, flat: ir.Value, shape: Sequence[int], *more: Extent
) -> Indices:
    """Where the element of that number in row-major order is, and `more` behind it."""
    b, where = owner.b, list(more)
    for n in reversed(shape):
        where.insert(0, b.srem(flat, const(I64, n)))
        flat = b.sdiv(flat, const(I64, n))
    return tuple(where)


def _strides_of(source: Place, shape: Sequence[int]) -> tuple[int, ...]:
    """Strides for `shape`, which differs from the source's in axes of extent 1 only."""
    own = [stride for n, stride in zip(source.shape, source.strides, strict=True) if n != 1]
    return tuple(own.pop(0) if n != 1 else 0 for n in shape)


def valid_or_zero(owner: FunctionEmitter, place: Place, at: Indices) -> ir.Value:
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
        RowEmitter(owner).copy(owner.cut(target, [0, column], source.shape), source)
    give(owner, op, target)


def _copy_elements(owner: FunctionEmitter, target: Place, source: Place) -> None:
    each(
        owner,
        target.valid,
        lambda at: owner.b.store(valid_or_zero(owner, source, at), target.at(owner.b, at)),
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
    copy_anyhow(owner, target, window)
    give(owner, op, target)


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
    give(owner, op, target)


def emit_element(owner: FunctionEmitter, op: Op) -> None:
    source = owner.place(op.operands[0])
    at = tuple(owner.extent(x) for x in op.operands[1:])
    owner.env[op.result] = owner.element_as_scalar(source.dtype, valid_or_zero(owner, source, at))


def emit_with_element(owner: FunctionEmitter, op: Op) -> None:
    target = owner.owned_tile(op.operands[0])
    at = [owner.extent(x) for x in op.operands[2:]]
    owner.b.store(owner.scalar_as(op.operands[1], target.dtype), target.at(owner.b, at))
    give(owner, op, target)


EMITTERS = {
    "store": emit_store,
    "transpose": emit_transpose,
    "reshape": emit_reshape,
    "concat": emit_concat,
    "extract": emit_extract,
    "insert": emit_insert,
    "element": emit_element,
    "with_element": emit_with_element,
}
