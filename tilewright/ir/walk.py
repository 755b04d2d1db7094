"""Visiting and rebuilding programs: ops with the ops around them, definitions, uses, substitution.

Nothing here changes a node; what rewrites gives new ones back. Values are unique within a function,
so one mapping from value to operand holds through all nested blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Value

Tree = Function | Block | Op | Sequence[Op]
Path = tuple[Op, ...]

OpOrBlock = TypeVar("OpOrBlock", Op, Block)
FunctionOrBlock = TypeVar("FunctionOrBlock", Function, Block)

VIEWS = ("window", "reshape_view", "transpose_view")
# Loops, with how many operands stand before the initial values, and how many block arguments before the
# carried ones. Initial and carried values, results and what the block yields go together, one by one.
LOOPS = {"for": (3, 1), "while": (0, 0)}


# Visiting


def walk(tree: Tree, path: Path = ()) -> Iterator[tuple[Op, Path]]:
    """Every op in program order with the owners around it, outermost first; owners come first."""
    for op in _top(tree):
        yield op, path
        for block in op.blocks:
            yield from walk(block, (*path, op))


def ops_in(tree: Tree) -> Iterator[Op]:
    """Every op in program order."""
    return (op for op, _ in walk(tree))


def _top(tree: Tree) -> Sequence[Op]:
    match tree:
        case Function():
            return tree.body.ops
        case Block():
            return tree.ops
        case Op():
            return (tree,)
        case _:
            return tree


# Definitions and uses


@dataclass(frozen=True, slots=True)
class Definition:
    """Where a value comes from: result `position` of `op`, or argument `position` of its block
    number `block`. `op` is None for a parameter of the function.
    """

    op: Op | None
    position: int
    block: int | None = None
    path: Path = ()


def definitions(function: Function) -> dict[Value, Definition]:
    """Where every value of the function is defined."""
    found = {param.value: Definition(None, i) for i, param in enumerate(function.params)}
    return found | defined_by(function)


def defined_by(tree: Tree) -> dict[Value, Definition]:
    """Where the results and block arguments of the ops inside are defined."""
    found: dict[Value, Definition] = {}
    for op, path in walk(tree):
        for i, value in enumerate(op.results):
            found[value] = Definition(op, i, None, path)
        for number, block in enumerate(op.blocks):
            for i, value in enumerate(block.args):
                found[value] = Definition(op, i, number, (*path, op))
    return found


def uses(tree: Tree) -> dict[Value, list[Op]]:
    """The ops that read each value, in program order, an op once for every operand position."""
    found: dict[Value, list[Op]] = {}
    for op in ops_in(tree):
        for operand in op.operands:
            if isinstance(operand, Value):
                found.setdefault(operand, []).append(op)
    return found


def defined_in(tree: Tree) -> set[Value]:
    """Every value that is defined inside: results and block arguments."""
    found: set[Value] = set()
    if isinstance(tree, Block):
        found.update(tree.args)
    for op in ops_in(tree):
        found.update(op.results)
        for block in op.blocks:
            found.update(block.args)
    return found


def free_values(tree: Tree) -> list[Value]:
    """What the tree reads from outside, in order of first use."""
    inside = defined_in(tree)
    found: dict[Value, None] = {}
    for op in ops_in(tree):
        for operand in op.operands:
            if isinstance(operand, Value) and operand not in inside:
                found.setdefault(operand)
    return list(found)


def names_in_use(function: Function) -> list[str]:
    """Every value name of the function, for `Builder(taken=...)`."""
    names = [param.value.name for param in function.params]
    return names + [value.name for value in defined_in(function)]


def memory_of(op: Op) -> Operand:
    """The tensor that an op with the effect "read" or "write" touches."""
    return op.operands[1] if op.name == "store" else op.operands[0]


def root_tensor(tensor: Value, defined: Mapping[Value, Definition]) -> Value:
    """The tensor whose memory this one names: a parameter, a `create`, or the result of an `if`.

    Follows views, the yields of regions, and a tensor carried by a loop back to where it started.
    """
    while True:
        source = _view_source(tensor, defined.get(tensor))
        if source is None:
            return tensor
        tensor = source


def _view_source(tensor: Value, place: Definition | None) -> Value | None:
    """One step towards the root; None when there."""
    if place is None or place.op is None:
        return None
    op, source = place.op, None
    if place.block is None and op.name in VIEWS:
        source = op.operands[0]
    elif place.block is None and len(op.blocks) == 1 and op.name not in LOOPS:
        source = yielded(op.blocks[0])[place.position]
    elif place.block is None and op.name in LOOPS:
        source = initial_values(op)[place.position]
    elif place.block is not None and op.name in LOOPS:
        position = place.position - LOOPS[op.name][1]
        source = initial_values(op)[position] if position >= 0 else None
    return source if isinstance(source, Value) else None


def initial_values(loop: Op) -> tuple[Operand, ...]:
    """What a loop carries into its first turn."""
    return loop.operands[LOOPS[loop.name][0] :]


def carried_args(loop: Op) -> tuple[Value, ...]:
    """The block arguments of a loop that hold what it carries."""
    return loop.blocks[0].args[LOOPS[loop.name][1] :]


def yielded(block: Block) -> tuple[Operand, ...]:
    """What the block hands out in its last op; () when that is no `yield`."""
    if block.ops and block.ops[-1].name == "yield":
        return block.ops[-1].operands
    return ()


# Rebuilding


def substitute(tree: OpOrBlock, mapping: Mapping[Value, Operand]) -> OpOrBlock:
    """The same op or block, reading `mapping[v]` wherever it read `v`, through nested blocks."""
    if not mapping:
        return tree
    if isinstance(tree, Block):
        return Block(tree.args, tuple(substitute(op, mapping) for op in tree.ops))
    return replace(
        tree,
        operands=substituted(tree.operands, mapping),
        blocks=tuple(substitute(block, mapping) for block in tree.blocks),
    )


def substituted(
    operands: Iterable[Operand], mapping: Mapping[Value, Operand]
) -> tuple[Operand, ...]:
    """The operands after substitution."""
    return tuple(x if isinstance(x, Const) else mapping.get(x, x) for x in operands)


@dataclass(frozen=True, slots=True)
class Replace:
    """What a rewrite puts in an op's place: `ops`, and what to read for results that go away."""

    ops: tuple[Op, ...] = ()
    values: Mapping[Value, Operand] = field(default_factory=dict)


Rewrite = Callable[[Op], "Op | Sequence[Op] | Replace | None"]


def map_ops(tree: FunctionOrBlock, rewrite: Rewrite) -> FunctionOrBlock:
    """The function or block with every op passed through `rewrite`: in program order, inner first.

    `rewrite` sees an op whose operands and blocks are rewritten already. It gives None to keep it,
    an op or several to put in its place (an empty sequence drops it), or a `Replace` that also says
    what later ops read instead of its results.
    """
    mapping: dict[Value, Operand] = {}

    def rebuild(block: Block) -> Block:
        out: list[Op] = []
        for op in block.ops:
            operands = substituted(op.operands, mapping)
            blocks = tuple(rebuild(inner) for inner in op.blocks)
            if operands != op.operands or any(
                a is not b for a, b in zip(blocks, op.blocks, strict=True)
            ):
                op = replace(op, operands=operands, blocks=blocks)
            match rewrite(op):
                case None:
                    out.append(op)
                case Op() as new:
                    out.append(new)
                case Replace() as change:
                    out.extend(change.ops)
                    mapping.update(change.values)
                case ops:
                    out.extend(ops)
        same = len(out) == len(block.ops) and all(
            a is b for a, b in zip(out, block.ops, strict=True)
        )
        return block if same else Block(block.args, tuple(out))

    if isinstance(tree, Block):
        return rebuild(tree)
    body = rebuild(tree.body)
    return tree if body is tree.body else replace(tree, body=body)
