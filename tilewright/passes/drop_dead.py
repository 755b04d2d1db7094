"""What nobody reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from tilewright.ir.nodes import Block, Function, Op, Operand, Value
from tilewright.ir.ops import lookup
from tilewright.ir.typed import as_value
from tilewright.ir.types import TensorType
from tilewright.ir.walk import (
    LOOPS,
    Definition,
    carried_args,
    definitions,
    initial_values,
    memory_of,
    ops_in,
    root_tensor,
    yielded,
)
from tilewright.machine import Machine

T = TypeVar("T")

EFFECTS_THAT_STAY = ("write", "check")


def drop_dead(fn: Function, machine: Machine) -> Function:
    """Remove ops, results and carried values that nothing needs.

    Takes:  any program.
    Gives:  the same effects on the caller's tensors, fewer ops. A store into a tensor of the kernel's own
            that nobody reads is gone with the tensor.
    Leaves: checks (they may stop the run) and every write that the caller can see.
    """
    while True:
        live = _live_values(fn)
        body = _prune(fn.body, live)
        if body == fn.body:
            return fn
        fn = replace(fn, body=body)


def _live_values(fn: Function) -> set[Value]:
    """Every value that an effect, a bound or a live value depends on."""
    defined = definitions(fn)
    read_roots = _roots_read(fn, defined)
    live: set[Value] = set()
    needs: dict[Value, list[Operand]] = {}  # value -> what it is made of

    def visit(block: Block) -> None:
        for op in block.ops:
            if _stays(op, defined, read_roots):
                roots.extend(op.operands)
            for result in op.results:
                needs.setdefault(result, []).extend(() if op.name in LOOPS else op.operands)
            for inner in op.blocks:
                visit(inner)
                ends = inner.ops[-1].operands if inner.ops and inner.ops[-1].name == "yield" else ()
                for result, operand in zip(op.results, ends, strict=False):
                    needs[result].append(operand)
            if op.name in LOOPS:
                ends = yielded(op.blocks[0])
                turns = [*op.operands[:3]] if op.name == "for" else [op.operands[0], ends[0]]
                for arg, first, following, result in zip(
                    carried_args(op), initial_values(op), ends, op.results, strict=True
                ):
                    needs.setdefault(arg, []).extend((first, following))
                    needs[result].extend((first, *turns))
                if _has_effect(op, defined, read_roots):
                    roots.extend(turns)
            elif op.name == "if" and _has_effect(op, defined, read_roots):
                roots.extend(op.operands)

    roots: list[Operand] = []
    visit(fn.body)
    while roots:
        value = roots.pop()
        if isinstance(value, Value) and value not in live:
            live.add(value)
            roots.extend(needs.get(value, ()))
    return live


def _roots_read(fn: Function, defined: Mapping[Value, Definition]) -> set[Value]:
    """Tensors whose contents matter: the caller's, those that some op reads, and those returned."""
    roots = {param.value for param in fn.params}
    for op in ops_in(fn):
        if lookup(op.name).effect == "read" or op.name == "return":
            tensors = [as_value(x) for x in op.operands if isinstance(x.type, TensorType)]
            roots.update(root_tensor(x, defined) for x in tensors)
    return roots


def _stays(op: Op, defined: Mapping[Value, Definition], read_roots: set[Value]) -> bool:
    if op.name == "return":
        return True
    if lookup(op.name).effect == "write":
        root = root_tensor(as_value(memory_of(op)), defined)
        place = defined.get(root)
        own = place is not None and place.op is not None and place.op.name == "create"
        return not own or root in read_roots
    return lookup(op.name).effect in EFFECTS_THAT_STAY


def _has_effect(op: Op, defined: Mapping[Value, Definition], read_roots: set[Value]) -> bool:
    return any(_stays(inner, defined, read_roots) for inner in ops_in(op) if inner is not op)


def _prune(block: Block, live: set[Value], keep: tuple[bool, ...] | None = None) -> Block:
    """The block without dead ops; `keep` says which of its yielded values stay."""
    ops: list[Op] = []
    for op in block.ops:
        if op.name == "yield":
            ops.append(op if keep is None else replace(op, operands=_kept(op.operands, keep)))
            continue
        if not op.blocks:
            acts = lookup(op.name).effect in EFFECTS_THAT_STAY and _writes_live(op, live)
            if acts or op.name == "return" or any(r in live for r in op.results):
                ops.append(op)
            continue
        wanted = tuple(r in live for r in op.results)
        operands, blocks = op.operands, []
        if op.name in LOOPS:
            body, args = op.blocks[0], carried_args(op)
            wanted = tuple(r in live or a in live for r, a in zip(op.results, args, strict=True))
            if op.name == "while":  # what decides goes last, with the loop
                wanted = (
                    any(wanted) or _prune(body, live, wanted).ops[0].name != "yield",
                    *wanted[1:],
                )
            leading = LOOPS[op.name]
            kept = (*body.args[: leading[1]], *_kept(args, wanted))
            operands = (*operands[: leading[0]], *_kept(initial_values(op), wanted))
            blocks.append(_prune(Block(kept, body.ops), live, wanted))
        else:
            blocks.extend(_prune(inner, live, wanted) for inner in op.blocks)
        results = _kept(op.results, wanted)
        if results or any(inner.ops and inner.ops[0].name != "yield" for inner in blocks):
            ops.append(replace(op, operands=operands, results=results, blocks=tuple(blocks)))
    return Block(block.args, tuple(ops))


def _kept(items: Sequence[T], wanted: Sequence[bool]) -> tuple[T, ...]:
    return tuple(x for x, keep in zip(items, wanted, strict=True) if keep)


def _writes_live(op: Op, live: set[Value]) -> bool:
    """True for a check, and for a write that liveness kept (its target is live then)."""
    if lookup(op.name).effect == "check":
        return True
    return memory_of(op) in live
