"""Subscripts: `t[i, a:b, :]` as a window or an element, on either side of an assignment."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass

from tilewright.dtypes import INDEX
from tilewright.errors import (
    InvalidOperationError,
    ParserSyntaxError,
    ParserTypeError,
    UnsupportedFeatureError,
)
from tilewright.frontend.complaints import Complains
from tilewright.frontend.families.arrays import read_item
from tilewright.frontend.families.memory import read_element
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import (
    Array,
    Block,
    Constant,
    Items,
    Named,
    Number,
    Tensor,
    describe,
)
from tilewright.frontend.windows import read_window
from tilewright.ir.nodes import Const, Operand

Evaluate = Callable[[Tracer, ast.expr], Named]


@dataclass(frozen=True, slots=True)
class Window:
    """A subscript resolved against a shape: one offset and extent per axis, and the axes that go
    away.
    """

    shape: tuple[int, ...]
    offsets: tuple[Operand, ...]
    drop: tuple[int, ...]

    @property
    def is_element(self) -> bool:
        return len(self.drop) == len(self.shape)


def subscript(t: Tracer, node: ast.Subscript, evaluate: Evaluate) -> Named:
    """`t[…]` on the right: a constant's item, an element, or a window."""
    with t.naming("v"):
        base = evaluate(t, node.value)
        if isinstance(base, (Items, Constant)):
            return _item(t, base, node, evaluate)
        if isinstance(base, Array):
            return read_item(t, base, node, evaluate(t, node.slice))
        if not isinstance(base, (Tensor, Block)):
            t.fail(
                ParserTypeError,
                f"{describe(base)} has no subscripts",
                node,
                help="only tensors, blocks, arrays and lists have parts",
            )
        window = resolve(t, base, node, evaluate)
    if window.is_element:
        return read_element(t, base, window.offsets, node)
    hint = node.value.id if isinstance(node.value, ast.Name) and t.hint == "v" else None
    return read_window(t, base, window.shape, window.offsets, node, drop=window.drop, hint=hint)


def _item(t: Tracer, base: Items | Constant, node: ast.Subscript, evaluate: Evaluate) -> Named:
    if isinstance(node.slice, ast.Slice):
        t.fail(
            UnsupportedFeatureError,
            "a list in a kernel is read one item at a time",
            node,
            help="take the part outside the kernel, or name the items",
        )
    position = t.constant(evaluate(t, node.slice), node.slice, "the subscript of a list")
    try:
        if isinstance(base, Items):
            item: Named = base.values[position]
            return item
        thing = base.value
        thing[position]
    except (IndexError, KeyError, TypeError):
        held = base.values if isinstance(base, Items) else base.value
        count = len(held) if isinstance(held, (tuple, list)) else None
        t.fail(
            ParserTypeError,
            f"{ast.unparse(node.value)} has no item {position!r}"
            + ("" if count is None else f": it has {count}"),
            node,
            help=f"items count from 0 to {count - 1}" if count else "look at what it holds",
        )
    return t.consult(
        ast.unparse(node), (id(thing), "item", repr(position)), lambda: thing[position]
    )


def resolve(t: Tracer, base: Tensor | Block, node: ast.Subscript, evaluate: Evaluate) -> Window:
    """Offsets and extents of `base[…]`.

    Extents must be constants, bounds may be any integer scalars.
    """
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    rank = len(base.shape)
    if len(parts) > rank:
        t.fail(
            InvalidOperationError,
            f"{len(parts)} subscripts for {describe(base)}",
            node,
            notes=t.notes(node),
            help=f"write {rank} at most, one per axis",
        )
    shape: list[int] = []
    offsets: list[Operand] = []
    drop: list[int] = []
    for axis in range(rank):
        extent = base.shape[axis]
        part = parts[axis] if axis < len(parts) else None
        if part is None:
            shape.append(extent)
            offsets.append(Const(0, INDEX))
        elif isinstance(part, ast.Slice):
            start, size = _range(t, base, axis, part, evaluate)
            shape.append(size)
            offsets.append(start)
        else:
            check_subscript(t, part)
            shape.append(1)
            offsets.append(t.index(evaluate(t, part), part, f"subscript {axis}"))
            drop.append(axis)
    return Window(tuple(shape), tuple(offsets), tuple(drop))


def check_subscript(t: Complains, part: ast.expr) -> None:
    """Nothing of NumPy's: no `...`, no None, no steps."""
    if isinstance(part, ast.Slice) and part.step is not None:
        t.fail(
            ParserSyntaxError,
            "a slice has no step",
            part.step,
            help="take a window, then pl.gather by mask_pattern",
        )
    if isinstance(part, ast.Constant) and (part.value is None or part.value is ...):
        t.fail(
            ParserSyntaxError,
            f"a subscript cannot be {ast.unparse(part)}",
            part,
            help="write `:` for a whole axis; missing trailing subscripts are `:`",
        )


def _range(
    t: Tracer, base: Tensor | Block, axis: int, part: ast.Slice, evaluate: Evaluate
) -> tuple[Operand, int]:
    check_subscript(t, part)
    start: Operand = Const(0, INDEX)
    if part.lower is not None:
        start = t.index(evaluate(t, part.lower), part.lower, "the lower bound")
    with t.discarded():  # only the difference matters, and that is a constant
        stop: Operand = Const(base.shape[axis], INDEX)
        if part.upper is not None:
            stop = t.index(evaluate(t, part.upper), part.upper, "the upper bound")
        extent = t.constant(
            Number(t.scalar("s.sub", stop, start)),
            part,
            f"the extent of a slice ({ast.unparse(part)})",
            help="write start : start + TILE, or pl.slice(…, valid_shape=…) for a run-time extent",
        )
    if extent <= 0 and not t.dead:
        t.fail(
            InvalidOperationError,
            f"the slice {ast.unparse(part)} has extent {extent}",
            part,
            help="a window needs a positive extent; negative bounds do not count from the end",
        )
    return start, max(int(extent), 1)
