"""What the front end and the lint complain with, so that both say the same."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Sequence
from typing import NoReturn, Protocol

from tilewright.errors import KernelError, UndefinedVariableError

# Words of the wider dialect that a CPU has no use for, and what to write in their place.
INSTEAD = {
    "distributed": "there is one device: leave communication between ranks out",
}

LIKENESS = 0.7  # row_summ is row_sum (0.93), ad is add (0.8); submit is not sub (0.67)


class Complains(Protocol):
    """Somebody who reads a kernel and can refuse a piece of it."""

    def fail(
        self,
        kind: type[KernelError],
        message: str,
        node: ast.AST | None = None,
        help: str | None = None,
        notes: Sequence[str] = (),
    ) -> NoReturn: ...


def instead(name: str, known: Iterable[str], owner: str = "") -> str | None:
    """What to write where `name` is not known: what does its work, or what it looks like."""
    if name in INSTEAD:
        return INSTEAD[name]
    near = difflib.get_close_matches(name, list(known), 1, LIKENESS)
    return f"did you mean {owner}{near[0]}?" if near else None


def undefined(t: Complains, node: ast.Name, known: Iterable[str]) -> NoReturn:
    """A name that nothing binds."""
    near = difflib.get_close_matches(node.id, list(known), 1)
    t.fail(
        UndefinedVariableError,
        f"{node.id!r} is not defined here",
        node,
        help=f"did you mean {near[0]!r}?" if near else "bind it first",
    )
