"""Stand-ins for a compiled kernel, so that the harness can be tested on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class PythonKernel:
    """A Python function behind the interface of a `@pl.jit` kernel; counts what is asked of it."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.__name__ = function.__name__
        self.specialized = 0
        self.calls = 0
        self.options: dict[str, Any] = {}

    def specialize(self, *args: Any, **options: Any) -> None:
        self.specialized += 1
        self.options.update(options)

    def run(self, *args: Any, **options: Any) -> None:
        self.options.update(options)
        self(*args)

    def __call__(self, *args: Any) -> None:
        self.calls += 1
        self.function(*args)
