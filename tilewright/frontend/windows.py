"""Windows: views in orchestration, loads in regions, stores, and the bounds that can be seen while
compiling.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import replace

from tilewright.dtypes import BOOL, INDEX
from tilewright.errors import InvalidOperationError, ParserTypeError
from tilewright.frontend.operands import clamp, load_whole, load_window, padded
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import (
    Block,
    Named,
    Overhang,
    Tensor,
    describe,
    full_extents,
    with_valid,
)
from tilewright.ir.nodes import Const, Operand, Value
from tilewright.ir.ops.table import RuleBroken, dims, keep_axes

Extents = tuple[int, ...]
Operands = tuple[Operand, ...]


def read_window(
    t: Tracer,
    base: Tensor | Block,
    shape: Extents,
    offsets: Operands,
    node: ast.AST,
    *,
    valid: Operands | None = None,
    drop: Extents = (),
    overhangs: bool = False,
    pad: int | float | None = None,
    hint: str | None = None,
) -> Tensor | Block:
    """The window `shape` at `offsets` without the unit axes in `drop`: a view, a load or an
    extract.

    valid: how much of it exists; with `overhangs` the window may reach past the end, where the
    valid
    part stops (clamp=True). pad: what a block holds where it is not valid; it is valid throughout
    then.
    """
    if len(shape) != len(base.shape):
        t.fail(
            InvalidOperationError,
            f"the window {dims(shape)} has rank {len(shape)}, {describe(base)} has rank "
            f"{len(base.shape)}",
            node,
            notes=t.notes(node),
            help=f"write {len(base.shape)} extents, 1 for an axis of which one element is taken",
        )
    for axis in drop:
        if shape[axis] != 1:
            t.fail(
                InvalidOperationError,
                f"axis {axis} has extent {shape[axis]}; only an axis of extent 1 can be dropped",
                node,
                help="take one element of it, or keep the axis",
            )
    if overhangs:
        room = [
            t.scalar("s.sub", Const(n, INDEX), o) for n, o in zip(base.shape, offsets, strict=True)
        ]
        inside = [clamp(t, r, 0, w) for r, w in zip(room, shape, strict=True)]
        valid = tuple(inside if valid is None else map(t.min, valid, inside))
        offsets = tuple(
            t.scalar("s.min", o, Const(n, INDEX)) for o, n in zip(offsets, base.shape, strict=True)
        )
        if isinstance(base, Block):
            base = _with_room(t, base, shape, offsets)
    exists = valid if valid is not None else full_extents(shape)
    if valid is not None:
        check_valid(t, valid, shape, node)
    if isinstance(base, Block):
        check_bounds(t, base, offsets, exists, node)
        return padded(t, _extract(t, base, shape, offsets, valid, drop, hint), pad)
    if not t.zero_reads:
        instead = "; TILEWRIGHT_BOUNDS=zeros reads zeros there"
        check_bounds(t, base, offsets, exists, node, instead)
    window = Overhang(offsets, shape, exists, drop, pad, t.zero_reads)
    if base.overhang is not None:
        window = _compose(t, base.overhang, window)
    if t.in_region:
        return load_window(t, base.value, window, hint)
    if window.is_whole and not window.zeros:
        return _view(t, base, window, hint)
    return replace(base, overhang=window, fresh=False)


def _with_room(t: Tracer, base: Block, shape: Extents, offsets: Operands) -> Block:
    """The block in a larger one, so that a window which overhangs it is inside; valid where it was."""

    def room(n: int, w: int, o: Operand) -> int:
        return max(n, int(o.value) + w) if isinstance(o, Const) else n + w

    larger = tuple(map(room, base.shape, shape, offsets))
    if larger == base.shape:
        return base
    nothing = 0.0 if base.dtype.is_float else False if base.dtype == BOOL else 0
    zeros = t.emit("full", [], shape=larger, dtype=base.dtype, value=nothing)
    where = [Const(0, INDEX)] * len(larger)
    operands = [zeros, base.value, *where, *base.extents]
    return Block(t.emit("insert", operands, shape=base.shape), base.extents)


def _view(t: Tracer, base: Tensor, window: Overhang, hint: str | None = None) -> Tensor:
    view = t.emit(
        "window",
        [base.value, *window.offsets],
        hint or (t.hint if t.hint != "v" else "view"),
        shape=window.shape,
        drop=window.drop or None,
    )
    return Tensor(view, base.root)


def as_view(t: Tracer, tensor: Tensor, what: str, node: ast.AST) -> Tensor:
    """The tensor as one that has a place in memory. InvalidOperationError for a partly valid window."""
    if tensor.overhang is None:
        return tensor
    if tensor.overhang.is_whole:  # that it lies inside is checked, whatever reads past the end do
        return _view(t, tensor, tensor.overhang)
    t.fail(
        InvalidOperationError,
        f"a partly valid window cannot be {what}",
        node,
        help=f"let the whole tensor be {what}, then take the window",
    )


def keep(items: Sequence[Operand], drop: Sequence[int]) -> Operands:
    return tuple(item for axis, item in enumerate(items) if axis not in drop)


def check_valid(t: Tracer, valid: Operands, shape: Extents, node: ast.AST) -> None:
    """Constant valid extents lie between 0 and the shape."""
    for axis, (v, n) in enumerate(zip(valid, shape, strict=True)):
        if isinstance(v, Const) and not 0 <= v.value <= n and not t.dead:
            t.fail(
                InvalidOperationError,
                f"valid extent {v.value} on axis {axis} of a window {dims(shape)}",
                node,
                help=f"it lies between 0 and {n}",
            )


def check_bounds(
    t: Tracer,
    base: Tensor | Block,
    offsets: Operands,
    exists: Operands,
    node: ast.AST,
    instead: str = "",
) -> None:
    """Refuse a window whose constant offset and extent lie outside the tensor. An empty one may lie anywhere.

    Others are run-time checks, and so are those of a body that may never run.
    """
    if t.dead or t.doubts:
        return
    for axis, (o, w, n) in enumerate(zip(offsets, exists, base.shape, strict=True)):
        low = o.value if isinstance(o, Const) else None
        size = w.value if isinstance(w, Const) else None
        if size == 0:
            continue
        if low is not None and low < 0:
            t.fail(
                InvalidOperationError,
                f"the window starts at {low} on axis {axis}",
                node,
                help="offsets count from the start, negative ones are not from the end",
                notes=t.notes(node),
            )
        reach = (low or 0) + size if size is not None else (low or 0)
        if reach > n:
            start = low if low is not None else "…"
            end = reach if low is not None else f"… + {size}"
            t.fail(
                InvalidOperationError,
                f"the window {start} : {end} on axis {axis} is outside {describe(base)}",
                node,
                help="take a smaller window, or pl.slice(…, valid_shape=…) for its existing part"
                + instead,
                notes=t.notes(node),
            )


def _extract(
    t: Tracer,
    base: Block,
    shape: Extents,
    offsets: Operands,
    valid: Operands | None,
    drop: Extents,
    hint: str | None,
) -> Block:
    t.need_region()
    inside = valid
    if base.valid is not None:
        left = [
            clamp(t, t.scalar("s.sub", v, o), 0, w)
            for v, o, w in zip(base.valid, offsets, shape, strict=True)
        ]
        inside = tuple(left) if valid is None else tuple(map(t.min, valid, left))
    if (
        shape == base.shape
        and not drop
        and all(isinstance(o, Const) and o.value == 0 for o in offsets)
    ):
        return with_valid(base.value, inside)
    tile = t.emit("extract", [base.value, *offsets], hint, shape=shape, drop=drop or None)
    return with_valid(tile, None if inside is None else keep(inside, drop))


def _compose(t: Tracer, outer: Overhang, inner: Overhang) -> Overhang:
    """A window of a described window, in the axes of the tensor underneath."""
    shape, offsets, valid, drop = [], [], [], list(outer.drop)
    axes = iter(range(len(inner.shape)))
    for axis in range(len(outer.shape)):
        if axis in outer.drop:
            shape.append(1)
            offsets.append(outer.offsets[axis])
            valid.append(outer.valid[axis])
            continue
        i = next(axes)
        n = inner.shape[i]
        shape.append(n)
        offsets.append(t.scalar("s.add", outer.offsets[axis], inner.offsets[i]))
        exists = inner.valid[i]
        if not outer.zeros:
            left = clamp(t, t.scalar("s.sub", outer.valid[axis], inner.offsets[i]), 0, n)
            exists = t.min(exists, left)
        valid.append(exists)
        if i in inner.drop:
            drop.append(axis)
    pad = outer.pad if inner.pad is None else inner.pad
    return Overhang(
        tuple(offsets), tuple(shape), tuple(valid), tuple(sorted(drop)), pad, inner.zeros
    )


def element_place(
    t: Tracer, tensor: Tensor, indices: Operands, node: ast.AST
) -> tuple[Value, Operands]:
    """The tensor in memory that holds an element, and where."""
    if tensor.overhang is None:
        return tensor.value, indices
    if not tensor.overhang.is_whole:
        t.fail(
            InvalidOperationError,
            "one element of a partly valid window",
            node,
            help="use the tensor that the window was taken from",
        )
    ones = (1,) * len(indices)
    one = Overhang(indices, ones, full_extents(ones), ())
    return tensor.value, _compose(t, tensor.overhang, one).offsets


def as_source(t: Tracer, value: Named, node: ast.AST, what: str) -> Block:
    """What is stored, as a block."""
    if isinstance(value, Block):
        t.need_region()
        return value
    if isinstance(value, Tensor):
        return load_whole(t, value)
    t.fail(
        ParserTypeError,
        f"{what} takes a block or a tensor, got {describe(value)}",
        node,
        help="pl.write(t, [i, j], s) stores one element, pl.full makes a block",
    )


def fit_rank(t: Tracer, source: Block, rank: int) -> Block:
    """A source of `rank` axes, where only leading axes of extent 1 are too many or missing."""
    extra = len(source.shape) - rank
    if extra < 0:
        ones = (1,) * -extra
        tile = t.emit("reshape", [source.value], shape=(*ones, *source.shape))
        return Block(tile, None if source.valid is None else full_extents(ones) + source.valid)
    if extra > 0 and all(n == 1 for n in source.shape[:extra]):
        tile = t.emit("reshape", [source.value], shape=source.shape[extra:])
        return Block(tile, None if source.valid is None else source.valid[extra:])
    return source


def store_window(
    t: Tracer,
    target: Tensor,
    source: Block,
    offsets: Operands,
    exists: Operands,
    node: ast.AST,
    *,
    shape: Extents | None = None,
    drop: Extents = (),
    atomic: str | None = None,
) -> None:
    """Write the part `exists` of a block into memory at `offsets`."""
    shape = shape or source.shape
    check_bounds(t, target, offsets, exists, node)
    t.note_write(target)
    base = target.value
    if target.overhang is not None:
        window = _compose(t, target.overhang, Overhang(offsets, shape, exists, drop))
        shape, offsets, exists, drop = window.shape, window.offsets, window.valid, window.drop
    try:
        t.builder.op(
            "store",
            [source.value, base, *offsets, *exists],
            shape=shape,
            drop=drop or None,
            atomic=atomic,
        )
    except RuleBroken as broken:
        t.fail(ParserTypeError, broken.message, node, broken.help, t.notes(node))


def write_window(
    t: Tracer,
    target: Tensor | Block,
    source: Block,
    shape: Extents,
    offsets: Operands,
    node: ast.AST,
    *,
    drop: Extents = (),
    atomic: str | None = None,
) -> Tensor | Block:
    """`target[window] = source`: a store into memory, a new block otherwise.

    Gives what the name means next.
    """
    if len(shape) != len(target.shape):
        t.fail(
            ParserTypeError,
            f"the window {dims(shape)} has rank {len(shape)}, {describe(target)} has rank "
            f"{len(target.shape)}",
            node,
            notes=t.notes(node),
            help=f"write {len(target.shape)} extents, 1 for an axis of which one element is taken",
        )
    if source.dtype != target.dtype:
        t.fail(
            ParserTypeError,
            f"cannot store {source.dtype} into {describe(target)}",
            node,
            help=f'pl.cast(…, target_type=pl.{target.dtype}, mode="rint") first',
            notes=t.notes(node),
        )
    source = fit_rank(t, source, len(shape) if drop == () else len(keep_axes(shape, drop)))
    if len(source.shape) == len(shape):
        drop = ()
    wanted = keep_axes(shape, drop)
    if source.shape != wanted:
        source = _cut_to_valid(t, source, wanted, node)
    valid: list[Operand] = []
    given = iter(source.extents)
    for axis in range(len(shape)):
        valid.append(Const(1, INDEX) if axis in drop else next(given))
    if isinstance(target, Tensor):
        store_window(
            t, target, source, offsets, tuple(valid), node, shape=shape, drop=drop, atomic=atomic
        )
        return target
    t.need_region()
    if atomic:
        t.fail(
            InvalidOperationError,
            "an atomic store needs a tensor in memory as its target",
            node,
            help="add blocks with pl.add; atomic is for tensors that iterations share",
        )
    check_bounds(t, target, offsets, full_extents(shape), node)
    try:
        tile = t.emit(
            "insert", [target.value, source.value, *offsets, *valid], shape=shape, drop=drop or None
        )
    except RuleBroken as broken:
        t.fail(ParserTypeError, broken.message, node, broken.help, t.notes(node))
    return Block(tile)


def _cut_to_valid(t: Tracer, source: Block, wanted: Extents, node: ast.AST) -> Block:
    """A larger source may fill a window that holds its valid part."""
    if (
        len(source.shape) == len(wanted)
        and source.valid is not None
        and all(n >= w for n, w in zip(source.shape, wanted, strict=True))
        and all(
            v.value <= w if isinstance(v, Const) else True
            for v, w in zip(source.valid, wanted, strict=True)
        )
    ):
        zeros = [Const(0, INDEX)] * len(wanted)
        return with_valid(t.emit("extract", [source.value, *zeros], shape=wanted), source.valid)
    what = "ranks differ" if len(wanted) != len(source.shape) else None
    if what is None:
        axis = next(a for a, (w, n) in enumerate(zip(wanted, source.shape, strict=True)) if w != n)
        what = (
            f"on axis {axis} the window expects {wanted[axis]}, the source has {source.shape[axis]}"
        )
    t.fail(
        ParserTypeError,
        f"the window is {dims(wanted)}, the source is {dims(source.shape)}: {what}",
        node,
        help="slice both with the same extents",
        notes=t.notes(node),
    )
