"""`run_jit` and `run`: compile, generate inputs, compute golden, run, validate.

The golden is computed before the kernel runs and from copies, so that a kernel cannot corrupt it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tilewright import knobs
from tilewright.errors import ArgumentError, KernelError, SpecTypeError, author_line, like
from tilewright.golden import replay
from tilewright.golden.drafts import called_as_in_drafts
from tilewright.golden.launch import Launch, given_to
from tilewright.golden.policies import Case
from tilewright.golden.reference import Golden, GoldenError, compute
from tilewright.golden.report import OutputReport
from tilewright.golden.result import RunResult
from tilewright.golden.spec import ScalarSpec, Spec, check_names
from tilewright.golden.validate import Judge, error_of, judge_outputs
from tilewright.listeners import announce

# Settings of the original system: accepted as labels, without effect on a CPU. `backend` and
# `threads` are ours; `log_level` "quiet" prints nothing.
COMPILE_KEYS = frozenset(
    {
        "backend_type",
        "dump_passes",
        "output_dir",
        "platform",
        "profiling",
        "skip_ptoas",
        "strategy",
        "verification_level",
    }
)
DEVICE_KEYS = ("platform", "device_id")
TRACE_KEYS = (
    "enable_l2_swimlane",
    "enable_chip_swimlane",
    "enable_dep_gen",
    "enable_dump_tensor",
    "enable_pmu",
    "runtime_profiling",
)
RUNTIME_KEYS = frozenset({*DEVICE_KEYS, *TRACE_KEYS, "backend", "log_level", "threads"})


@called_as_in_drafts
def run_jit(
    fn: Any,
    specs: Sequence[Spec],
    golden_fn: Golden | None = None,
    golden_data: str | Path | None = None,
    compile_cfg: Mapping[str, Any] | None = None,
    runtime_cfg: Mapping[str, Any] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    compare_fn: Mapping[str, Judge] | None = None,
    compile_only: bool = False,
    runtime_dir: str | Path | None = None,
    *,
    save_data: bool = False,
    work_dir: str | Path | None = None,
    seed: int | None = None,
    strict: bool = False,
    repeats: int = 0,
) -> RunResult:
    """Run the `@pl.jit` kernel `fn` on tensors made from `specs` and judge its outputs.

    Specs stand in the order of the parameters; in return style those of the results follow.

    golden_fn(values) fills the outputs among `values` in place; golden_data is a folder of an
    earlier run and wins over it. compare_fn maps an output to a comparator or a policy; others are
    compared by `torch.allclose` with rtol and atol. `runtime_dir` names a finished build: the
    compile stage is skipped.

    Ours: `seed` for Torch's generator, printed (None leaves it alone); `save_data` writes inputs
    and golden below `work_dir`; `strict` poisons the outputs, guards the memory around them and
    fails a kernel that writes to an input; `repeats` warm calls are timed (the knob PYPTO_BENCH
    asks for some as well), and must give the same bits as the first.

    As older drafts say it: `tensor_specs` for specs, `golden` for golden_fn, `config=RunConfig(…)` for settings.

    Raises TypeError for an unknown key in compile_cfg or runtime_cfg, ValueError for specs or
    comparators that do not fit together, and whatever the compiler or the kernel raises.
    """
    settings = _settings(compile_cfg, runtime_cfg)
    _check(fn, rtol, atol)
    check_names(specs)
    seed = knobs.seed() if seed is None else seed
    stages = _Stages(getattr(fn, "__name__", "kernel"), settings.get("log_level") == "quiet")
    if runtime_dir is not None and compile_only:
        return stages.ended(RunResult(False, "runtime_dir is incompatible with compile_only"))
    if runtime_dir is not None and not Path(runtime_dir).is_dir():
        return stages.ended(RunResult(False, f"runtime_dir {runtime_dir} is not a folder"))
    if golden_data is not None and (missing := replay.missing_files(Path(golden_data), specs)):
        text = f"golden_data {golden_data} lacks {', '.join(missing)}"
        return stages.ended(RunResult(False, text))
    backend, threads = settings.get("backend"), settings.get("threads")
    _tell_labels(settings, stages)

    compile_seconds = None
    if runtime_dir is None:
        with stages("compile"):
            compile_seconds = _compile(fn, specs, backend)
    if compile_only:
        return stages.ended(RunResult(True, compile_seconds=compile_seconds))

    with stages("generate inputs"):
        frozen, stored = _values(specs, golden_data, seed, stages)
        snapshot = {n: v.clone() for n, v in frozen.items() if isinstance(v, Tensor)}
    golden, golden_seconds = None, None
    untouched: tuple[GoldenError, ...] = ()
    if golden_data is not None:
        stages.say(f"  cache hit: {Path(golden_data) / 'out'}")
        golden = stored
    elif golden_fn is not None:
        with stages("compute golden"):
            started = time.perf_counter()
            computed = compute(golden_fn, specs, frozen, compare_fn or ())
            golden_seconds = time.perf_counter() - started
        if computed.mistakes:
            text = "\n".join(map(str, computed.mistakes))
            return stages.ended(RunResult(False, text, compile_seconds=compile_seconds))
        golden, untouched = computed.outputs, computed.untouched
    folder = (
        _saved(fn, specs, snapshot, golden, work_dir) if save_data and golden_data is None else None
    )

    with stages("runtime"):
        launch = Launch(fn, specs, frozen, snapshot, backend, threads, strict)
        rounds = knobs.bench_rounds()
        bench = launch.run(
            repeats or rounds, warmup=0 if repeats or not rounds else knobs.bench_warmup()
        )
    if rounds:
        stages.say(f"  median of {len(bench.warm)} calls {bench.median * 1e6:.1f} us")
    problems = launch.problems(snapshot)
    result = RunResult(
        True,
        work_dir=folder,
        seed=seed,
        compile_seconds=compile_seconds,
        golden_seconds=golden_seconds,
        bench=bench,
    )
    if golden is None:
        stages.say("  validation skipped: there is no golden_fn and no golden_data")
        return stages.ended(_failed(result, None, problems))
    with stages("validate"):
        values = {**frozen, **snapshot}
        case = Case(launch.outputs, golden, values)
        reports = judge_outputs(case, rtol, atol, compare_fn)
        _tell(reports, stages)
    failed = error_of(reports)
    if failed is not None:
        problems = [*map(str, untouched), *problems]
    return stages.ended(_failed(replace(result, outputs=tuple(reports)), failed, problems))


def _check(fn: Any, rtol: Any, atol: Any) -> None:
    """A kernel, and tolerances that are numbers. SpecTypeError otherwise."""
    if not hasattr(fn, "specialize"):
        name = getattr(fn, "__name__", repr(fn))
        raise SpecTypeError(
            f"run_jit wants a kernel decorated with @pl.jit, got {name}",
            author_line(),
            help=f"write @pl.jit above {name}" if callable(fn) else "pass the kernel itself",
        )
    for name, value in (("rtol", rtol), ("atol", atol)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise SpecTypeError(
                f"{name} is {value!r}, wanted a number", author_line(), help=f"write {name}=1e-3"
            )


@called_as_in_drafts
def run(program: Any, specs: Sequence[Spec], *args: Any, **kwargs: Any) -> RunResult:
    """`run_jit` for a `@pl.program` class; the arguments after `specs` are those of `run_jit`.

    Raises TypeError for anything else than a compiled program or kernel.
    """
    if not hasattr(program, "specialize"):
        name = getattr(program, "__name__", repr(program))
        raise SpecTypeError(
            f"golden.run wants a @pl.program class, got {name}",
            author_line(),
            help="decorate its entry with @pl.jit and call golden.run_jit",
        )
    return run_jit(program, specs, *args, **kwargs)


# -- stages ----------------------------------------------------------------------------------------


class _Stages:
    """The printed lines of a run, with the seconds of each stage."""

    def __init__(self, kernel: str, quiet: bool) -> None:
        self.started = time.perf_counter()
        self.kernel, self.quiet = kernel, quiet

    def say(self, text: str) -> None:
        if not self.quiet:
            print(f"[RUN] {text}", flush=True)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.say(f"{name} ...")
        started = time.perf_counter()
        yield
        self.say(f"{name} done ({time.perf_counter() - started:.2f}s)")

    def ended(self, result: RunResult) -> RunResult:
        """`result` with the time of all stages; a pass is announced, a failure is the caller's."""
        seconds = time.perf_counter() - self.started
        if result.passed:
            self.say(f"PASS ({seconds:.2f}s)")
        result = replace(result, execution_time=seconds)
        announce(self.kernel, result)
        return result


def _settings(
    compile_cfg: Mapping[str, Any] | None, runtime_cfg: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The runtime settings, after every key of both was recognised."""
    for name, given, known in (
        ("compile_cfg", compile_cfg, COMPILE_KEYS),
        ("runtime_cfg", runtime_cfg, RUNTIME_KEYS),
    ):
        unknown = sorted(set(given or {}) - known)
        if unknown:
            near = [like(key, known) for key in unknown]
            raise SpecTypeError(
                f"{name} has unknown keys {unknown}; known are {sorted(known)}",
                author_line(),
                help=next(filter(None, near), "leave them out"),
            )
    return dict(runtime_cfg or {})


def _tell_labels(settings: Mapping[str, Any], stages: _Stages) -> None:
    """What was asked of a device that is not there."""
    labels = [f"{key} {settings[key]}" for key in DEVICE_KEYS if settings.get(key) is not None]
    if labels:
        stages.say(f"  {', '.join(labels)}: this CPU stands in for it")
    tracing = [key for key in TRACE_KEYS if settings.get(key)]
    if tracing:
        stages.say(f"  {', '.join(tracing)}: no trace is written, tilewright makes none yet")


def _compile(fn: Any, specs: Sequence[Spec], backend: str | None) -> float:
    """Specialise for tensors like those specified, so that the real call hits the cache."""
    empty = [
        s.to_python()
        if isinstance(s, ScalarSpec)
        else torch.empty(tuple(s.shape), dtype=s.dtype, device="meta")
        for s in given_to(fn, specs)
    ]
    started = time.perf_counter()
    try:
        if backend is None:
            fn.specialize(*empty)
        else:
            fn.specialize(*empty, backend=backend)
    except ArgumentError as error:
        _say_which_spec(fn, specs, error)
        raise
    return time.perf_counter() - started


def _say_which_spec(fn: Any, specs: Sequence[Spec], error: KernelError) -> None:
    """Add to complaints about arguments where their specs are."""
    names = list(fn.signature.parameters)
    out_of_order = [s.name for s in specs] != names and {s.name for s in specs} == set(names)
    for one in (error, *error.also):
        for name, spec in zip(names, specs, strict=False):
            place = getattr(spec, "place", None)
            if place is not None and one.message.startswith(f"argument {name!r} "):
                one.places = (*one.places, (place, f"made from the spec {spec.name!r}"))
    if out_of_order:
        error.notes = (
            *error.notes,
            f"specs are taken in the order of the parameters: {', '.join(names)}",
        )
    elif len(names) > len(specs):
        error.notes = (*error.notes, f"the specs are {', '.join(s.name for s in specs)}")


def _values(
    specs: Sequence[Spec], golden_data: str | Path | None, seed: int | None, stages: _Stages
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(argument by name: tensors, and Python numbers for scalars; golden outputs of a replay)."""
    stored: dict[str, Any] = {}
    golden: dict[str, Tensor] = {}
    if golden_data is not None:
        stages.say(f"  cache hit: {Path(golden_data) / 'in'}")
        stored, golden = replay.load(Path(golden_data), specs)
    elif seed is not None:
        stages.say(f"  seed {seed}")
        torch.manual_seed(seed)
    values: dict[str, Any] = {}
    for spec in specs:
        if isinstance(spec, ScalarSpec):
            values[spec.name] = (
                stored[spec.name].item() if spec.name in stored else spec.to_python()
            )
        else:
            values[spec.name] = stored[spec.name] if spec.name in stored else spec.create_tensor()
    return values, golden


def _saved(
    fn: Any,
    specs: Sequence[Spec],
    snapshot: Mapping[str, Tensor],
    golden: Mapping[str, Tensor] | None,
    work_dir: str | Path | None,
) -> Path:
    """Write the run's data for a replay; gives the work folder."""
    name = getattr(fn, "__name__", "kernel")
    stamp = time.strftime("%Y%m%d_%H%M%S")
    folder = Path(work_dir) if work_dir is not None else Path("build_output") / f"{name}_{stamp}"
    inputs = {
        s.name: s.value if isinstance(s, ScalarSpec) else snapshot[s.name]
        for s in specs
        if isinstance(s, ScalarSpec) or s.role != "output"
    }
    replay.save(folder / "data", inputs, golden or {})
    return folder


def _tell(reports: Sequence[OutputReport], stages: _Stages) -> None:
    for report in reports:
        stages.say(f"  {report.line()}")


def _failed(result: RunResult, error: str | None, problems: Sequence[str]) -> RunResult:
    """`result`, failed with the mismatch and whatever else went wrong; itself when nothing did."""
    errors = [*([error] if error else []), *problems]
    return replace(result, passed=False, error="\n".join(errors)) if errors else result
