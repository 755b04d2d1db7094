"""Every microkernel of this machine on one thread, against a loop that only multiplies registers.

    python benchmarks/microkernel.py [--machine host|avx512|avx2|x86-64] [--k 1024]

One row a tile: operations a second, share of the measured peak, and whether LLVM spilled.
Where there are only 16 registers, the loop that only multiplies has too few independent sums to be
more than a lower bound of the peak. A and the panel block stay in the first two levels of cache, so
what is measured is the loop itself.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable

import numpy as np
from llvmlite import ir

from tilewright.codegen.llvm.microkernel import LANES, Kernel, choose
from tilewright.codegen.llvm.types import I64, PTR, VOID, counted, define, offset
from tilewright.dtypes import BF16, FP16, FP32, INT8
from tilewright.machine import Machine, avx2, avx512, generic_x86_64, host
from tilewright.runtime import engine

MACHINES: dict[str, Callable[[], Machine]] = {
    "host": host,
    "avx512": avx512,
    "avx2": avx2,
    "avx2-vnni": lambda: avx2("avxvnni"),
    "x86-64": generic_x86_64,
}
Address, Int = ctypes.c_void_p, ctypes.c_int64


def aligned(nbytes: int) -> np.ndarray:
    """Zeroed bytes [nbytes] on a cache line."""
    raw = np.zeros(nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes]


def emit_peak(module: ir.Module, kernel: Kernel, rows: int, columns: int) -> ir.Function:
    """`void peak(data, turns: i64)`: rows x columns accumulators, nothing loaded in the loop.

    The rows' groups change places every turn; else LLVM would multiply once, before the loop.
    """
    way = kernel.isa
    fn = define(module, f"peak_{kernel.name}", VOID, [("data", PTR), ("turns", I64)])
    fn.linkage = ""
    data, turns = fn.args
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    a = [way.load_a(b, offset(b, data, 64 * i)) for i in range(rows)]
    w = [way.load_b(b, offset(b, data, 1024 + 64 * i)) for i in range(columns)]
    sums = [b.load(data, typ=way.acc_type(), align=4) for _ in range(rows * columns)]
    with counted(b, 0, turns, carried=[*sums, *(x for group in a for x in group)]) as loop:
        x, flat = loop.carried[: len(sums)], loop.carried[len(sums) :]
        turned = [tuple(flat[i : i + len(a[0])]) for i in range(0, len(flat), len(a[0]))]
        pairs = [(row, column) for row in turned for column in w]
        loop.next = [way.step(b, x[i], *pair) for i, pair in enumerate(pairs)]
        loop.next += flat[len(a[0]) :] + flat[: len(a[0])]
    for i in range(len(sums)):
        b.store(loop.results[i], offset(b, data, 2048 + 64 * i), align=4)
    b.ret_void()
    return fn


def emit_many(module: ir.Module, tile: ir.Function) -> ir.Function:
    """`void many(turns: i64, ...)`: the tile again and again, so that a call from Python does not
    count.
    """
    fn = ir.Function(module, ir.FunctionType(VOID, [I64, *tile.function_type.args]), "many")
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    with counted(b, 0, fn.args[0]):
        b.call(tile, fn.args[1:])
    b.ret_void()
    return fn


def best(run: Callable[[], object], seconds: float = 0.15) -> float:
    """Shortest time of one run, over repetitions that take about `seconds`."""
    shortest, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        run()
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


def peak_gops(kernel: Kernel, machine: Machine) -> float:
    rows, columns = (4, 3) if machine.vector_registers == 32 else (4, 2)
    module = ir.Module("peak")
    fn = emit_peak(module, kernel, rows, columns)
    code = engine.load(str(module), [fn.name], machine)
    call = code.function(fn.name, Address, Int)
    data, turns = aligned(8192), 200_000
    seconds = best(lambda: call(data.ctypes.data, turns))
    return 2 * rows * columns * kernel.isa.part * kernel.k_group * turns / seconds / 1e9


def tile_gops(kernel: Kernel, machine: Machine, m: int, nr: int, k: int) -> tuple[float, int]:
    """Operations a second in 1e9, and the number of vector registers that went through the
    stack.
    """
    module = ir.Module("tile")
    many = emit_many(module, kernel.microkernel(module, m, nr))
    text = str(module)
    code = engine.load(text, [many.name], machine)
    call = code.function(many.name, Int, Address, Int, Address, Address, Int, Int, Address)
    pitch = k * kernel.dtype.nbytes + 64
    a, panel = aligned(m * pitch), aligned(kernel.panel_bytes(k, nr * LANES))
    c, init = aligned(m * (nr * LANES * 4 + 64)), aligned(64)
    arguments = (
        a.ctypes.data,
        pitch,
        panel.ctypes.data,
        c.ctypes.data,
        nr * LANES * 4 + 64,
        kernel.k_groups(k),
        init.ctypes.data,
    )
    calls = max(1, 20_000_000 // (m * nr * LANES * k))
    gops = 2 * m * nr * LANES * k * calls / best(lambda: call(calls, *arguments)) / 1e9
    return gops, spills(engine.assembly(text, machine))


def spills(assembly: str) -> int:
    """Vector moves to the stack."""
    moves = (line for line in assembly.splitlines() if line.strip().startswith(("vmov", "mov")))
    return sum("mm" in line and "(%rsp)" in line.split(",")[-1] for line in moves)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machine", choices=MACHINES, default="host")
    parser.add_argument("--k", type=int, default=1024)
    options = parser.parse_args()
    machine = MACHINES[options.machine]()
    print(f"{machine.name}, one thread, K = {options.k}")
    print(f"{'kernel':24} {'tile':>6} {'Gop/s':>8} {'of peak':>8} {'spills':>7}")
    for dtype in (INT8, BF16, FP16, FP32):
        kernel = choose(dtype, machine)
        peak = peak_gops(kernel, machine)
        print(f"{kernel.name:24} {'peak':>6} {peak:8.1f}")
        tiles = {
            (m, nr) for nr in (kernel.nr, 1) for m in (1, 2, 4, 5, kernel.mr) if m <= kernel.mr
        }
        for m, nr in sorted(tiles, key=lambda tile: (tile[1], tile[0])):
            gops, spilled = tile_gops(kernel, machine, m, nr, options.k)
            print(f"{kernel.name:24} {f'{m}x{nr}':>6} {gops:8.1f} {gops / peak:8.1%} {spilled:7}")


if __name__ == "__main__":
    main()
