"""Going on after a mistake, so that an author sees all of them at once."""

from __future__ import annotations

import ast
from collections.abc import Callable

from tilewright.dtypes import INDEX
from tilewright.errors import KernelError
from tilewright.frontend.mistakes import NeedsConstant, NeedsRegion
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import Unknown
from tilewright.ir.nodes import Const

Read = Callable[[Tracer, ast.stmt], None]


def forgiving(t: Tracer, node: ast.stmt, read: Read) -> None:
    """Read a statement; a mistake in it is noted, and the names that it binds become unknown.

    What uses an unknown name is not a mistake of its own. A loop, branch or scope whose first line
    is wrong still has its body read.
    """
    assert t.mistakes is not None
    before, met = t.snapshot(), t.mistakes.met
    try:
        read(t, node)
    except (KernelError, NeedsConstant) as error:
        inside = t.mistakes.met > met  # what the body left open can upset the loop around it
        t.restore(before)
        if not inside:
            t.mistakes.note(error)
        _forget(t, node)
        if not inside:
            _read_body(t, node, read)
            t.restore(before)
            _forget(t, node)


def _forget(t: Tracer, node: ast.stmt) -> None:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            t.bind(inner.id, Unknown(), inner)


def _read_body(t: Tracer, node: ast.stmt, read: Read) -> None:
    outside, launch = t.in_region, t.launch
    inside = outside or isinstance(node, ast.With)
    t.launch = launch or (
        Const(0, INDEX),
        Const(1, INDEX),
    )  # what stands in a launch may ask for it
    with t.builder.block():
        for inner in [*getattr(node, "body", []), *getattr(node, "orelse", [])]:
            if isinstance(inner, (ast.Break, ast.Continue, ast.Return)) or _is_condition(inner):
                continue  # where they lead is the business of what could not be read
            t.in_region = inside
            before = t.snapshot()
            try:
                forgiving(t, inner, read)
            except NeedsRegion:
                t.restore(before)
                t.in_region = True
                forgiving(t, inner, read)
    t.in_region, t.launch = outside, launch


def _is_condition(node: ast.stmt) -> bool:
    """pl.cond(…), which only its loop can read."""
    called = node.value if isinstance(node, ast.Expr) else None
    return isinstance(called, ast.Call) and getattr(called.func, "attr", "") == "cond"
