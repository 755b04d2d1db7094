"""The native back end, end to end: passes, code generation, optimised machine code, and its launch."""

from __future__ import annotations

import ctypes
import operator
import struct
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

from tilewright.codegen.llvm.abi import ARGUMENTS, LINE, PHASES, RECORD_WORDS, shared_bytes
from tilewright.dtypes import BOOL
from tilewright.errors import BoundsError, CompilerBug, KernelError, index_outside, outside
from tilewright.ir.nodes import Block, Const, Function, Op, Param
from tilewright.ir.typed import shape_of, whole_number
from tilewright.ir.types import PanelType, TensorType, TileType
from tilewright.machine import Machine, host
from tilewright.runtime import cache, engine, record
from tilewright.runtime import threads as teams
from tilewright.runtime.collector import collector_waits
from tilewright.runtime.forks import compiling
from tilewright.runtime.memory import Pages
from tilewright.runtime.record import Record

if TYPE_CHECKING:
    from tilewright.codegen.llvm.module import NativeModule

PAGE = 4096
# Where the arguments begin in the words that a worker is handed, in bytes.
ARGUMENTS_OFFSET = ARGUMENTS * ctypes.sizeof(ctypes.c_uint64)

# Elements of work under which waking a team costs more than it brings: 3 to 7 us of waking and a few
# barriers, against about 1 us for 16 K elements on one thread.
ALONE_BELOW = 65536
UNKNOWN_TURNS = 64  # of a loop whose count only the run knows, when work is estimated


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds spent on the way to machine code; none in passes and codegen for code that was kept.

    llvm: optimising, writing and loading code; looking it up and loading it when it was kept.
    """

    passes: float
    codegen: float
    llvm: float

    @property
    def total(self) -> float:
        return self.passes + self.codegen + self.llvm


class NativeProgram:
    """Machine code for one specialised function, and the memory that its launches use.

    cached: the code was there already, in this process or on disk.
    small:  a launch uses one thread, whatever it is told to.
    word_makers: for each of `params`, how its argument becomes a word.
    """

    def __init__(self, function: Function, machine: Machine | None = None) -> None:
        self.machine = machine or host()
        self.function = function
        start = time.perf_counter()
        self._early = (0.0, 0.0)  # seconds in passes and code generation
        self.cached = True
        with collector_waits():
            self._code = code_for(
                "program", lambda: record.identity(function), self.machine, self._build
            )
            self.record = record.from_json(self._code.header, function)
        self.small = self.record.small
        self.stages = Stages(*self._early, time.perf_counter() - start - sum(self._early))
        # Memory is kept between launches, so that none is allocated while a kernel runs; by number of threads.
        # No lock: a fork may come while another thread holds it. A list's pop and append are whole.
        self._idle: dict[int, list[_Memory]] = {}
        self.word_makers = [_word_maker(param.value.type) for param in self.params]
        self._pack_words = struct.Struct(f"{len(self.params)}Q").pack_into

    def _build(self) -> tuple[dict[str, Any], bytes]:
        """The record of the launch, and object bytes."""
        self.cached = False
        start = time.perf_counter()
        lowered = self.lowered
        between = time.perf_counter()
        module = self._module
        self._early = (between - start, time.perf_counter() - between)
        layout = module.layout
        known = Record(
            layout.shared_bytes,
            layout.private_bytes,
            lowered.params,
            tuple(layout.checks),
            _work(lowered.body) < ALONE_BELOW,
        )
        return record.to_json(known, self.function), engine.compile_object(
            module.text, self.machine
        )

    @property
    def params(self) -> tuple[Param, ...]:
        """What `run` takes, in order."""
        return self.record.params

    @cached_property
    def lowered(self) -> Function:
        """The program after the native pipeline; made anew when the code was kept."""
        from tilewright.passes import pipeline

        return pipeline.lower(self.function, self.machine)

    @property
    def text(self) -> str:
        """The LLVM text before the middle end; made anew when the code was kept."""
        return self._module.text

    @cached_property
    def _module(self) -> NativeModule:
        from tilewright.codegen.llvm.module import emit

        return emit(self.lowered, self.machine)

    def run(self, args: Sequence[Any], threads: int | None = None) -> None:
        """Launch with the arguments in the order of `params`: Torch tensors, Python scalars,
        and for a frozen weight the address of its panel.

        threads: as many as Torch uses when None; a program too small to share runs on one.
        The tensors have been checked (tilewright.jit); they are written in place. Raises BoundsError or
        KernelError, with the author's line, when a check of the program fails.
        """
        words = [make(arg) for make, arg in zip(self.word_makers, args, strict=True)]
        threads = self.team_size(threads)
        memory = self.idle_memory(threads)
        if memory is None:
            memory = _Memory(self.record, self._code.library["worker"], threads)
            self._idle.setdefault(threads, [])
        self.launch(words, memory)

    def team_size(self, threads: int | None) -> int:
        """How many threads a launch uses that is told to use so many, as many as Torch when None."""
        return 1 if self.small else threads or torch_threads()

    def idle_memory(self, threads: int) -> _Memory | None:
        """Memory of an earlier launch on so many threads that no launch uses now; it is the caller's to launch with."""
        try:
            return self._idle[threads].pop()
        except (KeyError, IndexError):
            return None

    def launch(self, words: Sequence[int], memory: _Memory) -> None:
        """As `run`, with every argument as the word that the machine code takes; gives the memory back."""
        try:
            self._pack_words(memory.words, ARGUMENTS_OFFSET, *words)
            memory.shared[:] = memory.zeros
            memory.record[0] = 0
            memory.run(memory.threads)
            failed = memory.record[0]
            seen = list(memory.record[1:]) if failed else []
        finally:
            self._idle[memory.threads].append(memory)
        if failed:
            raise self._failure(self.record.checks[failed - 1], seen)

    def assembly(self) -> str:
        """The machine code as assembly."""
        return engine.assembly(self.text, self.machine)

    def optimised(self) -> str:
        """The LLVM text after the middle end."""
        return engine.optimise(self.text, self.machine)

    @staticmethod
    def _failure(check: Op, seen: list[int]) -> KernelError:
        """What the failed check says, in the words that the interpreter uses."""
        match check.name:
            case "check_window":
                extents = check.attr("extents")
                rank = len(extents)
                for axis, (extent, start, count) in enumerate(
                    zip(extents, seen[:rank], seen[rank : 2 * rank], strict=True)
                ):
                    if count and (start < 0 or count < 0 or start + count > extent):
                        return outside(
                            check.attr("subject"),
                            check.attr("access"),
                            axis,
                            start,
                            count,
                            extent,
                            check.span,
                        )
            case "mscatter":
                return index_outside(
                    check.attr("subject"), seen[0], check.attr("count"), check.span
                )
            case "check_that":
                return KernelError(check.attr("message"), check.span)
            case "for":
                return KernelError(
                    "the step of a loop is 0", check.span, help="make the step positive"
                )
            case "s.floordiv" | "s.mod":
                return KernelError(
                    "integer division by zero", check.span, help="test the divisor first"
                )
            case "s.shl" | "s.shr":
                return KernelError(f"a shift by {seen[0]}", check.span, help="shift by 0 to 63")
        return BoundsError(f"{check.name} failed with {seen}", check.span)


def torch_threads() -> int:
    """What `torch.set_num_threads` says now, as its team is the one that runs."""
    import torch

    return torch.get_num_threads()


def _word_maker(type: Any) -> Callable[[Any], int]:
    """How an argument of that type becomes 8 bytes: an address, an integer, or the bits of an FP32."""
    if isinstance(type, TensorType):
        return operator.methodcaller("data_ptr")
    if isinstance(type, PanelType):
        return int
    if type.dtype.is_float:
        return lambda arg: int(struct.unpack("<I", struct.pack("<f", arg))[0])
    if type.dtype == BOOL:
        return lambda arg: int(bool(arg))
    return lambda arg: int(arg) & (1 << 64) - 1


class Code:
    """Machine code in this process, and the JSON values that were kept with it."""

    def __init__(self, header: dict[str, Any], data: bytes) -> None:
        self.header, self.library = header, engine.load_object(data, ["worker"])


# Code that something in this process holds, by key: the disk need not be asked again.
_held: weakref.WeakValueDictionary[str, Code] = weakref.WeakValueDictionary()


def code_for(
    kind: str,
    identity: Callable[[], str],
    machine: Machine,
    build: Callable[[], tuple[dict[str, Any], bytes]],
) -> Code:
    """The code that `build` gives (header, object bytes) or gave before, here or in another process.

    identity: a text that says all that `build` depends on besides the machine and the compiler.
    """
    kept = cache.user_cache()
    if kept is None:
        return Code(*build())
    key = cache.key_of(kind, identity(), machine)
    with compiling:
        code = _held.get(key)
        if code is None:
            entry = kept.get(key)
            if entry is None:
                entry = cache.Entry(*build())
                if (
                    cache.user_cache() is not None
                ):  # the compiler is still the one that the key names
                    kept.put(key, entry)
            code = _held[key] = Code(entry.header, entry.data)
    return code


class _Memory:
    """Arenas, shared block and failure record of one launch at a time.

    words:  what the worker is handed: where everything is, then the arguments.
    shared: what threads share, as bytes; a launch fills it with `zeros` first.
    record: the failed check's number, which a launch sets to 0 first, and what it saw.
    run:    starts the worker on so many threads.
    """

    def __init__(self, record: Record, worker: int, threads: int) -> None:
        self.threads = threads
        used = shared_bytes(PHASES * threads)
        shared_block = _round_up(used, PAGE)
        private_stride = _round_up(record.private_bytes, PAGE) + LINE
        arena = _round_up(record.shared_bytes, PAGE)
        self._pages = Pages(shared_block + arena + threads * private_stride)
        self.shared, self.zeros = self._pages.bytes(0, used), bytes(used)
        self.record = (ctypes.c_int64 * RECORD_WORDS)()
        sync = self._pages.address
        self.words = (ctypes.c_uint64 * (ARGUMENTS + len(record.params)))()
        self.words[0:ARGUMENTS] = [
            sync + shared_block,
            sync + shared_block + arena,
            sync,
            ctypes.addressof(self.record),
            private_stride,
        ]
        self.run = teams.Launch(worker, ctypes.addressof(self.words)).run


def compile_native(function: Function, machine: Machine | None = None) -> NativeProgram:
    """Machine code for a function that went through `pipeline.prepare`."""
    try:
        return NativeProgram(function, machine)
    except (KernelError, CompilerBug):
        raise
    except (AssertionError, KeyError, ValueError, RuntimeError) as error:
        from tilewright.ir.printer import to_text

        raise CompilerBug(f"native compilation failed: {error}", to_text(function)) from error


def _work(block: Block, trips: int = 1) -> int:
    """A rough count of element operations; run-time trip counts count as many."""
    total = 0
    for op in block.ops:
        times = trips
        if op.name == "for":
            bounds = op.operands[:3]
            known = all(isinstance(x, Const) for x in bounds)
            times *= len(range(*map(whole_number, bounds))) if known else UNKNOWN_TURNS
        elif op.name == "while":
            times *= UNKNOWN_TURNS
        elif op.name.startswith("matmul_packed"):
            panel = op.operands[-2].type
            assert isinstance(panel, PanelType)
            total += trips * shape_of(op.result)[0] * panel.k * panel.n // 64
        elif op.name == "pack":
            panel = op.result.type
            assert isinstance(panel, PanelType)
            total += trips * panel.k * panel.n // 8
        else:
            tiles = [
                x.type for x in (*op.results, *op.operands[:1]) if isinstance(x.type, TileType)
            ]
            total += trips * max((prod(t.shape) for t in tiles), default=0)
        total += sum(_work(inner, times) for inner in op.blocks)
    return total


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
