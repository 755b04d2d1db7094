"""`pypto.runtime` as far as older drafts use it: the harness under its former name."""

from __future__ import annotations

from tilewright.golden import RunConfig, RunResult, ScalarSpec, TensorSpec, run

__all__ = ["RunConfig", "RunResult", "ScalarSpec", "TensorSpec", "run"]
