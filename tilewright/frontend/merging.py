"""Making one value of two: after an `if`, and from one iteration of a loop to the next."""

from __future__ import annotations

import ast
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tilewright.dtypes import BOOL, INDEX
from tilewright.errors import KernelError, ParserTypeError
from tilewright.frontend.mistakes import Follows
from tilewright.frontend.operands import load_whole
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import (
    Binding,
    Block,
    Named,
    Number,
    Tensor,
    Unknown,
    describe,
    same,
    to_number,
    with_valid,
)
from tilewright.ir.nodes import Block as Ops
from tilewright.ir.nodes import Const, Op, Operand, Value, make_attrs
from tilewright.ir.types import Type
from tilewright.span import Span


@dataclass(slots=True)
class Arm:
    """What one arm of a branch emitted, and what names mean at its end."""

    ops: list[Op]
    names: dict[str, Binding]
    jumps: bool = False  # it ends there: nobody looks at the names it did not bind


def parts(value: Named, with_extents: bool) -> list[Operand]:
    """The operands that carry a value from block to block."""
    if isinstance(value, Block):
        return [value.value, *(value.extents if with_extents else ())]
    number = to_number(value)
    assert number is not None
    return [number.operand]


def rebuilt(value: Named, operands: Sequence[Operand], with_extents: bool) -> Named:
    """A value of the same kind made of other operands."""
    if isinstance(value, Block):
        tile = operands[0]
        assert isinstance(tile, Value)
        return with_valid(tile, operands[1:] if with_extents else None)
    return Number(operands[0])


def is_carriable(value: Named) -> bool:
    """Blocks and scalars move from block to block.

    Tensors are references and stay where they are.
    """
    return isinstance(value, Block) or to_number(value) is not None


def common_type(a: Named, b: Named) -> Type | None:
    """The type both values can have: equal shapes and dtypes; integer scalars meet in INDEX."""
    if isinstance(a, Block) and isinstance(b, Block):
        return a.type if a.type == b.type else None
    x, y = to_number(a), to_number(b)
    if x is None or y is None:
        return None
    if x.dtype == y.dtype:
        return x.operand.type
    if x.dtype.is_integer and y.dtype.is_integer and INDEX in (x.dtype, y.dtype):
        return Number(x.operand if x.dtype == INDEX else y.operand).operand.type
    if x.dtype.is_float and y.dtype.is_float and BOOL not in (x.dtype, y.dtype):
        return x.operand.type if x.dtype.bits >= y.dtype.bits else y.operand.type
    return None


def converted(t: Tracer, operand: Operand, wanted: Type) -> Operand:
    """A scalar in the wanted type; others are what they are."""
    if operand.type == wanted:
        return operand
    return t.emit("s.cast", [operand], "s", to=wanted.dtype)


def reassigned(t: Tracer, node: ast.AST, name: str, old: Binding, new: Binding) -> KernelError:
    """The error for a name that changes its type inside a loop or branch."""
    unknown = isinstance(old.value, Unknown) or isinstance(new.value, Unknown)
    kind = Follows if unknown else ParserTypeError
    return kind(
        f"cannot reassign {name!r} with a different type: it was {describe(old.value)},"
        f" now {describe(new.value)}",
        _span_of(t, node, new),
        [f"{name} was bound on line {old.line}, rebound on line {new.line}"],
        "give the new value a name of its own",
    )


def _span_of(t: Tracer, node: ast.AST, binding: Binding) -> Span:
    """The rebinding itself where it lies inside the loop or branch."""
    for inner in ast.walk(node):
        if isinstance(inner, (ast.Assign, ast.AnnAssign)) and inner.lineno == binding.line:
            return t.span(inner)
    return t.span(node)


def require_same_type(t: Tracer, node: ast.AST, name: str, old: Binding, new: Binding) -> None:
    if isinstance(old.value, Tensor) and isinstance(new.value, Block) and old.value.fresh:
        if old.value.shape == new.value.shape and old.value.dtype == new.value.dtype:
            return
    elif is_carriable(old.value) and common_type(old.value, new.value) is not None:
        return
    elif not is_carriable(old.value) and not is_carriable(new.value):
        if not isinstance(old.value, Tensor) or not isinstance(new.value, Tensor):
            return
        if old.value.shape == new.value.shape and old.value.dtype == new.value.dtype:
            return
    raise reassigned(t, node, name, old, new)


def merge_arms(
    t: Tracer,
    node: ast.AST,
    condition: Operand,
    then: Arm,
    other: Arm,
    span: Span,
    wanted_names: Collection[str] = (),
) -> None:
    """Append the `if`; bind every name that both arms agree on, drop the others.

    Names wanted behind it that an arm with a jump did not bind have anything there.
    """
    line = getattr(node, "lineno", 0)
    yields: tuple[list[Operand], list[Operand]] = ([], [])
    hints: list[str] = []
    plans: list[tuple[str, Named, int, bool]] = []
    known = t.frame.names
    for name in dict.fromkeys([*then.names, *other.names]):
        a, b, old = then.names.get(name), other.names.get(name), known.get(name)
        if name in wanted_names:
            if a is None and b is not None and then.jumps:
                a = _anything(t, then, b)
            if b is None and a is not None and other.jumps:
                b = _anything(t, other, a)
        if a is None or b is None:
            t.drop(name, f"was bound in one arm of the if on line {line} only")
            continue
        if same(a.value, b.value):
            t.frame.names[name] = a
            continue
        if old is not None:  # an arm that does not rebind passes the old value on
            t.reads[id(old)] = old
        pair = _as_blocks(t, (then, other), (a.value, b.value), old)
        if pair is None or (wanted := common_type(*pair)) is None:
            if old is not None and not _both_tensors(a.value, b.value):
                changed = b if same(old.value, a.value) else a
                raise reassigned(t, node, name, b if changed is a else a, changed)
            tensors = _both_tensors(a.value, b.value)
            if t.picks and _picked(t, node, name, (then, other), (a.value, b.value)):
                continue
            what = "different tensors" if tensors else "different types"
            t.drop(name, f"has {what} in the two arms of the if on line {line}")
            if tensors:
                t.torn.add(name)
            continue
        extents = getattr(pair[0], "valid", None) != getattr(pair[1], "valid", None)
        plans.append((name, pair[0], len(yields[0]), extents))
        for arm, value, out in zip((then, other), pair, yields, strict=True):
            with t.builder.block() as more:
                operands = parts(value, extents)
                out += [converted(t, operands[0], wanted), *operands[1:]]
            arm.ops += more
        hints += [name] * len(parts(pair[0], extents))
    blocks = []
    for arm, out in zip((then, other), yields, strict=True):
        blocks.append(Ops((), (*arm.ops, Op("yield", tuple(out), (), make_attrs({}), (), span))))
    op = t.builder.structured("if", [condition], blocks, [x.type for x in yields[0]], hints, span)
    for name, template, at, extents in plans:
        count = len(parts(template, extents))
        results = op.results[at : at + count]
        value = rebuilt(template, results, extents)
        if isinstance(template, Block) and not extents:
            value = Block(results[0], template.valid)
        t.frame.names[name] = Binding(value, line)


def _anything(t: Tracer, arm: Arm, like: Binding) -> Binding | None:
    """Some value of the same type, made in an arm after which nobody looks at it."""
    number = to_number(like.value)
    if number is not None:
        kind = number.dtype
        zero = 0.0 if kind.is_float else False if kind == BOOL else 0
        return Binding(Number(Const(zero, kind)), like.line)
    if not isinstance(like.value, Block) or not t.in_region:
        return None
    with t.builder.block() as ops:
        dtype = like.value.dtype
        fill = 0.0 if dtype.is_float else False if dtype == BOOL else 0
        tile = t.emit("full", [], shape=like.value.shape, dtype=dtype, value=fill)
    arm.ops += ops
    return Binding(Block(tile), like.line)


def _picked(
    t: Tracer, node: ast.AST, name: str, arms: tuple[Arm, Arm], values: tuple[Named, Named]
) -> bool:
    """Bind a name of one tensor in one arm and of another in the other to a copy of the one picked.

    False where they differ in type, where one is no longer what it was, and in a region, where no
    memory can be had.
    """
    a, b = values
    if t.in_region or not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return False
    if (a.shape, a.dtype) != (b.shape, b.dtype) or any(t.copies.is_stale(x.root) for x in (a, b)):
        return False
    made = t.emit("create", [], name, shape=a.shape, dtype=a.dtype)
    copy = Tensor(made, made.name, fresh=True)
    for arm, value in zip(arms, (a, b), strict=True):
        with t.builder.block() as ops:
            store_whole(t, value, copy, node, name)
        arm.ops += ops
    t.copies.add(copy.root, (a.root, b.root), len(t.inside))
    t.frame.names[name] = Binding(copy, getattr(node, "lineno", 0))
    return True


def _both_tensors(a: Named, b: Named) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor)


def _as_blocks(
    t: Tracer, arms: tuple[Arm, Arm], values: tuple[Named, Named], old: Binding | None
) -> tuple[Named, Named] | None:
    """A tensor beside a block counts as a block with its contents.

    Not where the name meant that tensor before the branch, unless it is fresh: afterwards nobody
    could
    tell whether writing to the name writes to memory.
    """
    if all(is_carriable(v) for v in values):
        return values
    out: list[Named] = []
    for arm, value in zip(arms, values, strict=True):
        loses_memory = old is not None and same(old.value, value)
        if (
            isinstance(value, Tensor)
            and (value.fresh or not loses_memory)
            and not _both_tensors(*values)
        ):
            arm.ops += (found := _loaded(t, value))[0]
            out.append(found[1])
        elif is_carriable(value):
            out.append(value)
        else:
            return None
    return out[0], out[1]


def _loaded(t: Tracer, tensor: Tensor) -> tuple[list[Op], Block]:
    with t.builder.block() as ops:
        block = load_in_region(t, tensor)
    return ops, block


def load_in_region(t: Tracer, tensor: Tensor) -> Block:
    """The whole tensor as a block, in a region of its own when there is none around."""
    if t.in_region:
        return load_whole(t, tensor, "t")
    held = "load.whole"
    t.region(
        f"{t.frame.kernel.__name__}_load", t.node, lambda: t.bind(held, load_whole(t, tensor, "t"))
    )
    value = t.frame.names.pop(held).value
    assert isinstance(value, Block)
    return value


def store_whole(t: Tracer, value: Block | Tensor, target: Tensor, node: ast.AST, name: str) -> None:
    """Write a block, or what a tensor holds now, over all of a tensor: in a region called after `name`."""

    def store() -> None:
        block = load_whole(t, value, "t") if isinstance(value, Tensor) else value
        zeros = [Const(0, INDEX)] * len(block.shape)
        t.builder.op(
            "store", [block.value, target.value, *zeros, *block.extents], shape=block.shape
        )

    if isinstance(value, Tensor):
        t.note_read(value, node)
    t.note_write(target)
    t.region(f"{t.frame.kernel.__name__}_{name}", node, store)


def copied(t: Tracer, tensor: Tensor, node: ast.AST, hint: str) -> Tensor:
    """Memory of its own that holds what a tensor holds now."""
    made = t.emit("create", [], hint, shape=tensor.shape, dtype=tensor.dtype)
    copy = Tensor(made, made.name, fresh=True)
    store_whole(t, tensor, copy, node, hint)
    return copy
