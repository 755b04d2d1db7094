"""What decides whether a loop goes on, where counting does not: `while`, and counted loops with a `break`."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tilewright.dtypes import BOOL, INDEX
from tilewright.errors import InvalidOperationError
from tilewright.frontend.branches import branch, condition
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import Binding, Constant, Named, Number, to_number
from tilewright.ir.nodes import Const, Operand, Value
from tilewright.ir.types import ScalarType

Bounds = tuple[Operand, Operand, Operand]


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop as it is written.

    bounds:   start, stop and step of a counted loop; None for `while`.
    variable: the name that counts, if it has one.
    name:     of the region that each block of a launch is.
    explicit: `init_values` by name.
    again:    the condition of `while`.
    broke:    the name that is true once a `break` was met, where there is one.
    lanes:    the turns are the lanes of one core.
    """

    node: ast.For | ast.While | ast.With | ast.FunctionDef
    kind: str
    body: Sequence[ast.stmt]
    bounds: Bounds | None = None
    variable: str | None = None
    name: str | None = None
    explicit: Mapping[str, Named] = field(default_factory=dict)
    again: ast.expr | None = None
    broke: str | None = None
    lanes: bool = False

    @property
    def independent(self) -> bool:
        """Whether its turns may run in any order."""
        return self.kind in ("parallel", "spmd") or self.lanes

    @property
    def runs(self) -> bool | None:
        """Whether there is a first turn; None where only a run can tell."""
        if self.bounds is None or not all(isinstance(b, Const) for b in self.bounds):
            return None
        start, stop, step = (b.value for b in self.bounds if isinstance(b, Const))
        return (start < stop) if step > 0 else (start > stop)

    @property
    def word(self) -> str:
        """What the author calls it."""
        return "split_aiv" if self.lanes else self.kind

    @property
    def head(self) -> ast.AST:
        """What to blame."""
        match self.node:
            case ast.For():
                return self.node.iter
            case ast.While():
                return self.node.test
            case ast.With():
                return self.node.items[0].context_expr
            case ast.FunctionDef():  # whose every turn is a block
                return self.node


@dataclass(frozen=True, slots=True)
class Turns:
    """The values that a `while` op carries to decide: a BOOL, and for a counted loop the turn's number.

    first: what they are before the loop; args: what they are called inside; count: how many turns
    there are; number: the loop variable.
    """

    first: list[Operand]
    args: list[Value]
    count: Operand | None = None
    number: Operand | None = None


def turns_of(t: Tracer, loop: Loop) -> Turns | None:
    """How the loop is decided before its first turn; None where a `for` op does that by counting."""
    go = t.builder.fresh(ScalarType(BOOL), "go")
    if loop.bounds is None:
        return Turns([_holds(t, loop)], [go])
    if loop.broke is None:
        return None
    start, stop, step = loop.bounds
    if not isinstance(step, Const):
        moves = t.scalar("s.ne", step, Const(0, INDEX))
        t.builder.op("check_that", [moves], message="the step of a loop is 0")
    count = t.scalar("s.neg", t.scalar("s.floordiv", t.scalar("s.sub", start, stop), step))
    turn = t.builder.fresh(ScalarType(INDEX), "turn")
    first = [t.scalar("s.lt", Const(0, INDEX), count, hint="c"), Const(0, INDEX)]
    return Turns(first, [go, turn], count)


def number_of(t: Tracer, loop: Loop, turns: Turns, counter: Value) -> Operand:
    """The loop variable of the turn that begins."""
    if turns.count is None or loop.bounds is None:
        return counter
    start, _, step = loop.bounds
    return t.scalar("s.add", start, t.scalar("s.mul", turns.args[1], step))


def onward(t: Tracer, loop: Loop, turns: Turns, finals: Mapping[str, Named]) -> list[Operand]:
    """What the deciding values are for the next turn; names stand as at the end of this one."""
    names = t.frame.names
    broke = None if loop.broke is None else to_number(names[loop.broke].value)
    if turns.count is not None:
        assert broke is not None
        following = t.scalar("s.add", turns.args[1], Const(1, INDEX))
        more = t.scalar("s.lt", following, turns.count, hint="c")
        return [t.scalar("s.and", more, t.scalar("s.not", broke.operand)), following]
    handed_on = {key: Binding(finals[key]) for key in loop.explicit if key in finals}
    t.frame.names = {**names, **handed_on}
    held = "loop.again"

    def ask() -> None:
        t.bind(held, Number(_holds(t, loop, last=True)))

    if broke is None:
        ask()
    elif isinstance(broke.operand, Const) and broke.operand.value:
        t.bind(held, Constant(False))
    else:  # after a break nobody asks again
        branch(t, loop.head, broke.operand, lambda: t.bind(held, Constant(False)), ask)
    again = to_number(t.frame.names[held].value)
    t.frame.names = names
    assert again is not None
    return [again.operand]


def _holds(t: Tracer, loop: Loop, last: bool = False) -> Operand:
    """The condition of a `while` as it is now."""
    assert loop.again is not None
    value = condition(t, loop.again)
    if last and isinstance(value, Constant) and value.value and loop.broke is None:
        t.fail(
            InvalidOperationError,
            "this loop never ends: its condition is always true",
            loop.again,
            help="change what the condition looks at, or break",
        )
    number = to_number(value)
    assert number is not None
    return number.operand
