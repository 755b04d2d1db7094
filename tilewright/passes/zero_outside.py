"""Loads that read zeros outside their tensor become loads of what exists."""

from __future__ import annotations

from tilewright.dtypes import BOOL, DType
from tilewright.ir.build import Builder
from tilewright.ir.nodes import Function, Op, Operand, Value, index, make_attrs
from tilewright.ir.typed import shape_of, tile_type_of
from tilewright.ir.walk import Replace, definitions, map_ops, names_in_use
from tilewright.machine import Machine
from tilewright.passes.intervals import Intervals


def zero_outside(fn: Function, machine: Machine) -> Function:
    """Spell out what a load with attrs['outside'] == 'zero' does at the edges of its tensor.

    Takes:  any program, before its accesses are checked.
    Gives:  the same values. A window that is provably inside is a plain load; one that may reach past an
            end loads what exists and pads it; one that may begin before the tensor is put into a block
            of zeros.
    Leaves: every other load.
    """
    intervals = Intervals(definitions(fn))
    builder = Builder(names_in_use(fn))

    def rewrite(op: Op) -> Op | Replace | None:
        if op.name != "load" or op.attr("outside") is None:
            return None
        builder.span = op.span
        return _spelled_out(op, intervals, builder)

    return map_ops(fn, rewrite)


def _spelled_out(op: Op, intervals: Intervals, builder: Builder) -> Op | Replace:
    extents, shape = shape_of(op.operands[0]), tuple(op.attr("shape"))
    rank, drop = len(extents), op.attr("drop") or ()
    offsets, valid = op.operands[1 : 1 + rank], op.operands[1 + rank :]
    attrs = make_attrs({"shape": shape, "drop": drop or None})
    ranges = [(intervals.of(o), intervals.of(v)) for o, v in zip(offsets, valid, strict=True)]
    below = [low < 0 for (low, _), _ in ranges]
    above = [
        high + most > extent for ((_, high), (_, most)), extent in zip(ranges, extents, strict=True)
    ]
    if not any(below) and not any(above):
        return Op("load", op.operands, op.results, attrs, (), op.span)
    starts, counts = list(offsets), list(valid)
    skips: list[Operand] = [index(0)] * rank
    with builder.block() as ops:
        for axis, extent in enumerate(extents):
            if below[axis] or above[axis]:
                starts[axis], counts[axis], skips[axis] = _existing(
                    builder, offsets[axis], valid[axis], extent, shape[axis]
                )
        kept = [axis for axis in range(rank) if axis not in drop]
        for axis in drop:  # an axis that goes away can still have nothing to read
            if kept and (below[axis] or above[axis]):
                counts[kept[0]] = builder.mul(counts[kept[0]], counts[axis])
        tile = builder.value(
            "load",
            [op.operands[0], *starts, *counts],
            op.result.name,
            **dict(attrs),
        )
        result = _padded(builder, tile, below, kept, skips, counts)
    return Replace(tuple(ops), {op.result: result})


def _existing(
    builder: Builder, offset: Operand, count: Operand, extent: int, width: int
) -> tuple[Operand, Operand, Operand]:
    """Along one axis: where what exists of the window starts, how much it is, how far into the window."""

    def held(x: Operand, low: int, high: int) -> Operand:
        return builder.min(builder.scalar("s.max", x, index(low)), index(high))

    start = held(offset, 0, extent)
    end = held(builder.add(offset, count), 0, extent)
    number = builder.scalar("s.max", builder.sub(end, start), index(0))
    return start, number, held(builder.sub(start, offset), 0, width)


def _padded(
    builder: Builder,
    tile: Value,
    below: list[bool],
    kept: list[int],
    skips: list[Operand],
    counts: list[Operand],
) -> Value:
    """The loaded part at its place in a block that is 0 elsewhere."""
    kind = tile_type_of(tile)
    valid = [counts[axis] for axis in kept]
    nothing = _zero(kind.dtype)
    if not any(below[axis] for axis in kept):
        return builder.value("fillpad", [tile, *valid], tile.name, value=nothing)
    zeros = builder.value("full", [], tile.name, shape=kind.shape, dtype=kind.dtype, value=nothing)
    where = [skips[axis] for axis in kept]
    return builder.value("insert", [zeros, tile, *where, *valid], tile.name, shape=kind.shape)


def _zero(dtype: DType) -> int | float | bool:
    return 0.0 if dtype.is_float else False if dtype == BOOL else 0
