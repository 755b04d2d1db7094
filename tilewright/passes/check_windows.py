"""Bounds become visible: what cannot be proved is checked, as early as its offsets are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.ir.build import Builder, fold_scalar
from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Value, index, make_attrs
from tilewright.ir.typed import as_value, shape_of, whole_number
from tilewright.ir.walk import Definition, definitions, names_in_use
from tilewright.machine import Machine
from tilewright.passes.intervals import Intervals

_Window = tuple[tuple[int, ...], tuple[Operand, ...], tuple[Operand, ...]]


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
    return Function(
        fn.name, fn.params, Block(body.args, (*checker.builder.ops, *body.ops)), fn.span
    )


@dataclass(frozen=True, slots=True)
class _Access:
    """The window that an op touches."""

    subject: str
    access: str
    extents: tuple[int, ...]
    offsets: tuple[Operand, ...]
    valid: tuple[Operand, ...]

    @property
    def window(self) -> _Window:
        """What is checked, whoever asks."""
        return self.extents, self.offsets, self.valid


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
    extents = shape_of(source)
    rank = len(extents)
    offsets, valid = rest[:rank], rest[rank:]
    if not valid:
        valid = tuple(index(n) for n in op.attr("shape", (1,) * rank))
    return _Access(as_value(source).name, kind, extents, offsets, valid)


def _valid_part(op: Op) -> _Access | None:
    """The valid extents that `op` is told of, as an access to the block that they are extents of."""
    block = op.operands[0] if op.operands else None
    match op.name:
        case "load":
            block, shape = op.result, tuple(op.attr("shape"))
        case "store":
            shape = tuple(op.attr("shape"))
        case "insert":
            block, shape = op.operands[1], tuple(op.attr("shape"))
        case "matmul" | "matmul_acc":
            a, b = op.operands[-5:-3]
            m, k = shape_of(a)[-2:][:: -1 if op.attr("a_trans") else 1]
            n = shape_of(b)[-2 if op.attr("b_trans") else -1]
            block, shape = a, (m, k, n)
        case "fillpad" | "row_sum" | "row_max" | "row_min" | "col_sum" | "col_max" | "col_min":
            shape = shape_of(op.operands[0])
        case _:
            return None
    assert block is not None
    zeros, valid = (index(0),) * len(shape), op.operands[-len(shape) :]
    return _Access(as_value(block).name, "read", shape, zeros, valid)


class _Checker:
    def __init__(self, defined: Mapping[Value, Definition], builder: Builder) -> None:
        self.defined = defined
        self.intervals = Intervals(defined)
        self.builder = builder  # collects what goes to the beginning
        self.hoisted: set[tuple] = set()

    def block(
        self, block: Block, path: tuple[Op, ...], known: frozenset[_Window] = frozenset()
    ) -> Block:
        """`known`: what has surely been checked when the block begins."""
        ops: list[Op] = []
        for op in block.ops:
            for access in (_access(op), _valid_part(op)):
                if access is None or access.window in known or self.inside(access):
                    continue
                known |= {access.window}
                self.check(access, op, path, ops)
            if op.blocks:
                blocks = tuple(self.block(inner, (*path, op), known) for inner in op.blocks)
                op = Op(op.name, op.operands, op.results, op.attrs, blocks, op.span)
            ops.append(op)
        return Block(block.args, tuple(ops))

    # Proving

    def inside(self, access: _Access) -> bool:
        for extent, offset, count in zip(access.extents, access.offsets, access.valid, strict=True):
            low, high = self.intervals.of(offset)
            fewest, most = self.intervals.of(count)
            if low < 0 or fewest < 0 or high + most > extent:
                return False
        return True

    # Placing

    def check(self, access: _Access, op: Op, path: tuple[Op, ...], ops: list[Op]) -> None:
        attrs = make_attrs(
            {"extents": access.extents, "subject": access.subject, "access": access.access}
        )
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
            return all(map(self.early, operands)) and any(
                isinstance(y, Const) and y.value >= 0 for y in operands
            )
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
        if isinstance(x, Const):
            return x
        place = self.defined[x]
        op = place.op
        if op is None:
            return x
        if place.block is not None:
            start, stop, step = map(whole_number, op.operands[:3])
            return index(start if pick == "first" else start + (stop - 1 - start) // step * step)
        operands = tuple(self.at_entry(y, pick) for y in op.operands)
        folded = fold_scalar(op.name, operands)
        if folded is not None:
            return folded
        return self.builder.value(op.name, operands, x.name, **dict(op.attrs))


def _trips(loop: Op) -> int | None:
    """How often a loop with literal bounds runs; None when they are not literal or the step is not positive."""
    if not all(isinstance(x, Const) for x in loop.operands[:3]):
        return None
    start, stop, step = map(whole_number, loop.operands[:3])
    return None if step <= 0 else max(0, -(-(stop - start) // step))
