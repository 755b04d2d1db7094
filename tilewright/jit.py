"""Calling a kernel: bind and check the arguments, specialise once per signature, compile, launch.

The one file that meets every floor. Nothing heavy is imported before the first compile.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from tilewright import knobs
from tilewright.arguments import Bound, Slot, bind, check_annotations, check_overlap, slots_of
from tilewright.dispatch import MISSED, Repeats, fresh_results, results_of, terms
from tilewright.errors import ArgumentValueError, CheckFailed, CompilerBug, KernelError
from tilewright.frontend import (
    NeedsConstant,
    ScalarArgument,
    TensorArgument,
    Traced,
    Watch,
    check_syntax,
    signature_of,
    trace,
)
from tilewright.ir.nodes import Function
from tilewright.language.kernel import Kernel, register_launcher
from tilewright.language.program import Program
from tilewright.runtime.collector import collector_waits
from tilewright.runtime.forks import compiling


class Executable(Protocol):
    """Something that can run a program: compiled code, or the interpreter."""

    def run(self, args: Sequence[Any], threads: int | None) -> None: ...


@dataclass(slots=True)
class Specialization:
    """A kernel for arguments of one signature, ready to run: what `kernel.specialize(…)` gives.

    backend:         'native', 'interpreter' or 'checked'.
    traced:          what the front end made; its program is `function`.
    executable:      what runs it; in the native back end with `text` (LLVM) and `assembly()`.
    compile_seconds: reading, passes and code generation together.
    """

    kernel: Kernel
    backend: str
    traced: Traced
    executable: Executable
    compile_seconds: float

    @property
    def function(self) -> Function:
        """The program as the front end built it; `tilewright.ir.printer.to_text` prints it."""
        return self.traced.function

    def run(self, args: Sequence[Any], threads: int | None = None) -> None:
        """Run on arguments that are already checked: one per parameter of `function`, in its
        order.
        """
        self.executable.run(args, threads)


@dataclass(slots=True)
class Entry:
    """One traced program and what was made of it; `watch` says whether it still holds."""

    traced: Traced
    trace_seconds: float
    watch: Watch
    ready: dict[str, Specialization] = field(default_factory=dict)


@dataclass(slots=True)
class State:
    """What a kernel remembers between calls."""

    slots: tuple[Slot, ...]
    repeats: Repeats
    constants: set[str] = field(default_factory=set)  # scalars that had to become constants
    entries: dict[Any, list[Entry]] = field(default_factory=dict)


class _Interpreted:
    """A program run by the interpreter."""

    def __init__(self, traced: Traced) -> None:
        from tilewright.machine import host
        from tilewright.passes.prepare import prepare

        self.function = prepare(traced.function, host())

    def run(self, args: Sequence[Any], threads: int | None) -> None:
        from tilewright.interpreter import run

        run(self.function, args)


_FILLED: ContextVar[tuple[Any, ...]] = ContextVar("filled", default=())


@contextmanager
def filled(tensors: Sequence[Any]) -> Iterator[None]:
    """Within, a checking run takes these arguments as initialised, also where the kernel says Out."""
    token = _FILLED.set(tuple(tensors))
    try:
        yield
    finally:
        _FILLED.reset(token)


class _Checked:
    """A program run by the interpreter, looking for races, bounds and undefined contents."""

    def __init__(self, traced: Traced) -> None:
        self.traced = traced

    def run(self, args: Sequence[Any], threads: int | None) -> None:
        """Raises CheckFailed with everything that was found, after the run."""
        from tilewright.interpreter import check
        from tilewright.machine import host
        from tilewright.passes.split_barriers import split_barriers

        function = split_barriers(self.traced.function, host())
        returned = [r.name for r in self.traced.fresh_results if not r.promised]
        holding = {id(x) for x in _FILLED.get()}
        held = [
            p.value.name for p, x in zip(function.params, args, strict=True) if id(x) in holding
        ]
        reports = check(function, args, returned=returned, filled=held)
        if reports:
            raise CheckFailed(function.name, reports)


def _native(traced: Traced) -> Executable:
    from tilewright.machine import host
    from tilewright.native import compile_native
    from tilewright.passes.prepare import prepare

    executable: Executable = compile_native(prepare(traced.function, host()))
    return executable


_COMPILERS: Mapping[str, Callable[[Traced], Executable]] = {
    "native": _native,
    "interpreter": _Interpreted,
    "checked": _Checked,
}


class _Launcher:
    """Runs kernels for `tilewright.language`."""

    def run(
        self,
        kernel: Kernel,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        backend: str | None,
        threads: int | None,
    ) -> Any:
        """Check, compile if need be, run.

        None in place style; the created tensors in return style.
        """
        state: State = kernel.specializations.get("state") or state_of(kernel)
        result = state.repeats.call(args, kwargs, backend, threads)
        if result is not MISSED:
            return result
        asked = terms(backend, threads)
        threads = thread_count(threads)
        bound = bind(kernel, state.slots, args, kwargs)
        return launch(kernel, state, bound, chosen_backend(backend), threads, asked)

    def bind(self, kernel: Kernel, tensors: dict[str, Any], release: bool) -> Any:
        """The kernel with some tensors fixed."""
        from tilewright.bound import BoundKernel

        return BoundKernel(kernel, tensors, release)

    def specialize(
        self, kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any], backend: str | None
    ) -> Specialization:
        """Compile for arguments like these. Tensors may be on the meta device; no data is read."""
        state = state_of(kernel)
        return _specialize(
            kernel,
            state,
            bind(kernel, state.slots, args, kwargs, data=False),
            chosen_backend(backend),
        )

    def check(self, program: Program) -> None:
        """Read a program as far as that is possible without arguments, and report its mistakes.

        What its annotations fix completely is kept for the first call.
        """
        for function in program.functions.values():
            check_syntax(function)
        parameters = signature_of(program)
        types = {}
        for p in parameters:
            if p.kind == "tensor":
                if p.shape is None or p.dtype is None or None in p.shape:
                    return
                types[p.name] = (tuple(n for n in p.shape if n is not None), p.dtype)
        state = state_of(program)
        bound = Bound(state.slots, {}, types, tuple(types.values()), {})
        with suppress(NeedsConstant), compiling, collector_waits():
            _trace(program, state, bound)


def check(kernel: Kernel, *args: Any, **kwargs: Any) -> tuple[KernelError, ...]:
    """Call a kernel in a checking run; everything that was wrong with it, one report a place.

    Found are windows and indices out of bounds, undefined contents that reach an output, a condition or
    an address, and iterations of parallel loops that touch the same element. The arguments hold the
    results afterwards. Gives an empty tuple when nothing was found. Raises what a call raises before anything
    runs: ParserError, ArgumentError, ArgumentValueError.
    """
    try:
        kernel.run(*args, backend="checked", **kwargs)
    except CheckFailed as failed:
        return failed.reports
    return ()


def launch(
    kernel: Kernel,
    state: State,
    bound: Bound,
    backend: str,
    threads: int | None,
    asked: tuple[Any, ...] | None = None,
) -> Any:
    """Run on checked arguments, compiling if need be; what a call gives.

    asked: the terms of the call, if calls of the kernel like it may go the short way from now on.
    """
    special = _specialize(kernel, state, bound, backend)
    traced = special.traced
    written = {p.value.name for p in traced.function.params if p.direction != "in"}
    check_overlap(kernel, bound, written)
    names = [s.name for s in state.slots if s.name not in traced.constants]
    fresh = fresh_results(traced)
    try:
        special.run([*(bound.values[name] for name in names), *fresh], threads)
    except (MemoryError, OSError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise KernelError(
            f"the temporaries of {kernel.__name__!r} need more memory than there is: {error}",
            traced.function.span,
            help="use smaller tiles, or fewer elements in pl.create_tensor",
        ) from error
    if asked is not None and backend == "native":
        executable: Any = special.executable
        state.repeats.remember(asked, threads, bound.values, traced, executable, names)
    return results_of(traced, bound.values, fresh)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or "allocate" in str(error)


def chosen_backend(asked: str | None) -> str:
    """The back end asked for, or else the knob's. ArgumentValueError for one that is not there."""
    if knobs.checking():
        return "checked"
    if asked is None:
        return knobs.backend()
    if asked not in _COMPILERS:
        raise ArgumentValueError(
            f"there is no back end {asked!r}", help=f"choose one of {', '.join(_COMPILERS)}"
        )
    return asked


def thread_count(asked: int | None) -> int | None:
    if asked is None:
        return knobs.threads()
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise ArgumentValueError(
            f"threads must be a positive number, got {asked!r}",
            help="pass threads=2, or leave it out for all cores",
        )
    return asked


def state_of(kernel: Kernel) -> State:
    state: State | None = kernel.specializations.get("state")
    if state is None:
        slots = slots_of(kernel)
        state = State(slots, Repeats(slots))
        kernel.specializations["state"] = state
    return state


def _specialize(kernel: Kernel, state: State, bound: Bound, backend: str) -> Specialization:
    """The specialisation for these arguments, compiled if there is none that is still fresh."""
    found = _find(state, bound, backend)
    if found is not None:
        return found
    with compiling, collector_waits():
        found = _find(state, bound, backend)
        if found is not None:
            return found
        entry = entry_of(kernel, state, bound)
        started = time.perf_counter()
        try:
            executable = _COMPILERS[backend](entry.traced)
        except (KernelError, CompilerBug):
            raise
        except Exception as error:
            text = f"{kernel.__name__!r} could not be compiled: {type(error).__name__}: {error}"
            raise CompilerBug(text, span=entry.traced.function.span) from error
        seconds = entry.trace_seconds + time.perf_counter() - started
        special = Specialization(kernel, backend, entry.traced, executable, seconds)
        entry.ready[backend] = special
        return special


def traced_for(kernel: Kernel, values: Mapping[str, Any]) -> Traced:
    """The program for arguments like these, by name; meta tensors do, and nothing is compiled."""
    state = state_of(kernel)
    return entry_of(kernel, state, bind(kernel, state.slots, (), dict(values), data=False)).traced


def entry_of(kernel: Kernel, state: State, bound: Bound) -> Entry:
    """The traced program for these arguments, read from the source if there is none that is still fresh."""
    entry = _entry(state, bound)
    if entry is not None:
        return entry
    with compiling, collector_waits():
        entry = _entry(state, bound)
        if entry is None:
            if kernel.binding or (kernel.check_annotations and knobs.check_annotations()):
                check_annotations(signature_of(kernel), bound)
            entry = _trace(kernel, state, bound)
        return entry


def _key(state: State, bound: Bound) -> Any:
    """Dtypes and shapes of tensors, and the values of the scalars that became constants."""
    if not state.constants:
        return bound.key
    values = [
        (name, type(bound.values[name]), bound.values[name]) for name in sorted(state.constants)
    ]
    return (bound.key, *values)


def _entry(state: State, bound: Bound) -> Entry | None:
    """The traced program for these arguments; programs whose constants have changed are dropped."""
    key = _key(state, bound)
    entries = state.entries.get(key)
    if not entries:
        return None
    if not entries[0].watch.changed():
        return entries[0]
    with compiling:
        entries[:] = [entry for entry in entries if not entry.watch.changed()]
        return entries[0] if entries else None


def _find(state: State, bound: Bound, backend: str) -> Specialization | None:
    entry = _entry(state, bound)
    return None if entry is None else entry.ready.get(backend)


def _trace(kernel: Kernel, state: State, bound: Bound) -> Entry:
    """Read the kernel, turning scalars into constants as far as it needs them."""
    started = time.perf_counter()
    while True:
        try:
            traced = trace(
                kernel, {slot.name: _argument(state, bound, slot) for slot in state.slots}
            )
            break
        except NeedsConstant as needed:
            if needed.parameter not in bound.values:
                raise
            state.constants.add(needed.parameter)
    for line in traced.prints:
        print(line)
    entry = Entry(traced, time.perf_counter() - started, Watch(traced.consulted))
    state.entries.setdefault(_key(state, bound), []).append(entry)
    return entry


def _argument(state: State, bound: Bound, slot: Slot) -> TensorArgument | ScalarArgument:
    if slot.kind == "tensor":
        return TensorArgument(*bound.types[slot.name])
    assert slot.dtype is not None
    return ScalarArgument(
        slot.dtype, bound.values[slot.name] if slot.name in state.constants else None
    )


register_launcher(_Launcher())
