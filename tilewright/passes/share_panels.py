"""Panels of a whole matrix, packed once and read in windows, instead of one panel for every visit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import gcd
from typing import TypeVar

from tilewright.blocking import MOST_GROUP_BYTES
from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Param, Value, index
from tilewright.ir.typed import literal_range, shape_of, tensor_type_of
from tilewright.ir.types import PanelType, TensorType
from tilewright.ir.walk import Replace, definitions, map_ops, names_in_use, uses, walk
from tilewright.machine import Machine

# A window of a packed matrix is a panel when it starts at a column block and at a group of K. 64 columns
# are a multiple of every machine's block, MOST_GROUP_BYTES of every group.
COLUMN_UNIT = 64


def share_panels(fn: Function, machine: Machine) -> Function:
    """Pack the whole of a matrix once where all its readers want windows of the packed form.

    Takes:  packs next to their products, reading windows of 2-D input tensors in place.
    Gives:  the same values. A frozen parameter becomes a parameter of panel type, which the caller packs
            once and keeps (Kernel.bind). A matrix whose windows would be packed again in every turn of an
            outer loop is packed by all threads at the beginning of the call.
    Leaves: windows that do not start at a column block, matrices that are also read in other ways, frozen
            ones in transposed storage, and everything that would be packed just once anyway, or that nobody knows to be
            visited: windows whose place is read from memory (pages of a cache), or that memory says of each
            whether it is read at all (experts without tokens).
    """
    sharer = _Sharer(fn)
    shared = {param.value: packs for param in fn.params if (packs := sharer.packs_of(param))}
    if not shared:
        return fn
    builder = Builder(names_in_use(fn))
    params: list[Param] = []
    panels: dict[Value, Value] = {}
    for param in fn.params:
        matrix = param.value
        if matrix not in shared:
            params.append(param)
            continue
        rows, columns = shape_of(matrix)
        if param.direction == "frozen":
            kind = PanelType(rows, columns, tensor_type_of(matrix).dtype)
            panels[matrix] = Value(matrix.name, kind)
            params.append(replace(param, value=panels[matrix]))
            continue
        params.append(param)
        builder.span = shared[matrix][0].span
        whole: list[Operand] = [matrix, index(0), index(0), index(rows), index(columns)]
        tile = builder.value("load", whole, matrix.name, shape=(rows, columns))
        k, n = _turned(shared[matrix][0], (rows, columns))
        panels[matrix] = builder.value(
            "pack", [tile, index(k), index(n)], "panel", trans=shared[matrix][0].attr("trans")
        )

    def rewrite(op: Op) -> Replace | None:
        if op.name != "pack":
            return None
        load = sharer.maker(op.operands[0])
        if load is None or load.name != "load" or load.operands[0] not in panels:
            return None
        builder = Builder(taken)
        builder.span = op.span
        k0, n0 = _turned(op, load.operands[1:3])
        k, n = _turned(op, load.attr("shape"))
        window = builder.value(
            "panel_window", [panels[load.operands[0]], k0, n0], op.result.name, k=k, n=n
        )
        taken.append(window.name)
        return Replace(builder.ops, {op.result: window})

    taken = names_in_use(fn) + [op.result.name for op in builder.ops]
    body = map_ops(fn.body, rewrite)
    frozen = {matrix for matrix in panels if panels[matrix].name == matrix.name}
    body = map_ops(body, lambda op: () if op.name == "load" and op.operands[0] in frozen else None)
    ops = _behind_checks(body.ops, builder.ops)
    return replace(fn, params=tuple(params), body=Block(body.args, ops))


T = TypeVar("T")


def _turned(pack: Op, pair: tuple[T, ...]) -> tuple[T, ...]:
    """(K, N) of a pair that goes with the axes of the matrix in memory."""
    return pair[::-1] if pack.attr("trans") else pair


def _behind_checks(ops: tuple[Op, ...], packs: tuple[Op, ...]) -> tuple[Op, ...]:
    """The packs behind the checks that the program begins with: a call that fails one has done nothing."""
    position = 0
    for i, op in enumerate(ops):
        if op.name.startswith("check_"):
            position = i + 1
        elif not op.name.startswith("s."):
            break
    return (*ops[:position], *packs, *ops[position:])


class _Sharer:
    def __init__(self, fn: Function) -> None:
        self.fn = fn
        self.defined = definitions(fn)
        self.readers = uses(fn)
        self.paths = {id(op): path for op, path in walk(fn)}

    def maker(self, x: Operand) -> Op | None:
        place = self.defined.get(x) if isinstance(x, Value) else None
        return None if place is None or place.block is not None else place.op

    def packs_of(self, param: Param) -> list[Op]:
        """The packs that read windows of a matrix, if all of them may share one panel and should."""
        matrix = param.value
        if not isinstance(matrix.type, TensorType) or len(matrix.type.shape) != 2:
            return []
        if param.direction not in ("in", "frozen"):
            return []
        packs: list[Op] = []
        for load in self.readers.get(matrix, []):
            found = self.readers.get(load.result, []) if load.name == "load" else []
            if not found or not all(op.name == "pack" and self.is_window(op, load) for op in found):
                return []
            packs += found
        if len({op.attr("trans") for op in packs}) > 1:
            return []
        if param.direction == "frozen" and any(op.attr("trans") for op in packs):
            return []
        if param.direction == "in" and not any(self.packed_again(op) for op in packs):
            return []
        return packs

    def is_window(self, pack: Op, load: Op) -> bool:
        """True when the pack's panel is a window of the panel of the whole matrix."""
        rows, columns = _turned(pack, shape_of(load.operands[0]))
        k, n = _turned(pack, load.attr("shape"))
        k0, n0 = _turned(pack, load.operands[1:3])
        whole_window = _turned(pack, load.operands[3:]) == pack.operands[1:] == (index(k), index(n))
        if load.attr("drop") or not whole_window:
            return False
        all_of_k = k0 == index(0) and k == rows
        unit = MOST_GROUP_BYTES // tensor_type_of(load.operands[0]).dtype.nbytes
        if not all_of_k and (self.multiple(k0) % unit or k % unit or columns % COLUMN_UNIT):
            return False
        to_the_end = isinstance(n0, Const) and n0.value + n == columns
        return self.multiple(n0) % COLUMN_UNIT == 0 and (n % COLUMN_UNIT == 0 or to_the_end)

    def multiple(self, x: Operand) -> int:
        """A number that `x` is surely a multiple of; 0 when `x` is 0."""
        if isinstance(x, Const):
            return abs(int(x.value))
        place = self.defined[x]
        if place.op is None:
            return 1
        if place.block is not None:
            if place.op.name != "for" or place.position != 0:
                return 1
            return gcd(self.multiple(place.op.operands[0]), self.multiple(place.op.operands[2]))
        parts = [self.multiple(y) for y in place.op.operands]
        match place.op.name:
            case "s.add" | "s.sub":
                return gcd(*parts)
            case "s.mul":
                return parts[0] * parts[1]
        return 1

    def packed_again(self, pack: Op) -> bool:
        """True when a loop around the pack runs more than once without moving its window."""
        load = self.maker(pack.operands[0])
        assert load is not None
        behind = self.all_behind(load.operands[1:3])
        if not all(map(self.counts, behind)):
            return False
        again = False
        for owner in self.paths[id(pack)]:
            if owner.name in ("if", "for") and self.is_doubtful(owner, behind):
                return False
            if owner.name == "for" and owner.blocks[0].args[0] not in behind:
                turns = literal_range(owner)
                again = again or turns is None or len(turns) > 1
        return again

    def is_doubtful(self, owner: Op, behind: set[Operand]) -> bool:
        """True when memory decides for every place of the window anew whether (or how often) it is read."""
        deciding = self.all_behind(owner.operands[: 1 if owner.name == "if" else 3])
        if all(map(self.counts, deciding)):
            return False
        return any(self.is_variable(x) for x in deciding & behind)

    def counts(self, x: Operand) -> bool:
        """True for what is no element of memory: a scalar of the caller, a loop variable, sums of them."""
        made = self.maker(x)
        if made is not None:
            return made.name.startswith("s.")
        return self.is_variable(x) or (isinstance(x, Value) and self.defined[x].op is None)

    def is_variable(self, x: Operand) -> bool:
        """True for the variable of a loop."""
        place = self.defined.get(x) if isinstance(x, Value) else None
        if place is None or place.block is None or place.op is None:
            return False
        return place.op.name == "for" and place.position == 0

    def all_behind(self, operands: Iterable[Operand]) -> set[Operand]:
        """Every value that the operands are computed from."""
        found: set[Operand] = set()
        work = list(operands)
        while work:
            x = work.pop()
            if isinstance(x, Const) or x in found:
                continue
            found.add(x)
            made = self.maker(x)
            if made is not None and not made.blocks:
                work += made.operands
        return found
