"""What tests of machine code share: aligned memory, memory that ends at a forbidden page, packed
panels.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import emulator
import numpy as np
import pytest
import stand_in
from emulator import Emulated
from llvmlite import ir

from tilewright.codegen.llvm.microkernel import LANES, Kernel
from tilewright.dtypes import BF16, FP16, FP32, INT8
from tilewright.machine import Machine, aarch64, avx2, avx512, generic_x86_64, host
from tilewright.runtime import engine

STORAGE = {INT8: np.int8, BF16: np.uint16, FP16: np.float16, FP32: np.float32}

# Every way of multiplying, by the machine that makes the compiler choose it.
MACHINES: dict[str, Callable[[], Machine]] = {
    "host": host,
    "avx512-vnni-bf16": lambda: avx512("avx512vnni", "avx512bf16"),
    "avx512": avx512,
    "avx2-vnni": lambda: avx2("avxvnni"),
    "avx2": avx2,
    "x86-64": generic_x86_64,
    "arm": aarch64,
    "arm-dot": lambda: aarch64("dotprod", "bf16"),
    "arm-matrix": lambda: aarch64("dotprod", "bf16", "i8mm"),
}


def machine_named(name: str) -> Machine:
    """The machine, or a skipped test where nothing here runs its code: neither this processor, nor an
    emulator, nor this processor with stand-ins for what it lacks.
    """
    machine = MACHINES[name]()
    if machine.is_aarch64 and not host().is_aarch64:
        emulator.need()
        return machine
    if machine.triple.split("-")[0] != host().triple.split("-")[0]:
        pytest.skip(f"this processor does not run code for {name}")
    return machine


def aligned(nbytes: int) -> np.ndarray:
    """Zeroed bytes [nbytes] on a cache line."""
    raw = np.zeros(nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes]


def before_a_wall(values: np.ndarray) -> np.ndarray:
    """A copy whose last byte is the last that may be read: the page behind it is forbidden."""
    pages = -(-values.nbytes // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(base + pages * mmap.PAGESIZE), mmap.PAGESIZE, 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    start = pages * mmap.PAGESIZE - values.nbytes
    copy: np.ndarray = np.frombuffer(memory, values.dtype, values.size, start).reshape(values.shape)
    copy[...] = values
    return copy


class Native:
    """One family's functions, compiled together: tiles by (m, nr, acc[, side, fetch]), both packs, the
    row sums.
    """

    def __init__(self, kernel: Kernel, machine: Machine, tiles: Sequence[tuple[int, ...]]) -> None:
        self.kernel = kernel
        module = ir.Module(kernel.name)
        made = {tile: kernel.microkernel(module, *tile) for tile in tiles}
        packs = {trans: kernel.pack(module, trans) for trans in (False, True)}
        rowsum = kernel.rowsum(module) if kernel.needs_init else None
        widen = kernel.widen(module) if kernel.widens else None
        for fn in [*made.values(), *packs.values(), *(fn for fn in (rowsum, widen) if fn)]:
            fn.linkage = ""
        self.text = str(module)
        names = [fn.name for fn in module.functions if not fn.is_declaration]
        self.code: Any
        if machine.is_aarch64 != host().is_aarch64:
            self.code = Emulated(self.text, names, machine)
        elif stand_in.needed(machine):
            self.code = engine.load(stand_in.translated(self.text), names)
        else:
            self.code = engine.load(self.text, names, machine)
        self._tiles = {tile: self._call(fn) for tile, fn in made.items()}
        self._packs = {trans: self._call(fn) for trans, fn in packs.items()}
        self._rowsum = self._call(rowsum) if rowsum else None
        self._widen = self._call(widen) if widen else None

    def _call(self, fn: ir.Function) -> Callable[..., None]:
        """The function, to be called with arrays and integers."""
        if isinstance(self.code, Emulated):
            return self.code.function(fn.name)
        kinds = [ctypes.c_void_p if arg.type.is_pointer else ctypes.c_int64 for arg in fn.args]
        function = self.code.function(fn.name, *kinds)
        return lambda *args: function(*(x if isinstance(x, int) else x.ctypes.data for x in args))

    def packed(
        self, b: np.ndarray, k: int | None = None, n: int | None = None, trans: bool = False
    ) -> np.ndarray:
        """b [K, N] (or [N, K]) as a panel of a [k, n] matrix, both at least as large; one block a
        call.
        """
        rows, columns = b.shape[::-1] if trans else b.shape
        k, n = k or rows, n or columns
        panel = aligned(self.kernel.panel_bytes(k, n))
        panel[:] = 0xAA
        for j in range(self.kernel.blocks(n)):
            self._packs[trans](
                b,
                b.strides[0],
                panel,
                rows,
                columns,
                self.kernel.k_groups(k),
                n,
                j,
                j + 1,
            )
        return panel

    def tile(
        self,
        a: np.ndarray,
        panel: np.ndarray,
        c: np.ndarray,
        nr: int,
        acc: bool = False,
        at: int = 0,
        ways: tuple[int, ...] = (),
    ) -> None:
        """c (+)= a [m, K, padded to a group] * the panel block at byte `at`; ways: side and fetch."""
        m, k = a.shape
        init = np.zeros(m, np.int32)
        groups = self.kernel.k_groups(k)
        if self._rowsum:
            self._rowsum(a, a.strides[0], m, groups, init)
        if self._widen:
            wide = aligned(m * k * self.kernel.a_dtype.nbytes).reshape(m, -1)
            self._widen(a, a.strides[0], m, k, wide, wide.strides[0])
            a = wide
        apart = self.kernel.block_bytes(k)
        tile, here = (m, nr, acc, *ways), panel[at:]
        self._tiles[tile](a, a.strides[0], here, c, c.strides[0], groups, init, apart, panel)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """FP32 as BF16 bits, to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widened(x: np.ndarray) -> np.ndarray:
    """Operands as numpy can multiply them: BF16 bits as FP32, INT8 as INT64, the others as FP64."""
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return x.astype(np.int64 if x.dtype == np.int8 else np.float64)


def draw(kernel: Kernel, rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Operands of the family's dtype: all codes of INT8, normal numbers otherwise."""
    if kernel.dtype == INT8:
        return rng.integers(-128, 128, shape).astype(np.int8)
    values = rng.standard_normal(shape).astype(np.float32)
    return to_bf16(values) if kernel.dtype == BF16 else values.astype(STORAGE[kernel.dtype])


def panel_by_hand(kernel: Kernel, b: np.ndarray, k: int, n: int) -> np.ndarray:
    """b [K, N] as the bytes of a panel of a [k, n] matrix: the layout of codegen/llvm/pack.py in
    numpy.
    """
    groups, width = kernel.k_groups(k), LANES * kernel.nr
    padded: Any = np.zeros((groups * kernel.k_group, -(-n // LANES) * LANES), b.dtype)
    padded[: b.shape[0], : b.shape[1]] = b
    blocks = []
    for first in range(0, padded.shape[1], width):
        block = padded[:, first : first + width].reshape(groups, kernel.k_group, -1)
        blocks.append(np.ascontiguousarray(block.transpose(0, 2, 1)).view(np.uint8).ravel())
    panel: np.ndarray = np.concatenate(blocks) ^ np.uint8(kernel.isa.xor)
    return panel
