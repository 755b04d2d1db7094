"""A call like an earlier one goes the short way: what the earlier one established is compared, not found anew.

A kernel that streams tens of MiB of weights leaves none of Python's code and data in the caches, so that a
call costs what it touches. The short way is one pass over the arguments, without an exception, a generator
or an object of ours; whatever is unlike every earlier call goes the long way (`jit`, `bound`), where all
complaints come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tilewright import knobs
from tilewright.arguments import LARGEST, Slot
from tilewright.dtypes import BOOL
from tilewright.frontend import Traced, Watch

if TYPE_CHECKING:
    from tilewright.native import NativeProgram

MISSED: Any = object()  # what the short way gives for a call that must go the long way
PLACES_KEPT = 64  # sets of addresses: an allocator gives the same few again and again
KEPT = 16  # shortcuts of one kernel, each for one set of shapes; trying one takes 0.2 us

# Torch has a quicker check of all this, the guards of torch.compile; it aborts the process over a nested tensor.
_facts = attrgetter("dtype", "shape", "is_cpu")
_version = attrgetter("_version")
_tensor = attrgetter("tensor")


class Fixed(Protocol):
    """A bound argument.

    tensor:  None once it was released.
    alive:   gives the tensor as long as somebody holds it.
    version: Torch's count of in-place changes when it was bound; None for one that does not count.
    """

    @property
    def name(self) -> str: ...
    @property
    def tensor(self) -> Any: ...
    @property
    def alive(self) -> Callable[[], Any]: ...
    @property
    def version(self) -> int | None: ...


class _Bound(NamedTuple):
    """The bound arguments, as of the last long call.

    held:     those that were not released; the first of them count their changes.
    versions: the counts of those that do.
    released: the others that count.
    """

    held: Sequence[Fixed] = ()
    versions: Sequence[int] = ()
    released: Sequence[Fixed] = ()


@dataclass(slots=True)
class _Number:
    """A scalar argument: which it is, and what it may be without a closer look."""

    position: int
    types: tuple[type, ...]
    low: float
    high: float
    word: Callable[[Any], int]


@dataclass(slots=True)
class _Shortcut:
    """A call that went well, and what it established.

    A call is like it when these are equal:
      terms:  of `terms`.
      facts:  dtype, shape and place of each tensor: the bound ones that are held, then those given.
      pinned: the scalars that became constants: position, type and value.
    It then launches `program` on `threads` threads with words that are, in the order of `order`,
      the addresses of the tensors, `numbers`, `panels` (addresses of packed weights), created tensors.
    watch:    the Python values that the program was made with, but for the knob, which `terms` has.
    nbytes:   of each tensor.
    apart:    addresses of the tensors at which nothing overlaps that must not.
    returned: what a call gives, counted through the arguments and the created tensors; [] for None.
    """

    terms: tuple[Any, ...]
    facts: list[tuple[Any, ...]]
    pinned: list[tuple[int, type, Any]]
    program: NativeProgram
    threads: int | None
    order: list[int]
    numbers: list[_Number]
    panels: list[int]
    traced: Traced
    watch: Watch
    nbytes: list[int]
    apart: set[tuple[int, ...]]
    returned: list[int]

    def set_apart(self, addresses: tuple[int, ...]) -> None:
        """Note that nothing overlaps there."""
        if len(self.apart) >= PLACES_KEPT:
            self.apart.clear()
        self.apart.add(addresses)


class Repeats:
    """The short way to one kernel, of which some arguments may be bound.

    slots: the parameters that a call gives, in order.
    fixed: the other arguments.
    Keeps no argument alive. Several Python threads may call at once.
    """

    def __init__(self, slots: Sequence[Slot], fixed: Sequence[Fixed] = ()) -> None:
        self._slots = slots
        self._names = tuple(slot.name for slot in slots)
        self._is_tensor = tuple(slot.kind == "tensor" for slot in slots)
        self._fixed = fixed
        self._bound = _Bound()
        # Torch's own, as soon as there is a Torch: types of tensors, and two of their methods.
        self._plain: frozenset[type] = frozenset()
        self._is_contiguous: Callable[[Any], bool]
        self._address: Callable[[Any], int]
        self._known: tuple[_Shortcut, ...] = ()

    def call(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        backend: str | None,
        threads: int | None,
    ) -> Any:
        """What the call gives, or MISSED when it is unlike every earlier one.

        Raises what the program does, BoundsError or KernelError, and nothing before it runs.
        """
        names = self._names
        if not self._known or len(args) + len(kwargs) != len(names):
            return MISSED
        values = (*args, *map(kwargs.get, names[len(args) :])) if kwargs else args
        held, versions, released = self._bound
        tensors = [*map(_tensor, held), *compress(values, self._is_tensor)]
        if not self._plain.issuperset(map(type, tensors)):
            return MISSED
        try:
            if [*map(_version, tensors[: len(versions)])] != versions:
                return MISSED
            for one in released:
                tensor = one.alive()
                if tensor is not None and tensor._version != one.version:
                    return MISSED
            facts = [*map(_facts, tensors)]
            if not all(map(self._is_contiguous, tensors)):
                return MISSED
            words = [*map(self._address, tensors)]
        except RuntimeError:  # a sparse tensor has no address, one of inference no version
            return MISSED
        asked = terms(backend, threads)
        for known in self._known:
            if (
                known.facts == facts
                and known.terms == asked
                and not (known.pinned and _differ(known.pinned, values))
            ):
                break
        else:
            return MISSED
        if known.watch.changed():
            return MISSED
        addresses = tuple(words)
        if addresses not in known.apart:
            if not _are_apart(addresses, known.nbytes):
                return MISSED
            known.set_apart(addresses)
        for number in known.numbers:
            value = values[number.position]
            if type(value) not in number.types or not number.low <= value <= number.high:
                return MISSED
            words.append(number.word(value))
        fresh = fresh_results(known.traced) if known.returned else ()
        program = known.program
        memory = program.idle_memory(program.team_size(known.threads))
        if memory is None:
            return MISSED
        del tensors, facts, asked, addresses  # while they are in the caches, not behind the kernel
        words += known.panels
        words += map(self._address, fresh)
        program.launch([words[i] for i in known.order], memory)
        if not known.returned:
            return None
        values = (*values, *fresh)
        results = tuple([values[i] for i in known.returned])
        return results[0] if len(results) == 1 else results

    def remember(
        self,
        asked: tuple[Any, ...],
        threads: int | None,
        values: Mapping[str, Any],
        traced: Traced,
        program: NativeProgram,
        arguments: Sequence[str | int],
    ) -> None:
        """Let calls like this one, which went well the long way, go the short way from now on.

        asked:     the terms before the call.
        threads:   on how many it ran, None for as many as Torch uses.
        values:    the checked arguments.
        arguments: for each argument of the program its name, or the address of a panel; the created tensors
                   follow.
        """
        import torch

        self._plain = frozenset((torch.Tensor, torch.nn.Parameter))
        self._is_contiguous, self._address = torch.Tensor.is_contiguous, torch.Tensor.data_ptr
        held = [one for one in self._fixed if one.tensor is not None]
        held.sort(key=lambda one: one.version is None)
        self._bound = _Bound(
            held,
            [one.version for one in held if one.version is not None],
            [one for one in self._fixed if one not in held and one.version is not None],
        )
        names = [one.name for one in held] + list(compress(self._names, self._is_tensor))
        tensors = [values[name] for name in names]
        fresh = [made.name for made in traced.fresh_results]
        places = {name: i for i, name in enumerate([*self._names, *fresh])}
        returned = traced.returns if fresh else ()
        if not self._plain.issuperset(map(type, tensors)) or not places.keys() >= set(returned):
            return
        makers = dict(zip((p.value.name for p in program.params), program.word_makers, strict=True))
        scalars = [slot for slot in self._slots if slot.kind == "scalar"]
        numbers = [slot for slot in scalars if slot.name not in traced.constants]
        panels = [x for x in arguments if isinstance(x, int)]
        words = [*names, *(slot.name for slot in numbers), *panels, *fresh]
        new = _Shortcut(
            terms=asked,
            facts=list(map(_facts, tensors)),
            pinned=[
                (places[name], type(values[name]), values[name])
                for name in (slot.name for slot in scalars)
                if name in traced.constants
            ],
            program=program,
            threads=threads,
            order=[words.index(x) for x in (*arguments, *fresh)],
            numbers=[_number(places[s.name], s, makers[s.name]) for s in numbers],
            panels=panels,
            traced=traced,
            watch=Watch(x for x in traced.consulted if x.read is not knobs.zero_reads),
            nbytes=[tensor.nbytes for tensor in tensors],
            apart={tuple(map(self._address, tensors))},
            returned=[places[name] for name in returned],
        )
        others = [known for known in self._known if not _same(known, new)]
        self._known = (new, *others[: KEPT - 1])


def terms(backend: str | None, threads: int | None) -> tuple[Any, ...]:
    """What a call asks for besides its arguments, in its own words and in the environment, to compare."""
    return type(threads), threads, backend, knobs.settings()


def fresh_results(traced: Traced) -> list[Any]:
    """The tensors that the kernel creates and returns: its last arguments."""
    return [_fresh(r.type.shape, r.type.dtype.torch, r.fill) for r in traced.fresh_results]


def results_of(traced: Traced, values: Mapping[str, Any], fresh: Sequence[Any]) -> Any:
    """What a call gives: None in place style, one tensor or a tuple in return style."""
    if not fresh:
        return None
    made = dict(zip((r.name for r in traced.fresh_results), fresh, strict=True))
    results = tuple(made[name] if name in made else values[name] for name in traced.returns)
    return results[0] if len(results) == 1 else results


def _fresh(shape: tuple[int, ...], dtype: str | None, fill: float) -> Any:
    import torch

    assert dtype is not None, "a tensor of this dtype cannot leave a kernel"
    if fill == 0:
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    return torch.full(shape, fill, dtype=getattr(torch, dtype))


def _number(position: int, slot: Slot, word: Callable[[Any], int]) -> _Number:
    dtype = slot.dtype
    assert dtype is not None
    if dtype == BOOL:
        return _Number(position, (bool,), 0, 1, word)
    if dtype.is_float:
        return _Number(position, (float, int), -LARGEST[dtype], LARGEST[dtype], word)
    return _Number(position, (int,), *dtype.int_range(), word)


def _same(one: _Shortcut, other: _Shortcut) -> bool:
    """Whether the same calls are like both."""
    return (one.facts, one.terms, one.pinned) == (other.facts, other.terms, other.pinned)


def _differ(pinned: Sequence[tuple[int, type, Any]], values: Sequence[Any]) -> bool:
    """Whether a scalar is another than the constant that it became."""
    return any(
        type(values[position]) is not kind or values[position] != value
        for position, kind, value in pinned
    )


def _are_apart(addresses: Sequence[int], nbytes: Sequence[int]) -> bool:
    """Whether no two tensors share a byte, though some would be allowed to."""
    reach = 0
    for address, count in sorted(zip(addresses, nbytes, strict=True)):
        if address < reach:
            return False
        reach = address + count
    return True
