"""Several processes on one problem: messages in which every failure names the rank, and a share of the cores."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tilewright.errors import ArgumentError, RankError

TAG = 7157  # our messages, apart from those that the program itself sends between the same ranks
# A note is sent whole, so that most take one message: its length in 8 bytes, then text.
NOTE_BYTES = 1024
BOOT = Path("/proc/sys/kernel/random/boot_id")  # the same in all containers of a machine
# What gloo says beside the reason: where in its source, and what to do.
ADVICE = re.compile(r"^\[\S+:\d+\] |\. This is typically.*", re.DOTALL)
FAILED = -1  # as a length: this rank has failed and says nothing

Tensors = Sequence[Tensor]


class Ranks:
    """The processes of a gloo group, each of which sends to every other.

    Messages go from rank to rank, not by collective operations, so that a failure names the rank that is
    gone. All ranks must make the same calls in the same order, from one thread.

    group:   None for the default one. Raises ArgumentError where there is none, or not one for CPU tensors.
    timeout: how long to wait for a rank that is alive and says nothing; None for the group's own. A rank
             that has died is noticed at once.
    """

    def __init__(
        self, group: dist.ProcessGroup | None = None, timeout: timedelta | None = None
    ) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise ArgumentError(
                "there is no process group in this process",
                help="call torch.distributed.init_process_group('gloo') first, in a program that"
                " torchrun has started",
            )
        self.group: Any = group if group is not None else dist.group.WORLD
        self.rank = dist.get_rank(self.group)
        if self.rank < 0:
            raise ArgumentError(
                f"this process, rank {dist.get_rank()} of all, is not in the group",
                help="make the group with this rank, or leave this out where dist.get_rank(group) is -1",
            )
        backends = dist.get_backend_config(self.group)
        if "cpu:gloo" not in backends:
            raise ArgumentError(
                f"the group sends CPU tensors by {backends!r}, wanted gloo",
                help="make it with dist.new_group(backend='gloo')",
            )
        self.size = dist.get_world_size(self.group)
        self.others = [rank for rank in range(self.size) if rank != self.rank]
        self.timeout = timeout

    def __deepcopy__(self, memo: object) -> Ranks:
        return self  # a group is what it is; a copy of a module is in the same one

    def exchange(
        self, doing: str, sent: Mapping[int, Tensors], received: Mapping[int, Tensors]
    ) -> None:
        """Send tensors to ranks and fill others with what ranks send, in order; return when all is done.

        doing: what for, for the message, as in "while `doing`".
        sent, received: contiguous tensors by rank, as many and as long here as there.
        Raises RankError naming every rank that is gone or does not answer; `received` may then be filled in part.
        """
        works: list[tuple[int, Any]] = []
        lost: dict[int, str] = {}

        def attempt(rank: int, operation: Callable[..., Any], *args: Any) -> Any:
            """Go on without a rank that is lost: the others must hear what they wait for."""
            try:
                return operation(*args)
            except RuntimeError as reason:
                lost.setdefault(rank, ADVICE.sub("", str(reason)))

        for start, tensors_of in ((dist.irecv, received), (dist.isend, sent)):
            for rank, tensors in tensors_of.items():
                there = dist.get_global_rank(self.group, rank)
                for tensor in filter(Tensor.numel, tensors):
                    # Bytes, as gloo does not know every dtype.
                    flat = tensor.view(-1).view(torch.uint8)
                    work = attempt(rank, start, flat, there, self.group, TAG)
                    works.append((rank, work))
        waiting = () if self.timeout is None else (self.timeout,)
        for rank, work in works:
            if work is not None:
                attempt(rank, work.wait, *waiting)
        if lost:
            raise self._lost(doing, lost)

    def to_all(self, tensors: Tensors) -> dict[int, Tensors]:
        """The same for every other rank, for `exchange`."""
        return dict.fromkeys(self.others, tensors)

    def tell(self, doing: str, text: str | None) -> list[str]:
        """What every rank says, by rank.

        text: what this rank says; None when it has failed and will raise, and then nothing is given.
        Raises RankError when another rank has failed, or is lost as in `exchange`.
        """
        said = (text or "").encode()
        length = FAILED if text is None else len(said)
        note = torch.zeros(max(NOTE_BYTES, 8 + len(said)), dtype=torch.uint8)
        note[: 8 + len(said)] = _bytes(length.to_bytes(8, "little", signed=True) + said)
        notes = {rank: note.new_zeros(NOTE_BYTES) for rank in self.others}
        self.exchange(
            doing,
            self.to_all([note[:NOTE_BYTES]]),
            {rank: [notes[rank]] for rank in self.others},
        )
        notes[self.rank] = note
        lengths = {rank: int(notes[rank][:8].view(torch.int64)) for rank in notes}
        failed = [rank for rank in self.others if lengths[rank] == FAILED]
        if failed:
            raise RankError(
                f"{self._names(failed)} failed while {doing}; nothing was exchanged",
                notes=[self._here()],
                help=f"see what {self._names(failed)} raised",
            )
        if text is None:
            return []
        rests = {
            rank: note.new_zeros(max(0, 8 + lengths[rank] - NOTE_BYTES)) for rank in self.others
        }
        self.exchange(
            doing,
            self.to_all([note[NOTE_BYTES:]]),
            {rank: [rests[rank]] for rank in self.others},
        )
        for rank in self.others:
            notes[rank] = torch.cat((notes[rank], rests[rank]))
        return [
            bytes(notes[rank][8 : 8 + lengths[rank]].tolist()).decode() for rank in range(self.size)
        ]

    @contextmanager
    def together(self, doing: str) -> Iterator[dict[str, object]]:
        """Do a thing on all ranks: `with ranks.together("doing it") as facts:`.

        At the end every rank knows that all have done it, with the same facts (what JSON can hold, filled in by
        the body); if not, all raise: those whose body failed what it raised, the others RankError.
        """
        facts: dict[str, object] = {}
        try:
            yield facts
        except Exception:
            with suppress(RankError):  # this rank has an error of its own
                self.tell(doing, None)
            raise
        for rank, told in enumerate(self.tell(doing, json.dumps(facts))):
            theirs = json.loads(told)
            differing = [name for name in facts if theirs.get(name) != facts[name]]
            if differing:
                raise RankError(
                    f"{self._names([rank])} and this rank, {self.rank}, do not do the same while {doing}",
                    notes=[
                        f"rank {n}: {', '.join(f'{name} = {its.get(name)!r}' for name in differing)}"
                        for n, its in sorted(
                            ((rank, theirs), (self.rank, facts)), key=itemgetter(0)
                        )
                    ],
                    help="give every rank the same arguments, in the same order of calls",
                )

    def _lost(self, doing: str, lost: Mapping[int, str]) -> RankError:
        names = self._names(sorted(lost))
        late = any("imed out" in reason for reason in lost.values())
        return RankError(
            f"{names} {'did not answer in time' if late else 'is gone' if len(lost) == 1 else 'are gone'}"
            f" while {doing}",
            notes=[self._here(), *(f"rank {rank}: {lost[rank]}" for rank in sorted(lost))],
            help=f"look at the output of {names}; then end this process too, and start all ranks anew",
        )

    def _names(self, ranks: Sequence[int]) -> str:
        return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} of {self.size}"

    def _here(self) -> str:
        waits = "the group's timeout" if self.timeout is None else f"a timeout of {self.timeout}"
        members = ", ".join(map(str, dist.get_process_group_ranks(self.group)))
        return f"this is rank {self.rank} of the group of processes {members}, with {waits}"


def _bytes(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


# -- cores -----------------------------------------------------------------------------------------


def share_threads(group: dist.ProcessGroup | None = None, timeout: timedelta | None = None) -> int:
    """Let this process use its share of the cores that it may run on, and give their number.

    Cores that several ranks of the group may run on (on one machine, by their affinity) are dealt out evenly;
    `torch.set_num_threads` is set to what is ours, which kernels follow too unless TILEWRIGHT_THREADS is set.
    Nothing is pinned. All ranks call it. Raises RankError as `Ranks.tell` does.
    """
    ranks = Ranks(group, timeout)
    own = f"{_machine()} {' '.join(map(str, sorted(cores())))}"
    told = [text.split() for text in ranks.tell("sharing out the cores", own)]
    here = told[ranks.rank][0]
    users = {
        rank: {int(core) for core in rest} for rank, (m, *rest) in enumerate(told) if m == here
    }
    mine = dealt(list(users.values()))[list(users).index(ranks.rank)]
    torch.set_num_threads(mine)
    return mine


def dealt(users: Sequence[Collection[int]]) -> list[int]:
    """How many of their cores each user gets when a core goes to whoever has fewest; one at least."""
    counts = [0] * len(users)
    for core in sorted(set().union(*users)):
        among = [user for user, cores in enumerate(users) if core in cores]
        counts[min(among, key=lambda user: counts[user])] += 1
    return [max(1, count) for count in counts]


def cores() -> set[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _machine() -> str:
    """A word that is the same for all processes of this machine."""
    try:
        return BOOT.read_text().strip()
    except OSError:
        return socket.gethostname()
