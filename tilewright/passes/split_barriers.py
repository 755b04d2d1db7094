"""Barriers become the end of one loop and the beginning of the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

from tilewright.dtypes import DType
from tilewright.errors import InvalidOperationError
from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Value, index, make_attrs
from tilewright.ir.typed import literal_range, tensor_type_of, tile_type_of
from tilewright.ir.types import ScalarType, TensorType, TileType
from tilewright.ir.walk import (
    VIEWS,
    carried_args,
    defined_in,
    free_values,
    initial_values,
    names_in_use,
    ops_in,
    substitute,
    yielded,
)
from tilewright.machine import Machine

BARRIERS = ("syncall", "gather_lanes")


def split_barriers(fn: Function, machine: Machine) -> Function:
    """Run the blocks of a launch, or the lanes of a core, in phases: all up to a barrier, then all behind it.

    Takes:  any program.
    Gives:  the same values, without barriers. What a block computes before a barrier and reads behind it
            waits in memory, in a slot of its own; views, and scalars that follow from the block's number,
            are made anew in every phase. A loop around a barrier goes around the phases.
    Leaves: everything else. Refuses a barrier that not every block is sure to meet as often.
    """
    if not any(op.name in BARRIERS or op.attr("lanes") for op in ops_in(fn)):
        return fn
    return replace(fn, body=_split_within(fn.body, Builder(names_in_use(fn))))


def _split_within(block: Block, builder: Builder) -> Block:
    out: list[Op] = []
    for op in block.ops:
        if op.blocks:
            op = replace(op, blocks=tuple(_split_within(inner, builder) for inner in op.blocks))
        meets = BARRIERS if op.attr("lanes") else BARRIERS[:1] if op.attr("kind") == "spmd" else ()
        if any(inner.name in meets for inner in ops_in(op)):
            out += _Splitter(op, builder).run()
        elif op.attr("lanes"):
            out.append(_without_lanes(op))
        else:
            out.append(op)
    return Block(block.args, tuple(out))


def _without_lanes(op: Op) -> Op:
    return replace(op, attrs=make_attrs({**dict(op.attrs), "lanes": None}))


@dataclass(frozen=True, slots=True)
class _Slot:
    """Memory with as many places as there are blocks; each place holds `type`."""

    memory: Value
    type: ScalarType | TileType | TensorType


@dataclass(slots=True)
class _Phase:
    """Ops that every block runs to the end of before the next phase begins, then what it puts away."""

    ops: list[Op] = field(default_factory=list)
    puts: list[tuple[_Slot, Operand]] = field(default_factory=list)
    slots: list[Op] = field(default_factory=list)  # memory to make before the phase
    after: Op | None = None  # a barrier for whoever is around


@dataclass(slots=True)
class _Round:
    """A loop around phases; what it carries lies in slots."""

    loop: Op
    steps: list[_Phase | _Round]


class _Splitter:
    def __init__(self, loop: Op, builder: Builder) -> None:
        self.loop, self.builder = loop, builder
        self.variable = loop.blocks[0].args[0]
        turns = literal_range(loop)
        if turns is None:
            self.refuse(loop, "blocks that wait for each other need a number known when compiling")
        self.count = len(turns)
        body = _work(loop.blocks[0])
        self.region = body[0] if len(body) == 1 and body[0].name == "at" else None
        self.body = body if self.region is None else _work(self.region.blocks[0])
        self.inside = defined_in(loop)
        self.makers: dict[Value, Op] = {}
        self.phase_of: dict[Value, _Phase] = {}
        self.slots: dict[Value, _Slot] = {}  # of values that outlive their phase
        self.gathered: dict[Value, tuple[_Slot, int]] = {}
        self.out: list[Op] = []

    def run(self) -> list[Op]:
        """The loops that take this one's place."""
        steps = self.steps(self.body)
        for phase in _phases(steps):
            self.keep_what_waits(phase)
        self.emit(steps)
        return self.out

    def refuse(self, op: Op, message: str) -> NoReturn:
        raise InvalidOperationError(
            message, op.span, (), "take the barrier, or what decides about it, out of the blocks"
        )

    # Cutting

    def steps(self, ops: Sequence[Op]) -> list[_Phase | _Round]:
        """The ops cut at barriers."""
        phase = _Phase()
        steps: list[_Phase | _Round] = [phase]
        for op in ops:
            if op.name in BARRIERS:
                if op.name == "gather_lanes":
                    slot = self.new_slot(phase, op.operands[0].type, "half")
                    phase.puts.append((slot, op.operands[0]))
                    self.gathered[op.result] = slot, op.attr("axis")
                elif self.loop.attr("lanes"):
                    phase.after = op
                steps.append(phase := _Phase())
            elif any(inner.name in BARRIERS for inner in ops_in(op)):
                steps += [self.round(op, phase), phase := _Phase()]
            else:
                phase.ops.append(op)
                for result in op.results:
                    self.makers[result], self.phase_of[result] = op, phase
        return steps

    def round(self, op: Op, before: _Phase) -> _Round:
        if op.name != "for" or op.attr("kind") in ("parallel", "spmd"):
            self.refuse(op, "a barrier in here would not be met by every block as often")
        self.inside.discard(op.blocks[0].args[0])
        slots = []
        for arg, first, result in zip(
            carried_args(op), initial_values(op), op.results, strict=True
        ):
            slot = self.new_slot(before, first.type, arg.name)
            self.slots[arg] = self.slots[result] = slot
            before.puts.append((slot, first))
            slots.append(slot)
        steps = self.steps(_work(op.blocks[0]))
        last = steps[-1]
        assert isinstance(last, _Phase)
        last.puts += zip(slots, yielded(op.blocks[0]), strict=True)
        return _Round(op, steps)

    def new_slot(self, phase: _Phase, kind: object, hint: str) -> _Slot:
        """Memory for every block's `kind`, made before the phase."""
        assert isinstance(kind, ScalarType | TileType | TensorType)
        shape = () if isinstance(kind, ScalarType) else kind.shape
        return self.slot_of_shape(phase, kind, kind.dtype, shape or (1,), hint, None)

    def slot_of_shape(
        self,
        phase: _Phase,
        kind: ScalarType | TileType | TensorType,
        dtype: DType,
        shape: tuple[int, ...],
        hint: str,
        fill: object,
    ) -> _Slot:
        with self.builder.block() as made:
            rows = (self.count * shape[0], *shape[1:])
            memory = self.builder.value("create", (), hint, shape=rows, dtype=dtype, value=fill)
        phase.slots += made
        return _Slot(memory, kind)

    # What outlives a phase

    def keep_what_waits(self, phase: _Phase) -> None:
        """Give a slot to every value that this phase needs from another."""
        for x in [*free_values(phase.ops), *(operand for _, operand in phase.puts)]:
            self.need(x, phase)

    def need(self, x: Operand, phase: _Phase) -> None:
        if not isinstance(x, Value) or x not in self.inside or x in self.slots:
            return
        made = self.phase_of.get(x)
        if made is None or made is phase:
            return
        op = self.makers[x]
        if _again(op):
            for operand in op.operands:
                self.need(operand, phase)
        elif op.name == "create":
            kind = tensor_type_of(x)
            self.slots[x] = self.slot_of_shape(
                made, kind, kind.dtype, kind.shape, x.name, op.attr("value")
            )
            made.ops.remove(op)
        elif isinstance(x.type, TensorType):
            self.refuse(
                op, "what tensor this is follows from a run-time condition before a barrier"
            )
        else:
            self.slots[x] = slot = self.new_slot(made, x.type, x.name)
            made.puts.append((slot, x))

    # Writing

    def emit(self, steps: Sequence[_Phase | _Round]) -> None:
        for step in steps:
            if isinstance(step, _Round):
                self.emit_round(step)
                continue
            self.out += step.slots
            if step.ops or step.puts:
                self.out.append(self.phase(step))
            if step.after is not None:
                self.out.append(step.after)

    def emit_round(self, step: _Round) -> None:
        op, outer = step.loop, self.out
        self.builder.span = op.span
        with self.builder.block() as made:
            bounds = tuple(self.uniform(x, op) for x in op.operands[:3])
        self.out = []
        self.emit(step.steps)
        end = replace(op.blocks[0].ops[-1], operands=())
        body = Block(op.blocks[0].args[:1], (*self.out, end))
        self.out = [*outer, *made, replace(op, operands=bounds, results=(), blocks=(body,))]

    def phase(self, step: _Phase) -> Op:
        """One loop over the blocks."""
        loop = self.loop
        number = self.builder.fresh(self.variable.type, self.variable.name)
        self.builder.span = loop.span
        known: dict[Value, Operand] = {self.variable: number}
        with self.builder.block() as ops:
            wanted = [*free_values(step.ops), *(x for _, x in step.puts)]
            here = {result for op in step.ops for result in op.results}
            for x in wanted:
                if isinstance(x, Value) and x not in here:
                    known[x] = self.fetch(x, number, known)
            for op in step.ops:
                self.builder.append(substitute(op, known))
            for slot, x in step.puts:
                value = known.get(x, x) if isinstance(x, Value) else x
                self.put(slot, value, number)
            if self.region is not None:
                self.builder.op("yield", ())
        if self.region is not None:
            inner = Block((), tuple(ops))
            ops = [replace(self.region, results=(), blocks=(inner,))]
        end = replace(loop.blocks[0].ops[-1], operands=())
        return replace(_without_lanes(loop), blocks=(Block((number,), (*ops, end)),))

    def fetch(self, x: Operand, number: Value, known: dict[Value, Operand]) -> Operand:
        """A value of an earlier phase, for the block of this number."""
        if not isinstance(x, Value) or x not in self.inside:
            return x
        if x in known:
            return known[x]
        if x in self.gathered:
            known[x] = self.joined(*self.gathered[x])
        elif x in self.slots:
            known[x] = self.taken(self.slots[x], number, x.name)
        else:
            op = self.makers[x]
            operands = [self.fetch(y, number, known) for y in op.operands]
            known[x] = self.builder.value(op.name, operands, x.name, **dict(op.attrs))
        return known[x]

    def place(self, slot: _Slot, number: Value) -> tuple[list[Operand], tuple[int, ...]]:
        """Offsets and shape of one block's place."""
        shape = (1,) if isinstance(slot.type, ScalarType) else slot.type.shape
        first = self.builder.mul(number, index(shape[0]))
        return [first, *[index(0)] * (len(shape) - 1)], shape

    def put(self, slot: _Slot, value: Operand, number: Value) -> None:
        offsets, shape = self.place(slot, number)
        if isinstance(slot.type, ScalarType):
            if isinstance(value, Const):
                value = Const(value.value, slot.type.dtype)
            self.builder.op("write", [slot.memory, value, *offsets])
            return
        counts = [index(n) for n in shape]
        self.builder.op("store", [value, slot.memory, *offsets, *counts], shape=shape)

    def taken(self, slot: _Slot, number: Value, hint: str) -> Value:
        offsets, shape = self.place(slot, number)
        if isinstance(slot.type, ScalarType):
            return self.builder.value("read", [slot.memory, *offsets], hint)
        if isinstance(slot.type, TensorType):
            return self.builder.value("window", [slot.memory, *offsets], hint, shape=shape)
        return self.loaded(slot, offsets, shape)

    def loaded(self, slot: _Slot, offsets: list[Operand], shape: tuple[int, ...]) -> Value:
        counts = [index(n) for n in shape]
        return self.builder.value("load", [slot.memory, *offsets, *counts], "kept", shape=shape)

    def joined(self, slot: _Slot, axis: int) -> Value:
        """Every lane's half, one after the other along an axis."""
        rows, columns = tile_type_of(Value("", slot.type)).shape
        if axis == 0:
            return self.loaded(slot, [index(0), index(0)], (self.count * rows, columns))
        halves = [
            self.loaded(slot, [index(lane * rows), index(0)], (rows, columns))
            for lane in range(self.count)
        ]
        return self.builder.value("concat", halves, "joined")

    def uniform(self, x: Operand, loop: Op) -> Operand:
        """A bound that is the same for all blocks, outside them."""
        if not isinstance(x, Value) or x not in self.inside:
            return x
        op = self.makers.get(x)
        if op is None or not op.name.startswith("s."):
            self.refuse(
                loop, "a loop around a barrier needs bounds that are the same for all blocks"
            )
        operands = [self.uniform(y, loop) for y in op.operands]
        return self.builder.value(op.name, operands, x.name, **dict(op.attrs))


def _again(op: Op) -> bool:
    """Whether computing it once more gives the same, at no cost."""
    return op.name.startswith("s.") or op.name in VIEWS


def _phases(steps: Sequence[_Phase | _Round]) -> list[_Phase]:
    found: list[_Phase] = []
    for step in steps:
        found += [step] if isinstance(step, _Phase) else _phases(step.steps)
    return found


def _work(block: Block) -> tuple[Op, ...]:
    """The ops of a block without its `yield`."""
    return block.ops[:-1]
