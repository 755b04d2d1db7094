"""`pypto.runtime` as far as older drafts use it: the harness under its former name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

from tilewright.golden import RunResult, ScalarSpec, Spec, TensorSpec
from tilewright.golden import run as run_golden

__all__ = ["RunConfig", "RunResult", "ScalarSpec", "TensorSpec", "run"]


@dataclass
class RunConfig:
    """Settings of a run. `platform` and `device_id` are labels; `strategy` and the rest do nothing."""

    platform: str = "a2a3"
    device_id: int = 0
    rtol: float = 1e-5
    atol: float = 1e-5
    strategy: Any = None
    backend_type: Any = None
    dump_passes: bool = False


def run(
    program: Any,
    tensor_specs: Sequence[Spec],
    golden: Callable[..., Any] | None = None,
    config: RunConfig | None = None,
) -> RunResult:
    """`golden.run` with its settings in one object; `golden` may take (tensors, params)."""
    config = config or RunConfig()
    return run_golden(
        program,
        tensor_specs,
        golden_fn=_of_one(golden),
        runtime_cfg={"platform": config.platform, "device_id": config.device_id},
        rtol=config.rtol,
        atol=config.atol,
    )


def _of_one(golden: Callable[..., Any] | None) -> Callable[[dict[str, Any]], Any] | None:
    """The golden as it is called today: its second argument, the parameters of a run, is empty."""
    if golden is None or not callable(golden):
        return golden
    wanted = [
        p
        for p in inspect.signature(golden).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(wanted) != 2:
        return golden

    @wraps(golden)
    def of_one(tensors: dict[str, Any]) -> Any:
        return golden(tensors, {})

    return of_one
