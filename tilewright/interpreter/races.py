"""Who touched which element in which iteration of a parallel loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from tilewright.errors import RaceError
from tilewright.interpreter.shadow import Access, Storage
from tilewright.ir.nodes import Op
from tilewright.span import NOWHERE

Array = torch.Tensor
Kind = Literal["read", "write", "add"]

PLACES = 20  # bits for the op that touched an element; the iteration stands above them

# What may not meet in two iterations: (now, earlier).
AGAINST: dict[Kind, tuple[Kind, ...]] = {
    "read": ("write", "add"),
    "write": ("write", "read", "add"),
    "add": ("write", "read"),
}
NOW: dict[Kind, str] = {"read": "reads", "write": "writes", "add": "adds to"}
THEN: dict[Kind, str] = {"read": "read", "write": "wrote", "add": "added to"}
HELP = {
    "write": "give every iteration a window of its own, add with atomic=pl.AtomicType.Add,"
    " or loop with pl.range",
    "read": "read what the loop does not write, or finish the writing in a loop of its own",
    "add": "read or write it before or after the loop",
}


@dataclass(slots=True)
class Toucher:
    """For each element the last iteration that touched it in one way, and the last one before that
    was another; 0 for none.
    """

    last: Array
    other: Array


class ParallelLoop:
    """One run of a `parallel` or `spmd` loop, whose iterations run one after the other here."""

    def __init__(self, op: Op) -> None:
        self.op = op
        self.variable = op.blocks[0].args[0].name.split(".")[0]
        self.values: list[int] = []  # of the variable, in the order of running
        self._ops: list[Op] = []
        self._numbers: dict[int, int] = {}
        self._touched: dict[Storage, dict[Kind, Toucher]] = {}
        self._reported: dict[Storage, Array] = {}  # for each element the last iteration that raced

    def touch(self, kind: Kind, op: Op, access: Access) -> RaceError | None:
        """Note an access of the current iteration; what is wrong with it."""
        storage = access.storage
        touchers = self._touched.setdefault(storage, {})
        me = len(self.values)
        clash = None
        for earlier in AGAINST[kind]:
            if clash is None and earlier in touchers:
                clash = self._clash(kind, earlier, op, access, touchers[earlier])
        if kind not in touchers:
            empty = torch.zeros(storage.size, dtype=torch.int64)
            touchers[kind] = Toucher(empty, empty.clone())
        last, other = access.of(touchers[kind].last), access.of(touchers[kind].other)
        other.copy_(torch.where(last >> PLACES == me, other, last))
        last.fill_(me << PLACES | self._place(op))
        return clash

    def _place(self, op: Op) -> int:
        if id(op) not in self._numbers:
            self._numbers[id(op)] = len(self._ops)
            self._ops.append(op)
        return self._numbers[id(op)]

    def _clash(
        self, kind: Kind, earlier: Kind, op: Op, access: Access, toucher: Toucher
    ) -> RaceError | None:
        me = len(self.values)
        reported = access.of(
            self._reported.setdefault(access.storage, torch.zeros_like(toucher.last))
        )
        last, other = access.of(toucher.last), access.of(toucher.other)
        mine = last >> PLACES == me
        # Written by this iteration too: then that was reported already.
        found = torch.where(mine, torch.zeros_like(last) if earlier == "write" else other, last)
        found = torch.where(reported == me, torch.zeros_like(found), found)
        if not bool(found.any()):
            return None
        reported[found != 0] = me
        by = int(found[found != 0].max())
        hit = access.positions()[found == by]
        first = access.storage.element(int(hit.min()))
        elements = first if len(hit) == 1 else f"{len(hit)} elements, first {first}"
        before = self._ops[by & ((1 << PLACES) - 1)]
        now, then = (
            f"iteration {self.variable} = {self.values[i - 1]}" for i in (me, by >> PLACES)
        )
        places = [(self.op.span, "the iterations of this loop are independent")]
        if before.span != op.span:
            places.insert(0, (before.span, f"{then}, here"))
        too = " too" * (kind == earlier) + ", at the same place" * (before.span == op.span)
        sort = next(k for k in ("add", "read", "write") if k in (kind, earlier))
        return RaceError(
            f"{now} {NOW[kind]} {elements}, which {then} {THEN[earlier]}{too}",
            op.span,
            places=[place for place in places if place[0] != NOWHERE],
            help=HELP[sort],
        )
