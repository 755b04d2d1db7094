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

from tilewright.codegen.llvm import checks, control, gather, matmul, moves, reduce, sort, sync
from tilewright.codegen.llvm.abi import (
    ARGUMENTS,
    PRIVATE_ARENAS,
    PRIVATE_STRIDE,
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
from tilewright.codegen.llvm.types import (
    F32,
    I1,
    I8,
    I64,
    PTR,
    VOID,
    const,
    intrinsic,
    memory_type,
    offset,
    scalar_kind,
)  # fmt: skip
from tilewright.dtypes import BOOL, DType
from tilewright.errors import CompilerBug
from tilewright.ir.aliases import loads_to_copy
from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Value
from tilewright.ir.typed import scalar_type_of, tensor_type_of, tile_type_of
from tilewright.ir.types import PanelType, ScalarType, TensorType, TileType
from tilewright.ir.walk import LOOPS, definitions, uses
from tilewright.machine import Machine


@dataclass(slots=True)
class Layout:
    """What the caller of the machine code must provide."""

    shared_bytes: int = 0
    private_bytes: int = 0
    # A failed check's number is its place here, from 1.
    checks: list[Op] = field(default_factory=list)


class FunctionEmitter:
    """Emits `void worker(ptr words, i64 tid, i64 nthreads)`."""

    def __init__(self, module: ir.Module, function: Function, machine: Machine) -> None:
        self.module, self.function, self.machine = module, function, machine
        self.layout = Layout()
        self.defined = definitions(function)
        self.readers = uses(function)
        self.copies = loads_to_copy(function)
        self.owned: set[Operand] = set()  # tiles whose place in the arena is theirs alone
        self.loops: list[Op] = []  # the loops around the current op, outermost first
        self.env: dict[Operand, ir.Value | Place | Panel] = {}
        self.shared, self.private = Arena(), Arena()
        # Inside a parallel loop or a serial block: no other thread has a part in it.
        self.alone = False
        self.arena = self.shared

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
        return self.b.load(address, typ=scalar_kind(value.type.dtype))

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
            if not scalar_type_of(x).dtype.is_float:
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
        found = self.env[x]
        assert isinstance(found, Place), f"{x} has no place"
        return found

    def panel(self, x: Operand) -> Panel:
        found = self.env[x]
        assert isinstance(found, Panel)
        return found

    @staticmethod
    def tensor_place(address: ir.Value, kind: TensorType) -> Place:
        strides = tuple(stride * kind.dtype.nbytes for stride in kind.strides)
        return Place(address, kind.dtype, kind.shape, strides, kind.shape)

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

    def new_tile(self, kind: TileType) -> Place:
        strides = tile_strides(kind.shape, kind.dtype)
        address = self.reserve(tile_bytes(kind))
        return Place(address, kind.dtype, kind.shape, strides, kind.shape, padded=True)

    def spare(self) -> ir.Value:
        """A cache line that may be read when there is nothing to read."""
        return self.reserve(LINE)

    def new_tensor(self, op: Op) -> Place:
        """A tensor of the kernel's own, filled unless nobody looks at the fill."""
        kind = tensor_type_of(op.result)
        nbytes = prod(kind.shape) * kind.dtype.nbytes
        place = self.tensor_place(self.reserve(nbytes + LINE), kind)
        if op.attr("fill", True):
            value = op.attr("value")
            if not value:
                self.on_one_thread(lambda: self.clear(place.address, nbytes))
            else:
                element = self.scalar_as(Const(value, kind.dtype), kind.dtype)
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
        return sum(owner.name in LOOPS for owner in self.defined[x].path) == len(self.loops)

    def copied(self, x: Operand) -> Place:
        target = self.new_tile(tile_type_of(x))
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
        if op.name in LOOPS:
            self.loops.append(op)
        emit(self, op)
        if op.name in LOOPS:
            self.loops.pop()

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
        target = self.new_tile(tile_type_of(op.result))
        self.on_one_thread(lambda: moves.copy_anyhow(self, target, source))
        self.env[op.result] = target
        self.owned.add(op.result)

    def view(self, op: Op) -> None:
        source = self.place(op.operands[0])
        address = source.address
        if op.name == "window":
            address = source.at(self.b, [self.extent(x) for x in op.operands[1:]])
        self.env[op.result] = self.tensor_place(address, tensor_type_of(op.result))

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

    def nothing(self, op: Op) -> None:
        """`yield` is read by the owner of its block; `return` only names tensors."""


_EMITTERS: dict[str, Callable[[FunctionEmitter, Op], None]] = {
    "sweep": FunctionEmitter.sweep,
    "load": FunctionEmitter.load,
    "window": FunctionEmitter.view,
    "reshape_view": FunctionEmitter.view,
    "transpose_view": FunctionEmitter.view,
    "create": FunctionEmitter.create,
    "read": FunctionEmitter.read,
    "write": FunctionEmitter.write,
    "yield": FunctionEmitter.nothing,
    "return": FunctionEmitter.nothing,
    **checks.EMITTERS,
    **control.EMITTERS,
    **gather.EMITTERS,
    **matmul.EMITTERS,
    **moves.EMITTERS,
    **reduce.EMITTERS,
    **sort.EMITTERS,
}
