"""Which strips a row of a sweep is done in, and what goes through a row buffer between them.

A strip is one loop over the columns, for sinks of one width. A reduction ends a strip; what uses its result
belongs to a later *level*. A value that several strips want is computed again when that is cheap, else kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.codegen.llvm.places import Place
from tilewright.ir.nodes import Const, Op, Operand
from tilewright.ir.ops.reduce import ROW
from tilewright.ir.typed import shape_of, tile_type_of
from tilewright.ir.types import TileType

if TYPE_CHECKING:
    from tilewright.codegen.llvm.function import FunctionEmitter

# What computing a value once more costs, in simple instructions a chunk; above KEEP_ABOVE it is kept.
COSTS = {
    "div": 8,
    "rem": 100,
    "sqrt": 8,
    "rsqrt": 16,
    "recip": 8,
    "exp": 100,
    "log": 100,
    "sin": 100,
    "cos": 100,
    "cast": 3,
}
KEEP_ABOVE = 12

ONE_OF_MANY = ("extract", "gather_mask")  # they may give one column of a wide row


@dataclass(slots=True)
class Sink:
    """Something that a strip must have done when it ends: a store, a reduction, a value kept in memory."""

    op: Op
    value: Operand
    place: Place | None = None  # where a kept value goes


class StripPlan:
    """The plan for one sweep.

    strips: in order, each with its width and its sinks.
    kept:   values that get a place in memory: those handed out, and row buffers.
    """

    def __init__(
        self, owner: FunctionEmitter, ops: Sequence[Op], yields: tuple[Operand, ...]
    ) -> None:
        self.owner, self.ops, self.yields = owner, ops, yields
        self.makers: dict[Operand, Op] = {result: made for made in ops for result in made.results}
        self.kept: dict[Operand, Place] = {}
        self.forced = self.must_keep()
        self.strips = self.in_order(self.sinks())

    def sinks(self) -> list[Sink]:
        found = [
            Sink(op, op.operands[0]) for op in self.ops if op.name == "store" or self.wanted(op)
        ]
        for value in dict.fromkeys(self.yields):
            self.kept[value] = self.owner.new_tile(tile_type_of(value))
            found.append(Sink(self.makers[value], value, self.kept[value]))
        return found + self.keep_expensive(found)

    def in_order(self, sinks: list[Sink]) -> list[tuple[int, list[Sink]]]:
        """Sinks of one level and width share a strip."""
        strips: dict[tuple[int, bool, int], list[Sink]] = {}
        for sink in sinks:
            after_kept = (
                sink.place is None
            )  # a strip that keeps a value comes before those that read it
            key = (self.level(sink.value), after_kept, width_of(sink.value))
            strips.setdefault(key, []).append(sink)
        merged: dict[tuple[int, int], list[Sink]] = {}
        for level, after_kept, width in sorted(strips):
            merged.setdefault((level, width), []).extend(strips[level, after_kept, width])
        return [(width, group) for (_, width), group in merged.items()]

    def must_keep(self) -> set[Operand]:
        """Zipped columns that are read at other offsets than they were zipped at, windows at run-time
        columns, and rows of which one column is taken: these go through a row buffer, which a later level reads.
        """
        forced: set[Operand] = set()
        for op in self.ops:
            at_run_time = op.name == "extract" and not isinstance(op.operands[-1], Const)
            one_column = op.name in ONE_OF_MANY and width_of(op.result) == 1
            if op.name not in ("extract", "gather_mask", "interleave", "scatter_mask"):
                continue
            for x in op.operands:
                zips = any(
                    self.makers[v].name in ("interleave", "scatter_mask") for v in self.reaches(x)
                )
                if x in self.makers and (zips or at_run_time or one_column) and width_of(x) > 1:
                    forced.add(x)
        return forced

    def wanted(self, op: Op) -> bool:
        """True for a reduction that something reads."""
        if op.name not in ROW:
            return False
        return any(op.result in other.operands for other in self.ops) or op.result in self.yields

    def level(self, value: Operand) -> int:
        """How many reductions must be finished before `value` can be computed."""
        known: dict[Operand, int] = {}

        def visit(x: Operand) -> int:
            if x not in known:
                made = self.makers.get(x)
                operands = (
                    []
                    if made is None
                    else [y for y in made.operands if isinstance(y.type, TileType)]
                )
                below = max((visit(y) + (y in self.forced) for y in operands), default=0)
                known[x] = below + 1 if made is not None and made.name in ROW else below
            return known[x]

        return visit(value)

    def keep_expensive(self, sinks: list[Sink]) -> list[Sink]:
        """Row buffers for values that more than one strip would have to compute at a high price."""
        users: dict[Operand, set[tuple[int, int, int]]] = {}
        for sink in sinks:
            store = id(sink.op) if sink.op.name == "store" else 0
            strip = (self.level(sink.value), width_of(sink.value), store)
            for value in self.reaches(sink.value):
                users.setdefault(value, set()).add(strip)
        kept = []
        for op in self.ops:
            if (
                not op.results
                or op.name in ROW
                or width_of(op.result) == 1
                or op.result in self.kept
            ):
                continue
            dear = len(users.get(op.result, ())) > 1 and self.price(op.result) > KEEP_ABOVE
            if dear or op.result in self.forced:
                place = self.kept[op.result] = self.row_buffer(tile_type_of(op.result))
                kept.append(Sink(op, op.result, place))
        return kept

    def row_buffer(self, tile: TileType) -> Place:
        """Room for one row of a tile; every row index leads to it."""
        buffer = self.owner.new_tile(TileType(tile.shape[-1:], tile.dtype))
        strides = (0,) * (len(tile.shape) - 1) + buffer.strides
        return Place(buffer.address, buffer.dtype, tile.shape, strides, tile.shape, padded=True)

    def reaches(self, value: Operand) -> list[Operand]:
        """The sweep's values that computing `value` in one strip goes through."""
        found: dict[Operand, None] = {}
        work = [value]
        while work:
            x = work.pop()
            made = self.makers.get(x)
            if made is None or x in found:
                continue
            found[x] = None
            if made.name not in ROW:
                work += [y for y in made.operands if isinstance(y.type, TileType)]
        return list(found)

    def price(self, value: Operand) -> int:
        return sum(
            COSTS.get(self.makers[v].name, 1) for v in self.reaches(value) if width_of(v) > 1
        )


def width_of(x: Operand) -> int:
    """Columns of a tile."""
    return shape_of(x)[-1]
