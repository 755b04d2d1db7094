"""Shapes, and elements picked by pattern or by index."""

from __future__ import annotations

from tilewright.errors import InvalidOperationError, ParserTypeError
from tilewright.frontend.operands import (
    Call,
    axis_argument,
    block,
    data,
    dtype_argument,
    handles,
    load_whole,
)
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import Block, Constant, Named, Number, Tensor, describe
from tilewright.ir.ops.elementwise import mask_pattern
from tilewright.language.types import MaskPattern


@handles("reshape")
def reshape(t: Tracer, call: Call) -> Named:
    """A view in orchestration, a value in a region."""
    x = data(t, call, "x")
    shape = t.shape(call["shape"], call.at("shape"), "the shape")
    if isinstance(x, Block):
        t.need_region()
        return Block(t.emit("reshape", [x.value], shape=shape))
    if not t.in_region:
        if x.overhang is not None:
            t.fail(
                InvalidOperationError,
                "a partly valid window cannot be reshaped in orchestration",
                call.node,
                help="reshape the whole tensor first, then take the window",
            )
        return Tensor(
            t.emit("reshape_view", [x.value], None if t.hint != "v" else "view", shape=shape),
            x.root,
        )
    if (
        x.overhang is None and x.type.is_contiguous
    ):  # the same data, loaded in its new shape at once
        view = t.emit("reshape_view", [x.value], None if t.hint != "v" else "view", shape=shape)
        return load_whole(t, Tensor(view, x.root))
    return Block(t.emit("reshape", [load_whole(t, x).value], shape=shape))


@handles("transpose")
def transpose(t: Tracer, call: Call) -> Named:
    """Two axes swapped."""
    x = data(t, call, "x")
    rank = len(x.shape)
    i, j = axis_argument(t, call, "axis1", rank), axis_argument(t, call, "axis2", rank)
    if i == j:
        t.fail(
            InvalidOperationError, f"transpose swaps two different axes, got {i} twice", call.node
        )
    if isinstance(x, Tensor) and not t.in_region:
        if x.overhang is not None:
            t.fail(
                InvalidOperationError,
                "a partly valid window cannot be transposed in orchestration",
                call.node,
                help="transpose it inside the region",
            )
        return Tensor(
            t.emit(
                "transpose_view", [x.value], None if t.hint != "v" else "view", axis1=i, axis2=j
            ),
            x.root,
        )
    return Block(t.emit("transpose", [block(t, call, "x").value], axis1=i, axis2=j))


@handles("concat")
def concat(t: Tracer, call: Call) -> Named:
    """Joined along columns."""
    return Block(t.emit("concat", [block(t, call, "a").value, block(t, call, "b").value]))


@handles("dim")
def dim(t: Tracer, call: Call) -> Named:
    """An extent."""
    x = data(t, call, "t")
    return Constant(x.shape[axis_argument(t, call, "axis", len(x.shape))])


@handles("gather")
def gather(t: Tracer, call: Call) -> Named:
    """By mask pattern or by index."""
    if call.given("mask_pattern"):
        return masked(t, call)
    if not call.given("index") or not call.given("dim"):
        t.fail(InvalidOperationError, "gather needs mask_pattern=, or dim= and index=", call.node)
    x, index = block(t, call, "x"), block(t, call, "index")
    return Block(
        t.emit("gather", [x.value, index.value], dim=axis_argument(t, call, "dim", len(x.shape)))
    )


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
        )
    mask_pattern(pattern.name)
    return pattern.name


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
    """dst with the masked columns replaced."""
    x, dst = block(t, call, "x"), block(t, call, "dst")
    return Block(t.emit("scatter_mask", [x.value, dst.value], pattern=_pattern(t, call)))


@handles("tile.get_block_idx")
def get_block_idx(t: Tracer, call: Call) -> Named:
    """The number of the block in the spmd loop around."""
    if t.block_index is None:
        t.fail(
            InvalidOperationError,
            "get_block_idx outside a pl.spmd",
            call.node,
            help="call it in the body of `for i in pl.spmd(n)` or `with pl.spmd(n)`",
        )
    t.block_looks += 1
    return Number(t.block_index)
