"""The accumulator idiom `if first: matmul else: matmul_acc` without its branch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tilewright.ir.build import Builder, fold_scalar
from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Value, make_attrs
from tilewright.ir.typed import as_value, literal_range, tile_type_of
from tilewright.ir.walk import (
    Definition,
    definitions,
    map_ops,
    names_in_use,
    substitute,
    uses,
    yielded,
)
from tilewright.machine import Machine


def start_products(fn: Function, machine: Machine) -> Function:
    """Start a carried accumulator from zero instead of branching on the first iteration.

    Takes:  `for k …: if k == first: acc = matmul(a, b) else: acc = matmul_acc(acc, a, b)` with at least one
            trip, where nothing else reads the carried accumulator. The arms may hold more than the product,
            such as the loads of a and b or a region, if both do the same in the first iteration: `x[:, 0:T]`
            is `x[:, k:k+T]` when k is 0.
    Gives:  `acc = 0; for k …: acc = matmul_acc(acc, a, b)`. The same bits: a product starts from zero too.
    Leaves: branches that do anything else, loops that may not run.
    """
    builder = Builder(names_in_use(fn))
    defined = definitions(fn)
    readers = uses(fn)

    def rewrite(op: Op) -> Op | tuple[Op, ...] | None:
        turns = literal_range(op) if op.name == "for" else None
        if not turns:
            return None
        body = op.blocks[0]
        zeros: dict[int, Op] = {}
        ops: list[Op] = []
        for inner in body.ops:
            merged = _without_branch(inner, op, turns.step, defined)
            accumulators = [x for x in merged.accumulators if x in body.args[1:]] if merged else []
            if merged is None or any(len(readers[x]) != 1 for x in accumulators):
                ops.append(inner)
                continue
            if len(accumulators) != len(merged.accumulators):
                ops.append(inner)
                continue
            for value in accumulators:
                acc = tile_type_of(value)
                attrs = make_attrs({"shape": acc.shape, "dtype": acc.dtype, "value": 0})
                start = builder.fresh(acc, "zero")
                zeros[body.args.index(value)] = Op("full", (), (start,), attrs, (), inner.span)
            ops.extend(merged.ops)
        if not zeros:
            return None
        operands = list(op.operands)
        for position, zero in zeros.items():
            operands[2 + position] = zero.result
        loop = replace(op, operands=tuple(operands), blocks=(Block(body.args, tuple(ops)),))
        return (*zeros.values(), loop)

    return map_ops(fn, rewrite)


@dataclass(slots=True)
class _Merged:
    """What an `if first` means: ops to run in every iteration, and the accumulators they continue."""

    ops: list[Op] = field(default_factory=list)
    accumulators: list[Value] = field(default_factory=list)


def _without_branch(
    op: Op, loop: Op, step: int, defined: Mapping[Value, Definition]
) -> _Merged | None:
    """The ops of the later iterations, if they do what the first one does; results named as the `if`'s."""
    arms = _first_and_later(op, loop, step, defined)
    if arms is None:
        return None
    first = _First(loop.blocks[0].args[0], loop.operands[0], defined)
    merged = _Merged()
    if not _alike(*arms, first, merged.accumulators) or not merged.accumulators:
        return None
    later = arms[1]
    handed_on = yielded(later)
    mine = {result for inner in later.ops for result in inner.results}
    if len(set(handed_on)) != len(handed_on) or not all(x in mine for x in handed_on):
        return None
    names = {as_value(x): y for x, y in zip(handed_on, op.results, strict=True)}
    merged.ops = [
        replace(substitute(inner, names), results=tuple(names.get(x, x) for x in inner.results))
        for inner in later.ops[:-1]
    ]
    return merged


def _alike(start: Block, later: Block, first: _First, accumulators: list[Value]) -> bool:
    """Whether both blocks do the same in the first iteration, but that one starts products which the other
    continues; `accumulators` takes what those add to. Regions may stand inside."""
    before, after = ([x for x in block.ops if not _is_bookkeeping(x)] for block in (start, later))
    if len(before) != len(after):
        return False
    for a, b in zip(before, after, strict=True):
        wanted = b.operands
        if a.name == "at" and b.name == "at":
            if not _alike(a.blocks[0], b.blocks[0], first, accumulators):
                return False
        elif a.name == "matmul" and b.name == "matmul_acc":
            accumulators.append(as_value(wanted[0]))
            wanted = wanted[1:]
        elif a.name != b.name:
            return False
        if (a.name != "at" and (a.blocks or b.blocks or a.attrs != b.attrs)) or not first.same(
            a.operands, wanted
        ):
            return False
        first.twins.update(zip(a.results, b.results, strict=True))
    return True


def _first_and_later(
    op: Op, loop: Op, step: int, defined: Mapping[Value, Definition]
) -> tuple[Block, Block] | None:
    """The arms for the first iteration and for the others; None when that is not what is asked."""
    if op.name != "if" or not isinstance(op.operands[0], Value):
        return None
    test = defined[op.operands[0]].op
    first = (loop.blocks[0].args[0], loop.operands[0])
    if test is None or test.operands not in (first, first[::-1]):
        return None
    then, other = op.blocks
    if test.name == "s.eq":
        return then, other
    later = test.operands == first and test.name == ("s.gt" if step > 0 else "s.lt")
    earlier = test.operands != first and test.name == ("s.lt" if step > 0 else "s.gt")
    return (other, then) if test.name == "s.ne" or later or earlier else None


def _is_bookkeeping(op: Op) -> bool:
    """Scalars are compared where they are used; a check belongs to an access that is compared itself."""
    return op.name.startswith("s.") or op.name == "check_window"


class _First:
    """Whether operands of the two arms are the same in the first iteration."""

    def __init__(
        self, variable: Value, first: Operand, defined: Mapping[Value, Definition]
    ) -> None:
        self.variable, self.first, self.defined = variable, first, defined
        self.twins: dict[Value, Value] = {}  # results in the first arm -> in the other

    def same(self, a: tuple[Operand, ...], b: tuple[Operand, ...]) -> bool:
        return len(a) == len(b) and all(
            self._at_first(x) == self._at_first(y) for x, y in zip(a, b, strict=True)
        )

    def _at_first(self, x: Operand) -> object:
        """An operand, or (op, attrs, operands) where it is computed from other scalars."""
        if isinstance(x, Const):
            return x
        if x == self.variable:
            return self.first
        place = self.defined.get(x)
        op = None if place is None or place.block is not None else place.op
        if op is None or not op.name.startswith("s."):
            return self.twins.get(x, x)
        parts = [self._at_first(y) for y in op.operands]
        operands = [y for y in parts if isinstance(y, (Value, Const))]
        if len(operands) == len(parts):
            folded = fold_scalar(op.name, operands)
            if folded is not None:
                return folded
        return (op.name, op.attrs, *parts)
