"""Neighbouring parallel loops become one where each turn needs only what the same turn made."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tilewright.ir.affine import Affine, affine
from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Value, index
from tilewright.ir.ops import lookup
from tilewright.ir.typed import as_value
from tilewright.ir.types import TensorType
from tilewright.ir.walk import (
    defined_by,
    definitions,
    free_values,
    memory_of,
    names_in_use,
    ops_in,
    root_tensor,
    substitute,
)
from tilewright.machine import Machine

SHARED_LOOPS = ("parallel", "spmd")
MOVABLE = (
    "window",
    "reshape_view",
    "transpose_view",
    "create",
)  # may stand before the first loop as well


def fuse_loops(fn: Function, machine: Machine) -> Function:
    """Run the bodies of two neighbouring parallel loops in one loop.

    Takes:  parallel loops with literal bounds and as many turns, with scalars, views and fresh tensors
            between them.
    Gives:  the same values: for every tensor that one loop writes and the other touches, turn i of either
            stays within the i-th of equal, disjoint stretches along one axis. One barrier less, and what
            the first body stores is still in the cache (or a tile, see forward_stores) for the second.
    Leaves: loops that carry values, atomic stores, scalar accesses to shared tensors, windows that reach
            into a neighbour's stretch.
    """
    fuser = _LoopFuser(fn)
    return replace(fn, body=fuser.block(fn.body))


@dataclass(frozen=True, slots=True)
class _Access:
    """A window in terms of the turn: along each axis it starts at `turn * move + rest` (+ what inner loops
    add, at least `low`, at most `high`) and takes `extent`."""

    tensor: Value
    moves: tuple[int, ...]
    rests: tuple[Affine, ...]
    lows: tuple[int, ...]
    highs: tuple[int, ...]


class _LoopFuser:
    def __init__(self, fn: Function) -> None:
        self.defined = definitions(fn)
        self.builder = Builder(names_in_use(fn))

    def block(self, block: Block) -> Block:
        out: list[Op] = []
        for source in block.ops:
            op = (
                replace(source, blocks=tuple(map(self.block, source.blocks)))
                if source.blocks
                else source
            )
            first = self.neighbour(out, op)
            if first is None:
                out.append(op)
                continue
            between = out[first + 1 :]
            fused = self.fused(out[first], op)
            self.defined.update(
                defined_by(fused)
            )  # the next neighbour may fit the loop that this is now
            del out[first:]
            out += [*between, *fused]
        return Block(block.args, tuple(out))

    def neighbour(self, out: list[Op], second: Op) -> int | None:
        """Where the loop stands that `second` can be joined with."""
        if not self.is_candidate(second):
            return None
        for position in range(len(out) - 1, -1, -1):
            op = out[position]
            if self.is_candidate(op):
                independent = not any(
                    x in op.results for other in out[position + 1 :] for x in free_values(other)
                )
                return position if independent and self.fits(op, second) else None
            if not (op.name.startswith("s.") or op.name in MOVABLE):
                return None
        return None

    @staticmethod
    def is_candidate(op: Op) -> bool:
        literal = op.name == "for" and all(isinstance(x, Const) for x in op.operands[:3])
        return literal and op.attr("kind") in SHARED_LOOPS and not op.results

    @staticmethod
    def bounds(loop: Op) -> range:
        return range(*(int(x.value) for x in loop.operands[:3]))  # type: ignore[union-attr]

    def fits(self, first: Op, second: Op) -> bool:
        a, b = self.bounds(first), self.bounds(second)
        if len(a) != len(b) or len(a) < 2 or (a.step % b.step and b.step % a.step):
            return False
        touched = [self.touched(loop) for loop in (first, second)]
        for root in set(touched[0]) & set(touched[1]):
            ops = [op for side in touched for op in side[root]]
            if not any(lookup(op.name).effect == "write" for op in ops):
                continue
            accesses = [
                self.access(op, loop)
                for loop, side in zip((first, second), touched, strict=True)
                for op in side[root]
            ]
            if not self.stay_apart(accesses):
                return False
        return True

    def touched(self, loop: Op) -> dict[Value, list[Op]]:
        """The loads, stores and scalar accesses of a loop, by root tensor."""
        found: dict[Value, list[Op]] = {}
        for op in ops_in(loop):
            if lookup(op.name).effect in ("read", "write"):
                root = root_tensor(as_value(memory_of(op)), self.defined)
                found.setdefault(root, []).append(op)
        return found

    def access(self, op: Op, loop: Op) -> _Access | None:
        if op.name not in ("load", "store") or op.attr("atomic"):
            return None
        first = 1 if op.name == "load" else 2
        tensor = op.operands[first - 1]
        assert isinstance(tensor, Value)
        assert isinstance(tensor.type, TensorType)
        offsets = op.operands[first : first + len(tensor.type.shape)]
        bounds, variable = self.bounds(loop), loop.blocks[0].args[0]
        inner = {x.blocks[0].args[0]: x for x in ops_in(loop) if x.name == "for" and x is not loop}
        moves, rests, lows, highs = [], [], [], []
        for offset, extent in zip(offsets, op.attr("shape"), strict=True):
            total = affine(offset, self.defined)
            moves.append(total.factor(variable) * bounds.step)
            rest = total.without(variable).plus(Affine(total.factor(variable) * bounds.start))
            low = high = 0
            for value, factor in rest.terms:
                if value not in inner:
                    continue
                if not all(isinstance(x, Const) for x in inner[value].operands[:3]):
                    return None
                turns = self.bounds(inner[value])
                if not turns:
                    return None
                ends = (factor * turns[0], factor * turns[-1])
                low, high = low + min(ends), high + max(ends)
                rest = rest.without(value)
            rests.append(rest)
            lows.append(low)
            highs.append(high + extent)
        return _Access(tensor, tuple(moves), tuple(rests), tuple(lows), tuple(highs))

    @staticmethod
    def stay_apart(accesses: list[_Access | None]) -> bool:
        """True when along some axis every access of turn i lies in the i-th stretch of one length."""
        known = [a for a in accesses if a is not None]
        if len(known) != len(accesses) or len({a.tensor for a in known}) != 1:
            return False
        for axis in range(len(known[0].moves)):
            moves = {a.moves[axis] for a in known}
            terms = {a.rests[axis].terms for a in known}
            if len(moves) != 1 or len(terms) != 1 or min(moves) <= 0:
                continue
            (move,) = moves
            low = min(a.rests[axis].const + a.lows[axis] for a in known)
            high = max(a.rests[axis].const + a.highs[axis] for a in known)
            if high - low <= move:
                return True
        return False

    def fused(self, first: Op, second: Op) -> list[Op]:
        """The loop with the smaller step, running both bodies; the other's variable is computed from its own."""
        a, b = self.bounds(first), self.bounds(second)
        base, other = (first, second) if b.step % a.step == 0 else (second, first)
        base_range, other_range = self.bounds(base), self.bounds(other)
        variable = base.blocks[0].args[0]
        factor = other_range.step // base_range.step
        self.builder.span = other.span
        with self.builder.block() as ops:
            turn = self.builder.mul(
                self.builder.sub(variable, index(base_range.start)), index(factor)
            )
            moved: Operand = self.builder.add(
                turn, index(other_range.start), hint=other.blocks[0].args[0].name
            )
        rewritten = {id(other): substitute(other.blocks[0], {other.blocks[0].args[0]: moved})}
        rewritten[id(base)] = base.blocks[0]
        body = (*ops, *rewritten[id(first)].ops[:-1], *rewritten[id(second)].ops)
        return [replace(base, blocks=(Block((variable,), body),))]
