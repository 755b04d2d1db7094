"""`pypto.ir` as far as older drafts use it."""

from __future__ import annotations

from tilewright.scripts.pypto.ir.pass_manager import OptimizationStrategy

__all__ = ["OptimizationStrategy"]
