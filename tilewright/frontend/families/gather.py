"""Elements picked and put by pattern, by index or by comparison."""

from __future__ import annotations

from tilewright.dtypes import INDEX, INT32
from tilewright.errors import InvalidOperationError, ParserTypeError
from tilewright.frontend.families.elementwise import pair, relation
from tilewright.frontend.operands import (
    Call,
    axis_argument,
    block,
    cast_block,
    data,
    dtype_argument,
    handles,
)
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import Block, Constant, Items, Named, Tensor, describe
from tilewright.frontend.windows import as_view
from tilewright.ir.nodes import Const
from tilewright.ir.ops.table import dims
from tilewright.language.types import MaskPattern


@handles("gather")
def gather(t: Tracer, call: Call) -> Named:
    """By mask pattern, by comparison or by index."""
    if call.given("mask_pattern"):
        return masked(t, call)
    if call.given("kvalue"):
        return matching(t, call)
    x, index, axis = _by_index(t, call)
    return Block(t.emit("gather", [x.value, index.value], dim=axis))


def _by_index(t: Tracer, call: Call) -> tuple[Block, Block, int]:
    """The operands of the forms with dim= and index=."""
    if not call.given("index") or not call.given("dim"):
        others = ", or kvalue=" if call.name == "gather" else ""
        t.fail(
            InvalidOperationError,
            f"{call.name} needs dim= and index=, or mask_pattern={others}",
            call.node,
            help=f"pl.{call.name}(x, dim=-1, index=…) or pl.{call.name}(x, mask_pattern=…)",
        )
    x, index = block(t, call, "x"), block(t, call, "index")
    return x, index, axis_argument(t, call, "dim", len(x.shape))


@handles("tile.gather_mask")
def masked(t: Tracer, call: Call) -> Named:
    """The columns kept by the pattern; output_dtype reinterprets their bits."""
    x = block(t, call, "x")
    to = dtype_argument(t, call, "output_dtype") if call.given("output_dtype") else None
    return Block(t.emit("gather_mask", [x.value], pattern=_pattern(t, call), to=to))


def _pattern(t: Tracer, call: Call) -> str:
    value = call["mask_pattern"]
    pattern = value.value if isinstance(value, Constant) else None
    if (
        isinstance(pattern, int)
        and not isinstance(pattern, bool)
        and 1 <= pattern <= len(MaskPattern)
    ):
        pattern = MaskPattern(pattern)
    if not isinstance(pattern, MaskPattern):
        t.fail(
            ParserTypeError,
            f"{call.name}: mask_pattern must be a pl.tile.MaskPattern, got {describe(value)}",
            call.at("mask_pattern"),
            help="pl.tile.MaskPattern.P0101 keeps even columns, or its number, 1",
        )
    return pattern.name


def matching(t: Tracer, call: Call) -> Named:
    """Where a comparison holds: columns [M,out_cols] and their counts [1,M]."""
    x = block(t, call, "x")
    if len(x.shape) != 2 or not call.given("out_cols"):
        t.fail(
            InvalidOperationError,
            f"gather by kvalue takes a 2-D block and out_cols=, got {dims(x.shape)}",
            call.node,
            notes=t.notes(call.node),
            help="write pl.gather(x, kvalue=…, cmp_mode=…, out_cols=…)",
        )
    if not call.given("cmp_mode"):
        t.fail(
            InvalidOperationError,
            "gather by kvalue needs cmp_mode=",
            call.node,
            help='cmp_mode="ge"',
        )
    room = t.extent(call["out_cols"], call.at("out_cols"), "out_cols")
    offset = t.index(call["offset"], call.at("offset"), "the offset")
    to = dtype_argument(t, call, "count_dtype") if call.given("count_dtype") else INT32
    mask = pair(t, call, "cmp", x, "kvalue", kind=relation(t, call, "cmp_mode"))
    if mask.shape != x.shape:
        t.fail(
            InvalidOperationError,
            f"gather: kvalue must be a scalar or one column beside {dims(x.shape)}",
            call.at("kvalue"),
            help="compare with one number, or with one per row: a [rows, 1] block",
        )
    found = t.emit("find", [mask.value, offset, *x.extents], count=room)
    ones = cast_block(t, mask, INT32)
    counts = t.emit("row_sum", [ones.value, *x.extents])
    if x.valid is not None:  # rows that are not there have none
        counts = t.emit("fillpad", [counts, x.extents[0], Const(1, INDEX)], value=0)
    counts = t.emit("minimum", [counts, Const(room, INT32)])
    counts = t.emit("reshape", [counts], shape=(1, x.shape[0]))
    return Items((Block(found), cast_block(t, Block(counts), to)))


@handles("tile.gather")
def gather_flat(t: Tracer, call: Call) -> Named:
    """out[i,j] = x.flat[index[i,j]]."""
    x, index = block(t, call, "x"), block(t, call, "index")
    flat = t.emit("reshape", [x.value], shape=(1, x.type.numel))
    places = t.emit("reshape", [index.value], shape=(1, index.type.numel))
    picked = t.emit("gather", [flat, places], dim=1)
    return Block(t.emit("reshape", [picked], shape=index.shape))


@handles("scatter")
def scatter(t: Tracer, call: Call) -> Named:
    """dst with the masked columns replaced, or x with the indexed elements replaced."""
    if call.given("mask_pattern"):
        x, dst = block(t, call, "x"), block(t, call, "dst")
        return Block(t.emit("scatter_mask", [x.value, dst.value], pattern=_pattern(t, call)))
    x, index, axis = _by_index(t, call)
    source = block(t, call, "src")
    return Block(t.emit("scatter", [x.value, index.value, source.value], dim=axis))


@handles("scatter_update")
def scatter_update(t: Tracer, call: Call) -> Named:
    """Rows replaced. Rank 4 is rank 2 with its leading axes as one."""
    x, index, source = block(t, call, "x"), block(t, call, "index"), block(t, call, "src")
    rank = len(x.shape)
    if rank < 2 or axis_argument(t, call, "dim", rank) != rank - 2:
        t.fail(
            InvalidOperationError,
            f"scatter_update replaces rows: dim must be -2, x {dims(x.shape)}",
            call.at("dim"),
            help="for single elements use pl.scatter(x, dim=-1, index=…, src=…)",
        )
    flat = [_rows(t, block) for block in (x, source)]
    out = t.emit("scatter_rows", [flat[0].value, index.value, flat[1].value])
    return Block(out if rank == 2 else t.emit("reshape", [out], shape=x.shape))


def _rows(t: Tracer, x: Block) -> Block:
    """The block as [rows, columns]."""
    if len(x.shape) == 2:
        return x
    columns = x.shape[-1]
    return Block(t.emit("reshape", [x.value], shape=(x.type.numel // columns, columns)))


@handles("mscatter")
def mscatter(t: Tracer, call: Call) -> Named:
    """Elements stored into a tensor by flat index."""
    target = data(t, call, "t")
    tile, index = block(t, call, "tile"), block(t, call, "index")
    if not isinstance(target, Tensor):
        t.fail(
            InvalidOperationError,
            f"mscatter stores into a tensor in memory, got {describe(target)}",
            call.at("t"),
            help="pl.scatter puts elements into a block",
        )
    target = as_view(t, target, "the target of mscatter", call.at("t"))
    t.note_write(target)
    t.builder.op("mscatter", [target.value, tile.value, index.value, *tile.extents])
    return target
