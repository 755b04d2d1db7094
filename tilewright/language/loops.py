"""Loops and scopes: the words after `for … in` and `with`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from tilewright.errors import InvalidOperationError
from tilewright.language.operator import operator


class Level(Enum):
    """Levels of the machine; CORE_GROUP marks a compute region, the others only annotate."""

    AIV = "AIV"
    AIC = "AIC"
    CORE_GROUP = "CORE_GROUP"
    CHIP_DIE = "CHIP_DIE"
    CHIP = "CHIP"
    HOST = "HOST"
    CLUSTER = "CLUSTER"
    CLUSTER_0 = "CLUSTER_0"
    CLUSTER_1 = "CLUSTER_1"
    CLUSTER_2 = "CLUSTER_2"
    GLOBAL = "GLOBAL"


class Role(Enum):
    """Who runs a level: the one that hands out the work, or one that does it; only annotates."""

    Orchestrator = "Orchestrator"
    Worker = "Worker"
    SubWorker = "SubWorker"


class ScopeMode(Enum):
    """Who orders the tasks of a scope; no effect on values."""

    AUTO = "AUTO"
    MANUAL = "MANUAL"


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
    if not isinstance(mode, SplitMode):
        raise InvalidOperationError(
            f"mode must be a pl.SplitMode, got {mode!r}", help="pl.split(pl.SplitMode.UP_DOWN)"
        )
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
def parallel(*bounds, init_values=(), chunk=None, chunk_policy=None):
    """As pl.range, iterations independent of each other: they carry no block and no scalar.

    `init_values` are tensors that iterations write disjoint windows of.
    """


@operator()
def pipeline(*bounds, stage, init_values=()):
    """Exactly pl.range; `stage` (a positive constant) hints how many iterations may overlap."""


@operator("while_")
def while_(*, init_values):
    """`for (x,) in pl.while_(init_values=(a,)):` goes on as long as its `pl.cond(…)` holds.

    The body begins with `pl.cond(condition)` and ends with `out = pl.yield_(next_x)`. Or write plain `while`.
    """


@operator()
def cond(condition):
    """First in the body of pl.while_: whether there is another turn."""


@operator()
def split_aiv(count, *, mode=SplitMode.NONE):
    """`for lane in pl.split_aiv(2, mode=…)`: the body once for each lane of a core, on work of its own.

    With UP_DOWN (LEFT_RIGHT) a lane has the upper or lower (left or right) half of every block:
    pl.aiv_shard takes it, pl.aic_gather joins both.
    """


@operator()
def aiv_shard(x):
    """This lane's half of a block [M,N], by the mode of the pl.split_aiv around."""


@operator()
def aic_gather(x):
    """Both lanes' halves as one block. Stands in the body of pl.split_aiv, or in loops in it."""


@operator()
def submit(kernel, *args, deps=(), name_hint=None, allow_early_resolve=False, **kwargs):
    """`out, tid = pl.submit(kernel, a, b)`: the call of a kernel, and a task id after its results."""


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
    level,
    role=None,
    *,
    name_hint=None,
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
