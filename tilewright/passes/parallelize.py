"""Which thread runs what: parallel loops are shared out, everything between them is one thread's."""

from __future__ import annotations

from dataclasses import replace

from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block, Function, Op, Operand, Value, make_attrs
from tilewright.ir.ops import lookup
from tilewright.ir.types import TensorType
from tilewright.ir.walk import defined_in, free_values, map_ops, names_in_use, ops_in, substitute
from tilewright.machine import Machine

SHARED_LOOPS = ("parallel", "spmd")
# What every thread may do for itself where others need it: it gives the same on all of them. (A load that
# must copy is one thread's work again in code generation; mostly it is only an address.)
REPLICABLE = ("window", "reshape_view", "transpose_view", "panel_window", "create", "load")
CHECKS = ("check_window", "check_that")
JOINT = ("pack",)  # all threads do a part of it, and wait for each other


def parallelize(fn: Function, machine: Machine) -> Function:
    """Put runs of ops between shared loops into `serial` blocks.

    Takes:  the final loops.
    Gives:  a body in which every op is one of: a `serial` block, a parallel loop, a loop, branch or region
            that contains a parallel loop or hands out a tensor, a pack that threads share, or an op that
            every thread repeats (checks, fresh tensors and views, and the scalars and loads that ops outside serial
            blocks read).
    Leaves: the inside of parallel loops: a parallel loop within one runs in order on its thread. Loops with
            atomic stores become ranges: they add in the order of their turns.
    """
    ordered: Function = map_ops(fn, _in_order)
    builder = Builder(names_in_use(ordered))
    return Function(fn.name, fn.params, _orchestrate(ordered.body, builder), fn.span)


def _in_order(op: Op) -> Op | None:
    """A loop that adds to memory which its turns have in common takes them in order; loops inside that do not
    are shared all the same."""
    if op.name != "for" or op.attr("kind") not in SHARED_LOOPS:
        return None
    if not any(inner.attr("atomic") for inner in ops_in(op)):
        return None
    return replace(op, attrs=make_attrs({**dict(op.attrs), "kind": "range"}))


def is_shared(op: Op) -> bool:
    """True for a loop that threads share, or an op that owns one."""
    return any(inner.name == "for" and inner.attr("kind") in SHARED_LOOPS for inner in ops_in(op))


def _walked_by_all(op: Op) -> bool:
    """True for an op with blocks that all threads go through together: one shares out a loop inside, or it
    hands out a tensor, an address, which a serial block could not."""
    return is_shared(op) or any(isinstance(result.type, TensorType) for result in op.results)


def _orchestrate(block: Block, builder: Builder) -> Block:
    out: list[Op] = []
    run: list[Op] = []

    def close(later: list[Op]) -> None:
        if run:
            out.extend(_serial(list(run), later, builder))
        run.clear()

    ops = list(block.ops)
    repeated = _repeated(ops)
    for i, op in enumerate(ops):
        if op.name in ("yield", "return"):
            close(ops[i:])
            out.append(op)
        elif (op.blocks and _walked_by_all(op)) or (op.name in JOINT and id(op) in repeated):
            close(ops[i:])
            if op.blocks and not (op.name == "for" and op.attr("kind") in SHARED_LOOPS):
                op = replace(op, blocks=tuple(_orchestrate(inner, builder) for inner in op.blocks))
            out.append(op)
        elif id(op) in repeated:
            reads_after_write = op.name == "load" and any(
                lookup(x.name).effect == "write" for x in ops_in(run)
            )
            if reads_after_write or set(free_values(op)) & defined_in(run):
                close(ops[i:])
            out.append(op)
        else:
            run.append(op)
    close([])
    return Block(block.args, tuple(out))


def _repeated(ops: list[Op]) -> set[int]:
    """The ops (by id) outside serial blocks that are no shared loops: checks, what names memory, and what
    shared ops read."""
    makers = {result: op for op in ops for result in op.results}
    found = {id(op) for op in ops if op.name in CHECKS or _names_memory(op)}
    work: list[Operand] = []
    for op in ops:
        if id(op) in found or op.name in ("yield", "return") or (op.blocks and _walked_by_all(op)):
            work += free_values(op)
    while work:
        x = work.pop()
        made = makers.get(x) if isinstance(x, Value) else None
        if made is None or id(made) in found:
            continue
        if made.name in REPLICABLE or made.name in JOINT or made.name.startswith("s."):
            found.add(id(made))
            work += made.operands
    return found


def _names_memory(op: Op) -> bool:
    """True for a fresh tensor or a view."""
    return not op.blocks and any(isinstance(result.type, TensorType) for result in op.results)


def _serial(run: list[Op], later: list[Op], builder: Builder) -> list[Op]:
    """One `serial` block, handing out what later ops read."""
    made = defined_in(run)
    wanted: list[Value] = []
    for op in later:
        wanted += [x for x in free_values(op) if x in made and x not in wanted]
    inner = {v: builder.fresh(v.type, v.name) for v in wanted}
    body = [_rename_results(substitute(op, inner), inner) for op in run]
    body.append(Op("yield", tuple(inner.values()), (), (), (), run[-1].span))
    assert not any(isinstance(v.type, TensorType) for v in wanted), (
        "views are replicated, never serial"
    )
    return [Op("serial", (), tuple(wanted), (), (Block((), tuple(body)),), run[0].span)]


def _rename_results(op: Op, names: dict[Value, Value]) -> Op:
    return replace(op, results=tuple(names.get(r, r) for r in op.results))
