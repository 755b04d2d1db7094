"""Bounds become visible: what cannot be proved is checked, as early as its offsets are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.ir.build import Builder, fold_scalar
from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Value, index, make_attrs
from tilewright.ir.walk import Definition, definitions, names_in_use
from tilewright.machine import Machine

INFINITY = 1 << 62


def check_windows(fn: Function, machine: Machine) -> Function:
    """Put a `check_window` before every access that is not provably inside its tensor or tile.

    Takes:  any program whose accesses have not been checked.
    Gives:  the same values for a program that stays inside; one that does not is stopped before the
            access. A check whose offsets come from scalar parameters, literals and constant loops stands
            at the very beginning, so that nothing has been written when it fails.
    Leaves: accesses that interval arithmetic proves to be inside.
    """
    checker = _Checker(definitions(fn), Builder(names_in_use(fn)))
    body = checker.block(fn.body, ())
    return Function(fn.name, fn.params, Block(body.args, (*checker.builder.ops, *body.ops)), fn.span)


@dataclass(frozen=True, slots=True)
class _Access:
    """The window that an op touches."""

    subject: str
    access: str
    extents: tuple[int, ...]
    offsets: tuple[Operand, ...]
    valid: tuple[Operand, ...]


def _access(op: Op) -> _Access | None:
    """What `op` touches by offset; None for ops that touch nothing."""
    match op.name:
        case "load" | "window" | "extract" | "read" | "element":
            source, rest, kind = op.operands[0], op.operands[1:], "read"
        case "store":
            source, rest, kind = op.operands[1], op.operands[2:], "write"
        case "insert" | "write" | "with_element":
            source, rest, kind = op.operands[0], op.operands[2:], "write"
        case _:
            return None
    extents = source.type.shape  # type: ignore[union-attr]
    rank = len(extents)
    offsets, valid = rest[:rank], rest[rank:]
    if not valid:
        valid = tuple(index(n) for n in op.attr("shape", (1,) * rank))
    return _Access(source.name, kind, extents, offsets, valid)  # type: ignore[union-attr]


class _Checker:
    def __init__(self, defined: Mapping[Value, Definition], builder: Builder) -> None:
        self.defined = defined
        self.builder = builder  # collects what goes to the beginning
        self.hoisted: set[tuple] = set()

    def block(self, block: Block, path: tuple[Op, ...]) -> Block:
        ops: list[Op] = []
        for op in block.ops:
            access = _access(op)
            if access is not None and not self.inside(access):
                self.check(access, op, path, ops)
            if op.blocks:
                blocks = tuple(self.block(inner, (*path, op)) for inner in op.blocks)
                op = Op(op.name, op.operands, op.results, op.attrs, blocks, op.span)
            ops.append(op)
        return Block(block.args, tuple(ops))

    # Proving

    def inside(self, access: _Access) -> bool:
        for extent, offset, count in zip(access.extents, access.offsets, access.valid, strict=True):
            low, high = self.interval(offset)
            if low < 0 or high + self.interval(count)[1] > extent:
                return False
        return True

    def interval(self, x: Operand) -> tuple[int, int]:
        """Smallest and largest value that `x` can take."""
        if isinstance(x, Const):
            return int(x.value), int(x.value)
        place = self.defined[x]
        if place.op is None:
            return -INFINITY, INFINITY
        if place.block is not None:
            return self.loop_interval(place.op) if place.position == 0 else (-INFINITY, INFINITY)
        if not place.op.name.startswith("s."):
            return -INFINITY, INFINITY
        parts = [self.interval(y) for y in place.op.operands]
        return _combine(place.op.name, parts)

    def loop_interval(self, loop: Op) -> tuple[int, int]:
        (low, _), (_, stop), (step, step_high) = (self.interval(x) for x in loop.operands[:3])
        if step <= 0:
            return -INFINITY, INFINITY
        if step == step_high and abs(low) < INFINITY and stop < INFINITY and isinstance(loop.operands[0], Const):
            return low, low + max(0, (stop - 1 - low) // step) * step
        return low, max(low, stop - 1)

    # Placing

    def check(self, access: _Access, op: Op, path: tuple[Op, ...], ops: list[Op]) -> None:
        attrs = make_attrs({"extents": access.extents, "subject": access.subject, "access": access.access})
        operands = (*access.offsets, *access.valid)
        loops = [owner for owner in path if owner.name == "for"]
        unconditional = all(owner.name in ("at", "for") for owner in path)
        if any(_trips(loop) == 0 for loop in loops):
            return
        if unconditional and all(_trips(loop) for loop in loops) and all(map(self.early, operands)):
            for pick in ("first", "last") if loops else ("first",):
                self.builder.span = op.span
                moved = tuple(self.at_entry(x, pick) for x in operands)
                if (moved, attrs) not in self.hoisted:
                    self.hoisted.add((moved, attrs))
                    self.builder.append(Op("check_window", moved, (), attrs, (), op.span))
            return
        ops.append(Op("check_window", operands, (), attrs, (), op.span))

    def early(self, x: Operand) -> bool:
        """True when `x` is known at the beginning, or grows with the variables of constant loops."""
        if isinstance(x, Const):
            return True
        place = self.defined[x]
        if place.op is None:
            return True
        if place.block is not None:
            return place.op.name == "for" and place.position == 0 and _trips(place.op) is not None
        name, operands = place.op.name, place.op.operands
        if name in ("s.add", "s.cast"):
            return all(map(self.early, operands))
        if name == "s.mul":
            return all(map(self.early, operands)) and any(isinstance(y, Const) and y.value >= 0 for y in operands)
        if name == "s.sub":
            return self.early(operands[0]) and self.from_parameters(operands[1])
        return self.from_parameters(x)

    def from_parameters(self, x: Operand) -> bool:
        """True when `x` depends on scalar parameters and literals only."""
        if isinstance(x, Const):
            return True
        place = self.defined[x]
        if place.op is None:
            return True
        scalar = place.block is None and place.op.name.startswith("s.")
        return scalar and all(map(self.from_parameters, place.op.operands))

    def at_entry(self, x: Operand, pick: str) -> Operand:
        """`x` computed at the beginning, with every loop variable at its first or last value."""
        if isinstance(x, Const) or self.defined[x].op is None:
            return x
        place = self.defined[x]
        if place.block is not None:
            start, stop, step = (c.value for c in place.op.operands[:3] if isinstance(c, Const))  # type: ignore[union-attr]
            return index(start if pick == "first" else start + (stop - 1 - start) // step * step)
        op = place.op
        operands = tuple(self.at_entry(y, pick) for y in op.operands)  # type: ignore[union-attr]
        folded = fold_scalar(op.name, operands)  # type: ignore[union-attr]
        if folded is not None:
            return folded
        return self.builder.value(op.name, operands, x.name, **dict(op.attrs))  # type: ignore[union-attr]


def _trips(loop: Op) -> int | None:
    """How often a loop with literal bounds runs; None when they are not literal or the step is not positive."""
    if not all(isinstance(x, Const) for x in loop.operands[:3]):
        return None
    start, stop, step = (x.value for x in loop.operands[:3])  # type: ignore[union-attr]
    return None if step <= 0 else max(0, -(-(stop - start) // step))


def _combine(name: str, parts: list[tuple[int, int]]) -> tuple[int, int]:
    """Interval arithmetic, wide where it gets difficult."""
    if any(abs(bound) >= INFINITY for part in parts for bound in part) and name not in ("s.min", "s.max", "s.mod"):
        return -INFINITY, INFINITY
    match name, parts:
        case "s.add", [(a, b), (c, d)]:
            return a + c, b + d
        case "s.sub", [(a, b), (c, d)]:
            return a - d, b - c
        case "s.mul", [(a, b), (c, d)]:
            corners = (a * c, a * d, b * c, b * d)
            return min(corners), max(corners)
        case "s.min", [(a, b), (c, d)]:
            return min(a, c), min(b, d)
        case "s.max", [(a, b), (c, d)]:
            return max(a, c), max(b, d)
        case "s.floordiv", [(a, b), (c, d)] if c == d and c > 0:
            return a // c, b // c
        case "s.mod", [_, (c, d)] if c > 0:
            return 0, d - 1
        case "s.cast", [(a, b)]:
            return a, b
        case _:
            return -INFINITY, INFINITY
