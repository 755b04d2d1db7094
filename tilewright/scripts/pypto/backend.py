"""`pypto.backend` as far as older drafts use it: which device to compile for, a label here."""

from __future__ import annotations

from typing import Any

from tilewright.scripts.pypto.labels import Labels

__all__ = ["BackendType", "reset_for_testing", "set_backend_type"]


class BackendType(metaclass=Labels):
    """Kinds of devices; there is one CPU."""


def set_backend_type(backend_type: Any) -> None:
    """Accepted, without effect."""


def reset_for_testing() -> None:
    """Accepted, without effect."""
