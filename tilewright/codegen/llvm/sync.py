"""What the threads of one launch share: a barrier, a flag to give up, and counters to draw work
from.

The layout of the block that they share stands in `abi`.
"""

from __future__ import annotations

from llvmlite import ir

from tilewright.codegen.llvm.abi import ABORT, ARRIVALS, COUNTERS, EPOCH, LINE
from tilewright.codegen.llvm.types import (
    I1,
    I32,
    I64,
    PTR,
    VOID,
    const,
    define,
    intrinsic,
    offset,
    once,
)
from tilewright.machine import Machine

# Looks at the epoch before a thread gives its processor away. A pause is 40 to 140 cycles on x86,
# so this is a tenth of a millisecond: far above the skew of threads that all run, and short enough
# when there are more threads than processors.
SPINS = 2000


def counter(builder: ir.IRBuilder, shared: ir.Value, number: int) -> ir.Value:
    """Address of a counter."""
    return offset(builder, shared, COUNTERS + number * LINE)


def grab(builder: ir.IRBuilder, counter: ir.Value) -> ir.Value:
    """The next number from a counter, 0 first; every number is handed out once."""
    return builder.atomic_rmw("add", counter, const(I64, 1), "monotonic")


def abort(builder: ir.IRBuilder, shared: ir.Value) -> None:
    """Tell the other threads that this launch is over; the caller then returns without a
    barrier.
    """
    builder.atomic_rmw("xchg", offset(builder, shared, ABORT), const(I64, 1), "release")


def aborted(builder: ir.IRBuilder, shared: ir.Value) -> ir.Value:
    """i1: whether some thread gave up."""
    flag = builder.load_atomic(offset(builder, shared, ABORT), "acquire", 8, typ=I64)
    return builder.icmp_signed("!=", flag, const(I64, 0))


def barrier(module: ir.Module, machine: Machine) -> ir.Function:
    """`i1 barrier(shared, nthreads: i64)`: wait until all threads of the launch are here.

    True when all came; what any thread wrote before is then visible to all. False when a thread
    gave up (`abort`): return at once, the shared block is of no use until it is zeroed again. Spins
    a bounded number of times, then lets other processes run between looks.
    """
    return once(module, "tw_barrier", lambda: _emit_barrier(module, machine))


def _emit_barrier(module: ir.Module, machine: Machine) -> ir.Function:
    fn = define(module, "tw_barrier", I1, [("shared", PTR), ("nthreads", I64)])
    fn.attributes.add("noinline")
    shared, nthreads = fn.args
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    blocks = {
        name: fn.append_basic_block(name)
        for name in ("last", "look", "wait", "pause", "yield", "done")
    }
    arrivals, epoch = offset(b, shared, ARRIVALS), offset(b, shared, EPOCH)
    # The epoch must be read before arriving: after that the last thread may already move it on.
    mine = b.load_atomic(epoch, "acquire", 8, typ=I64)
    before = b.atomic_rmw("add", arrivals, const(I64, 1), "acq_rel")
    is_last = b.icmp_signed("==", b.add(before, const(I64, 1)), nthreads)
    entry = b.block
    b.cbranch(is_last, blocks["last"], blocks["look"])

    b.position_at_end(blocks["last"])
    b.atomic_rmw("xchg", arrivals, const(I64, 0), "monotonic")
    b.atomic_rmw("add", epoch, const(I64, 1), "acq_rel")
    b.branch(blocks["done"])

    b.position_at_end(blocks["look"])
    spins = b.phi(I64, "spins")
    spins.add_incoming(const(I64, 0), entry)
    now = b.load_atomic(epoch, "acquire", 8, typ=I64)
    b.cbranch(b.icmp_signed("!=", now, mine), blocks["done"], blocks["wait"])

    b.position_at_end(blocks["wait"])
    given_up = aborted(b, shared)
    more = b.add(spins, const(I64, 1))
    patient = b.icmp_signed("<", more, const(I64, SPINS))
    with b.if_then(given_up):
        b.ret(const(I1, 0))
    b.cbranch(patient, blocks["pause"], blocks["yield"])

    b.position_at_end(blocks["pause"])
    _pause(b, machine)
    spins.add_incoming(more, b.block)
    b.branch(blocks["look"])

    b.position_at_end(blocks["yield"])
    b.call(intrinsic(module, "sched_yield", I32, []), [])
    spins.add_incoming(const(I64, SPINS), b.block)
    b.branch(blocks["look"])

    b.position_at_end(blocks["done"])
    b.ret(b.not_(aborted(b, shared)))
    return fn


def _pause(builder: ir.IRBuilder, machine: Machine) -> None:
    """Tell the core that this is a waiting loop."""
    if machine.is_x86:
        builder.call(intrinsic(builder.module, "llvm.x86.sse2.pause", VOID, []), [])
    elif machine.is_aarch64:
        builder.call(intrinsic(builder.module, "llvm.aarch64.hint", VOID, [I32]), [const(I32, 1)])
