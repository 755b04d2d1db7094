"""Every microkernel of this machine on one thread, against the peak that `tilewright bench` measures.

    python benchmarks/microkernel.py [--machine host|avx512|avx2|x86-64] [--k 1024]

One row a tile: operations a second, share of the measured peak, and whether LLVM spilled.
A and the panel block stay in the first two levels of cache, so what is measured is the loop itself.
"""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Callable

import numpy as np
from llvmlite import ir

from tilewright.bench.peaks import PATIENCE, fastest, product_gops
from tilewright.codegen.llvm.microkernel import LANES, Kernel, choose
from tilewright.codegen.llvm.types import I64, VOID, counted
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


def tile_gops(kernel: Kernel, machine: Machine, m: int, nr: int, k: int) -> tuple[float, int]:
    """Operations a second in 1e9, and the number of vector registers that went through the
    stack.
    """
    module = ir.Module("tile")
    many = emit_many(module, kernel.microkernel(module, m, nr))
    text = str(module)
    code = engine.load(text, [many.name], machine)
    call = code.function(
        many.name, Int, Address, Int, Address, Address, Int, Int, Address, Int, Address
    )
    pitch = k * kernel.a_dtype.nbytes + 64
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
        0,
        None,
    )
    calls = max(1, 20_000_000 // (m * nr * LANES * k))
    gops = 2 * m * nr * LANES * k * calls / fastest(lambda: call(calls, *arguments), PATIENCE) / 1e9
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
        peak, way = product_gops(dtype, 1, machine)
        print(f"{kernel.name:24} {'peak':>6} {peak:8.1f}  {way}")
        tiles = {
            (m, nr) for nr in (kernel.nr, 1) for m in (1, 2, 4, 5, kernel.mr) if m <= kernel.mr
        }
        for m, nr in sorted(tiles, key=lambda tile: (tile[1], tile[0])):
            gops, spilled = tile_gops(kernel, machine, m, nr, options.k)
            print(f"{kernel.name:24} {f'{m}x{nr}':>6} {gops:8.1f} {gops / peak:8.1%} {spilled:7}")


if __name__ == "__main__":
    main()
