"""What this machine can do at most, measured: products a second, and bytes read a second.

A peak must be one, or shares of it mean nothing. So of each kind several ways are tried, and the
fastest run of the fastest way counts: loops that multiply registers and load nothing, and the
compiler's own largest tile on operands in the first-level cache; for memory one and several streams
a thread. All threads run at once, on the team that kernels run on.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from llvmlite import ir

from tilewright.codegen.llvm.microkernel import LANES, Kernel, choose
from tilewright.codegen.llvm.types import (
    I32,
    I64,
    PTR,
    VOID,
    const,
    counted,
    define,
    offset,
    vector,
    zero,
)
from tilewright.dtypes import BF16, FP32, INT8, DType
from tilewright.machine import Machine, host
from tilewright.runtime import engine, threads
from tilewright.runtime.memory import Pages

LINE = 64
PRODUCTS = (INT8, BF16, FP32)
# Accumulators of the loops that only multiply: rows x columns, by the number of vector registers.
# 12 are enough for two units of latency 4 to 5, 24 for one of 11; more would not fit.
REGISTER_TILES = {32: ((4, 3), (6, 4)), 16: ((4, 2), (4, 3))}
STREAMS = (1, 4, 8)  # a prefetcher follows one stream a page; some memories want several at once
TILE_ROW = (
    512  # bytes of K: a panel block of 64 columns is 32 KiB, as small as a first-level cache is
)
SHOT = 4e-3  # seconds of one timed run: a team's start of some microseconds does not count
TRIAL = 1000  # turns from which the length of a shot is found
PATIENCE = 0.12  # seconds that each way of a product is tried
SLICE = 64 << 10  # of a thread's work area: a tile, its panel block and its accumulators
LONG_READ = 64 << 20  # bytes of one timed run at least, in several passes of a small buffer
FAR = 4  # a buffer this many times the last-level cache leaves nothing of itself there

Clock = Callable[[], float]


@dataclass(frozen=True)
class Peaks:
    """The peaks of `threads` threads.

    gops:       1e9 operations a second by dtype name, a multiply-add being two.
    way:        what reached it.
    memory_gbs: 1e9 bytes a second, read from a buffer FAR times the last-level cache.
    """

    threads: int
    gops: dict[str, float]
    way: dict[str, str]
    memory_gbs: float

    def best(self, other: Peaks) -> Peaks:
        """The higher of each figure of two measurements of the same."""
        higher = {name: max((self, other), key=lambda p: p.gops[name]) for name in self.gops}
        return replace(
            self,
            gops={name: peaks.gops[name] for name, peaks in higher.items()},
            way={name: peaks.way[name] for name, peaks in higher.items()},
            memory_gbs=max(self.memory_gbs, other.memory_gbs),
        )


def measure(count: int, machine: Machine | None = None) -> Peaks:
    """The peaks of `count` threads on this machine; takes about two seconds."""
    machine = machine or host()
    gops, way = {}, {}
    for dtype in PRODUCTS:
        gops[dtype.name], way[dtype.name] = product_gops(dtype, count, machine)
    return Peaks(count, gops, way, read_gbs(FAR * machine.l3, count))


# -- products --------------------------------------------------------------------------------------


def product_gops(dtype: DType, count: int, machine: Machine) -> tuple[float, str]:
    """(1e9 operations a second, the way that reached them) of `count` threads."""
    kernel = choose(dtype, machine)
    work = Pages(LINE + count * SLICE)
    found = []
    for rows, columns in REGISTER_TILES[machine.vector_registers]:
        module = ir.Module("registers")
        emit_registers(module, kernel, rows, columns)
        lanes = kernel.isa.tall * kernel.isa.part
        ops = 2 * rows * columns * lanes * kernel.k_group // kernel.isa.phases
        found.append((_rate(module, ops, count, work, machine), f"{rows}x{columns} registers"))
    module = ir.Module("tile")
    emit_tiles(module, kernel)
    ops = 2 * kernel.mr * kernel.nr * LANES * (TILE_ROW // dtype.nbytes)
    found.append((_rate(module, ops, count, work, machine), f"{kernel.mr}x{kernel.nr} tile"))
    rate, way = max(found)
    return rate, f"{kernel.name}, {way}"


def emit_registers(module: ir.Module, kernel: Kernel, rows: int, columns: int) -> ir.Function:
    """`worker(data, tid, nthreads)`: rows x columns accumulators, nothing loaded in the loop.

    The rows change places every turn; else LLVM would multiply once, before the loop.
    """
    way = kernel.isa
    fn, b, turns, mine = _start(module)
    a = [way.load_a(b, offset(b, mine, LINE * i)) for i in range(rows)]
    w = [way.load_b(b, offset(b, mine, 1024 + LINE * i)) for i in range(columns)]
    sums = [zero(way.acc_type()) for _ in range(rows * columns)]
    with counted(b, 0, turns, carried=[*sums, *a]) as loop:
        x, turned = loop.carried[: len(sums)], loop.carried[len(sums) :]
        pairs = [(row, column) for row in turned for column in w]
        loop.next = [way.step(b, x[i], *pair) for i, pair in enumerate(pairs)]
        loop.next += turned[1:] + turned[:1]
    for i in range(len(sums)):
        b.store(loop.results[i], offset(b, mine, 2048 + LINE * i), align=4)
    b.ret_void()
    return fn


def emit_tiles(module: ir.Module, kernel: Kernel) -> ir.Function:
    """`worker(data, tid, nthreads)`: the largest tile again and again, its operands in cache."""
    tile = kernel.microkernel(module, kernel.mr, kernel.nr)
    fn, b, turns, mine = _start(module)
    k = TILE_ROW // kernel.dtype.nbytes
    pitch = k * kernel.a_dtype.nbytes + LINE
    panel = kernel.mr * pitch
    out = panel + kernel.block_bytes(k)
    row = kernel.nr * LANES * 4 + LINE
    start = out + kernel.mr * row
    if start + LINE > SLICE:
        raise ValueError(
            f"a tile of {kernel.name} needs {start + LINE} bytes, a thread has {SLICE}"
        )
    with counted(b, 0, turns):
        b.call(
            tile,
            [
                mine,
                const(I64, pitch),
                offset(b, mine, panel),
                offset(b, mine, out),
                const(I64, row),
                const(I64, kernel.k_groups(k)),
                offset(b, mine, start),
                const(I64, 0),
                mine,
            ],
        )
    b.ret_void()
    return fn


def _start(module: ir.Module) -> tuple[ir.Function, ir.IRBuilder, ir.Value, ir.Value]:
    """A worker whose data is its number of turns, then a SLICE of bytes for each thread:
    (function, builder, turns, this thread's slice).
    """
    fn = define(module, "worker", VOID, [("data", PTR), ("tid", I64), ("nthreads", I64)])
    fn.linkage = ""
    data, tid, _ = fn.args
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    turns = b.load(data, typ=I64, align=8)
    mine = offset(b, offset(b, data, LINE), b.mul(tid, const(I64, SLICE)))
    return fn, b, turns, mine


def _rate(module: ir.Module, ops: int, count: int, work: Pages, machine: Machine) -> float:
    """1e9 operations a second of a worker whose turn has `ops` operations in each thread."""
    code = engine.load(str(module), ["worker"], machine)
    turns = work.words(0, 1)

    def run(team: int = count) -> None:
        threads.team(code["worker"], work.address, team)

    turns[0] = TRIAL
    alone = fastest(lambda: run(1), SHOT)
    turns[0] = max(1, round(TRIAL * SHOT / alone))
    return ops * count * turns[0] / fastest(run, PATIENCE) / 1e9


# -- memory ----------------------------------------------------------------------------------------


class Buffer:
    """At least `nbytes` bytes in huge pages that `count` threads read, and do nothing else."""

    def __init__(self, nbytes: int, count: int) -> None:
        piece = count * max(STREAMS) * LINE * 8  # what divides evenly among threads and streams
        self.count, self.nbytes = count, piece * -(-nbytes // piece)
        self.pages = Pages(self.nbytes)
        ctypes.memset(
            self.pages.address, 1, self.nbytes
        )  # untouched pages are all one page of zeros

    def reader(self, streams: int, passes: int = 1) -> Callable[[], None]:
        """A call that reads it `passes` times, as `streams` streams a thread. It keeps the buffer alive."""
        module = ir.Module("read")
        emit_reader(module, streams)
        words = (ctypes.c_uint64 * (4 + 8 * self.count))(self.pages.address, self.nbytes, passes)
        return partial(self._read, engine.load(str(module), ["worker"]), words)

    def _read(self, code: engine.Library, words: Any) -> None:
        threads.team(code["worker"], ctypes.addressof(words), self.count)


def read_gbs(nbytes: int, count: int) -> float:
    """1e9 bytes a second that `count` threads read from one buffer, over and over."""
    buffer, passes = Buffer(nbytes, count), max(1, LONG_READ // nbytes)
    quickest = min(fastest(buffer.reader(s, passes), 2 * PATIENCE) for s in STREAMS)
    return passes * buffer.nbytes / quickest / 1e9


def emit_reader(module: ir.Module, streams: int) -> ir.Function:
    """`worker(data, tid, nthreads)`: read this thread's part of a buffer, as `streams` streams.

    data: address and length of the buffer in bytes, a multiple of nthreads * streams * 8 lines, and
    how often to read it; then, where nobody reads them, the sums that keep the loads alive.
    """
    fn = define(module, "worker", VOID, [("data", PTR), ("tid", I64), ("nthreads", I64)])
    fn.linkage = ""
    data, tid, nthreads = fn.args
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    kind = vector(I32, 16)
    buffer = b.inttoptr(b.load(data, typ=I64, align=8), PTR)
    share = b.udiv(b.load(offset(b, data, 8), typ=I64, align=8), nthreads)
    stream = b.udiv(share, const(I64, streams))
    mine = offset(b, buffer, b.mul(tid, share))
    starts = [offset(b, mine, b.mul(stream, const(I64, s))) for s in range(streams)]
    lines = 8 // streams if streams < 8 else 1
    passes = b.load(offset(b, data, 16), typ=I64, align=8)
    with counted(b, 0, passes, carried=[zero(kind)] * 8, name="pass") as again:
        with counted(b, 0, stream, LINE * lines, again.carried) as loop:
            at = [offset(b, offset(b, s, loop.i), LINE * i) for s in starts for i in range(lines)]
            loop.next = [
                b.add(total, b.load(here, typ=kind, align=LINE))
                for total, here in zip(loop.carried, at, strict=True)
            ]
        again.next = loop.results
    total = again.results[0]
    for other in again.results[1:]:
        total = b.add(total, other)
    first = b.extract_element(total, const(I32, 0))
    for lane in range(1, 16):
        first = b.xor(first, b.extract_element(total, const(I32, lane)))
    b.store(first, offset(b, offset(b, data, 32), b.mul(tid, const(I64, LINE))), align=4)
    b.ret_void()
    return fn


def fastest(run: Callable[[], None], patience: float, clock: Clock = time.perf_counter) -> float:
    """Seconds of the fastest run, out of those that start within `patience` seconds; two at
    least.
    """
    best, until, runs = float("inf"), clock() + patience, 0
    while runs < 2 or clock() < until:
        start = clock()
        run()
        best = min(best, clock() - start)
        runs += 1
    return best
