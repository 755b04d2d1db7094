"""Shapes."""

from __future__ import annotations

from tilewright.errors import InvalidOperationError
from tilewright.frontend.operands import (
    Call,
    axis_argument,
    block,
    data,
    handles,
    load_whole,
)
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import Block, Constant, Named, Number, Tensor
from tilewright.frontend.windows import as_view


@handles("reshape")
def reshape(t: Tracer, call: Call) -> Named:
    """A view in orchestration, a value in a region."""
    x = data(t, call, "x")
    is_view = isinstance(x, Tensor) and not t.in_region
    shape = t.shape(call["shape"], call.at("shape"), "the shape", least=0 if is_view else 1)
    if isinstance(x, Block):
        t.need_region()
        return Block(t.emit("reshape", [x.value], shape=shape))
    if not t.in_region:
        x = as_view(t, x, "reshaped in orchestration", call.node)
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
            InvalidOperationError,
            f"transpose swaps two different axes, got {i} twice",
            call.node,
            help="name two axes: pl.transpose(x, 0, 1)",
        )
    if isinstance(x, Tensor) and not t.in_region:
        x = as_view(t, x, "transposed in orchestration", call.node)
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


@handles("tile.get_block_idx", "tile.get_block_num")
def get_block(t: Tracer, call: Call) -> Named:
    """The number of the block in the spmd loop around, or how many blocks there are."""
    name = call.name.removeprefix("tile.")
    if t.launch is None:
        t.fail(
            InvalidOperationError,
            f"{name} outside a pl.spmd",
            call.node,
            help="call it in the body of `for i in pl.spmd(n)` or `with pl.spmd(n)`",
        )
    index, count = t.launch
    if name == "get_block_num":
        return Number(count)
    t.block_looks += 1
    return Number(index)
