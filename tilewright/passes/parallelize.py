"""Which thread runs what: parallel loops are shared out, everything between them is one thread's."""

from __future__ import annotations

from dataclasses import replace

from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block, Function, Op, Value
from tilewright.ir.types import TensorType
from tilewright.ir.walk import defined_in, free_values, names_in_use, ops_in, substitute
from tilewright.machine import Machine

SHARED_LOOPS = ("parallel", "spmd")
# Every thread does these for itself: they give the same on all of them. (A load that must copy is one
# thread's work again in code generation; mostly it is only an address.)
REPLICATED = (
    "window", "reshape_view", "transpose_view", "create", "load", "return", "yield", "check_window", "check_that",
)  # fmt: skip


def parallelize(fn: Function, machine: Machine) -> Function:
    """Put runs of ops between shared loops into `serial` blocks.

    Takes:  the final loops.
    Gives:  a body in which every op is one of: a `serial` block, a parallel loop, a loop, branch or region
            that contains a parallel loop, or an op that every thread repeats (scalars, views, checks).
    Leaves: the inside of parallel loops: a parallel loop within one runs in order on its thread.
    """
    builder = Builder(names_in_use(fn))
    return Function(fn.name, fn.params, _orchestrate(fn.body, builder), fn.span)


def is_shared(op: Op) -> bool:
    """True for a loop that threads share, or an op that owns one."""
    return op.name == "for" and op.attr("kind") in SHARED_LOOPS or any(
        inner.name == "for" and inner.attr("kind") in SHARED_LOOPS for inner in ops_in(op)
    )


def _replicated(op: Op) -> bool:
    return op.name in REPLICATED or op.name.startswith("s.")


def _orchestrate(block: Block, builder: Builder) -> Block:
    out: list[Op] = []
    run: list[Op] = []

    def close(later: list[Op]) -> None:
        if run:
            out.extend(_serial(list(run), later, builder))
        run.clear()

    ops = list(block.ops)
    for i, op in enumerate(ops):
        if is_shared(op):
            close(ops[i:])
            if op.name == "for" and op.attr("kind") in SHARED_LOOPS:
                out.append(op)
            else:
                out.append(replace(op, blocks=tuple(_orchestrate(inner, builder) for inner in op.blocks)))
        elif _replicated(op):
            if set(free_values(op)) & defined_in(run):
                close(ops[i:])
            out.append(op)
        else:
            run.append(op)
    close([])
    ends = [op for op in out if op.name in ("yield", "return")]
    return Block(block.args, (*(op for op in out if op.name not in ("yield", "return")), *ends))


def _serial(run: list[Op], later: list[Op], builder: Builder) -> list[Op]:
    """One `serial` block, handing out what later ops read."""
    made = defined_in(run)
    wanted: list[Value] = []
    for op in later:
        wanted += [x for x in free_values(op) if x in made and x not in wanted]
    inner = {v: builder.fresh(v.type, v.name) for v in wanted}
    body = [_rename_results(substitute(op, inner), inner) for op in run]
    body.append(Op("yield", tuple(inner.values()), (), (), (), run[-1].span))
    assert not any(isinstance(v.type, TensorType) for v in wanted), "views are replicated, never serial"
    return [Op("serial", (), tuple(wanted), (), (Block((), tuple(body)),), run[0].span)]


def _rename_results(op: Op, names: dict[Value, Value]) -> Op:
    return replace(op, results=tuple(names.get(r, r) for r in op.results))


