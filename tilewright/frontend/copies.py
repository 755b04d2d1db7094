"""Copies that stand for one of several tensors, after an `if` or a loop that picks one at run time.

A copy shows what the tensors held when it was made. So nothing may be written through its name, and
it is void once one of the tensors that it may stand for has been written to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tilewright.ir.nodes import Function, Op
from tilewright.ir.walk import map_ops, ops_in

PICKED_CHANGED = "this is one of several tensors, picked at run time, and one was written since"
PICKED_WRITTEN = "a write to one of several tensors, picked at run time"
PICKED_HELP = "write to the tensors by their own names, under the condition that picks one"


@dataclass(slots=True)
class Copy:
    """One copy: of which roots, made within how many loops and branches."""

    root: str
    roots: frozenset[str]
    depth: int
    used: bool = False
    used_deeper: bool = (
        False  # inside a loop around its reader, which may write before it reads again
    )
    stale: bool = False


@dataclass(slots=True)
class Copies:
    """All copies of a program so far."""

    made: list[Copy] = field(default_factory=list)

    def add(self, root: str, roots: Iterable[str], depth: int) -> None:
        """`root` now holds what one of `roots` held."""
        behind = {x for r in roots for x in (r, *self.behind(r))}
        self.made.append(Copy(root, frozenset(behind), depth))

    def behind(self, root: str) -> frozenset[str]:
        """The tensors that a copy may stand for; none for any other tensor."""
        return next((copy.roots for copy in self.made if copy.root == root), frozenset())

    def is_stale(self, root: str) -> bool:
        """Whether this is a copy that no longer shows what it stands for."""
        return any(copy.stale for copy in self.made if copy.root == root)

    def read(self, root: str, depth: int) -> bool:
        """Note a use of a tensor; False when it is a copy that no longer shows what it stands for."""
        for copy in self.made:
            if copy.root == root:
                copy.used = True
                copy.used_deeper |= depth > copy.depth
                return not copy.stale
        return True

    def written(self, root: str, depth: int) -> bool:
        """Note a write; False when a copy would have to show it and cannot."""
        for copy in self.made:
            if root == copy.root or (
                root in copy.roots and copy.used_deeper and depth > copy.depth
            ):
                return False
            copy.stale |= root in copy.roots
        return True

    def snapshot(self) -> Copies:
        return Copies([replace(copy) for copy in self.made])


def drop_unused_copies(function: Function, copies: Copies) -> Function:
    """The program without the copies that nobody reads."""
    unused = {copy.root for copy in copies.made if not copy.used}
    if not unused:
        return function

    def rewrite(op: Op) -> tuple[Op, ...] | None:
        if op.name == "create" and op.result.name in unused:
            return ()
        if op.name == "at" and any(_stores_to(inner, unused) for inner in ops_in(op)):
            return ()
        return None

    return map_ops(function, rewrite)


def _stores_to(op: Op, roots: set[str]) -> bool:
    return op.name == "store" and getattr(op.operands[1], "name", "") in roots
