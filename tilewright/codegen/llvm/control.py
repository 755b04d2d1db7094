"""Loops, branches, regions, serial blocks, and loops whose iterations the threads share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.codegen.llvm import sync
from tilewright.codegen.llvm.abi import PHASES
from tilewright.codegen.llvm.checks import fail_unless
from tilewright.codegen.llvm.places import LINE, Panel, Place
from tilewright.codegen.llvm.rows import RowEmitter
from tilewright.codegen.llvm.types import I64, const, counted, keep_rolled, offset, scalar_kind
from tilewright.ir.nodes import Const, Op, Operand, Value
from tilewright.ir.typed import tile_type_of, whole_number
from tilewright.ir.types import PanelType, ScalarType, TensorType, TileType
from tilewright.ir.walk import carried_args, initial_values, yielded

if TYPE_CHECKING:
    from tilewright.codegen.llvm.function import FunctionEmitter


def emit_at(owner: FunctionEmitter, op: Op) -> None:
    """A region: its ops, here; its results are what it yields, not copies."""
    owner.block(op.blocks[0])
    for result, x in zip(op.results, op.blocks[0].ops[-1].operands, strict=True):
        owner.env[result] = owner.scalar(x) if isinstance(x, Const) else owner.env[x]
        if owner.read_once(x):
            owner.owned.add(result)


def emit_loop(owner: FunctionEmitter, op: Op) -> None:
    """A counted loop in order."""
    if op.attr("kind") in ("parallel", "spmd") and not owner.alone:
        emit_parallel(owner, op)
        return
    carried = Carried(owner, op)
    start, step = owner.scalar(op.operands[0]), owner.scalar(op.operands[2])
    with counted(owner.b, 0, trips(owner, op), 1, carried.firsts, name="i") as loop:
        owner.env[op.blocks[0].args[0]] = owner.b.add(start, owner.b.mul(loop.i, step))
        loop.next = carried.turn(loop.carried)
    carried.end(loop.results)


def emit_while(owner: FunctionEmitter, op: Op) -> None:
    """A loop that goes on as long as its first carried value is true."""
    b = owner.b
    carried = Carried(owner, op)
    before = b.block
    turn, after = b.append_basic_block("while.body"), b.append_basic_block("while.end")
    b.cbranch(carried.firsts[0], turn, after)
    b.position_at_end(turn)
    phis = [b.phi(first.type) for first in carried.firsts]
    following = carried.turn(phis)
    latch = b.block
    keep_rolled(b.module, b.cbranch(following[0], turn, after))
    b.position_at_end(after)
    results = [b.phi(first.type) for first in carried.firsts]
    for phi, result, first, onward in zip(phis, results, carried.firsts, following, strict=True):
        for merged in (phi, result):
            merged.add_incoming(first, before)
            merged.add_incoming(onward, latch)
    carried.end(results)


class Carried:
    """What a loop carries: tiles have a home each, scalars and tensors are phis."""

    def __init__(self, owner: FunctionEmitter, op: Op) -> None:
        self.owner, self.body = owner, op.blocks[0]
        ends = yielded(self.body)
        carried = list(zip(op.results, carried_args(op), initial_values(op), ends, strict=True))
        self.tiles = [c for c in carried if isinstance(c[0].type, TileType)]
        for result, arg, first, _ in self.tiles:
            home = owner.new_tile(tile_type_of(result))
            copy(owner, home, owner.place(first))
            owner.env[arg] = owner.env[result] = home
            owner.owned.update((arg, result))
        self.others = [c for c in carried if not isinstance(c[0].type, TileType)]
        self.firsts = [phi_value(owner, first) for _, _, first, _ in self.others]

    def turn(self, phis: Sequence[ir.Value]) -> list[ir.Value]:
        """The body once, with these values; what it carries on."""
        owner = self.owner
        for (_, arg, _, _), value in zip(self.others, phis, strict=True):
            owner.env[arg] = from_phi(owner, arg, value)
        with owner.arena.scope():
            owner.block(self.body)
            carry_tiles(owner, [(owner.place(arg), x) for _, arg, _, x in self.tiles])
            return [phi_value(owner, x) for _, _, _, x in self.others]

    def end(self, results: Sequence[ir.Value]) -> None:
        """What the loop gives, behind it."""
        for (result, _, _, _), value in zip(self.others, results, strict=True):
            self.owner.env[result] = from_phi(self.owner, result, value)


def trips(owner: FunctionEmitter, op: Op) -> ir.Value:
    """How often a loop runs, Python's count; a step of 0 stops the launch."""
    b = owner.b
    start, stop, step = (owner.scalar(x) for x in op.operands[:3])
    if all(isinstance(x, Const) for x in op.operands[:3]):
        return const(I64, len(range(*map(whole_number, op.operands[:3]))))
    zero, one = const(I64, 0), const(I64, 1)
    if not isinstance(op.operands[2], Const):
        fail_unless(owner, b.icmp_signed("!=", step, zero), op, [step])
    down = b.icmp_signed("<", step, zero)
    size = b.select(down, b.sub(zero, step), step)
    distance = b.select(down, b.sub(start, stop), b.sub(stop, start))
    count = b.sdiv(b.add(distance, b.sub(size, one)), size)
    return b.select(b.icmp_signed("<", distance, one), zero, count)


def carry_tiles(owner: FunctionEmitter, pairs: Sequence[tuple[Place, Operand]]) -> None:
    """Put yielded tiles where the next iteration looks for them, as if all at once."""
    moving = [
        (home, owner.place(x)) for home, x in pairs if owner.place(x).address is not home.address
    ]
    if len(moving) > 1:  # one may be the old contents of another's home
        moving = [(home, copied_place(owner, source)) for home, source in moving]
    for home, source in moving:
        copy(owner, home, source)


def copied_place(owner: FunctionEmitter, source: Place) -> Place:
    target = owner.new_tile(TileType(source.shape, source.dtype))
    copy(owner, target, source)
    return target


def copy(owner: FunctionEmitter, target: Place, source: Place) -> None:
    """Copy a tile once, whoever is here."""
    owner.on_one_thread(lambda: RowEmitter(owner).copy(target, source))


def phi_value(owner: FunctionEmitter, x: Operand) -> ir.Value:
    """What a phi carries for `x`: a scalar, or the address of a tensor."""
    return owner.place(x).address if isinstance(x.type, TensorType) else owner.scalar(x)


def from_phi(owner: FunctionEmitter, value: Value, carried: ir.Value) -> ir.Value | Place:
    if isinstance(value.type, TensorType):
        return owner.tensor_place(carried, value.type)
    return carried


def emit_branch(owner: FunctionEmitter, op: Op) -> None:
    """Two arms. Tiles that they give are copied into one home, scalars and tensors meet in a phi."""
    b = owner.b
    homes: dict[Operand, Place] = {
        r: owner.new_tile(r.type) for r in op.results if isinstance(r.type, TileType)
    }
    others = [r for r in op.results if r not in homes]
    then, otherwise, after = (b.append_basic_block(name) for name in ("then", "else", "endif"))
    b.cbranch(owner.scalar(op.operands[0]), then, otherwise)
    incoming = []
    for start, block in zip((then, otherwise), op.blocks, strict=True):
        b.position_at_end(start)
        with owner.arena.scope():
            owner.block(block)
            ends = block.ops[-1].operands
            given: dict[Operand, Operand] = dict(zip(op.results, ends, strict=True))
            for result, home in homes.items():
                copy(owner, home, owner.place(given[result]))
            incoming.append(([phi_value(owner, given[r]) for r in others], b.block))
        b.branch(after)
    b.position_at_end(after)
    for i, result in enumerate(others):
        phi = b.phi(incoming[0][0][i].type)
        for values, block in incoming:
            phi.add_incoming(values[i], block)
        owner.env[result] = from_phi(owner, result, phi)
    owner.env.update(homes)
    owner.owned.update(homes)


def emit_serial(owner: FunctionEmitter, op: Op) -> None:
    """One thread's work; what it hands out lies in the shared arena."""
    block = op.blocks[0]
    slots: list[ir.Value | Place | Panel] = []

    def body() -> None:
        owner.block(block)
        for result, x in zip(op.results, block.ops[-1].operands, strict=True):
            if isinstance(result.type, TileType):
                slots.append(owner.place(x) if x in owner.owned else owner.copied(x))
            elif isinstance(result.type, PanelType):
                slots.append(owner.panel(x))
            else:
                slot = owner.reserve(8)
                owner.b.store(owner.scalar(x), slot)
                slots.append(slot)

    if op.results:
        owner.on_one_thread(body)
    else:
        with owner.shared.scope():
            owner.on_one_thread(body)
    for result, slot in zip(op.results, slots, strict=True):
        if isinstance(result.type, ScalarType):
            assert isinstance(slot, ir.Value)
            slot = owner.b.load(slot, typ=scalar_kind(result.type.dtype))
        owner.env[result] = slot
        owner.owned.add(result)
    if not owner.alone and any(isinstance(result.type, ScalarType) for result in op.results):
        owner.barrier()  # thread 0 must not reuse a slot that another thread has yet to read


def emit_parallel(owner: FunctionEmitter, op: Op) -> None:
    """Each thread has a stretch of the iterations, drawn from a counter in order; a thread that is done
    draws from the others' stretches. So neighbouring iterations mostly follow each other on one
    thread, which can fetch ahead, and none waits while there is work.

    Counters come in two sets that take turns: a thread sets its own back behind the barrier, and that
    set is used again only behind the next one.
    """
    b = owner.b
    start, _, step = (owner.scalar(x) for x in op.operands[:3])
    count = trips(owner, op)
    phase = b.load(owner.phase, typ=I64)
    b.store(b.add(phase, const(I64, 1)), owner.phase)
    first_counter = b.mul(b.and_(phase, const(I64, PHASES - 1)), owner.nthreads)
    counters = offset(b, sync.counter(b, owner.sync, 0), b.mul(first_counter, const(I64, LINE)))
    body = op.blocks[0]
    with counted(b, 0, owner.nthreads, name="owner") as loop:
        thread = b.srem(b.add(owner.tid, loop.i), owner.nthreads)
        low = b.sdiv(b.mul(thread, count), owner.nthreads)
        high = b.sdiv(b.mul(b.add(thread, const(I64, 1)), count), owner.nthreads)
        counter = offset(b, counters, b.mul(thread, const(I64, LINE)))
        draw, work, done = (b.append_basic_block(name) for name in ("draw", "work", "done"))
        b.branch(draw)
        b.position_at_end(draw)
        number = b.add(low, sync.grab(b, counter))
        b.cbranch(b.icmp_signed("<", number, high), work, done)
        b.position_at_end(work)
        owner.env[body.args[0]] = b.add(start, b.mul(number, step))
        with owner.by_itself(owner.private), owner.private.scope():
            owner.block(body)
        b.branch(draw)
        b.position_at_end(done)
    owner.barrier()
    mine = offset(b, counters, b.mul(owner.tid, const(I64, LINE)))
    b.atomic_rmw("xchg", mine, const(I64, 0), "monotonic")


EMITTERS = {
    "at": emit_at,
    "for": emit_loop,
    "if": emit_branch,
    "while": emit_while,
    "serial": emit_serial,
}
