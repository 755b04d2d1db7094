"""Sorting pairs of a value and its index: ranks within runs of 32, merges from both ends beyond.

A pair is one 64-bit word with the value in its low bits, so moving it keeps every bit. x goes before y
where x is larger, or a NaN and y is not; everything else is a tie, and ties keep their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.codegen.llvm.lanes import Lanes
from tilewright.codegen.llvm.moves import Indices, each, give
from tilewright.codegen.llvm.places import LINE, Extent, Place
from tilewright.codegen.llvm.types import (
    I1,
    I16,
    I32,
    I64,
    PTR,
    VOID,
    const,
    counted,
    define,
    intrinsic,
    memory_type,
    minimum,
    offset,
    once,
    shuffle,
    vector,
)  # fmt: skip
from tilewright.dtypes import DType
from tilewright.ir.nodes import Op
from tilewright.ir.ops.sort import PAIR_BYTES, RUN, pair_lanes
from tilewright.ir.typed import tile_type_of

if TYPE_CHECKING:
    from tilewright.codegen.llvm.function import FunctionEmitter


def _before(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Whether x goes before y: x > y, or x is NaN and y is not."""
    return b.and_(b.fcmp_unordered(">", x, y), b.fcmp_ordered("ord", y, y))


# Runs of 32


def emit_sort32(owner: FunctionEmitter, op: Op) -> None:
    values, index = (owner.place(x) for x in op.operands)
    target = owner.new_tile(tile_type_of(op.result))
    sort = _sort_run(owner, values.dtype)
    rows = [_fewer(a, c) for a, c in zip(values.valid[:-1], index.valid[:-1], strict=True)]

    def row(at: Indices) -> None:
        sources = [place.at(owner.b, at) for place in (values, index)]
        into = target.at(owner.b, at)
        with counted(owner.b, 0, values.shape[-1] // RUN, name="run") as loop:
            sizes = (RUN * values.dtype.nbytes, RUN * 4, RUN * PAIR_BYTES)
            places = [
                offset(owner.b, place, owner.b.mul(loop.i, const(I64, size)))
                for place, size in zip((*sources, into), sizes, strict=True)
            ]
            owner.b.call(sort, places)

    each(owner, rows, row)
    give(owner, op, target)


def _fewer(a: Extent, c: Extent) -> Extent:
    """Rows beyond what is valid are not read; a literal count is all of them."""
    return c if isinstance(a, int) else a


def _sort_run(owner: FunctionEmitter, dtype: DType) -> ir.Function:
    """`(ptr values, ptr index, ptr pairs)`: each value goes where the number of those before it says."""

    def emit() -> ir.Function:
        names = ("values", "index", "pairs")
        fn = define(owner.module, name, VOID, [(x, PTR) for x in names])
        values, index, pairs = fn.args
        b = ir.IRBuilder(fn.append_basic_block("entry"))
        lanes = Lanes(b, owner.machine)
        load = b.load(values, typ=vector(memory_type(dtype), RUN))
        load.align = dtype.nbytes
        ranks = b.alloca(vector(I32, RUN))
        b.store(_ranks(lanes, _orders(lanes, lanes.widen(dtype, load))), ranks)
        with counted(b, 0, RUN, name="value") as loop:
            address = offset(b, values, b.mul(loop.i, const(I64, dtype.nbytes)))
            element = b.load(address, typ=memory_type(dtype))
            rank = b.zext(_index_of(b, ranks, loop.i), I64)
            _store_pair(b, pairs, rank, element, _index_of(b, index, loop.i))
        b.ret_void()
        return fn

    name = f"sort_run.{dtype.name}"
    return once(owner.module, name, emit)


def _orders(lanes: Lanes, keys: ir.Value) -> ir.Value:
    """FP32 as integers in the order of sorting: both zeros are one, and so are all NaN, above the rest."""
    b = lanes.b
    bits = b.bitcast(b.fadd(keys, lanes.same(keys, 0.0)), lanes.like(I32, keys))
    turned = b.lshr(b.ashr(bits, lanes.same(bits, 31)), lanes.same(bits, 1))
    sound = b.fcmp_ordered("ord", keys, keys)
    return b.select(sound, b.xor(bits, turned), lanes.same(bits, 0x7FFFFFFF))


def _ranks(lanes: Lanes, orders: ir.Value) -> ir.Value:
    """For each of a run, how many go before it: what is larger, and of its equals those that come earlier."""
    b = lanes.b
    less = b.sub(orders, lanes.same(orders, 1))
    ranks: ir.Value = lanes.same(orders, 0)
    for j in range(RUN):
        one = shuffle(b, orders, orders, [j] * RUN)
        beside = shuffle(b, orders, less, [i + RUN if i > j else i for i in range(RUN)])
        ranks = b.sub(ranks, b.sext(b.icmp_signed(">", one, beside), ranks.type))
    return ranks


def _index_of(b: ir.IRBuilder, index: ir.Value, i: ir.Value) -> ir.Value:
    return b.load(offset(b, index, b.mul(i, const(I64, 4))), typ=I32)


def _store_pair(
    b: ir.IRBuilder, pairs: ir.Value, rank: ir.Value, element: ir.Value, number: ir.Value
) -> None:
    bits = b.bitcast(element, I16 if isinstance(element.type, ir.HalfType) else I32)
    word = b.or_(b.zext(bits, I64), b.shl(b.zext(number, I64), const(I64, 32)))
    store = b.store(word, offset(b, pairs, b.mul(rank, const(I64, PAIR_BYTES))))
    store.align = 4


# Merging


def emit_mrgsort(owner: FunctionEmitter, op: Op) -> None:
    """Four lists are merged two and two, then both results: stable, because each merge is."""
    lists = [owner.place(x) for x in op.operands]
    target = owner.new_tile(tile_type_of(op.result))
    merger = _Merger(owner, target.dtype)
    pairs = [place.shape[1] // pair_lanes(place.dtype) for place in lists]
    if len(lists) > 1:
        merger.merge([place.address for place in lists], pairs, target.address)
    else:
        run = op.attr("block_len") // pair_lanes(target.dtype)
        _merge_groups(owner, merger, lists[0], target, run, pairs[0])
    give(owner, op, target)


def _merge_groups(
    owner: FunctionEmitter, merger: _Merger, source: Place, target: Place, run: int, pairs: int
) -> None:
    """Every complete group of four runs; what is left over is copied."""
    b, groups = owner.b, pairs // (4 * run)
    with counted(b, 0, groups, name="group") as loop:
        start = b.mul(loop.i, const(I64, 4 * run * PAIR_BYTES))
        first = offset(b, source.address, start)
        runs = [offset(b, first, i * run * PAIR_BYTES) for i in range(4)]
        merger.merge(runs, [run] * 4, offset(b, target.address, start))
    done = groups * 4 * run
    if done < pairs:
        rest, end = (offset(b, place.address, done * PAIR_BYTES) for place in (source, target))
        _copy(b, end, rest, const(I64, (pairs - done) * PAIR_BYTES))


class _Merger:
    """Merges lists of pairs of one dtype, through room that is set aside once."""

    def __init__(self, owner: FunctionEmitter, dtype: DType) -> None:
        self.owner, self.dtype = owner, dtype
        self.function = _merge_two(owner, dtype)

    def merge(self, lists: list[ir.Value], pairs: list[int], out: ir.Value) -> None:
        if len(lists) == 2:
            counts = [const(I64, n) for n in pairs]
            self.owner.b.call(self.function, [lists[0], counts[0], lists[1], counts[1], out])
            return
        left = self.room(pairs[:2])
        self.merge(lists[:2], pairs[:2], left)
        right, count = lists[2], pairs[2]
        if len(lists) == 4:
            right, count = self.room(pairs[2:]), sum(pairs[2:])
            self.merge(lists[2:], pairs[2:], right)
        self.merge([left, right], [sum(pairs[:2]), count], out)

    def room(self, pairs: list[int]) -> ir.Value:
        return self.owner.reserve(sum(pairs) * PAIR_BYTES + LINE)


def _merge_two(owner: FunctionEmitter, dtype: DType) -> ir.Function:
    """`(ptr a, i64 na, ptr b, i64 nb, ptr out)`, from both ends at once, so that one step need not wait for the
    other. No branch depends on the values: as many steps as the shorter rest has pairs exhaust neither list.
    """
    name = f"merge.{dtype.name}"

    def emit() -> ir.Function:
        arguments = [("a", PTR), ("na", I64), ("b", PTR), ("nb", I64), ("out", PTR)]
        fn = define(owner.module, name, VOID, arguments)
        first, count, second, other, out = fn.args
        b = ir.IRBuilder(fn.append_basic_block("entry"))
        lanes = Lanes(b, owner.machine)
        entry, head, after = b.block, b.append_basic_block("head"), b.append_basic_block("rest")
        body = b.append_basic_block("body")
        b.branch(head)
        b.position_at_end(head)
        starts = (const(I64, 0), const(I64, 0), count, other)
        ends = [b.phi(I64) for _ in starts]
        i, j, i_end, j_end = ends
        left, right = b.sub(i_end, i), b.sub(j_end, j)
        steps = minimum(b, left, right)
        b.cbranch(b.icmp_signed(">", steps, const(I64, 0)), body, after)
        b.position_at_end(body)
        with counted(b, 0, steps, 1, ends, name="step") as loop:
            loop.next = _both_ends(lanes, dtype, first, second, out, loop.carried)
        for phi, start, end in zip(ends, starts, loop.results, strict=True):
            phi.add_incoming(start, entry)
            phi.add_incoming(end, b.block)
        b.branch(head)
        b.position_at_end(after)
        into = _pair_at(b, out, b.add(i, j))
        for source, done, size in ((first, i, left), (second, j, right)):
            some = b.select(b.icmp_signed(">", size, const(I64, 0)), size, const(I64, 0))
            _copy(b, into, _pair_at(b, source, done), b.mul(some, const(I64, PAIR_BYTES)))
        b.ret_void()
        return fn

    return once(owner.module, name, emit)


def _both_ends(
    lanes: Lanes,
    dtype: DType,
    first: ir.Value,
    second: ir.Value,
    out: ir.Value,
    ends: list[ir.Value],
) -> list[ir.Value]:
    """The foremost pair of what is left of both lists, and the last one; of equals the first list's is before."""
    b, one = lanes.b, const(I64, 1)
    i, j, i_end, j_end = ends
    x, y = _pair_at(b, first, i), _pair_at(b, second, j)
    take = _before(b, _key(lanes, dtype, y), _key(lanes, dtype, x))
    b.store(_pair(b, b.select(take, y, x)), _pair_at(b, out, b.add(i, j))).align = 4
    i_last, j_last = b.sub(i_end, one), b.sub(j_end, one)
    x, y = _pair_at(b, first, i_last), _pair_at(b, second, j_last)
    keep = _before(b, _key(lanes, dtype, y), _key(lanes, dtype, x))
    b.store(_pair(b, b.select(keep, x, y)), _pair_at(b, out, b.add(i_last, j_end))).align = 4
    moved, kept = b.zext(take, I64), b.zext(keep, I64)
    return [b.sub(b.add(i, one), moved), b.add(j, moved), b.sub(i_end, kept), b.add(j_last, kept)]


def _pair_at(b: ir.IRBuilder, pairs: ir.Value, i: ir.Value) -> ir.Value:
    return offset(b, pairs, b.mul(i, const(I64, PAIR_BYTES)))


def _pair(b: ir.IRBuilder, address: ir.Value) -> ir.Value:
    load = b.load(address, typ=I64)
    load.align = 4
    return load


def _key(lanes: Lanes, dtype: DType, pair: ir.Value) -> ir.Value:
    """The value of the pair at an address."""
    return lanes.widen(dtype, lanes.b.load(pair, typ=memory_type(dtype)))


def _copy(b: ir.IRBuilder, target: ir.Value, source: ir.Value, nbytes: ir.Value) -> None:
    memcpy = intrinsic(b.module, "llvm.memcpy.p0.p0.i64", VOID, [PTR, PTR, I64, I1])
    b.call(memcpy, [target, source, nbytes, const(I1, 0)])


EMITTERS = {"sort32": emit_sort32, "mrgsort": emit_mrgsort}
