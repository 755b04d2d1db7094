"""Reductions over columns: down the rows, sixteen columns at a time. Those along a row are a sweep's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.codegen.llvm.lanes import Lanes
from tilewright.codegen.llvm.moves import Indices, each, give, valid_or_zero
from tilewright.codegen.llvm.places import Extent, Place, value_of
from tilewright.codegen.llvm.rows import LANES, Chunk, RowEmitter
from tilewright.codegen.llvm.types import I64, const, counted, memory_type, vector, zero
from tilewright.dtypes import FP16, DType
from tilewright.ir.nodes import Op
from tilewright.ir.ops.elementwise import compute_dtype
from tilewright.ir.typed import tile_type_of

if TYPE_CHECKING:
    from tilewright.codegen.llvm.function import FunctionEmitter

_JOIN = {"col_sum": "add", "col_max": "maximum", "col_min": "minimum"}


def emit_column_reduction(owner: FunctionEmitter, op: Op) -> None:
    """Down the rows, sixteen columns at a time; one accumulator a column, rows in order.

    16-bit floats add up in FP32 and round once, but an FP16 sum rounds every step.
    """
    if op.attr("tree"):
        _emit_tree(owner, op)
        return
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
    give(owner, op, target)


def _one_column(
    owner: FunctionEmitter, op: Op, source: Place, target: Place, leading: Indices, rows: Extent
) -> None:
    """A column reduction of [M, 1]."""
    dtype = source.dtype
    sum_dtype = dtype if (dtype, op.name) == (FP16, "col_sum") else compute_dtype(dtype)
    with counted(
        owner.b, 0, value_of(rows), 1, [_identity(op.name, sum_dtype, 1)], name="down"
    ) as loop:
        element = valid_or_zero(owner, source, (*leading, loop.i, 0))
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


# FP16 sums as a tree

Combine = Callable[[Extent, Extent, Extent], None]  # row i = row j + row k


def _emit_tree(owner: FunctionEmitter, op: Op) -> None:
    """Rows 2i and 2i + 1 become row i, an odd last one is added to row 0, until one is left.

    Done in a copy of the valid rows, ascending: row i is written after rows 2i and 2i + 1 were read.
    """
    source, b = owner.place(op.operands[0]), owner.b
    rows = value_of(owner.extent(op.operands[-2]))
    kind = tile_type_of(op.operands[0])
    target, scratch = owner.new_tile(tile_type_of(op.result)), owner.copied(op.operands[0])

    def matrix(leading: Indices) -> None:
        combine = _row_adder(owner, scratch, leading)
        count: ir.Value = rows
        for _ in range((kind.shape[-2] - 1).bit_length()):
            half = b.lshr(count, const(I64, 1))
            with counted(b, 0, half, name="pair") as loop:
                first = b.shl(loop.i, const(I64, 1))
                combine(loop.i, first, b.add(first, const(I64, 1)))
            several = b.icmp_signed(">", count, const(I64, 1))
            odd = b.icmp_signed("!=", b.and_(count, const(I64, 1)), const(I64, 0))
            with b.if_then(b.and_(several, odd)):
                combine(0, 0, b.sub(count, const(I64, 1)))
            count = b.select(several, half, count)
        some = b.icmp_signed(">", rows, const(I64, 0))

        def column(at: Indices) -> None:
            element = b.load(scratch.at(b, (*leading, 0, *at)), typ=memory_type(FP16))
            sum_or_zero = b.select(some, element, zero(element.type))
            b.store(sum_or_zero, target.at(b, (*leading, 0, *at)))

        each(owner, source.shape[-1:], column)

    each(owner, source.shape[:-2], matrix)
    give(owner, op, target)


def _row_adder(owner: FunctionEmitter, place: Place, leading: Indices) -> Combine:
    """Adds two rows of a tile of our own into a third, by the vector unless they have one column."""
    emitter, b = RowEmitter(owner), owner.b

    def one(i: Extent, j: Extent, k: Extent) -> None:
        at = [place.at(b, (*leading, row, 0)) for row in (i, j, k)]
        parts = [b.load(address, typ=memory_type(FP16)) for address in at[1:]]
        b.store(owner.lanes.binary("add", FP16, *parts), at[0])

    def many(i: Extent, j: Extent, k: Extent) -> None:
        def chunk(columns: Chunk) -> None:
            parts = []
            for row in (j, k):
                emitter.rows = [*leading, row]
                parts.append(emitter.load_chunk(place, columns))
            emitter.rows = [*leading, i]
            emitter.put(owner.lanes.binary("add", FP16, *parts), place, columns)

        emitter.over_columns(place.shape[-1], chunk)

    return one if place.shape[-1] == 1 else many


EMITTERS = dict.fromkeys(_JOIN, emit_column_reduction)
