"""A fixture that notes the calls of kernels that do not go the short way of `tilewright.dispatch`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest


@pytest.fixture
def long(monkeypatch) -> list[str]:
    """The names of the kernels whose calls went the long way."""
    taken: list[str] = []
    for module in map(import_module, ("tilewright.jit", "tilewright.bound")):
        bind = module.bind

        def noted(kernel: Any, *args: Any, bind: Any = bind, **how: Any) -> Any:
            taken.append(kernel.__name__)
            return bind(kernel, *args, **how)

        monkeypatch.setattr(module, "bind", noted)
    return taken
