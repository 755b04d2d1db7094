"""Checks: a condition that fails stops the launch and leaves a record of what it saw."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.codegen.llvm import sync
from tilewright.codegen.llvm.abi import RECORD
from tilewright.codegen.llvm.types import I1, I64, PTR, const, offset
from tilewright.ir.nodes import Op

if TYPE_CHECKING:
    from tilewright.codegen.llvm.function import FunctionEmitter


def fail_unless(
    owner: FunctionEmitter, condition: ir.Value, check: Op, seen: Sequence[ir.Value]
) -> None:
    """Stop the launch with a record of the check and what it saw."""
    b = owner.b
    owner.layout.checks.append(check)
    number = len(owner.layout.checks)
    good, bad = b.append_basic_block("good"), b.append_basic_block("bad")
    b.cbranch(condition, good, bad).set_weights([1 << 20, 1])
    b.position_at_end(bad)
    record = b.load(offset(b, owner.words, 8 * RECORD), typ=PTR)
    won = b.cmpxchg(record, const(I64, 0), const(I64, number), "monotonic")
    with b.if_then(b.extract_value(won, 1)):
        for i, value in enumerate(seen, 1):
            b.store(value, offset(b, record, 8 * i))
    sync.abort(b, owner.sync)
    b.branch(owner.exit)
    b.position_at_end(good)


def emit_check_window(owner: FunctionEmitter, op: Op) -> None:
    """0 <= start, 0 <= count and start + count <= extent along every axis, where count is not 0."""
    b, rank = owner.b, len(op.attr("extents"))
    values = [owner.scalar(x) for x in op.operands]
    ok: ir.Value = const(I1, 1)
    for extent, start, count in zip(op.attr("extents"), values[:rank], values[rank:], strict=True):
        zero, end = const(I64, 0), const(I64, extent)
        # start <= extent first, so that start + count cannot overflow
        bits = (
            b.icmp_signed(">=", start, zero),
            b.icmp_signed("<=", start, end),
            b.icmp_signed(">=", count, zero),
            b.icmp_signed("<=", count, b.sub(end, start)),
        )
        inside = reduce(b.and_, bits)
        ok = b.and_(ok, b.or_(inside, b.icmp_signed("==", count, zero)))
    fail_unless(owner, ok, op, values)


def emit_check_that(owner: FunctionEmitter, op: Op) -> None:
    fail_unless(owner, owner.scalar(op.operands[0]), op, [])


EMITTERS = {
    "check_window": emit_check_window,
    "check_that": emit_check_that,
}
