"""Loops and scopes: the words after `for … in` and `with`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from tilewright.language.operator import operator


class Level(Enum):
    """Levels of the machine; CORE_GROUP marks a compute region, the others only annotate."""

    CORE_GROUP = "CORE_GROUP"
    HOST = "HOST"
    CLUSTER = "CLUSTER"
    CHIP = "CHIP"
    GLOBAL = "GLOBAL"


class SplitMode(Enum):
    """How a region would be split over two lanes; a hint."""

    NONE = "NONE"
    UP_DOWN = "UP_DOWN"
    LEFT_RIGHT = "LEFT_RIGHT"


@dataclass(frozen=True, slots=True)
class Hint:
    """An optimisation hint; accepted, without effect on values."""

    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Hint:
        return self


auto_chunk = Hint("auto_chunk")
chunked_loop_optimizer = Hint("chunked_loop_optimizer")


def split(mode: SplitMode, slot_num: int | None = None) -> Hint:
    """Hint: split the region over two lanes."""
    return Hint(f"split_{mode.name}")


def cross_core_slot(slot_num: int) -> Hint:
    """Hint: buffers between cores."""
    return Hint(f"cross_core_slot_{slot_num}")


@operator()
def range(*bounds, init_values=(), chunk=None, chunk_policy=None):
    """`for i in pl.range(stop)`, `(start, stop)`, `(start, stop, step)`: one after the other.

    Bounds are integer scalars, evaluated once. With `init_values=(a,)` write
    `for i, (x,) in pl.range(n, init_values=(a,))` and end the body with `out = pl.yield_(next_x)`.
    """


@operator()
def parallel(*bounds, chunk=None, chunk_policy=None):
    """As pl.range, iterations independent of each other: they carry no block and no scalar."""


@operator()
def pipeline(*bounds, stage, init_values=()):
    """Exactly pl.range; `stage` (a positive constant) hints how many iterations may overlap."""


@operator()
def unroll(*bounds):
    """As pl.range with constant bounds.

    The body is repeated, the variable a constant in each copy.
    """


@operator()
def spmd(
    n,
    *,
    name_hint=None,
    optimizations=(),
    sync_start=False,
    deps=(),
    no_dep_args=(),
    allow_early_resolve=False,
    predicate=None,
):
    """`for i in pl.spmd(n)`: n independent blocks, the body one region each.

    Also `with pl.spmd(n):`.
    """


@operator()
def at(
    *,
    level,
    name_hint=None,
    role=None,
    optimizations=(),
    optimization=None,
    split=None,
    deps=(),
    no_dep_args=(),
    allow_early_resolve=False,
    predicate=None,
):
    """`with pl.at(level=pl.Level.CORE_GROUP, name_hint="norm"):` marks a compute region.

    A task with a false `predicate` is skipped. The other options are hints.
    """


@operator()
def incore(*, optimizations=(), optimization=None, split=None):
    """`with pl.incore():`, an older spelling of a region."""


@operator()
def auto_incore(*, optimizations=(), optimization=None, split=None):
    """`with pl.auto_incore():`, an older spelling of a region."""


@operator()
def cluster():
    """`with pl.cluster():` groups; no effect on values."""


@operator()
def manual_scope():
    """`with pl.manual_scope():` concerns scheduling; no effect on values."""


@operator()
def scope(*, mode=None):
    """`with pl.scope(mode=…):` concerns scheduling; no effect on values."""


@operator("yield_")
def yield_(*values):
    """Last in a body with `init_values`, or in both arms of an `if`: name what goes on."""


@operator()
def static_assert(condition, message=""):
    """Stop the compilation unless the constant condition holds."""


@operator()
def static_print(*values):
    """Print constants, types and shapes while compiling."""
