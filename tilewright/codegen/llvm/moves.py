"""Data moved across rows: what a sweep cannot do. Plain loops, element by element or row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.codegen.llvm.places import Extent, Place, value_of
from tilewright.codegen.llvm.rows import RowEmitter
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
    i, j = op.attr("axis1"), op.attr("axis2")
    target = owner.new_tile(tile_type_of(op.result))

    def put(at: Indices) -> None:
        turned = list(at)
        turned[i], turned[j] = turned[j], turned[i]
        owner.b.store(valid_or_zero(owner, source, tuple(turned)), target.at(owner.b, at))

    each(owner, target.shape, put)
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
    b = owner.b

    def put(at: Indices) -> None:
        flat: ir.Value = const(I64, 0)
        for i, n in zip(at, source.shape, strict=True):
            flat = b.add(b.mul(flat, const(I64, n)), value_of(i))
        where: list[Extent] = []
        for n in reversed(shape):
            where.insert(0, b.srem(flat, const(I64, n)))
            flat = b.sdiv(flat, const(I64, n))
        b.store(valid_or_zero(owner, source, at), target.at(b, where))

    each(owner, source.shape, put)
    give(owner, op, target)


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
        _copy_elements(owner, owner.cut(target, [0, column], source.shape), source)
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
    gather_elements(owner, target, window)
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
