"""LLVM text to machine code: optimise for a machine, write object bytes, load them, find addresses.

Everything here may be called from any thread. LLVM is imported and set up on first use.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from tilewright.errors import CompilerBug
from tilewright.machine import Machine, host
from tilewright.runtime.forks import compiling

# Our loops are written the way they should run: LLVM cleans up and chooses instructions, but does
# not unroll, vectorise or otherwise guess. Level 2 inlines and hoists; 3 only takes longer.
SPEED_LEVEL = 2

_names = itertools.count()


class NoSuchTarget(CompilerBug):
    """This build of LLVM does not write code for the machine asked for."""


class Library:
    """Machine code in memory. Addresses hold for as long as this object is alive."""

    def __init__(self, tracker: Any, names: Iterable[str]) -> None:
        self._tracker = tracker
        self.addresses: dict[str, int] = {name: tracker[name] for name in names}

    def __getitem__(self, name: str) -> int:
        """Address of a function. KeyError for one that was not asked for when loading."""
        return self.addresses[name]

    def function(self, name: str, *arguments: Any, result: Any = None) -> Any:
        """A function with these ctypes argument types, to call from Python. It keeps the library
        alive and lets other Python threads run while it does.
        """
        call: Any = ctypes.CFUNCTYPE(result, *arguments)(self[name])
        call.library = self
        return call


def optimise(text: str, machine: Machine | None = None) -> str:
    """The module after LLVM's middle end, as text. Raises CompilerBug when it does not verify."""
    with compiling, _optimised(text, machine or host()) as module:
        return str(module)


def assembly(text: str, machine: Machine | None = None) -> str:
    """The assembly of a module, for reading and for tests."""
    machine = machine or host()
    with compiling, _optimised(text, machine) as module:
        return str(_target_machine(machine).emit_assembly(module))


def compile_object(text: str, machine: Machine | None = None) -> bytes:
    """A module's text as an object file, optimised for the machine."""
    machine = machine or host()
    with compiling, _optimised(text, machine) as module:
        return bytes(_target_machine(machine).emit_object(module))


def load_object(
    data: bytes, names: Iterable[str], symbols: Mapping[str, int] | None = None
) -> Library:
    """Load object bytes into this process and look up the functions `names`.

    symbols: addresses of functions that the code calls; what is not named there is looked up in the
    process (libm and libc). Raises CompilerBug when a symbol is in neither.
    """
    names = tuple(names)
    with compiling:
        llvm, jit = _llvm(), _jit()
        builder = llvm.JITLibraryBuilder().add_object_img(data).add_current_process()
        for name, address in {**_outside(data), **(symbols or {})}.items():
            builder.import_symbol(name, address)
        for name in names:
            builder.export_symbol(name)
        try:
            tracker = builder.link(jit, f"tilewright.{next(_names)}")
        except RuntimeError as err:
            raise CompilerBug(f"the compiled code does not link: {err}") from err
    return Library(tracker, names)


def load(
    text: str,
    names: Iterable[str],
    machine: Machine | None = None,
    symbols: Mapping[str, int] | None = None,
) -> Library:
    """Compile a module for this machine and load it."""
    return load_object(compile_object(text, machine), names, symbols)


@cache
def _llvm() -> Any:
    """llvmlite's binding, with the target of this machine made ready."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


@cache
def _target_machine(machine: Machine) -> Any:
    if machine.triple != host().triple:
        _llvm().initialize_all_targets()
        _llvm().initialize_all_asmprinters()
    try:
        target = _llvm().Target.from_triple(machine.triple)
    except RuntimeError as err:
        raise NoSuchTarget(f"LLVM has no target for {machine.triple}: {err}") from err
    return target.create_target_machine(
        cpu=machine.name,
        features=machine.target_features,
        opt=SPEED_LEVEL,
        reloc="pic",
        codemodel="small",
        jit=False,
    )


@cache
def _jit() -> Any:
    llvm = _llvm()
    native = llvm.Target.from_triple(host().triple)
    machine = native.create_target_machine(
        cpu=host().name, features=host().target_features, reloc="pic", codemodel="small", jit=True
    )
    # This linker keeps an object's sections side by side. The other one takes memory for each of them, and ends
    # the process where the holes between a user's tensors put them more than 2 GiB apart.
    return llvm.create_lljit_compiler(machine, use_jit_link=True)


def _optimised(text: str, machine: Machine) -> Any:
    llvm = _llvm()
    target_machine = _target_machine(machine)
    try:
        module = llvm.parse_assembly(text)
        module.triple = machine.triple
        module.data_layout = str(target_machine.target_data)
        module.verify()
    except RuntimeError as err:
        raise CompilerBug(f"LLVM refuses the module: {err}", text) from err
    options = llvm.create_pipeline_tuning_options(speed_level=SPEED_LEVEL)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    options.loop_interleaving = False
    passes = llvm.create_pass_builder(target_machine, options)
    manager = passes.getModulePassManager()
    manager.run(module, passes)
    return module


# What compiled code may call without naming an address; found by address here, because a Python
# that is linked statically does not show libm's names to the loader.
LIBM = (
    "expf",
    "logf",
    "powf",
    "sinf",
    "cosf",
    "tanhf",
    "erff",
    "fmaf",
    "fmodf",
    "floorf",
    "ceilf",
    "truncf",
    "rintf",
    "roundf",
    "roundevenf",
    "exp",
    "log",
    "pow",
    "sin",
    "cos",
    "tanh",
    "erf",
    "fma",
    "fmod",
)


def _outside(data: bytes) -> dict[str, int]:
    """Addresses of the libm functions whose names occur in the object."""
    wanted = [name for name in LIBM if name.encode() in data]
    if not wanted:
        return {}
    libm = _libm()
    return {name: _address(libm, name) for name in wanted if hasattr(libm, name)}


@cache
def _libm() -> ctypes.CDLL:
    from ctypes.util import find_library

    return ctypes.CDLL(
        find_library("m")
    )  # None, where there is no libm of its own, is the process itself


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
