"""Options of scopes and launches: a name, and hints that only a scheduler looks at."""

from __future__ import annotations

from collections.abc import Callable

from tilewright.dtypes import TASK_ID
from tilewright.errors import InvalidOperationError
from tilewright.frontend.operands import Call
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import (
    Array,
    Block,
    Constant,
    Items,
    Named,
    Tensor,
    Token,
    describe,
)
from tilewright.language.loops import Hint, SplitMode


def name_hint(t: Tracer, call: Call) -> str | None:
    """The author's name for a region, kept for traces and symbols."""
    value = call["name_hint"]
    name = value.value if isinstance(value, Constant) else value
    if name is None:
        return None
    if not isinstance(name, str) or not name.isidentifier():
        t.fail(
            InvalidOperationError,
            f"name_hint must be an identifier, got {name!r}",
            call.at("name_hint"),
        )
    return name


def check_options(t: Tracer, call: Call) -> None:
    """Options that only a scheduler looks at change no value; their kinds are checked."""
    for parameter, check in OPTIONS.items():
        if parameter not in call.values or not call.given(parameter):
            continue
        value = call[parameter]
        items = value.values if isinstance(value, Items) else (value,)
        for item in items:
            wanted = check(item)
            if wanted:
                t.fail(
                    InvalidOperationError,
                    f"pl.{call.name}: {parameter} {wanted}, got {describe(item)}",
                    call.at(parameter),
                )


def _is(kind: type | tuple[type, ...], what: str) -> Callable[[Named], str]:
    return lambda x: "" if isinstance(x, Constant) and isinstance(x.value, kind) else what


_is_hint = _is(Hint, "must be pl.auto_chunk or pl.split(…)")


def is_task(x: Named) -> bool:
    """Whether a value can be waited for."""
    return isinstance(x, Token) or (isinstance(x, Array) and x.dtype == TASK_ID)


# option -> what is wrong with an item of it, "" when nothing is
OPTIONS: dict[str, Callable[[Named], str]] = {
    "optimizations": _is_hint,
    "optimization": _is_hint,
    "split": _is((Hint, SplitMode), "must be a pl.SplitMode"),
    "deps": lambda x: "" if is_task(x) else "takes task ids",
    "no_dep_args": lambda x: "" if isinstance(x, (Tensor, Block)) else "takes tensors",
    "allow_early_resolve": _is(bool, "must be True or False"),
    "sync_start": _is(bool, "must be True or False"),
    "auto_scope": _is(bool, "must be True or False"),
}
