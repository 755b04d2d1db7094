"""What a checking run knows beside the values: which elements hold nothing defined, and why.

Every element has a mark, an int64 next to it. 0: it is defined. NEVER: memory that nothing was written
to. SILENT: it is not defined, and whatever it does has been reported. Anything else: number of an
`Origin` and the element where it began, so that a report can name both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from tilewright.errors import UnsetError
from tilewright.interpreter.memory import Memory, unravel
from tilewright.ir.nodes import Op
from tilewright.span import Span

Array = torch.Tensor
Role = Literal["in", "frozen", "out", "inout", "own", "returned"]

NEVER = 1
SILENT = 1 << 62
SHIFT = 40  # bits for the number of an element


@dataclass(frozen=True, slots=True)
class Marked:
    """A value some of which is not defined: a tile with a mark for each element, a scalar with one."""

    value: Any
    marks: Any


@dataclass(frozen=True, slots=True)
class Access:
    """A part of some memory that an operator took."""

    memory: Memory
    offsets: tuple[int, ...]
    counts: tuple[int, ...]

    def of(self, flat: Array) -> Array:
        """The same part of an array that has one element for each of the storage."""
        start = self.memory.place(self.offsets, self.counts) - self.storage.base
        return torch.as_strided(flat, self.counts, self.memory.type.strides, start)

    @property
    def storage(self) -> Storage:
        watch = self.memory.watch
        assert isinstance(watch, Storage)
        return watch

    def positions(self) -> Array:
        """For each element its number in the storage."""
        return self.of(torch.arange(self.storage.size))

    def marks(self) -> Array | None:
        """The marks of the part; None where all of it is defined."""
        flat = self.storage.marks
        if flat is None:
            return None
        found = self.of(flat)
        return found.clone() if bool(found.any()) else None

    def put(self, marks: Array | None) -> None:
        """Say what the part holds now."""
        if marks is None and self.storage.marks is None:
            return
        if self.storage.marks is None:
            self.storage.marks = torch.zeros(self.storage.size, dtype=torch.int64)
        part = self.of(self.storage.marks)
        part.copy_(torch.zeros_like(part) if marks is None else marks)


class Storage:
    """The shadow of one array.

    role:  the direction of a parameter; "own" is memory that the kernel made, "returned" such memory
           that it hands to the caller.
    depth: how many parallel loops were running when it was made; to those it is private.
    """

    def __init__(self, memory: Memory, role: Role, depth: int, log: list[Access]) -> None:
        kind = memory.type
        self.name, self.role, self.depth = memory.name.split(".")[0], role, depth
        self.shape, self.strides, self.base = kind.shape, kind.strides, memory.start
        last = sum((n - 1) * s for n, s in zip(kind.shape, kind.strides, strict=True))
        self.size = 0 if 0 in kind.shape else 1 + last
        self.marks: Array | None = None
        self._log = log

    def touched(self, memory: Memory, offsets: Sequence[int], counts: Sequence[int]) -> None:
        self._log.append(Access(memory, tuple(offsets), tuple(counts)))

    def forget(self, mark: int = NEVER) -> None:
        """Nothing that it holds is defined."""
        self.marks = torch.full((self.size,), mark)

    def hush(self) -> None:
        """What is not defined now has been reported, or follows from what has."""
        if self.marks is not None:
            self.marks = torch.where(self.marks != 0, SILENT, 0)

    def unwritten(self) -> Array:
        """Which elements were never written, in the tensor's shape."""
        if self.marks is None:
            return torch.zeros(self.shape, dtype=torch.bool)
        return torch.as_strided(self.marks, self.shape, self.strides) == NEVER

    @property
    def is_constant(self) -> bool:
        return self.role in ("in", "frozen")

    @property
    def is_param(self) -> bool:
        return self.role not in ("own", "returned")

    @property
    def is_seen(self) -> bool:
        """Whether the caller sees what is written to it."""
        return self.role != "own"

    def element(self, position: int) -> str:
        return element(self.name, self.shape, position)


def element(name: str, shape: Sequence[int], position: int) -> str:
    """`y[3, 0]`: an element by its number in row-major order."""
    return f"{name}[{', '.join(map(str, unravel(position, shape)))}]"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where undefined elements come from: an op, and the memory that it read, if it did."""

    op: Op
    storage: Storage | None
    shape: tuple[int, ...]

    @property
    def is_fresh(self) -> bool:
        """Whether it is what pl.create_tensor or pl.create_tile made: a number, though nobody says which."""
        return not self.storage.is_param if self.storage else bool(self.op.attr("fresh"))

    def error(self, position: int, count: int, reaches: str, where: Span) -> UnsetError:
        """The report for `count` elements of which `position` is one."""
        message, advice = self._words(position)
        more = f", {count} elements in all" if count > 1 else ""
        if self.op.attr("atomic"):
            return UnsetError(message + more, self.op.span, help=advice)
        if where == self.op.span:
            return UnsetError(f"{message}, and {reaches}{more}", where, help=advice)
        places = [(where, f"{reaches} here{more}")]
        return UnsetError(message, self.op.span, help=advice, places=places)

    def _words(self, position: int) -> tuple[str, str]:
        """What is wrong with an element, and what to do about it."""
        if self.storage is not None:
            verb = "added to" if self.op.attr("atomic") else "read"
            message = f"{self.storage.element(position)} is {verb} before it is written"
            if self.storage.role == "out":
                return message, "write it first, or annotate it pl.InOut if its contents matter"
            return message, "write it first, or give pl.create_tensor an init_value"
        at = element("", self.shape, position)
        match self.op.name:
            case "full":
                return f"element {at} of this block was never given a value", "start from pl.full"
            case "load" | "limit":
                return (
                    f"element {at} is outside the valid part of this block",
                    "pl.fillpad it, or use the valid part only",
                )
        return f"{self.op.name} leaves element {at} unspecified", "use the valid part only"


class Origins:
    """The origins of one run, by number."""

    def __init__(self) -> None:
        self._known: list[Origin | None] = [None]  # number 0 is for NEVER
        self._numbers: dict[tuple[int, int], int] = {}

    def number(self, op: Op, storage: Storage | None, shape: tuple[int, ...]) -> int:
        key = (id(op), id(storage))
        if key not in self._numbers:
            self._numbers[key] = len(self._known)
            self._known.append(Origin(op, storage, shape))
        return self._numbers[key]

    def born(self, op: Op, shape: tuple[int, ...]) -> Array:
        """Marks for a tile none of whose elements `op` defines."""
        numbers = torch.arange(torch.Size(shape).numel()).reshape(shape)
        return (self.number(op, None, shape) << SHIFT) + numbers

    def read(self, op: Op, access: Access) -> Array | None:
        """The marks of a part that `op` reads; what was never written begins its way here."""
        marks = access.marks()
        if marks is None or not bool((marks == NEVER).any()):
            return marks
        number = self.number(op, access.storage, access.storage.shape)
        return torch.where(marks == NEVER, (number << SHIFT) + access.positions(), marks)

    def are_fresh(self, marks: Array) -> Array:
        """Where marks began in memory or tiles that the program made."""
        fresh = [
            n for n, origin in enumerate(self._known) if origin is not None and origin.is_fresh
        ]
        return torch.isin(marks >> SHIFT, torch.tensor(fresh, dtype=torch.int64))

    def of(self, mark: int) -> tuple[Origin, int]:
        """An origin and an element of it."""
        origin = self._known[mark >> SHIFT]
        assert origin is not None
        return origin, mark & ((1 << SHIFT) - 1)


def distinct(marks: Array) -> list[tuple[int, int]]:
    """(a mark, how many elements share its origin) for each origin that is not silent."""
    those = marks[loud(marks)]
    numbers, counts = (those >> SHIFT).unique(return_counts=True)
    firsts = [int(those[(those >> SHIFT) == n].min()) for n in numbers]
    return list(zip(firsts, counts.tolist(), strict=True))


def loud(marks: Array) -> Array:
    """Where something undefined has not been reported yet."""
    return (marks != 0) & (marks < SILENT)
