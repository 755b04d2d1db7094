"""Running Arm machine code on any processor: QEMU's user-mode emulation, and a small program around the code.

The program is a static ELF file without a C library. It says where its memory is; then it reads a
request (a function, its arguments, bytes for the memory), calls the function, and writes the memory
back, again and again until its input ends.
"""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tilewright import native
from tilewright.codegen.llvm.abi import ARGUMENTS as ARGUMENTS_FROM
from tilewright.codegen.llvm.abi import PHASES, RECORD_WORDS, shared_bytes
from tilewright.codegen.llvm.module import emit
from tilewright.ir.nodes import Function
from tilewright.machine import Machine
from tilewright.passes import pipeline
from tilewright.runtime import engine

EMULATORS = ("qemu-aarch64", "qemu-aarch64-static")
LINKERS = ("aarch64-linux-gnu-ld", "ld.lld", "aarch64-linux-gnu-ld.bfd")
ARGUMENTS = 12  # words that a function may take; it looks at as many as it has
HEADER = 2 + ARGUMENTS  # the function's number, bytes of memory, arguments
MEMORY = 16 << 20
LINE = 64
READ, WRITE, EXIT = 63, 64, 93  # Linux system calls on AArch64

RUNNER = """
target triple = "{triple}"
@memory = internal global [{memory} x i8] zeroinitializer, align 4096
@header = internal global [{header} x i64] zeroinitializer, align 64
@table = internal constant [{count} x ptr] [{functions}]
{declared}

; i64 system(call, a, b, c), by its instructions: llvmlite assembles none for other processors.
; mov x8, x0; mov x0, x1; mov x1, x2; mov x2, x3; svc 0; ret
@system = internal constant [6 x i32] [i32 u0xaa0003e8, i32 u0xaa0103e0, i32 u0xaa0203e1,
  i32 u0xaa0303e2, i32 u0xd4000001, i32 u0xd65f03c0], section ".text", align 8

; all of `count` bytes, or the end of the program
define internal void @transfer(i64 %call, i64 %file, ptr %at, i64 %count) noinline {{
entry:
  br label %more
more:
  %done = phi i64 [ 0, %entry ], [ %sum, %next ]
  %left = sub i64 %count, %done
  %any = icmp sgt i64 %left, 0
  br i1 %any, label %move, label %end
move:
  %here = getelementptr i8, ptr %at, i64 %done
  %address = ptrtoint ptr %here to i64
  %moved = call i64 @system(i64 %call, i64 %file, i64 %address, i64 %left)
  %good = icmp sgt i64 %moved, 0
  br i1 %good, label %next, label %stop
next:
  %sum = add i64 %done, %moved
  br label %more
stop:
  call i64 @system(i64 {exit}, i64 0, i64 0, i64 0)
  unreachable
end:
  ret void
}}

define void @_start() {{
  %base = ptrtoint ptr @memory to i64
  store i64 %base, ptr @header
  call void @transfer(i64 {write}, i64 1, ptr @header, i64 8)
  br label %again
again:
  call void @transfer(i64 {read}, i64 0, ptr @header, i64 {header_bytes})
  %number = load i64, ptr @header
  %size = load i64, ptr getelementptr (i64, ptr @header, i64 1)
  call void @transfer(i64 {read}, i64 0, ptr @memory, i64 %size)
  %place = getelementptr ptr, ptr @table, i64 %number
  %function = load ptr, ptr %place
{loads}
  call void %function({arguments})
  call void @transfer(i64 {write}, i64 1, ptr @memory, i64 %size)
  br label %again
}}

; what LLVM and the barrier may call
define ptr @memset(ptr %at, i32 %value, i64 %count) "no-builtins" {{
entry:
  %byte = trunc i32 %value to i8
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %body ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %body, label %end
body:
  %to = getelementptr i8, ptr %at, i64 %i
  store i8 %byte, ptr %to
  %next = add i64 %i, 1
  br label %head
end:
  ret ptr %at
}}
define ptr @memcpy(ptr %at, ptr %from, i64 %count) "no-builtins" {{
entry:
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %body ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %body, label %end
body:
  %source = getelementptr i8, ptr %from, i64 %i
  %byte = load i8, ptr %source
  %to = getelementptr i8, ptr %at, i64 %i
  store i8 %byte, ptr %to
  %next = add i64 %i, 1
  br label %head
end:
  ret ptr %at
}}
define i32 @sched_yield() {{
  ret i32 0
}}
"""


def found(names: Sequence[str]) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)


def need() -> tuple[str, str]:
    """(emulator, linker); skips the test where one is missing, or LLVM does not know Arm."""
    emulator, linker = found(EMULATORS), found(LINKERS)
    if emulator is None:
        pytest.skip("no qemu-aarch64 here (Debian: qemu-user)")
    if linker is None:
        pytest.skip("no linker for AArch64 here (Debian: binutils-aarch64-linux-gnu, or lld)")
    return emulator, linker


class Emulated:
    """Machine code of `text` for an Arm machine, running in a process of its own."""

    def __init__(self, text: str, names: Sequence[str], machine: Machine) -> None:
        emulator, linker = need()
        self.names = list(names)
        try:
            objects = [
                engine.compile_object(code, machine) for code in (text, self._runner(machine))
            ]
        except engine.NoSuchTarget:
            pytest.skip("this LLVM has no AArch64")
        folder = tempfile.TemporaryDirectory(prefix="tilewright-arm-")
        weakref.finalize(self, folder.cleanup)
        files = [Path(folder.name, f"{i}.o") for i in range(len(objects))]
        for file, data in zip(files, objects, strict=True):
            file.write_bytes(data)
        program = Path(folder.name, "program")
        subprocess.run([linker, "-static", "-o", program, *files], check=True)
        self._process = subprocess.Popen(
            [emulator, "-cpu", "max", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        weakref.finalize(self, _end, self._process)
        (self.base,) = struct.unpack("<Q", self._read(8))

    def _runner(self, machine: Machine) -> str:
        words = range(ARGUMENTS)
        return RUNNER.format(
            triple=machine.triple,
            memory=MEMORY,
            header=HEADER,
            header_bytes=8 * HEADER,
            count=len(self.names),
            functions=", ".join(f"ptr @{name}" for name in self.names),
            declared="\n".join(f"declare void @{name}()" for name in self.names),
            loads="\n".join(
                f"  %a{i} = load i64, ptr getelementptr (i64, ptr @header, i64 {2 + i})"
                for i in words
            ),
            arguments=", ".join(f"i64 %a{i}" for i in words),
            read=READ,
            write=WRITE,
            exit=EXIT,
        )

    def run(self, name: str, arguments: Sequence[int], memory: bytes) -> bytes:
        """Call a function with words; `memory` lies at `base`. What is there afterwards."""
        if len(memory) > MEMORY or len(arguments) > ARGUMENTS:
            raise ValueError(f"{len(memory)} bytes and {len(arguments)} arguments are too many")
        padded = [*arguments, *[0] * (ARGUMENTS - len(arguments))]
        words = [x & (1 << 64) - 1 for x in padded]
        header = struct.pack(f"<{HEADER}Q", self.names.index(name), len(memory), *words)
        assert self._process.stdin is not None
        self._process.stdin.write(header + memory)
        self._process.stdin.flush()
        return self._read(len(memory))

    def function(self, name: str) -> Callable[..., None]:
        """A function of arrays and integers; arrays are copied there and back."""

        def call(*arguments: np.ndarray | int) -> None:
            memory = bytearray()
            words: list[int] = []
            places: list[tuple[np.ndarray, int]] = []
            for x in arguments:
                if isinstance(x, int):
                    words.append(x)
                    continue
                # where it is on a cache line matters to aligned loads
                memory += bytes((x.ctypes.data - len(memory)) % LINE)
                words.append(self.base + len(memory))
                places.append((x, len(memory)))
                memory += ctypes.string_at(x.ctypes.data, extent(x))
            after = self.run(name, words, bytes(memory))
            for x, at in places:
                ctypes.memmove(x.ctypes.data, after[at : at + extent(x)], extent(x))

        return call

    def _read(self, count: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(count)
        if len(data) != count:
            raise RuntimeError(f"the emulated program ended with {self._process.wait()}")
        return data


def extent(x: np.ndarray) -> int:
    """Bytes from an array's first element to the end of its last."""
    if x.size == 0:
        return 0
    steps = zip(x.shape, x.strides, strict=True)
    return x.itemsize + sum((n - 1) * stride for n, stride in steps)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def run_program(function: Function, machine: Machine, args: Sequence[Any]) -> None:
    """Compile a program for an Arm machine and launch it on one thread; tensors are written in place."""
    lowered = pipeline.lower(pipeline.prepare(function, machine), machine)
    module = emit(lowered, machine)
    code = Emulated(module.text, ["worker"], machine)
    memory = bytearray()

    def place(nbytes: int) -> int:
        memory.extend(bytes(-len(memory) % LINE))
        memory.extend(bytes(nbytes))
        return len(memory) - nbytes

    words = place(8 * (ARGUMENTS_FROM + len(args)))
    sync, record = place(shared_bytes(PHASES)), place(8 * RECORD_WORDS)
    shared, private = place(module.layout.shared_bytes), place(module.layout.private_bytes + LINE)
    starts = (shared, private, sync, record)
    values = [*(code.base + start for start in starts), module.layout.private_bytes]
    tensors: list[tuple[torch.Tensor, int]] = []
    for param, arg in zip(lowered.params, args, strict=True):
        if isinstance(arg, torch.Tensor):
            at = place(arg.nbytes)
            memory[at : at + arg.nbytes] = ctypes.string_at(arg.data_ptr(), arg.nbytes)
            tensors.append((arg, at))
            values.append(code.base + at)
        else:
            values.append(native._word_maker(param.value.type)(arg))
    memory[words : words + 8 * len(values)] = struct.pack(f"<{len(values)}Q", *values)
    after = code.run("worker", [code.base + words, 0, 1], bytes(memory))
    assert not any(after[record : record + 8]), "a check of the program failed"
    for tensor, at in tensors:
        ctypes.memmove(tensor.data_ptr(), after[at : at + tensor.nbytes], tensor.nbytes)
