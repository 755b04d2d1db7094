"""A kernel with some of its arguments fixed: weights are packed once and kept in the order they are streamed."""

from __future__ import annotations

import ctypes
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tilewright.arguments import Bound, bind, check_overlap
from tilewright.dispatch import MISSED, Repeats, fresh_results, results_of, terms
from tilewright.dtypes import DType
from tilewright.errors import ArgumentError, ArgumentValueError
from tilewright.ir.nodes import Function
from tilewright.ir.types import PanelType
from tilewright.jit import (
    Entry,
    Specialization,
    chosen_backend,
    entry_of,
    launch,
    state_of,
    thread_count,
)
from tilewright.language.kernel import Kernel
from tilewright.machine import Machine, host
from tilewright.native import Code, NativeProgram, code_for, torch_threads
from tilewright.passes.prepare import prepare
from tilewright.runtime import engine
from tilewright.runtime import threads as teams
from tilewright.runtime.forks import compiling
from tilewright.runtime.memory import Pages


@dataclass(slots=True)
class _Frozen:
    """One fixed argument, and its packed form once some program wants that.

    version:  Torch's count of in-place changes when it was fixed; None for an inference tensor, which
              does not count.
    unpacked: some program reads the tensor as it is, so that it must stay.
    """

    name: str
    tensor: Any
    alive: weakref.ref[Any]
    version: int | None
    meta: Any  # shape and dtype for specialising, when the tensor itself is gone
    panel: Pages | None = None
    unpacked: bool = False


@dataclass(slots=True)
class _Plan:
    """What a call with arguments of some shapes does.

    entry:     what was read; as long as it is held, its id is its own.
    arguments: for each argument of the program its name, or the address of a panel.
    written:   the names of those that the program writes.
    """

    entry: Entry
    special: Specialization
    program: NativeProgram
    arguments: list[str | int]
    written: set[str]


class BoundKernel:
    """`kernel.bind(name=tensor, …)`: call it with the other arguments.

    A fixed matrix that the kernel only multiplies with is packed on the first call and kept; the panel
    takes as much memory as the matrix (K and N rounded up to a block). With `release=True` the bound
    kernel then lets go of the tensor, so that the caller may free it; not of one that it has read in
    another way.

    The interpreter reads the tensors themselves, so it runs as long as none has been released.

    A fixed tensor must not change: a call after an in-place change raises ArgumentValueError (Torch
    counts changes, except of inference tensors). Bind again to use the new contents.
    Raises ArgumentError for a name that is no parameter, and for what is no tensor.
    """

    def __init__(self, kernel: Kernel, tensors: Mapping[str, Any], release: bool = False) -> None:
        state = state_of(kernel)
        kinds = {slot.name: slot for slot in state.slots}
        for name, tensor in tensors.items():
            if name not in kinds:
                raise ArgumentError(
                    f"{kernel.__name__!r} has no parameter {name!r}",
                    help=f"its parameters are {', '.join(kinds)}",
                )
            if kinds[name].kind != "tensor" or not hasattr(tensor, "data_ptr"):
                raise ArgumentError(
                    f"argument {name!r} cannot be bound: only tensors can, got {type(tensor).__name__}",
                    kinds[name].span,
                    help="pass it with each call",
                )
        self.kernel = kernel
        self.release = release
        self._state = state
        self._frozen = {name: _freeze(name, tensor) for name, tensor in tensors.items()}
        self._free = [slot.name for slot in state.slots if slot.name not in tensors]
        self._repeats = Repeats(
            [slot for slot in state.slots if slot.name not in tensors], list(self._frozen.values())
        )
        self._plans: dict[int, _Plan] = {}  # by id of the entry

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run with the arguments that are not fixed, positional ones in the kernel's order.

        Gives and raises what a call of the kernel does.
        """
        result = self._repeats.call(args, kwargs, None, None)
        return self.run(*args, **kwargs) if result is MISSED else result

    def run(
        self, *args: Any, backend: str | None = None, threads: int | None = None, **kwargs: Any
    ) -> Any:
        """As a call, by a chosen back end and on `threads` threads (as many as Torch uses when None).

        Raises ArgumentValueError too when another back end than the native one needs a tensor that was released.
        """
        result = self._repeats.call(args, kwargs, backend, threads)
        if result is not MISSED:
            return result
        asked = terms(backend, threads)
        threads = thread_count(threads)
        bound = self._bind(args, kwargs)
        backend = chosen_backend(backend)
        if backend != "native":
            for frozen in self._frozen.values():
                _require_tensor(frozen)
            return launch(self.kernel, self._state, bound, backend, threads)
        plan = self._plan(bound, threads)
        traced = plan.special.traced
        check_overlap(self.kernel, bound, plan.written)
        fresh = fresh_results(traced)
        given = bound.values
        values = [given[x] if type(x) is str else x for x in plan.arguments]
        plan.special.run([*values, *fresh], threads)
        self._repeats.remember(asked, threads, given, traced, plan.program, plan.arguments)
        return results_of(traced, given, fresh)

    def specialize(self, *args: Any, threads: int | None = None, **kwargs: Any) -> Specialization:
        """The machine code for arguments like these; packs what it wants packed."""
        return self._plan(self._bind(args, kwargs), threads).special

    @property
    def fixed(self) -> dict[str, Any]:
        """The fixed arguments as meta tensors, by name."""
        return {name: frozen.meta for name, frozen in self._frozen.items()}

    @property
    def compile_seconds(self) -> float:
        """Seconds that reading and compiling took, for all signatures seen so far; packing is not in it."""
        return sum(plan.special.compile_seconds for plan in self._plans.values())

    @property
    def panel_bytes(self) -> int:
        """Bytes that packed weights take now."""
        return sum(f.panel.nbytes for f in self._frozen.values() if f.panel is not None)

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Bound:
        if len(args) > len(self._free):
            raise ArgumentError(
                f"{self.kernel.__name__!r} takes {len(self._free)} more arguments, got {len(args)}",
                help=f"bound already: {', '.join(self._frozen)}; pass {', '.join(self._free)}",
            )
        given: dict[str, Any] = {}
        released = set()
        for name, frozen in self._frozen.items():
            _require_unchanged(frozen)
            tensor = frozen.tensor  # read once: another thread's first call may be letting go of it
            if tensor is None:
                released.add(name)
            given[name] = frozen.meta if tensor is None else tensor
        given.update(zip(self._free, args, strict=False))
        if twice := given.keys() & kwargs.keys():
            name = min(twice)
            how = "bound already" if name in self._frozen else "given twice"
            raise ArgumentError(f"argument {name!r} is {how}", help=f"pass {', '.join(self._free)}")
        given.update(kwargs)
        slots = self._state.slots
        try:
            in_order = tuple([given[slot.name] for slot in slots])
        except KeyError:  # defaults, or what is missing
            return bind(self.kernel, slots, (), given, released=released)
        if len(given) == len(slots):
            return bind(self.kernel, slots, in_order, {}, released=released)
        return bind(self.kernel, slots, (), given, released=released)  # says what is too much

    def _plan(self, bound: Bound, threads: int | None) -> _Plan:
        entry = entry_of(self.kernel, self._state, bound)
        found = self._plans.get(id(entry))
        if found is None:
            with compiling:
                found = self._plans.get(id(entry))
                if found is None:
                    found = self._plans[id(entry)] = self._make_plan(entry, threads)
        return found

    def _make_plan(self, entry: Entry, threads: int | None) -> _Plan:
        started = time.perf_counter()
        function = _with_frozen(entry.traced.function, self._frozen)
        program = NativeProgram(prepare(function, host()))
        took = entry.trace_seconds + time.perf_counter() - started
        special = Specialization(self.kernel, "native", entry.traced, program, took)
        self._pack(program, threads)
        arguments: list[str | int] = []
        for param in program.params[: len(program.params) - len(entry.traced.fresh_results)]:
            name = param.value.name
            if isinstance(param.value.type, PanelType):
                panel = self._frozen[name].panel
                assert panel is not None
                arguments.append(panel.address)
            else:
                arguments.append(name)
        written = {p.value.name for p in program.params if p.direction in ("out", "inout")}
        return _Plan(entry, special, program, arguments, written)

    def _pack(self, program: NativeProgram, threads: int | None) -> None:
        """Pack what the program reads as panels; keep the tensors that it reads as they are."""
        for param in program.params:
            frozen = self._frozen.get(param.value.name)
            if frozen is None:
                continue
            if not isinstance(param.value.type, PanelType):
                _require_tensor(frozen)
                frozen.unpacked = True
            elif frozen.panel is None:
                frozen.panel = prepack(_require_tensor(frozen), param.value.type.dtype, threads)
        if self.release:
            for frozen in self._frozen.values():
                if frozen.panel is not None and not frozen.unpacked:
                    frozen.tensor = None


def prepack(matrix: Any, dtype: DType, threads: int | None = None) -> Pages:
    """The panel of a contiguous [K, N] Torch matrix, for this machine's microkernel."""
    from tilewright.codegen.llvm.microkernel import choose
    from tilewright.codegen.llvm.prepack import emit_prepack

    with compiling:
        machine = host()
        if (dtype, machine) not in _prepackers:

            def build() -> tuple[dict[str, Any], bytes]:
                text, _ = emit_prepack(dtype, machine)
                return {}, engine.compile_object(text, machine)

            made = code_for("prepack", lambda: dtype.name, machine, build)
            _prepackers[dtype, machine] = made
        code = _prepackers[dtype, machine]
    k, n = matrix.shape
    panel = Pages(choose(dtype, machine).panel_bytes(k, n))
    words = (ctypes.c_uint64 * 5)(matrix.data_ptr(), n * dtype.nbytes, panel.address, k, n)
    teams.team(code.library["worker"], ctypes.addressof(words), threads or torch_threads())
    return panel


_prepackers: dict[tuple[DType, Machine], Code] = {}


def _freeze(name: str, tensor: Any) -> _Frozen:
    version = None if tensor.is_inference() else tensor._version
    return _Frozen(
        name, tensor, weakref.ref(tensor), version, tensor.new_empty(tensor.shape, device="meta")
    )


def _require_unchanged(frozen: _Frozen) -> None:
    tensor = frozen.alive()
    if tensor is None or frozen.version is None or tensor.is_inference():
        return
    if tensor._version != frozen.version:
        raise ArgumentValueError(
            f"the bound argument {frozen.name!r} was changed in place after bind"
            f" (Torch counts {tensor._version - frozen.version} changes)",
            help="call kernel.bind(…) again to use its new contents",
        )


def _require_tensor(frozen: _Frozen) -> Any:
    if frozen.tensor is None:
        raise ArgumentValueError(
            f"the bound argument {frozen.name!r} was released, and this call needs it unpacked",
            help="bind with release=False",
        )
    return frozen.tensor


def _with_frozen(function: Function, frozen: Mapping[str, Any]) -> Function:
    params = tuple(
        replace(p, direction="frozen") if p.value.name in frozen and p.direction == "in" else p
        for p in function.params
    )
    return replace(function, params=params)
