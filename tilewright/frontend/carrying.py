"""What a loop carries from one iteration to the next, found by reading its body."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from tilewright.dtypes import INDEX
from tilewright.errors import (
    ParserSyntaxError,
    ParserTypeError,
    UnsupportedFeatureError,
)
from tilewright.frontend.merging import (
    common_type,
    converted,
    copied,
    is_carriable,
    load_in_region,
    parts,
    reassigned,
    rebuilt,
    require_same_type,
    store_whole,
)
from tilewright.frontend.observing import observed
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.turns import Loop, number_of, onward, turns_of
from tilewright.frontend.values import (
    Binding,
    Block,
    Named,
    Number,
    Tensor,
    Unknown,
    same,
)
from tilewright.ir.nodes import Block as Ops
from tilewright.ir.nodes import Op, Operand, Value
from tilewright.ir.types import ScalarType
from tilewright.ir.walk import ops_in

RunBody = Callable[[Tracer, Sequence[ast.stmt]], None]

# A loop is read again when its first reading shows that more is carried than was assumed. Each
# reading adds a
# name or a fact about one, so this many are never needed by a real kernel.
MOST_READINGS = 64


def assigned_names(statements: Sequence[ast.stmt]) -> list[str]:
    """Names that statements may rebind: assigned, written to by subscript, or by pl.write."""
    found: list[str] = []
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.append(node.id)
                continue
            match node:
                case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store()):
                    found.append(name)
                case ast.Call(func=ast.Attribute(attr="write"), args=[ast.Name(id=name), *_]):
                    found.append(name)
    return list(dict.fromkeys(found))


@dataclass(slots=True)
class Plan:
    """What a loop is assumed to carry."""

    names: list[str]
    as_blocks: set[str]  # fresh tensors that the body rebinds as blocks
    with_extents: set[str]  # blocks whose valid extents change
    narrowed: dict[str, ScalarType]  # scalars whose type widens
    copies: list[str]  # names of another tensor in every turn: what it holds is carried
    stand_for: dict[str, frozenset[str]]  # what such a copy may stand for after the loop


class TensorsSwapped(UnsupportedFeatureError):
    """A loop hands a tensor on under another name: possible only where every turn is written out."""


class _Again(Exception):
    """The plan was wrong and has been corrected."""


def run_loop(t: Tracer, loop: Loop, run_body: RunBody) -> None:
    """Read a loop, as often as it takes to know what it carries."""
    for key, value in loop.explicit.items():
        t.bind(key, value, loop.node)
    candidates = [
        n
        for n in assigned_names(loop.body)
        if n in t.frame.names
        and n != loop.variable
        and n not in loop.explicit
        and is_carriable(t.frame.names[n].value)
    ]
    handed = [key for key, value in loop.explicit.items() if is_carriable(value)]
    plan = Plan([*handed, *([] if loop.independent else candidates)], set(), set(), {}, [], {})
    written = t.written
    for _ in range(MOST_READINGS):
        here = t.snapshot()
        t.written = set()
        try:
            with t.builder.block() as ops:
                _read_loop(t, loop, plan, run_body)
            t.flush(ops)
            return
        except _Again:
            t.restore(here)
        finally:
            t.written |= written
    t.fail(
        UnsupportedFeatureError,
        "what this loop carries cannot be settled",
        loop.node,
        help="give what changes from turn to turn one shape and dtype before the loop",
    )


def _read_loop(t: Tracer, loop: Loop, plan: Plan, run_body: RunBody) -> None:
    node, span = loop.node, t.span(loop.head)
    before = dict(t.frame.names)
    turns = turns_of(t, loop)
    initial: list[Operand] = []
    args: list[Value] = []
    carried: dict[str, Named] = {}
    for key in plan.names:
        value = before[key].value
        t.reads[id(before[key])] = before[key]
        if key in plan.as_blocks:
            assert isinstance(value, Tensor)
            value = load_in_region(t, value)
        operands = parts(value, key in plan.with_extents)
        if key in plan.narrowed:
            operands = [converted(t, operands[0], plan.narrowed[key])]
        fresh = [t.builder.fresh(x.type, key) for x in operands]
        template = Number(operands[0]) if not isinstance(value, Block) else value
        initial += operands
        args += fresh
        carried[key] = rebuilt(template, fresh, key in plan.with_extents)
        if isinstance(value, Block) and key not in plan.with_extents:
            carried[key] = Block(fresh[0], value.valid)
        t.frame.names[key] = Binding(carried[key], before[key].line)
    for key in plan.copies:
        value = before[key].value
        assert isinstance(value, Tensor)
        carried[key] = kept = copied(t, value, node, key)
        t.written.discard(kept.root)
        t.frame.names[key] = Binding(kept, before[key].line)
    counter = t.builder.fresh(ScalarType(INDEX), loop.variable or "block")
    t.writes += 1  # what was read before the loop may have changed in a later iteration
    yielded_before, launch_before = (t.frame.yielded, t.frame.yielded_names), t.launch
    t.frame.yielded, t.frame.yielded_names = None, ()
    around = "lanes" if loop.lanes else loop.kind if turns is None else "while"
    with t.builder.block() as ops, t.within(around), t.runs(loop.runs):
        number = counter if turns is None else number_of(t, loop, turns, counter)
        if loop.variable is not None:
            t.frame.names[loop.variable] = Binding(Number(number), node.lineno)
            t.frame.gone.pop(loop.variable, None)
        start = dict(t.frame.names)
        if loop.kind == "spmd":
            assert loop.bounds is not None
            t.launch = (counter, loop.bounds[1])
            t.region(
                loop.name or f"{t.frame.kernel.__name__}_{node.lineno}",
                node,
                lambda: run_body(t, loop.body),
            )
        else:
            run_body(t, loop.body)
        t.launch = launch_before
        finals = _finals(t, loop, plan, start, before, ops)
        _carry_copies(t, loop, plan, start, before, ops)
        outgoing: list[Operand] = []
        for key, value in finals.items():
            operands = parts(value, key in plan.with_extents)
            at = len(outgoing)
            outgoing += [converted(t, operands[0], args[at].type), *operands[1:]]
        if turns is not None:
            outgoing = [*onward(t, loop, turns, finals), *outgoing]
        t.builder.op("yield", outgoing, span=span)
    t.writes += 1
    after_names = t.frame.yielded_names
    t.frame.yielded, t.frame.yielded_names = yielded_before
    if turns is None:
        assert loop.bounds is not None
        op = t.builder.structured(
            "for",
            [*loop.bounds, *initial],
            [Ops((counter, *args), tuple(ops))],
            [a.type for a in args],
            [a.name for a in args],
            span,
            kind=loop.kind,
            lanes=loop.lanes or None,
        )
        results = op.results
    else:
        args = [*turns.args, *args]
        op = t.builder.structured(
            "while",
            [*turns.first, *initial],
            [Ops(tuple(args), tuple(ops))],
            [a.type for a in args],
            [a.name for a in args],
            span,
        )
        results = op.results[len(turns.first) :]
    _after(t, loop, plan, before, carried, results, after_names)


def _finals(
    t: Tracer,
    loop: Loop,
    plan: Plan,
    start: dict[str, Binding],
    before: dict[str, Binding],
    ops: Sequence[Op],
) -> dict[str, Named]:
    """What goes on to the next iteration; raises _Again when the plan did not foresee it."""
    node, explicit = loop.node, list(loop.explicit)
    for key, binding in start.items():
        now = t.frame.names.get(key)
        if now is None and key in before and id(binding) in t.reads and not loop.independent:
            t.fail(
                UnsupportedFeatureError,
                f"{key!r} is read here, and {t.frame.gone[key]}",
                node,
                help="bind it again before the next iteration reads it",
            )
        if now is None or key in plan.names or key in plan.copies or same(now.value, binding.value):
            continue
        if key not in before or key in explicit:
            continue
        old = binding.value
        was_read = id(binding) in t.reads
        if loop.independent:
            if (isinstance(old, Tensor) and isinstance(now.value, Tensor)) or not was_read:
                continue
            if not observed(old, ops):  # an accumulator that every turn starts anew
                continue
            t.fail(
                ParserTypeError,
                f"{key!r} is carried from one iteration of a pl.{loop.word} loop to the next",
                node,
                help="iterations are independent: bind it inside the body, or loop with pl.range",
                notes=[f"{key} was bound on line {binding.line}, rebound on line {now.line}"],
            )
        if isinstance(old, Tensor) and isinstance(now.value, Block):
            if not old.fresh or old.shape != now.value.shape or old.dtype != now.value.dtype:
                raise reassigned(t, node, key, binding, now)
            plan.names.append(key)
            plan.as_blocks.add(key)
            raise _Again
        if is_carriable(old) and is_carriable(now.value):
            plan.names.append(key)
            raise _Again
        if isinstance(old, Tensor) and isinstance(now.value, Tensor) and not was_read:
            continue
        if isinstance(old, Tensor) and isinstance(now.value, Tensor):
            fits = (old.shape, old.dtype) == (now.value.shape, now.value.dtype)
            if not fits or not _made_in(ops, now.value):
                _refuse_another_tensor(t, node, key, binding, now)
            plan.copies.append(key)
            raise _Again
        require_same_type(t, node, key, binding, now)
    finals: dict[str, Named] = {}
    yielded = t.frame.yielded
    if explicit and (yielded is None or len(yielded) != len(explicit)):
        t.fail(
            ParserSyntaxError,
            f"a loop with {len(explicit)} init_values ends with pl.yield_ of as many values",
            node,
            help="write pl.yield_(…) as the last statement of the body, one value for each",
        )
    for key, value in zip(explicit, yielded or (), strict=False):
        if key not in plan.names and not same(start[key].value, value):
            _carry_as_block(t, plan, node, key, start[key], Binding(value, start[key].line))
    for key in plan.names:
        first = start[key]
        now = t.frame.names[key]
        if key in explicit:
            assert yielded is not None
            now = Binding(yielded[explicit.index(key)], now.line)
        elif same(now.value, first.value):
            plan.names.remove(key)  # only mentioned, never rebound
            plan.as_blocks.discard(key)
            raise _Again
        if isinstance(now.value, Tensor) and isinstance(first.value, Block):
            now = Binding(load_in_region(t, now.value), now.line)
        wanted = common_type(first.value, now.value)
        if wanted is None:
            raise reassigned(t, node, key, first, now)
        if isinstance(first.value, Number):
            if wanted != first.value.operand.type:
                assert isinstance(wanted, ScalarType)
                plan.narrowed[key] = wanted
                raise _Again
        elif (
            isinstance(first.value, Block)
            and isinstance(now.value, Block)
            and first.value.valid != now.value.valid
            and key not in plan.with_extents
        ):
            plan.with_extents.add(key)
            raise _Again
        finals[key] = now.value
    return finals


def _made_in(ops: Sequence[Op], tensor: Tensor) -> bool:
    """Whether a loop's body makes the tensor, so that nobody writes to it once the turn has ended."""
    return any(op.name == "create" and op.result.name == tensor.root for op in ops_in(ops))


def _carry_copies(
    t: Tracer,
    loop: Loop,
    plan: Plan,
    start: dict[str, Binding],
    before: dict[str, Binding],
    ops: Sequence[Op],
) -> None:
    """What a name of another tensor in every turn holds goes into memory that the loop keeps for it.

    No turn may write to that memory, nor to the tensor of the first turn: the copy would not show it.
    """
    for key in plan.copies:
        now, kept, first = t.frame.names[key], start[key].value, before[key].value
        assert isinstance(now.value, Tensor)
        assert isinstance(kept, Tensor)
        assert isinstance(first, Tensor)
        made = same(now.value, kept) or _made_in(ops, now.value)
        behind = {first.root, *t.copies.behind(now.value.root)}
        if not made or kept.root in t.written or not behind.isdisjoint(t.written):
            _refuse_another_tensor(t, loop.node, key, before[key], now)
    for key in plan.copies:
        last, kept, first = t.frame.names[key].value, start[key].value, before[key].value
        assert isinstance(last, Tensor)
        assert isinstance(kept, Tensor)
        assert isinstance(first, Tensor)
        store_whole(t, last, kept, loop.node, key)
        behind = {*t.copies.behind(last.root), *([] if loop.runs else [first.root])}
        plan.stand_for[key] = frozenset(behind - {kept.root})


def _refuse_another_tensor(
    t: Tracer, node: ast.AST, key: str, binding: Binding, now: Binding
) -> NoReturn:
    t.fail(
        TensorsSwapped,
        f"{key!r} names another tensor in every iteration",
        node,
        help="keep one tensor and take windows of it, or give the loop constant bounds",
        notes=[f"{key} was bound on line {binding.line}, rebound on line {now.line}"],
    )


def _carry_as_block(
    t: Tracer, plan: Plan, node: ast.AST, key: str, first: Binding, now: Binding
) -> NoReturn:
    """A tensor among `init_values` for which a block is yielded stands for its contents."""
    old, new = first.value, now.value
    if not isinstance(old, Tensor) or not isinstance(new, Block):
        t.fail(
            UnsupportedFeatureError,
            f"{key!r} names another tensor in every iteration",
            node,
            help="keep one tensor and take windows of it",
        )
    if old.shape != new.shape or old.dtype != new.dtype:
        raise reassigned(t, node, key, first, now)
    plan.names.append(key)
    plan.as_blocks.add(key)
    raise _Again


def _after(
    t: Tracer,
    loop: Loop,
    plan: Plan,
    before: dict[str, Binding],
    carried: dict[str, Named],
    results: Sequence[Value],
    after_names: Sequence[str],
) -> None:
    """Names after the loop: carried ones have their last value, those of the body are gone.

    A `with` is no scope: a name that it gave to a tensor from before keeps it.
    """
    line, variable = loop.node.lineno, loop.variable
    inside, gone = t.frame.names, t.frame.gone
    t.frame.names = dict(before)
    for key in before.keys() - inside.keys():
        t.drop(key, gone[key])
    tensors = [b.value for b in before.values() if isinstance(b.value, Tensor)]
    for key, binding in inside.items():
        if isinstance(loop.node, ast.With) and binding.value in tensors:
            t.frame.names[key] = binding
        elif key not in before:
            t.drop(key, f"was bound inside the loop on line {line} and is not visible after it")
        elif isinstance(binding.value, Unknown):  # a mistake, which is on the list
            t.frame.names[key] = binding
        elif key in plan.copies:
            kept = carried[key]
            assert isinstance(kept, Tensor)
            t.frame.names[key] = Binding(kept, line)
            if plan.stand_for[key]:
                t.copies.add(kept.root, plan.stand_for[key], len(t.inside))
                t.note_read(kept, loop.node)
        elif key not in plan.names and not same(binding.value, before[key].value):
            t.drop(
                key,
                f"was rebound inside the pl.{loop.word} loop on line {line}; what it is afterwards"
                " is undefined",
            )
    if variable is not None:
        t.drop(variable, f"is the variable of the loop on line {line} and is not visible after it")
    at = 0
    last: dict[str, Named] = {}
    for key in plan.names:
        value = carried[key]
        count = len(parts(value, key in plan.with_extents))
        last[key] = rebuilt(value, results[at : at + count], key in plan.with_extents)
        if isinstance(value, Block) and key not in plan.with_extents:
            last[key] = Block(results[at], value.valid)
        at += count
        t.frame.names[key] = Binding(last[key], line)
    for name, key in zip(after_names, loop.explicit, strict=False):
        t.bind(name, last.get(key, loop.explicit[key]), loop.node)
