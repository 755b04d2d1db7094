"""The program that packs one whole matrix ahead of time, its column blocks shared out over the threads."""

from __future__ import annotations

from llvmlite import ir

from tilewright.codegen.llvm.microkernel import Kernel, choose
from tilewright.codegen.llvm.types import I64, PTR, VOID, const, offset
from tilewright.dtypes import DType
from tilewright.machine import Machine

# The words (8 bytes each) that the worker is handed.
MATRIX, ROW_BYTES, PANEL, K, N = range(5)


def emit_prepack(dtype: DType, machine: Machine) -> tuple[str, Kernel]:
    """LLVM text of `worker(words, tid, nthreads)` for [K, N] matrices of any size, and the panel's family."""
    kernel = choose(dtype, machine)
    module = ir.Module(name=f"prepack_{dtype.name.lower()}")
    module.triple = machine.triple
    fn = ir.Function(module, ir.FunctionType(VOID, [PTR, I64, I64]), "worker")
    words, tid, nthreads = fn.args
    b = ir.IRBuilder(fn.append_basic_block("entry"))

    def word(number: int, kind: ir.Type) -> ir.Value:
        return b.load(offset(b, words, 8 * number), typ=kind)

    k, n = word(K, I64), word(N, I64)
    width = const(I64, 16 * kernel.nr)
    blocks = b.sdiv(b.add(n, b.sub(width, const(I64, 1))), width)
    groups = b.sdiv(b.add(k, const(I64, kernel.k_group - 1)), const(I64, kernel.k_group))
    first = b.sdiv(b.mul(tid, blocks), nthreads)
    last = b.sdiv(b.mul(b.add(tid, const(I64, 1)), blocks), nthreads)
    matrix, panel = word(MATRIX, PTR), word(PANEL, PTR)
    b.call(kernel.pack(module), [matrix, word(ROW_BYTES, I64), panel, k, n, groups, n, first, last])
    b.ret_void()
    return str(module), kernel
