"""Options of scopes and launches: a name, and hints that only a scheduler looks at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
from tilewright.language.loops import Hint, Role, ScopeMode, SplitMode


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
            help='write letters, digits and _: name_hint="scale"',
        )
    return name


@dataclass(frozen=True, slots=True)
class Option:
    """What an option takes: a test of its value, or of every item of a list, in code and in words."""

    fits: Callable[[Named], bool]
    wanted: str
    help: str | None = None


def check_options(t: Tracer, call: Call) -> None:
    """Options that only a scheduler looks at change no value; their kinds are checked."""
    for parameter, option in OPTIONS.items():
        if parameter not in call.values or not call.given(parameter):
            continue
        value = call[parameter]
        for item in value.values if isinstance(value, Items) else (value,):
            if not option.fits(item):
                t.fail(
                    InvalidOperationError,
                    f"pl.{call.name}: {parameter} takes {option.wanted}, got {describe(item)}",
                    call.at(parameter),
                    option.help,
                )


def _constant(*kinds: type) -> Callable[[Named], bool]:
    return lambda x: isinstance(x, Constant) and isinstance(x.value, kinds)


def is_task(x: Named) -> bool:
    """Whether a value can be waited for: None is the task before the first."""
    if isinstance(x, Constant):
        return x.value is None
    return isinstance(x, Token) or (isinstance(x, Array) and x.dtype == TASK_ID)


TASK_HELP = "with pl.at(…) as tid: and pl.submit(…) give task ids"
FLAG = Option(_constant(bool), "True or False")
HINT = Option(_constant(Hint), "pl.auto_chunk or pl.split(…)")
OPTIONS: dict[str, Option] = {
    "optimizations": HINT,
    "optimization": HINT,
    "split": Option(_constant(Hint, SplitMode), "a pl.SplitMode"),
    "mode": Option(_constant(str, ScopeMode), "a pl.ScopeMode"),
    "role": Option(_constant(Role), "a pl.Role"),
    "deps": Option(is_task, "task ids", TASK_HELP),
    "no_dep_args": Option(lambda x: isinstance(x, (Tensor, Block)), "tensors"),
    "allow_early_resolve": FLAG,
    "manual_dep": FLAG,
    "sync_start": FLAG,
}
