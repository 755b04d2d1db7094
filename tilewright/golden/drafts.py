"""How older drafts call the harness: `tensor_specs`, `golden`, and all settings in one `RunConfig`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from tilewright.errors import SpecTypeError, author_line, like

P = ParamSpec("P")
R = TypeVar("R")

# Former name of a parameter of `run`, and what it is called today.
FORMER = {"tensor_specs": "specs", "golden": "golden_fn"}
# Settings that mean something; of all others it is said that they do nothing.
MEANT = (
    "platform",
    "device_id",
    "rtol",
    "atol",
    "compile",
    "runtime",
    "compile_only",
    "codegen_only",
)
LABELS = (
    "backend_type",
    "dump_passes",
    "strategy",
    "save_kernels",
    "save_kernels_dir",
    "runtime_profiling",
    "enable_l2_swimlane",
    "enable_chip_swimlane",
    "enable_dep_gen",
    "enable_dump_tensor",
    "enable_pmu",
    "log_level",
)


class RunConfig:
    """Settings of a run in one object. Those that older drafts have for a device are labels.

    compile, runtime:           what `compile_cfg` and `runtime_cfg` are today.
    compile_only, codegen_only: stop after compiling.
    Raises SpecTypeError for a name that looks like a slip; a setting that is unknown is said to do nothing.
    """

    def __init__(
        self,
        platform: str | None = None,
        device_id: int | None = None,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        *,
        compile: Mapping[str, Any] | None = None,
        runtime: Mapping[str, Any] | None = None,
        compile_only: bool = False,
        codegen_only: bool = False,
        **labels: Any,
    ) -> None:
        for name in sorted(set(labels) - set(LABELS)):
            if meant := like(name, (*MEANT, *LABELS)):
                raise SpecTypeError(f"RunConfig has no {name!r}", author_line(), help=meant)
            print(f"[RUN]   {name}: RunConfig takes it, it does nothing here", flush=True)
        self.platform, self.device_id, self.rtol, self.atol = platform, device_id, rtol, atol
        self.compile, self.runtime = dict(compile or {}), dict(runtime or {})
        self.compile_only = compile_only or codegen_only
        self.__dict__.update(labels)

    def keywords(self) -> dict[str, Any]:
        """These settings as keyword arguments of `run`."""
        device = {"platform": self.platform, "device_id": self.device_id}
        return {
            "rtol": self.rtol,
            "atol": self.atol,
            "compile_only": self.compile_only,
            "compile_cfg": self.compile,
            "runtime_cfg": {k: v for k, v in device.items() if v is not None} | self.runtime,
        }


def called_as_in_drafts(run: Callable[P, R]) -> Callable[P, R]:
    """`run`, to be called by its parameters' former names too; what is said twice holds as it is said today."""

    @wraps(run)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, Any] = dict(kwargs)
        former = {FORMER[name]: given.pop(name) for name in FORMER if name in given}
        config = given.pop("config", None)
        if isinstance(config, RunConfig):
            former |= config.keywords()
        elif config is not None:
            raise SpecTypeError(
                f"config is a {type(config).__name__}, wanted a RunConfig",
                author_line(),
                help="write config=RunConfig(rtol=1e-3, atol=1e-3)",
            )
        if "golden_fn" in former:
            former["golden_fn"] = _of_one(former["golden_fn"])
        return run(*args, **{**former, **given})

    return called


def _of_one(golden: Any) -> Any:
    """The golden as it is called today: its second argument, the parameters of a run, is empty."""
    if not callable(golden):
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
