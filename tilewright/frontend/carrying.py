"""What a loop carries from one iteration to the next, found by reading its body."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tilewright.dtypes import INDEX
from tilewright.errors import (
    ParserSyntaxError,
    ParserTypeError,
    UnsupportedFeatureError,
)
from tilewright.frontend.merging import (
    common_type,
    converted,
    is_carriable,
    load_in_region,
    parts,
    reassigned,
    rebuilt,
    require_same_type,
)
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import (
    Binding,
    Block,
    Named,
    Number,
    Tensor,
    same,
)
from tilewright.ir.nodes import Block as Ops
from tilewright.ir.nodes import Operand, Value
from tilewright.ir.types import ScalarType

RunBody = Callable[[Tracer, Sequence[ast.stmt]], None]
Bounds = tuple[Operand, Operand, Operand]

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


class _Again(Exception):
    """The plan was wrong and has been corrected."""


def run_loop(
    t: Tracer,
    node: ast.stmt,
    kind: str,
    bounds: Bounds,
    variable: str | None,
    body: Sequence[ast.stmt],
    run_body: RunBody,
    name: str | None = None,
    explicit: dict[str, Named] | None = None,
) -> None:
    """Read a loop, as often as it takes to know what it carries."""
    explicit = explicit or {}
    for key, value in explicit.items():
        t.bind(key, value, node)
    candidates = [
        n
        for n in assigned_names(body)
        if n in t.frame.names
        and n != variable
        and n not in explicit
        and is_carriable(t.frame.names[n].value)
    ]
    independent = kind in ("parallel", "spmd")
    plan = Plan([*explicit, *([] if independent else candidates)], set(), set(), {})
    for _ in range(MOST_READINGS):
        here = t.snapshot()
        try:
            with t.builder.block() as ops:
                _read_loop(
                    t, node, kind, bounds, variable, body, run_body, name, plan, list(explicit)
                )
            t.flush(ops)
            return
        except _Again:
            t.restore(here)
    t.fail(UnsupportedFeatureError, "what this loop carries cannot be settled", node)


def _read_loop(
    t: Tracer,
    node: ast.stmt,
    kind: str,
    bounds: Bounds,
    variable: str | None,
    body: Sequence[ast.stmt],
    run_body: RunBody,
    name: str | None,
    plan: Plan,
    explicit: list[str],
) -> None:
    span = t.span(_head(node))
    before = dict(t.frame.names)
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
    counter = t.builder.fresh(ScalarType(INDEX), variable or "block")
    if variable is not None:
        t.frame.names[variable] = Binding(Number(counter), node.lineno)
        t.frame.gone.pop(variable, None)
    start = dict(t.frame.names)
    t.writes += 1  # what was read before the loop may have changed in a later iteration
    yielded_before, index_before = (t.frame.yielded, t.frame.yielded_names), t.block_index
    t.frame.yielded, t.frame.yielded_names = None, ()
    with t.builder.block() as ops:
        if kind == "spmd":
            t.block_index = counter
            t.region(
                name or f"{t.frame.kernel.__name__}_{node.lineno}", node, lambda: run_body(t, body)
            )
        else:
            run_body(t, body)
        t.block_index = index_before
        finals = _finals(t, node, kind, plan, start, before, explicit)
        outgoing: list[Operand] = []
        for key, value in finals.items():
            operands = parts(value, key in plan.with_extents)
            at = len(outgoing)
            outgoing += [converted(t, operands[0], args[at].type), *operands[1:]]
        t.builder.op("yield", outgoing, span=span)
    t.writes += 1
    after_names = t.frame.yielded_names
    t.frame.yielded, t.frame.yielded_names = yielded_before
    block = Ops((counter, *args), tuple(ops))
    op = t.builder.structured(
        "for",
        [*bounds, *initial],
        [block],
        [a.type for a in args],
        [a.name for a in args],
        span,
        kind=kind,
    )
    _after(t, node, kind, plan, before, carried, op.results, variable, explicit, after_names)


def _head(node: ast.stmt) -> ast.AST:
    """What stands for a loop in messages: its bounds, its scope, or the function that is one."""
    match node:
        case ast.For():
            return node.iter
        case ast.With():
            return node.items[0].context_expr
        case _:
            return node


def _finals(
    t: Tracer,
    node: ast.AST,
    kind: str,
    plan: Plan,
    start: dict[str, Binding],
    before: dict[str, Binding],
    explicit: list[str],
) -> dict[str, Named]:
    """What goes on to the next iteration; raises _Again when the plan did not foresee it."""
    for key, binding in start.items():
        now = t.frame.names.get(key)
        if now is None or key in plan.names or same(now.value, binding.value):
            continue
        if key not in before:
            continue
        old = binding.value
        was_read = id(binding) in t.reads
        if kind in ("parallel", "spmd"):
            if (isinstance(old, Tensor) and isinstance(now.value, Tensor)) or not was_read:
                continue
            t.fail(
                ParserTypeError,
                f"{key!r} is carried from one iteration of a pl.{kind} loop to the next",
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
            t.fail(
                UnsupportedFeatureError,
                f"{key!r} names another tensor in every iteration",
                node,
                help="keep one tensor and take windows of it",
                notes=[f"{key} was bound on line {binding.line}, rebound on line {now.line}"],
            )
        require_same_type(t, node, key, binding, now)
    finals: dict[str, Named] = {}
    yielded = t.frame.yielded
    if explicit and (yielded is None or len(yielded) != len(explicit)):
        t.fail(
            ParserSyntaxError,
            f"a loop with {len(explicit)} init_values ends with pl.yield_ of as many values",
            node,
        )
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


def _after(
    t: Tracer,
    node: ast.AST,
    kind: str,
    plan: Plan,
    before: dict[str, Binding],
    carried: dict[str, Named],
    results: Sequence[Value],
    variable: str | None,
    explicit: list[str],
    after_names: Sequence[str],
) -> None:
    """Names after the loop: carried ones have their last value, those of the body are gone."""
    line = getattr(node, "lineno", 0)
    inside = t.frame.names
    t.frame.names = dict(before)
    for key, binding in inside.items():
        if key not in before:
            t.drop(key, f"was bound inside the loop on line {line} and is not visible after it")
        elif key not in plan.names and not same(binding.value, before[key].value):
            t.drop(
                key,
                f"was rebound inside the pl.{kind} loop on line {line}; what it is afterwards"
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
    for name, key in zip(after_names, explicit, strict=False):
        t.bind(name, last[key], node)
