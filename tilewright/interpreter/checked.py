"""A checking run: the interpreter, with an eye on what no run should do.

Found are accesses out of bounds, undefined contents that reach where they matter, and iterations of
`parallel` and `spmd` loops that are not independent. The run goes on after each; what follows from a
report is not reported again.

What is undefined is found by running an operator again with other contents where its operands are
undefined (`differing`). So an operator needs no rule of its own here; one that touches memory is seen
through `Memory.part`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tilewright.dtypes import DType
from tilewright.errors import BoundsError, KernelError, RaceError, UnsetError
from tilewright.interpreter.arrays import constant, fresh_value, leading, poison_value, unspecified
from tilewright.interpreter.differing import marks_of_result
from tilewright.interpreter.meanings import Call
from tilewright.interpreter.memory import Memory
from tilewright.interpreter.races import Kind, ParallelLoop
from tilewright.interpreter.run import UNORDERED, Machine, Order, meant
from tilewright.interpreter.shadow import (
    SILENT,
    Access,
    Marked,
    Origins,
    Role,
    Storage,
    distinct,
    element,
    loud,
)
from tilewright.ir.nodes import Function, Op, Operand, Param, Value
from tilewright.ir.ops import lookup
from tilewright.ir.types import ScalarType, TileType, tensor_type
from tilewright.ir.walk import ops_in
from tilewright.span import Span

# Operands that say where or how much, by their names in the operator table.
PLACES = frozenset(("offsets", "valid", "indices", "m", "k", "n", "k0", "n0", "condition"))


# What an author calls an operator, where the table has a name of its own.
WORDS = {"scatter_rows": "scatter_update"}

# Of the places that something undefined leads to, how many a report shows.
PLACES_SHOWN = 3


@torch.no_grad()
def check(
    function: Function,
    args: Sequence[Any],
    *,
    order: Order = "ascending",
    returned: Iterable[str] = (),
    filled: Iterable[str] = (),
) -> tuple[KernelError, ...]:
    """Run `function`, as the front end made it, on `args`; everything wrong with the run, one report
    a place.

    `out` parameters start undefined, and afterwards hold what they held before where nothing was
    written. filled: those that hold something all the same. returned: those that the kernel makes
    itself and hands out, which must be written whole.
    """
    held = frozenset(filled)
    params = [replace(p, direction="inout") if p.value.name in held else p for p in function.params]
    function = replace(function, params=tuple(params))
    made = frozenset(returned)
    checker = Checker(order, made)
    before = [
        (p.value, x, x.clone())
        for p, x in zip(params, args, strict=False)
        if p.direction == "out" and isinstance(x, torch.Tensor)
    ]
    for value, arg, _ in before:
        dtype = value.type.dtype
        contents = fresh_value(dtype, 0) if value.name in made else poison_value(dtype)
        arg.copy_(constant(contents, tuple(arg.shape), dtype))
    try:
        checker.run(function, args)
    finally:
        for value, arg, old in before:
            unwritten = checker.unwritten(value)
            arg.copy_(torch.where(unwritten, old, arg))
    return checker.reports


@dataclass(frozen=True, slots=True)
class Watched(Call):
    """A call that tells what its meaning leaves open, and which indices it was given outside.

    marks: the operands' marks. told: "blank" when some of the result is unspecified, "fresh" when all of
    it is as it was made, "outside" when that was reported.
    """

    checker: Checker | None = None
    marks: tuple[Any, ...] = ()
    told: set[str] = field(default_factory=set)

    def blank(self, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        self.told.add("blank")
        return Call.blank(self, shape)

    def fresh(self, shape: tuple[int, ...], dtype: DType) -> torch.Tensor:
        """Zeros, as everywhere else: what follows may multiply them by 0 and be right."""
        self.told.add("fresh")
        return unspecified(shape, dtype, False)

    def within(self, position: int, index: torch.Tensor, extent: int) -> torch.Tensor:
        bad = (index < 0) | (index >= extent)
        if self.marks[position] is not None:
            bad = bad & (self.marks[position] == 0)
        if bool(bad.any()):
            self.told.add("outside")
            at = int(bad.reshape(-1).nonzero()[0])
            where = element(self.subject(position), tuple(index.shape), at)
            assert self.checker is not None
            self.checker.report(
                BoundsError(
                    f"{WORDS.get(self.op.name, self.op.name)} outside {self.subject(0)}: {where} is"
                    f" {int(index.reshape(-1)[at])}, wanted 0 to {extent - 1}",
                    self.op.span,
                    notes=[f"{int(bad.sum())} of {bad.numel()} indices are outside"],
                    help="keep indices inside, for instance with pl.minimum and pl.maximum",
                )
            )
        return Call.within(self, position, index, extent)


class Checker(Machine):
    """The machine that keeps marks, and notes which iteration touches what."""

    def __init__(self, order: Order, made: frozenset[str]) -> None:
        super().__init__(True, order)
        self._made = made
        self._used: set[Operand] = set()  # what is only asked for its shape is not in it
        self._params: dict[str, Storage] = {}
        self._parallel: list[ParallelLoop] = []
        self._trips: list[tuple[Op, int]] = []
        self._found: dict[Any, list[KernelError]] = {}
        self._log: list[Access] = []
        self._origins = Origins()

    @property
    def reports(self) -> tuple[KernelError, ...]:
        """One for each place, in the order of finding; it says how many more there were."""
        out = []
        for first, *more in self._found.values():
            if more:
                if isinstance(first, UnsetError):
                    first.places = _one_a_line(p for error in (first, *more) for p in error.places)
                first.notes = (*first.notes, f"and {len(more)} more like it at this place")
            out.append(first)
        return tuple(out)

    def report(self, error: KernelError) -> None:
        """Keep what was found, with the iteration that it was found in."""
        if self._trips and not isinstance(error, RaceError):
            variables = ((op.blocks[0].args[0].name.split(".")[0], i) for op, i in self._trips)
            error.notes = (*error.notes, "at " + ", ".join(f"{v} = {i}" for v, i in variables))
        # Whichever of two comes first is to blame for a race; for a read, not where it leads to.
        places = [error.span]
        if isinstance(error, RaceError):
            places += [span for span, _ in error.places]
        self._found.setdefault((type(error), frozenset(places)), []).append(error)

    # Arguments and results

    def run(self, function: Function, args: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        self._used = {operand for op in ops_in(function) for operand in op.operands}
        results = super().run(function, args)
        for name in sorted(self._made):
            self._require_written(self._params[name], function.body.ops[-1].span)
        return results

    def argument(self, param: Param, arg: Any) -> Any:
        memory = super().argument(param, arg)
        if not isinstance(memory, Memory):
            return memory
        name = param.value.name
        role: Role = "returned" if name in self._made else param.direction
        storage = Storage(memory, role, 0, self._log)
        if param.direction == "out":
            storage.forget()
        self._params[name] = storage
        return replace(memory, watch=storage)

    def unwritten(self, param: Value) -> torch.Tensor:
        """Which elements of a parameter's tensor were never written, in its shape."""
        storage = self._params.get(param.name)
        if storage is None:
            return torch.ones((), dtype=torch.bool)
        return storage.unwritten()

    def _require_written(self, storage: Storage, span: Span) -> None:
        never = storage.unwritten().reshape(-1)
        if bool(never.any()):
            first = storage.element(int(never.nonzero()[0]))
            self.report(
                UnsetError(
                    f"{storage.name} is returned, and {first} was never written",
                    span,
                    notes=[f"{int(never.sum())} of {never.numel()} elements were not"],
                    help="write all of it, or give pl.create_tensor an init_value",
                )
            )

    # Control

    def decided(self, op: Op, value: Any) -> Any:
        if not isinstance(value, Marked):
            return value
        self._reach(value.marks, "decides which way the program goes", op.span)
        return value.value

    def counted(self, op: Op) -> list[Any]:
        carried = self.values(op.operands[3:])
        for bound in self.values(op.operands[:3]):
            if isinstance(bound, Marked):
                self._reach(bound.marks, "bounds this loop", op.span)
                return carried
        if op.attr("kind") not in UNORDERED:
            return self._attempt(op, carried)
        if carried:
            names = ", ".join(arg.name.split(".")[0] for arg in op.blocks[0].args[1:])
            self.report(
                RaceError(
                    f"{names} is carried from one iteration of a pl.{op.attr('kind')} loop to the next",
                    op.span,
                    help="iterations are independent: bind it inside the body, or loop with pl.range",
                )
            )
        self._parallel.append(ParallelLoop(op))
        try:
            return self._attempt(op, carried)
        finally:
            self._parallel.pop()

    def _attempt(self, op: Op, carried: list[Any]) -> list[Any]:
        """Run a loop; one that cannot start (its step is 0) hands on what it was given."""
        try:
            return super().counted(op)
        except KernelError as error:
            self.report(error)
            return carried

    def trip(self, op: Op, i: int, carried: list[Any]) -> list[Any]:
        if self._parallel and self._parallel[-1].op is op:
            self._parallel[-1].values.append(i)
        self._trips.append((op, i))
        try:
            return super().trip(op, i, carried)
        finally:
            self._trips.pop()

    # Operators

    def plain(self, op: Op) -> list[Any]:
        operands = self.values(op.operands)
        values = [x.value if isinstance(x, Marked) else x for x in operands]
        marks = tuple(x.marks if isinstance(x, Marked) else None for x in operands)
        if self._goes_nowhere(op, values, marks):
            return self._lost(op, values)
        call = Watched(op, True, 0, self, marks)
        self._log.clear()
        try:
            result = meant(call, values)
        except KernelError as error:
            self.report(error)
            return self._lost(op, values)
        accesses = list(self._log)
        self._race(op, accesses)
        match lookup(op.name).effect:
            case "write":
                self._write(op, accesses, values, marks)
            case "read":
                found = self._read(op, accesses)
                return [result if found is None else Marked(result, found)]
        if not op.results:
            return []
        if isinstance(result, Memory):
            return [self._own(op, result)]
        found = marks_of_result(call, values, marks, result, call.told, self._origins)
        return [result if found is None else Marked(result, found)]

    def _goes_nowhere(self, op: Op, values: Sequence[Any], marks: Sequence[Any]) -> bool:
        """Whether the op would go to a place that nothing defines; reported."""
        if op.name == "mscatter" and marks[2] is not None:
            for mark, count in distinct(leading(marks[2], tuple(values[3:]))):
                self._reach(mark, "says where this goes", op.span, count)
                return True
        if not any(isinstance(m, int) for m in marks):
            return False
        names = [name.strip() for name in lookup(op.name).takes.split(",")]
        single = [name for name in names if not name.startswith("*")]
        grouped = any(name.removeprefix("*") in PLACES for name in names if name.startswith("*"))
        lost = False
        for position, mark in enumerate(marks):
            is_place = single[position] in PLACES if position < len(single) else grouped
            if isinstance(mark, int) and is_place:
                self._reach(mark, "says where this goes", op.span)
                lost = True
        return lost

    def _lost(self, op: Op, values: Sequence[Any]) -> list[Any]:
        """Results of an op that could not run; nothing that follows from it is reported."""
        for value in values:
            if isinstance(value, Memory) and lookup(op.name).effect == "write":
                assert isinstance(value.watch, Storage)
                value.watch.hush()
        return [self._nothing(result) for result in op.results]

    def _nothing(self, result: Value) -> Any:
        kind = result.type
        if isinstance(kind, ScalarType):
            return Marked(poison_value(kind.dtype), SILENT)
        if isinstance(kind, TileType):
            array = unspecified(kind.shape, kind.dtype, True)
            return Marked(array, torch.full(kind.shape, SILENT))
        own = tensor_type(kind.shape, kind.dtype)  # type: ignore[union-attr]
        array = unspecified(own.shape, own.dtype, True)
        memory = Memory(array, 0, own, own.shape, result.name)
        storage = Storage(memory, "own", len(self._parallel), self._log)
        storage.forget(SILENT)
        return replace(memory, watch=storage)

    def _reach(self, mark: int, how: str, span: Span, count: int = 1) -> None:
        """Something undefined has come to where it matters."""
        if mark < SILENT:
            origin, position = self._origins.of(mark)
            self.report(origin.error(position, count, how, span))

    # Memory

    def _own(self, op: Op, memory: Memory) -> Memory:
        """A tensor that an op gave: a view of one that is watched, or a fresh one."""
        if memory.watch is not None:
            return memory
        storage = Storage(memory, "own", len(self._parallel), self._log)
        if op.attr("value") is None:
            storage.forget()
        return replace(memory, watch=storage)

    def _race(self, op: Op, accesses: Sequence[Access]) -> None:
        kind: Kind
        match lookup(op.name).effect:
            case "read" if any(result in self._used for result in op.results):
                kind = "read"
            case "write":
                kind = "add" if op.attr("atomic") else "write"
            case _:
                return
        for access in accesses:
            if access.storage.is_constant:
                continue
            for loop in self._parallel[access.storage.depth :]:
                clash = loop.touch(kind, op, access)
                if clash is not None:
                    self.report(clash)

    def _read(self, op: Op, accesses: Sequence[Access]) -> Any:
        """Marks of what an op read from memory."""
        kind = op.results[0].type
        if op.name == "load":
            (access,) = accesses
            shape, found = tuple(op.attr("shape")), self._origins.read(op, access)
            assert isinstance(kind, TileType)
            if access.counts == shape:
                return None if found is None else found.reshape(kind.shape)
            marks = self._origins.born(op, kind.shape).reshape(shape)
            leading(marks, access.counts).copy_(torch.zeros(()) if found is None else found)
            return marks.reshape(kind.shape)
        every = [m for access in accesses if (m := self._origins.read(op, access)) is not None]
        if not every:
            return None
        mark = max(int(m.max()) for m in every)
        return torch.full(kind.shape, mark) if isinstance(kind, TileType) else mark

    def _write(
        self, op: Op, accesses: Sequence[Access], values: Sequence[Any], marks: Sequence[Any]
    ) -> None:
        """What memory holds after a write; undefined elements that the caller sees are reported."""
        for access, new in zip(accesses, _written(op, accesses, values, marks), strict=True):
            if op.attr("atomic"):
                old = self._origins.read(op, access)
                new = old if new is None else new if old is None else torch.maximum(old, new)
            if new is not None and access.storage.is_seen:
                for mark, count in distinct(new):
                    at = access.storage.element(int(access.positions()[new == mark].min()))
                    self._reach(mark, f"reaches {at}", op.span, count)
                new = torch.where(loud(new), SILENT, new)
            access.put(new)


def _written(
    op: Op, accesses: Sequence[Access], values: Sequence[Any], marks: Sequence[Any]
) -> list[torch.Tensor | None]:
    """For each part that an op wrote the marks of what it put there; None where that is defined."""
    source = next((m for m in marks if m is not None), None)
    if source is None or (op.name == "mscatter" and marks[1] is None):
        return [None] * len(accesses)
    if op.name == "mscatter":  # an access for every element
        valid = leading(marks[1], tuple(values[3:])).reshape(-1)
        return [m.expand(a.counts) for m, a in zip(valid, accesses, strict=True)]
    if op.name == "store":
        tile = source.reshape(tuple(op.attr("shape")))
        return [leading(tile, a.counts).contiguous() for a in accesses]
    return [torch.full(a.counts, source) for a in accesses]


def _one_a_line(places: Iterable[tuple[Span, str]]) -> tuple[tuple[Span, str], ...]:
    """The first few of these, with what was said first of each."""
    found: dict[Span, str] = {}
    for span, what in places:
        found.setdefault(span, what)
    return tuple(found.items())[:PLACES_SHOWN]
