"""`pypto.ir.pass_manager` as far as older drafts use it: a strategy of compiling, a label here."""

from __future__ import annotations

from tilewright.scripts.pypto.labels import Labels

__all__ = ["OptimizationStrategy"]


class OptimizationStrategy(metaclass=Labels):
    """Kinds of pipelines of the original; ours has one."""
