"""The dtypes of the language as LLVM types, and the few builder idioms that every emitter shares.

Pointers are opaque (`ptr`), so loads name their type and addresses are computed in bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from llvmlite import ir
from llvmlite.ir.values import MDValue

from tilewright.dtypes import (
    BF16,
    BOOL,
    FP8E4M3FN,
    FP8E5M2,
    FP16,
    FP32,
    INDEX,
    INT8,
    INT16,
    INT32,
    INT64,
    TASK_ID,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    DType,
)


class BFloatType(ir.types.Type):
    """LLVM's `bfloat`, which llvmlite does not name. Used as a vector element only."""

    null = "0.0"
    intrinsic_name = "bf16"

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloatType)

    def __hash__(self) -> int:
        return hash(BFloatType)


I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F16, F32, BFLOAT = ir.HalfType(), ir.FloatType(), BFloatType()
PTR, VOID = ir.PointerType(), ir.VoidType()

# BF16 and FP8 live in memory and in tiles as bits; what computes on it names `BFLOAT` itself.
MEMORY: dict[DType, ir.Type] = {
    FP32: F32,
    FP16: F16,
    BF16: I16,
    FP8E4M3FN: I8,
    FP8E5M2: I8,
    INT8: I8,
    UINT8: I8,
    BOOL: I8,
    INT16: I16,
    UINT16: I16,
    INT32: I32,
    UINT32: I32,
    INT64: I64,
    UINT64: I64,
    INDEX: I64,
    TASK_ID: I64,
}


def memory_type(dtype: DType) -> ir.Type:
    """The LLVM type of one element in memory."""
    return MEMORY[dtype]


def scalar_kind(dtype: DType) -> ir.Type:
    """What a scalar of `dtype` is held in: FP32, one bit, or 64 bits."""
    return F32 if dtype.is_float else I1 if dtype == BOOL else I64


def vector(element: ir.Type, lanes: int) -> ir.VectorType:
    return ir.VectorType(element, lanes)


def const(kind: ir.IntType, value: int) -> ir.Constant:
    """An integer constant, wrapped into the signed range that LLVM prints."""
    half = 1 << (kind.width - 1)
    return ir.Constant(kind, (value + half) % (2 * half) - half if kind.width > 1 else value & 1)


def const_vector(element: ir.IntType, values: Sequence[int]) -> ir.Constant:
    return ir.Constant(vector(element, len(values)), [const(element, v) for v in values])


def const_splat(element: ir.IntType, value: int, lanes: int) -> ir.Constant:
    return const_vector(element, [value] * lanes)


def zero(kind: ir.Type) -> ir.Constant:
    """All bits zero, of any type."""
    return ir.Constant(kind, None)


def index(value: int | ir.Value) -> ir.Value:
    """An i64, from a Python integer or as it is."""
    return const(I64, value) if isinstance(value, int) else value


def offset(builder: ir.IRBuilder, base: ir.Value, nbytes: int | ir.Value) -> ir.Value:
    """`base + nbytes`, in bytes."""
    if isinstance(nbytes, int) and nbytes == 0:
        return base
    return builder.gep(base, [index(nbytes)], source_etype=I8)


def opaque(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The same value, about which LLVM knows nothing."""
    kind = ir.FunctionType(value.type, [value.type])
    return builder.asm(kind, "", "=r,0", [value], side_effect=False)


def same_place(builder: ir.IRBuilder, place: ir.Value) -> ir.Value:
    """A pointer that LLVM takes for another one."""
    return builder.asm(ir.FunctionType(PTR, [PTR]), "", "=r,0", [place], side_effect=False)


def fetch(builder: ir.IRBuilder, place: ir.Value) -> None:
    """Ask for the cache line at an address, which need not exist, to come into the second-level cache."""
    prefetch = intrinsic(builder.module, "llvm.prefetch.p0", VOID, [PTR, I32, I32, I32])
    read, second_level, data = const(I32, 0), const(I32, 2), const(I32, 1)
    builder.call(prefetch, [place, read, second_level, data])


def splat(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    """A vector with `value` in every lane."""
    kind = vector(value.type, lanes)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, const(I32, 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zero(vector(I32, lanes)))


def shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
    """Pick lanes out of a (0..) followed by b."""
    return builder.shuffle_vector(a, b, const_vector(I32, lanes))


def minimum(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """The smaller of two signed integers."""
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def clamp(builder: ir.IRBuilder, value: ir.Value, high: int) -> ir.Value:
    """value held to 0 .. high."""
    low = builder.select(builder.icmp_signed("<", value, index(0)), index(0), value)
    return minimum(builder, low, index(high))


def intrinsic(
    module: ir.Module, name: str, result: ir.Type, args: Sequence[ir.Type]
) -> ir.Function:
    """An LLVM intrinsic or an outside function, declared once per module."""
    found = module.globals.get(name)
    if found is not None:
        return found
    return ir.Function(module, ir.FunctionType(result, args), name)


def define(
    module: ir.Module,
    name: str,
    result: ir.Type,
    args: Sequence[tuple[str, ir.Type]],
    *,
    noalias: bool = True,
) -> ir.Function:
    """A module-internal function with named arguments. Its pointers are promised not to overlap."""
    fn = ir.Function(module, ir.FunctionType(result, [kind for _, kind in args]), name)
    fn.linkage = "internal"
    fn.attributes.add("nounwind")
    for arg, (arg_name, kind) in zip(fn.args, args, strict=True):
        arg.name = arg_name
        if noalias and isinstance(kind, ir.PointerType):
            arg.add_attribute("noalias")
    return fn


class _LoopId(MDValue):
    """A loop's metadata node: distinct, and its first operand is itself."""

    def descr(self, buf: list[str]) -> None:
        operands = ", ".join([self.get_reference(), *(op.get_reference() for op in self.operands)])
        buf += (f"distinct !{{ {operands} }}", "\n")


def keep_rolled(module: ir.Module, branch: ir.Instruction) -> None:
    """Tell LLVM neither to unroll nor to vectorise the loop that `branch` closes."""
    hints = [
        module.add_metadata(["llvm.loop.unroll.disable"]),
        module.add_metadata(["llvm.loop.vectorize.enable", I1(0)]),
    ]
    branch.set_metadata("llvm.loop", _LoopId(module, hints, name=str(len(module.metadata))))


@dataclass(slots=True)
class Loop:
    """A loop being emitted: its counter, the values carried in, and (set by the body) those carried
    on.
    """

    i: ir.Value
    carried: list[ir.Value]
    next: list[ir.Value] = field(default_factory=list)
    results: list[ir.Value] = field(default_factory=list)


@contextmanager
def counted(
    builder: ir.IRBuilder,
    start: int | ir.Value,
    stop: int | ir.Value,
    step: int = 1,
    carried: Sequence[ir.Value] = (),
    name: str = "loop",
) -> Iterator[Loop]:
    """`for i in range(start, stop, step)`, never unrolled by LLVM.

    The body sets `loop.next` (one value for each of `carried`); after the block `loop.results` are
    the last values, or `carried` when the loop did not run. The builder is then behind the loop.
    """
    start, stop = index(start), index(stop)
    before = builder.block
    head = builder.append_basic_block(f"{name}.body")
    after = builder.append_basic_block(f"{name}.end")
    builder.cbranch(builder.icmp_signed("<", start, stop), head, after)
    builder.position_at_end(head)
    i = builder.phi(I64, name)
    i.add_incoming(start, before)
    phis = [builder.phi(value.type) for value in carried]
    for phi, value in zip(phis, carried, strict=True):
        phi.add_incoming(value, before)
    loop = Loop(i, list(phis))
    yield loop
    following = builder.add(i, index(step), flags=("nsw",))
    i.add_incoming(following, builder.block)
    for phi, value in zip(phis, loop.next, strict=True):
        phi.add_incoming(value, builder.block)
    latch = builder.block
    branch = builder.cbranch(builder.icmp_signed("<", following, stop), head, after)
    keep_rolled(builder.module, branch)
    builder.position_at_end(after)
    for value, onward in zip(carried, loop.next, strict=True):
        result = builder.phi(value.type)
        result.add_incoming(value, before)
        result.add_incoming(onward, latch)
        loop.results.append(result)


def once(module: ir.Module, name: str, emit: Callable[[], ir.Function]) -> ir.Function:
    """The function `name` of the module, emitted when it is not there yet."""
    found = module.globals.get(name)
    return found if found is not None else emit()
