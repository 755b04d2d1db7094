"""A lowered function as one worker that every thread of the team runs.

Outside parallel loops all threads walk the program together: scalars and views are computed by each, a
`serial` block is done by thread 0, the iterations of a parallel loop are drawn from a counter, and a
barrier ends either. Inside a parallel loop a thread is on its own. Tiles live in arenas laid out at
compile time: one that all share, and one for each thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod

from llvmlite import ir

from tilewright.codegen.llvm import matmul, moves, sync
from tilewright.codegen.llvm.abi import (
    ARGUMENTS,
    PHASES,
    PRIVATE_ARENAS,
    PRIVATE_STRIDE,
    RECORD,
    SHARED_ARENA,
    SYNC,
)
from tilewright.codegen.llvm.lanes import Lanes
from tilewright.codegen.llvm.places import (
    LINE,
    Arena,
    Extent,
    Panel,
    Place,
    tile_bytes,
    tile_strides,
)
from tilewright.codegen.llvm.rows import RowEmitter
from tilewright.codegen.llvm.scalars import emit_scalar
from tilewright.codegen.llvm.sweep import SweepEmitter
from tilewright.codegen.llvm.types import F32, I1, I8, I64, PTR, VOID, const, counted, intrinsic, memory_type, offset
from tilewright.dtypes import BOOL, DType
from tilewright.errors import CompilerBug
from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Value
from tilewright.ir.types import PanelType, ScalarType, TensorType, TileType
from tilewright.ir.walk import definitions, uses
from tilewright.machine import Machine
from tilewright.ir.aliases import loads_to_copy


@dataclass(slots=True)
class Layout:
    """What the caller of the machine code must provide."""

    shared_bytes: int = 0
    private_bytes: int = 0
    checks: list[Op] = field(default_factory=list)  # a failed check's number is its place here, from 1


class FunctionEmitter:
    """Emits `void worker(ptr words, i64 tid, i64 nthreads)`."""

    def __init__(self, module: ir.Module, function: Function, machine: Machine) -> None:
        self.module, self.function, self.machine = module, function, machine
        self.layout = Layout()
        self.defined = definitions(function)
        self.readers = uses(function)
        self.copies = loads_to_copy(function)
        self.owned: set[Value] = set()  # tiles whose place in the arena is theirs alone
        self.loops: list[Op] = []  # the loops around the current op, outermost first
        self.env: dict[Value, ir.Value | Place | Panel] = {}
        self.shared, self.private = Arena(), Arena()
        self.alone = False  # inside a parallel loop or a serial block: no other thread has a part in it
        self.arena = self.shared
        self.fetch: matmul.Fetch | None = None  # what the next product brings closer

        fn = ir.Function(module, ir.FunctionType(VOID, [PTR, I64, I64]), "worker")
        fn.attributes.add("nounwind")
        self.words, self.tid, self.nthreads = fn.args
        self.entry = fn.append_basic_block("entry")
        self.exit = fn.append_basic_block("exit")
        self.b = ir.IRBuilder(self.entry)
        self.lanes = Lanes(self.b, machine)
        self.shared_base = self.word(SHARED_ARENA)
        stride = self.b.ptrtoint(self.word(PRIVATE_STRIDE), I64)
        self.private_base = offset(self.b, self.word(PRIVATE_ARENAS), self.b.mul(self.tid, stride))
        self.sync = self.word(SYNC)
        self.phase = self.b.alloca(I64)
        self.b.store(const(I64, 0), self.phase)
        # Addresses in the arenas are computed in the entry block, where they reach all that follows.
        self.entry_end = self.b.branch(fn.append_basic_block("body"))
        self.b.position_at_end(fn.blocks[-1])

    def word(self, number: int) -> ir.Value:
        return self.b.load(offset(self.b, self.words, 8 * number), typ=PTR)

    def emit(self) -> Layout:
        for number, param in enumerate(self.function.params):
            self.env[param.value] = self.argument(param.value, ARGUMENTS + number)
        self.block(self.function.body)
        self.b.branch(self.exit)
        self.b.position_at_end(self.exit)
        self.b.ret_void()
        self.layout.shared_bytes, self.layout.private_bytes = self.shared.size, self.private.size
        return self.layout

    def argument(self, value: Value, number: int) -> ir.Value | Place | Panel:
        address = offset(self.b, self.words, 8 * number)
        if isinstance(value.type, TensorType):
            return self.tensor_place(self.b.load(address, typ=PTR), value.type)
        if isinstance(value.type, PanelType):
            return matmul.whole_panel(self, self.b.load(address, typ=PTR), value.type)
        assert isinstance(value.type, ScalarType)
        dtype = value.type.dtype
        return self.b.load(address, typ=F32 if dtype.is_float else I1 if dtype == BOOL else I64)

    # What operands are

    def scalar(self, x: Operand) -> ir.Value:
        """A scalar: i64 for integers, float for floats, i1 for BOOL."""
        if isinstance(x, Value):
            found = self.env[x]
            assert isinstance(found, ir.Value)
            return found
        if x.dtype.is_float:
            return Lanes.constant(F32, x.value)
        return const(I1 if x.dtype == BOOL else I64, int(x.value))

    def extent(self, x: Operand) -> Extent:
        """An integer scalar, as a Python int where it is a literal."""
        return int(x.value) if isinstance(x, Const) else self.scalar(x)

    def scalar_as(self, x: Operand, dtype: DType) -> ir.Value:
        """A scalar as one element of `dtype`, the way it lies in memory."""
        kind = memory_type(dtype)
        if isinstance(x, Const) and dtype.is_float and not x.dtype.is_float:
            x = Const(float(x.value), dtype)
        value = self.scalar(x)
        if dtype.is_float:
            if not x.type.dtype.is_float:  # type: ignore[union-attr]
                value = self.b.sitofp(value, F32)
            return self.lanes.narrow(dtype, value)
        if value.type == I1:
            return self.b.zext(value, kind)
        return self.b.trunc(value, kind) if kind.width < value.type.width else value

    def element_as_scalar(self, dtype: DType, element: ir.Value) -> ir.Value:
        """One element of memory as a scalar."""
        if dtype.is_float:
            return self.lanes.widen(dtype, element)
        if dtype == BOOL:
            return self.b.icmp_signed("!=", element, const(I8, 0))
        if element.type == I64:
            return element
        return self.b.sext(element, I64) if dtype.is_signed else self.b.zext(element, I64)

    def place(self, x: Operand) -> Place:
        found = self.env[x]  # type: ignore[index]
        assert isinstance(found, Place), f"{x} has no place"
        return found

    def panel(self, x: Operand) -> Panel:
        found = self.env[x]  # type: ignore[index]
        assert isinstance(found, Panel)
        return found

    @staticmethod
    def tensor_place(address: ir.Value, type: TensorType) -> Place:
        strides = tuple(stride * type.dtype.nbytes for stride in type.strides)
        return Place(address, type.dtype, type.shape, strides, type.shape)

    def window_place(self, op: Op) -> Place:
        """The window that a load reads or a store writes, in the shape of its tile."""
        first = 1 if op.name == "load" else 2
        tensor = self.place(op.operands[first - 1])
        rank = len(tensor.shape)
        starts = [self.extent(x) for x in op.operands[first : first + rank]]
        counts = [self.extent(x) for x in op.operands[first + rank :]]
        return self.cut(tensor, starts, op.attr("shape"), op.attr("drop") or (), counts)

    def cut(
        self,
        source: Place,
        starts: Sequence[Extent],
        shape: Sequence[int],
        drop: Sequence[int] = (),
        counts: Sequence[Extent] | None = None,
    ) -> Place:
        """A window of a place; `counts` are its valid extents (all of it when None)."""
        kept = [axis for axis in range(len(shape)) if axis not in drop]
        valid = tuple(shape if counts is None else counts)
        return Place(
            source.at(self.b, starts),
            source.dtype,
            tuple(shape[axis] for axis in kept),
            tuple(source.strides[axis] for axis in kept),
            tuple(valid[axis] for axis in kept),
            padded=False,
        )

    # Fresh memory

    def reserve(self, nbytes: int) -> ir.Value:
        """The address of fresh bytes in the current arena; it may be used anywhere later."""
        base = self.shared_base if self.arena is self.shared else self.private_base
        start = self.arena.take(nbytes)
        entry = ir.IRBuilder(self.entry)
        entry.position_before(self.entry_end)
        return offset(entry, base, start)

    def new_tile(self, type: TileType) -> Place:
        return Place(
            self.reserve(tile_bytes(type)), type.dtype, type.shape, tile_strides(type.shape, type.dtype), type.shape, True
        )

    def spare(self) -> ir.Value:
        """A cache line that may be read when there is nothing to read."""
        return self.reserve(LINE)

    def new_tensor(self, op: Op) -> Place:
        type = op.result.type
        assert isinstance(type, TensorType)
        nbytes = prod(type.shape) * type.dtype.nbytes
        place = self.tensor_place(self.reserve(nbytes + LINE), type)
        if op.attr("fill", True):
            value = op.attr("value")
            if not value:
                self.on_one_thread(lambda: self.clear(place.address, nbytes))
            else:
                element = self.scalar_as(Const(value, type.dtype), type.dtype)
                self.on_one_thread(lambda: moves.fill(self, place, element))
        return place

    def clear(self, address: ir.Value, nbytes: int) -> None:
        memset = intrinsic(self.module, "llvm.memset.p0.i64", VOID, [PTR, I8, I64, I1])
        self.b.call(memset, [address, const(I8, 0), const(I64, nbytes), const(I1, 0)])

    def owned_tile(self, x: Operand) -> Place:
        """A place with the contents of `x` that may be changed: x's own when nobody reads it again."""
        return self.place(x) if self.read_once(x) else self.copied(x)

    def read_once(self, x: Operand) -> bool:
        """True when `x` has a place of its own and the op that reads it now is the last to do so: the only
        reader, and not one in a loop that comes back to it."""
        if not isinstance(x, Value) or x not in self.owned or len(self.readers.get(x, ())) != 1:
            return False
        return sum(owner.name == "for" for owner in self.defined[x].path) == len(self.loops)

    def copied(self, x: Operand) -> Place:
        target = self.new_tile(x.type)  # type: ignore[arg-type]
        RowEmitter(self).copy(target, self.place(x))
        return target

    # Threads

    def barrier(self) -> None:
        """Wait for the others; leave when one of them gave up."""
        barrier = sync.barrier(self.module, self.machine)
        met = self.b.call(barrier, [self.sync, self.nthreads])
        onward = self.b.append_basic_block("met")
        self.b.cbranch(met, onward, self.exit)
        self.b.position_at_end(onward)

    def on_one_thread(self, body: Callable[[], None]) -> None:
        """`body` by this thread when it is alone, else by thread 0 while the others wait."""
        if self.alone:
            body()
            return
        first = self.b.icmp_signed("==", self.tid, const(I64, 0))
        with self.b.if_then(first), self.by_itself(self.shared):
            body()
        self.barrier()

    @contextmanager
    def by_itself(self, arena: Arena) -> Iterator[None]:
        before = self.alone, self.arena
        self.alone, self.arena = True, arena
        try:
            yield
        finally:
            self.alone, self.arena = before

    def serial(self, op: Op) -> None:
        block = op.blocks[0]
        slots: list[ir.Value | Place | Panel] = []

        def body() -> None:
            self.block(block)
            for result, x in zip(op.results, block.ops[-1].operands, strict=True):
                if isinstance(result.type, TileType):
                    slots.append(self.place(x) if x in self.owned else self.copied(x))
                elif isinstance(result.type, PanelType):
                    slots.append(self.panel(x))
                else:
                    slot = self.reserve(8)
                    self.b.store(self.scalar(x), slot)
                    slots.append(slot)

        if op.results:
            self.on_one_thread(body)
        else:
            with self.shared.scope():
                self.on_one_thread(body)
        for result, slot in zip(op.results, slots, strict=True):
            if isinstance(result.type, ScalarType):
                assert isinstance(slot, ir.Value)
                dtype = result.type.dtype
                slot = self.b.load(slot, typ=F32 if dtype.is_float else I1 if dtype == BOOL else I64)
            self.env[result] = slot
            self.owned.add(result)
        if not self.alone and any(isinstance(result.type, ScalarType) for result in op.results):
            self.barrier()  # thread 0 must not reuse a slot that another thread has yet to read

    def parallel(self, op: Op) -> None:
        """Each thread has a stretch of the iterations, drawn from a counter in order; a thread that is done
        draws from the others' stretches. So neighbouring iterations mostly follow each other on one
        thread, which can fetch ahead, and none waits while there is work.

        Counters come in two sets that take turns: a thread sets its own back behind the barrier, and that
        set is used again only behind the next one.
        """
        b = self.b
        start, _, step = (self.scalar(x) for x in op.operands[:3])
        trips = self.trips(op)
        phase = b.load(self.phase, typ=I64)
        b.store(b.add(phase, const(I64, 1)), self.phase)
        first_counter = b.mul(b.and_(phase, const(I64, PHASES - 1)), self.nthreads)
        counters = offset(b, sync.counter(b, self.sync, 0), b.mul(first_counter, const(I64, LINE)))
        body = op.blocks[0]
        with counted(b, 0, self.nthreads, name="owner") as loop:
            owner = b.srem(b.add(self.tid, loop.i), self.nthreads)
            low = b.sdiv(b.mul(owner, trips), self.nthreads)
            high = b.sdiv(b.mul(b.add(owner, const(I64, 1)), trips), self.nthreads)
            counter = offset(b, counters, b.mul(owner, const(I64, LINE)))
            draw, work, done = (b.append_basic_block(name) for name in ("draw", "work", "done"))
            b.branch(draw)
            b.position_at_end(draw)
            number = b.add(low, sync.grab(b, counter))
            b.cbranch(b.icmp_signed("<", number, high), work, done)
            b.position_at_end(work)
            self.env[body.args[0]] = b.add(start, b.mul(number, step))
            with self.by_itself(self.private), self.private.scope():
                self.block(body)
            b.branch(draw)
            b.position_at_end(done)
        self.barrier()
        mine = offset(b, counters, b.mul(self.tid, const(I64, LINE)))
        b.atomic_rmw("xchg", mine, const(I64, 0), "monotonic")

    # Checks

    def fail_unless(self, condition: ir.Value, check: Op, seen: Sequence[ir.Value]) -> None:
        """Stop the launch with a record of the check and what it saw."""
        b = self.b
        self.layout.checks.append(check)
        number = len(self.layout.checks)
        good, bad = b.append_basic_block("good"), b.append_basic_block("bad")
        b.cbranch(condition, good, bad).set_weights([1 << 20, 1])
        b.position_at_end(bad)
        record = b.load(offset(b, self.words, 8 * RECORD), typ=PTR)
        won = b.cmpxchg(record, const(I64, 0), const(I64, number), "monotonic")
        with b.if_then(b.extract_value(won, 1)):
            for i, value in enumerate(seen, 1):
                b.store(value, offset(b, record, 8 * i))
        sync.abort(b, self.sync)
        b.branch(self.exit)
        b.position_at_end(good)

    def check_window(self, op: Op) -> None:
        b, rank = self.b, len(op.attr("extents"))
        values = [self.scalar(x) for x in op.operands]
        ok: ir.Value = const(I1, 1)
        for extent, start, count in zip(op.attr("extents"), values[:rank], values[rank:], strict=True):
            zero, end = const(I64, 0), const(I64, extent)
            # start <= extent first, so that start + count cannot overflow
            bits = (
                b.icmp_signed(">=", start, zero),
                b.icmp_signed("<=", start, end),
                b.icmp_signed(">=", count, zero),
                b.icmp_signed("<=", count, b.sub(end, start)),
            )
            for bit in bits:
                ok = b.and_(ok, bit)
        self.fail_unless(ok, op, values)

    # Blocks and ops

    def block(self, block: Block) -> None:
        for op in block.ops:
            self.op(op)

    def op(self, op: Op) -> None:
        if op.name.startswith("s."):
            self.env[op.result] = emit_scalar(self, op)
            return
        emit = _EMITTERS.get(op.name)
        if emit is None:
            raise CompilerBug(f"the native back end has no code for {op.name}", str(op))
        if op.name == "for":
            self.loops.append(op)
        emit(self, op)
        if op.name == "for":
            self.loops.pop()

    def at(self, op: Op) -> None:
        self.block(op.blocks[0])
        for result, x in zip(op.results, op.blocks[0].ops[-1].operands, strict=True):
            self.env[result] = self.scalar(x) if isinstance(x, Const) else self.env[x]
            if self.read_once(x):
                self.owned.add(result)

    def loop(self, op: Op) -> None:
        if op.attr("kind") in ("parallel", "spmd") and not self.alone:
            self.parallel(op)
            return
        body = op.blocks[0]
        carried = list(zip(op.results, body.args[1:], op.operands[3:], body.ops[-1].operands, strict=True))
        tiles = [c for c in carried if isinstance(c[0].type, TileType)]
        for result, arg, first, _ in tiles:
            home = self.new_tile(result.type)  # type: ignore[arg-type]
            source = self.place(first)
            self.on_one_thread(lambda home=home, source=source: RowEmitter(self).copy(home, source))  # type: ignore[misc]
            self.env[arg] = self.env[result] = home
            self.owned.update((arg, result))
        others = [c for c in carried if not isinstance(c[0].type, TileType)]
        start, step = self.scalar(op.operands[0]), self.scalar(op.operands[2])
        firsts = [self.phi_value(first) for _, _, first, _ in others]
        with counted(self.b, 0, self.trips(op), 1, firsts, name="i") as loop:
            self.env[body.args[0]] = self.b.add(start, self.b.mul(loop.i, step))
            for (_, arg, first, _), value in zip(others, loop.carried, strict=True):
                self.env[arg] = self.from_phi(arg, value, first)
            with self.arena.scope():
                self.block(body)
                self.carry_tiles([(self.place(arg), x) for _, arg, _, x in tiles])
                loop.next = [self.phi_value(x) for _, _, _, x in others]
        for (result, _, first, _), value in zip(others, loop.results, strict=True):
            self.env[result] = self.from_phi(result, value, first)

    def trips(self, op: Op) -> ir.Value:
        """How often a loop runs, Python's count; a step of 0 stops the launch."""
        b = self.b
        start, stop, step = (self.scalar(x) for x in op.operands[:3])
        if all(isinstance(x, Const) for x in op.operands[:3]):
            values = [int(x.value) for x in op.operands[:3]]  # type: ignore[union-attr]
            return const(I64, len(range(*values)))
        zero, one = const(I64, 0), const(I64, 1)
        if not isinstance(op.operands[2], Const):
            self.fail_unless(b.icmp_signed("!=", step, zero), op, [step])
        down = b.icmp_signed("<", step, zero)
        size = b.select(down, b.sub(zero, step), step)
        distance = b.select(down, b.sub(start, stop), b.sub(stop, start))
        count = b.sdiv(b.add(distance, b.sub(size, one)), size)
        return b.select(b.icmp_signed("<", distance, one), zero, count)

    def carry_tiles(self, pairs: Sequence[tuple[Place, Operand]]) -> None:
        """Put yielded tiles where the next iteration looks for them, as if all at once."""
        moving = [(home, self.place(x)) for home, x in pairs if self.place(x).address is not home.address]
        if len(moving) > 1:  # one may be the old contents of another's home
            moving = [(home, self.copied_place(source)) for home, source in moving]
        for home, source in moving:
            self.on_one_thread(lambda home=home, source=source: RowEmitter(self).copy(home, source))  # type: ignore[misc]

    def copied_place(self, source: Place) -> Place:
        target = self.new_tile(TileType(source.shape, source.dtype))
        self.on_one_thread(lambda: RowEmitter(self).copy(target, source))
        return target

    def phi_value(self, x: Operand) -> ir.Value:
        """What a phi carries for `x`: a scalar, or the address of a tensor."""
        return self.place(x).address if isinstance(x.type, TensorType) else self.scalar(x)

    def from_phi(self, value: Value, carried: ir.Value, like: Operand) -> ir.Value | Place:
        if isinstance(value.type, TensorType):
            return self.tensor_place(carried, value.type)
        return carried

    def branch(self, op: Op) -> None:
        b = self.b
        homes = {r: self.new_tile(r.type) for r in op.results if isinstance(r.type, TileType)}
        others = [r for r in op.results if r not in homes]
        then, otherwise, after = (b.append_basic_block(name) for name in ("then", "else", "endif"))
        b.cbranch(self.scalar(op.operands[0]), then, otherwise)
        incoming = []
        for start, block in zip((then, otherwise), op.blocks, strict=True):
            b.position_at_end(start)
            with self.arena.scope():
                self.block(block)
                given = dict(zip(op.results, block.ops[-1].operands, strict=True))
                for result, home in homes.items():
                    source = self.place(given[result])
                    self.on_one_thread(lambda home=home, source=source: RowEmitter(self).copy(home, source))  # type: ignore[misc]
                incoming.append(([self.phi_value(given[r]) for r in others], b.block))
            b.branch(after)
        b.position_at_end(after)
        for i, result in enumerate(others):
            phi = b.phi(incoming[0][0][i].type)
            for values, block in incoming:
                phi.add_incoming(values[i], block)
            self.env[result] = self.from_phi(result, phi, op.blocks[0].ops[-1].operands[op.results.index(result)])
        self.env.update(homes)
        self.owned.update(homes)

    def sweep(self, op: Op) -> None:
        places = SweepEmitter(self, op).emit()
        for result, place in zip(op.results, places, strict=True):
            self.env[result] = place
            self.owned.add(result)

    def load(self, op: Op) -> None:
        """The window itself where it may be read in place, else a copy of it."""
        source = self.window_place(op)
        self.env[op.result] = source
        scattered = source.strides[-1] != source.dtype.nbytes and source.shape[-1] != 1
        if not scattered and op.result not in self.copies:
            return
        target = self.new_tile(op.result.type)  # type: ignore[arg-type]
        if scattered:
            self.on_one_thread(lambda: moves.gather_elements(self, target, source))
        else:
            self.on_one_thread(lambda: RowEmitter(self).copy(target, source))
        self.env[op.result] = target
        self.owned.add(op.result)

    def view(self, op: Op) -> None:
        source = self.place(op.operands[0])
        type = op.result.type
        assert isinstance(type, TensorType)
        address = source.address
        if op.name == "window":
            address = source.at(self.b, [self.extent(x) for x in op.operands[1:]])
        self.env[op.result] = self.tensor_place(address, type)

    def create(self, op: Op) -> None:
        self.env[op.result] = self.new_tensor(op)

    def read(self, op: Op) -> None:
        place = self.place(op.operands[0])
        address = place.at(self.b, [self.extent(x) for x in op.operands[1:]])
        element = self.b.load(address, typ=memory_type(place.dtype))
        self.env[op.result] = self.element_as_scalar(place.dtype, element)

    def write(self, op: Op) -> None:
        place = self.place(op.operands[0])
        address = place.at(self.b, [self.extent(x) for x in op.operands[2:]])
        self.b.store(self.scalar_as(op.operands[1], place.dtype), address)

    def check_that(self, op: Op) -> None:
        self.fail_unless(self.scalar(op.operands[0]), op, [])

    def nothing(self, op: Op) -> None:
        """`yield` is read by the owner of its block; `return` only names tensors."""


_EMITTERS: dict[str, Callable[[FunctionEmitter, Op], None]] = {
    "at": FunctionEmitter.at,
    "for": FunctionEmitter.loop,
    "if": FunctionEmitter.branch,
    "serial": FunctionEmitter.serial,
    "sweep": FunctionEmitter.sweep,
    "load": FunctionEmitter.load,
    "window": FunctionEmitter.view,
    "reshape_view": FunctionEmitter.view,
    "transpose_view": FunctionEmitter.view,
    "create": FunctionEmitter.create,
    "read": FunctionEmitter.read,
    "write": FunctionEmitter.write,
    "check_window": FunctionEmitter.check_window,
    "check_that": FunctionEmitter.check_that,
    "yield": FunctionEmitter.nothing,
    "return": FunctionEmitter.nothing,
    **matmul.EMITTERS,
    **moves.EMITTERS,
}

