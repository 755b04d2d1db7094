"""What a word of the language is: a name and a signature that the front end looks up."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from tilewright.errors import UnsupportedFeatureError, like


class Operator:
    """The word behind a function of `pl`: its name, and the signature that calls are bound to."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    def __repr__(self) -> str:
        return f"pl.{self.name}"


def operator(name: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a documented signature into a word of the language.

    The function's body is never run: inside a kernel the front end reads the call, and outside one
    calling it raises UnsupportedFeatureError.
    """

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        word = Operator(name or function.__name__, function)

        @functools.wraps(function)
        def outside(*args: Any, **kwargs: Any) -> Any:
            raise UnsupportedFeatureError(
                f"pl.{word.name} was called outside a kernel",
                help="operators work on blocks of data inside a function decorated with @pl.jit",
            )

        outside.operator = word  # type: ignore[attr-defined]
        return outside

    return enter


def operator_of(thing: object) -> Operator | None:
    """The word that a Python object stands for, or None."""
    word = getattr(thing, "operator", None)
    return word if isinstance(word, Operator) else None


def why_not_bound(
    signature: inspect.Signature, positional: int, named: Iterable[str], reason: TypeError
) -> tuple[str, str | None]:
    """(what is wrong with a call's arguments, the name that was meant), more plainly than Python says it."""
    names = list(signature.parameters)
    stray = next((name for name in named if name not in names), None)
    if stray is not None:
        return f"got an unexpected keyword argument {stray!r}", like(stray, names)
    if str(reason).startswith("too many"):
        return f"{reason}: it takes {len(names)}, got {positional}", None
    return str(reason), None
