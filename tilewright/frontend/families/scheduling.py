"""Tasks, barriers and lanes: what orders work on a device, and the few words of it that move data."""

from __future__ import annotations

from tilewright.dtypes import INDEX
from tilewright.errors import InvalidOperationError, ParserTypeError
from tilewright.frontend.operands import Call, block, constant, data, handles
from tilewright.frontend.options import check_options
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import Block, Constant, Named, Nothing, Token, describe
from tilewright.frontend.windows import read_window
from tilewright.ir.nodes import Const, Operand
from tilewright.language.loops import SplitMode

CORE_TYPES = ("mix", "aic", "aiv")
STRAIGHT = (
    "range",
    "pipeline",
    "unroll",
    "lanes",
)  # what may stand between a launch and its barrier


@handles("system.task_dummy")
def task_dummy(t: Tracer, call: Call) -> Named:
    """A token."""
    check_options(t, call)
    return Token()


@handles("prefetch.make_context", "prefetch.session")
def session(t: Tracer, call: Call) -> Named:
    """Something to wait for."""
    return Token()


@handles("prefetch.async_prefetch")
def prefetch(t: Tracer, call: Call) -> Named:
    """A hint about a tensor."""
    data(t, call, "t")
    if not isinstance(call["ctx"], Token):
        t.fail(
            ParserTypeError,
            f"async_prefetch needs a context, got {describe(call['context'])}",
            call.at("ctx"),
            help="context = pl.prefetch.make_context()",
        )
    return Token()


@handles("prefetch.wait")
def wait(t: Tracer, call: Call) -> Named:
    """Nothing is under way."""
    return Constant(True)


@handles("system.syncall")
def syncall(t: Tracer, call: Call) -> Named:
    """A barrier among the blocks of the launch around."""
    core_type = constant(t, call, "core_type")
    if core_type not in CORE_TYPES:
        t.fail(
            InvalidOperationError,
            f"core_type is one of {', '.join(CORE_TYPES)}, got {core_type!r}",
            call.at("core_type"),
            help=f"write core_type={CORE_TYPES[0]!r}",
        )
    if "spmd" not in t.inside:
        t.fail(
            InvalidOperationError,
            "a barrier outside a pl.spmd",
            call.node,
            help="only the blocks of a launch wait for each other",
        )
    last = len(t.inside) - 1 - t.inside[::-1].index("spmd")
    _require_straight(t, call, t.inside[last + 1 :], "block")
    t.builder.op("syncall", [])
    t.writes += 1  # other blocks may have written what was read before
    return Nothing()


@handles("aiv_shard")
def aiv_shard(t: Tracer, call: Call) -> Named:
    """This lane's half."""
    lane, axis = _lane(t, call)
    x = block(t, call, "x")
    if len(x.shape) != 2 or x.shape[axis] % 2:
        t.fail(
            InvalidOperationError,
            f"aiv_shard halves axis {axis} of a 2-D block, got {describe(x)}",
            call.node,
            help="the extent must be even",
        )
    half = tuple(n // 2 if i == axis else n for i, n in enumerate(x.shape))
    start = t.scalar("s.mul", lane, Const(half[axis], INDEX))
    offsets = tuple(start if i == axis else Const(0, INDEX) for i in range(2))
    return read_window(t, x, half, offsets, call.node)


@handles("aic_gather")
def aic_gather(t: Tracer, call: Call) -> Named:
    """The halves of both lanes."""
    _, axis = _lane(t, call)
    x = block(t, call, "x")
    if x.valid is not None or len(x.shape) != 2:
        t.fail(
            InvalidOperationError,
            f"aic_gather joins 2-D halves that are valid throughout, got {describe(x)}",
            call.node,
            help="pl.fillpad it first" if x.valid is not None else None,
        )
    last = len(t.inside) - 1 - t.inside[::-1].index("lanes")
    _require_straight(t, call, t.inside[last + 1 :], "lane")
    return Block(t.emit("gather_lanes", [x.value], axis=axis))


def _lane(t: Tracer, call: Call) -> tuple[Operand, int]:
    """The lane that reads this, and the axis that lanes halve."""
    if t.lane is None:
        t.fail(
            InvalidOperationError,
            f"{call.name} outside a pl.split_aiv",
            call.node,
            help="for lane in pl.split_aiv(2, mode=pl.SplitMode.UP_DOWN):",
        )
    lane, mode = t.lane
    if mode is SplitMode.NONE:
        t.fail(
            InvalidOperationError,
            f"{call.name}: lanes that are not split have no halves",
            call.node,
            help="write mode=pl.SplitMode.UP_DOWN or LEFT_RIGHT",
        )
    return lane, 0 if mode is SplitMode.UP_DOWN else 1


def _require_straight(t: Tracer, call: Call, between: list[str], who: str) -> None:
    """Every block (or lane) must meet the others as often: no run-time condition may stand between."""
    odd = [what for what in between if what not in STRAIGHT]
    if odd:
        where = "under a run-time condition" if odd[0] == "if" else f"in a {odd[0]} loop"
        t.fail(
            InvalidOperationError,
            f"{call.name} {where}: not every {who} would get here",
            call.node,
            help="meet outside it",
        )
