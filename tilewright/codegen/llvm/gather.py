"""Elements picked and put by index. Plain loops, one element or one row at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.codegen.llvm.checks import fail_unless
from tilewright.codegen.llvm.moves import Indices, each, give, valid_or_zero
from tilewright.codegen.llvm.places import Place, value_of
from tilewright.codegen.llvm.rows import RowEmitter
from tilewright.codegen.llvm.types import I32, I64, const, counted
from tilewright.ir.nodes import Op, make_attrs
from tilewright.ir.typed import as_value, shape_of, tensor_type_of, tile_type_of

if TYPE_CHECKING:
    from tilewright.codegen.llvm.function import FunctionEmitter


def emit_gather(owner: FunctionEmitter, op: Op) -> None:
    """Indices are held to the source's extent: one outside gives what is not defined, and reads nothing else."""
    source, index = (owner.place(x) for x in op.operands)
    target, dim, b = owner.new_tile(tile_type_of(op.result)), op.attr("dim"), owner.b
    last = const(I64, source.shape[dim] - 1)

    def put(at: Indices) -> None:
        wanted = _wanted(owner, index, at)
        wanted = b.select(b.icmp_signed("<", wanted, const(I64, 0)), const(I64, 0), wanted)
        wanted = b.select(b.icmp_signed(">", wanted, last), last, wanted)
        where = (*at[:dim], wanted, *at[dim + 1 :])
        b.store(valid_or_zero(owner, source, where), target.at(b, at))

    each(owner, target.shape, put)
    give(owner, op, target)


def _wanted(owner: FunctionEmitter, index: Place, at: Indices) -> ir.Value:
    return owner.b.sext(valid_or_zero(owner, index, at), I64)


def _inside(owner: FunctionEmitter, wanted: ir.Value, count: int) -> ir.Value:
    """0 <= wanted < count in one comparison."""
    return owner.b.icmp_unsigned("<", wanted, const(I64, count))


def emit_find(owner: FunctionEmitter, op: Op) -> None:
    """Columns in order; every one is written to the next free place, which moves on where the mask is set."""
    mask, b = owner.place(op.operands[0]), owner.b
    offset = b.trunc(owner.scalar(op.operands[1]), I32)
    counts = [owner.extent(x) for x in op.operands[2:]]
    room = op.attr("count")
    target = owner.new_tile(tile_type_of(op.result))
    each(owner, target.shape, lambda at: b.store(const(I32, 0), target.at(b, at)))

    def row(at: Indices) -> None:
        with counted(b, 0, value_of(counts[-1]), 1, [const(I64, 0)], name="column") as loop:
            (found,) = loop.carried
            bit = owner.lanes.nonzero(mask.dtype, valid_or_zero(owner, mask, (*at, loop.i)))
            wanted = b.and_(bit, b.icmp_signed("<", found, const(I64, room)))
            with b.if_then(wanted):
                b.store(b.add(b.trunc(loop.i, I32), offset), target.at(b, (*at, found)))
            loop.next = [b.add(found, b.zext(wanted, I64))]

    each(owner, counts[:-1], row)
    give(owner, op, target)


def emit_scatter(owner: FunctionEmitter, op: Op) -> None:
    index, source = (owner.place(x) for x in op.operands[1:])
    target, dim, b = owner.owned_tile(op.operands[0]), op.attr("dim"), owner.b

    def put(at: Indices) -> None:
        wanted = _wanted(owner, index, at)
        with b.if_then(_inside(owner, wanted, target.shape[dim])):
            where = (*at[:dim], wanted, *at[dim + 1 :])
            b.store(valid_or_zero(owner, source, at), target.at(b, where))

    each(owner, index.shape, put)
    give(owner, op, target)


def emit_scatter_rows(owner: FunctionEmitter, op: Op) -> None:
    index, source = (owner.place(x) for x in op.operands[1:])
    target, b = owner.owned_tile(op.operands[0]), owner.b
    rows = RowEmitter(owner)

    def put(at: Indices) -> None:
        number: ir.Value = const(I64, 0)
        for i, n in zip(at, index.shape, strict=True):
            number = b.add(b.mul(number, const(I64, n)), value_of(i))
        wanted = _wanted(owner, index, at)
        with b.if_then(_inside(owner, wanted, target.shape[0])):
            width = target.shape[1]
            rows.copy(owner.cut(target, [wanted, 0], (1, width)), _one_row(owner, source, number))

    each(owner, index.shape, put)
    give(owner, op, target)


def _one_row(owner: FunctionEmitter, source: Place, row: ir.Value) -> Place:
    """A row of a tile, valid as far as the tile is."""
    b = owner.b
    columns = source.valid[1]
    if source.valid[0] != source.shape[0]:
        there = b.icmp_signed("<", row, value_of(source.valid[0]))
        columns = b.select(there, value_of(columns), const(I64, 0))
    return owner.cut(source, [row, 0], (1, source.shape[1]), (), (1, columns))


def emit_mscatter(owner: FunctionEmitter, op: Op) -> None:
    """The last of several elements for one place stays, as the loops go in order."""
    target, tile, index = (owner.place(x) for x in op.operands[:3])
    counts = [owner.extent(x) for x in op.operands[3:]]
    kind, b = tensor_type_of(op.operands[0]), owner.b
    size = 1
    for n in shape_of(op.operands[0]):
        size *= n
    subject = {"subject": as_value(op.operands[0]).name, "count": size}
    check = Op(op.name, attrs=make_attrs(subject), span=op.span)
    flat = Place(target.address, kind.dtype, (size,), (kind.dtype.nbytes,), (size,))

    def put(at: Indices) -> None:
        wanted = _wanted(owner, index, at)
        fail_unless(owner, _inside(owner, wanted, size), check, [wanted])
        b.store(valid_or_zero(owner, tile, at), flat.at(b, [wanted]))

    each(owner, counts, put)


EMITTERS = {
    "gather": emit_gather,
    "find": emit_find,
    "scatter": emit_scatter,
    "scatter_rows": emit_scatter_rows,
    "mscatter": emit_mscatter,
}
