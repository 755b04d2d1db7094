"""The MR x NR inner loop of a matrix product, for every dtype and instruction set.

    C[m, 16 nr] (+)= A[m, K] * panel[K, 16 nr]

A lies in memory as it is: rows of BF16, FP16, FP32 or INT8, `a_row_bytes` apart, read a group at a
time. B has been packed (codegen/llvm/pack.py). C is FP32 or INT32, row-major; all 16 nr columns are
written.

Each element of C has one accumulator that takes the groups of K in order, so its bits depend on K
and on the instruction set, never on m, nr or its place in the tile. A chain of `acc=True` calls
over neighbouring pieces of K gives the bits of one call over all of it (pieces end on a group
boundary).

Where K is not a multiple of `k_group`, the last group reads on past K: the caller sees to it that A
is readable there, and zero (INT8 may hold anything there: the panel's zeros make it count for
nothing).
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from tilewright.blocking import LANES, register_tile, way_of
from tilewright.codegen.llvm import isa as ways
from tilewright.codegen.llvm import isa_arm as arm
from tilewright.codegen.llvm.isa import Isa
from tilewright.codegen.llvm.types import (
    I8,
    I32,
    I64,
    PTR,
    VOID,
    const,
    const_splat,
    counted,
    define,
    intrinsic,
    offset,
    once,
    splat,
    vector,
    zero,
)
from tilewright.dtypes import DType
from tilewright.machine import Machine

# The code of every way of multiplying that tilewright/blocking.py names.
ISAS: dict[str, type[Isa]] = {
    isa.name: isa
    for isa in (
        ways.Int8Vnni,
        ways.Int8Madd,
        ways.Int8Dot,
        ways.Int8Plain,
        ways.Bf16Dot,
        ways.Bf16DotArm,
        ways.Bf16Wide,
        ways.Fp16Wide,
        ways.Fma,
        arm.Int8Matrix,
        arm.Bf16Matrix,
    )
}

# Groups of K in one turn of the loop. Against one, two gain 30 % in the 1 x 4 tile of decode and
# nothing in large ones; four add 1 % at most and cost a third more compile time
# (benchmarks/microkernel.py).
UNROLL = 2


@dataclass(frozen=True, slots=True)
class Kernel:
    """A family of microkernels: one dtype on one instruction set.

    mr, nr: the largest tile, in rows and in vectors of 16 columns; `nr` is also the width of a
    panel block.
    """

    isa: Isa
    mr: int
    nr: int

    @property
    def name(self) -> str:
        return self.isa.label

    @property
    def dtype(self) -> DType:
        """Of A and B."""
        return self.isa.dtype

    @property
    def accumulator(self) -> DType:
        """Of C."""
        return self.isa.accumulator

    @property
    def k_group(self) -> int:
        return self.isa.k_group

    @property
    def group_bytes(self) -> int:
        """Bytes of one group of one row of A, or of one column of the panel."""
        return self.isa.k_group * self.isa.dtype.nbytes

    @property
    def needs_init(self) -> bool:
        """Whether `init` must hold what `rowsum` computes; otherwise it is not read and may be
        null.
        """
        return self.isa.xor != 0

    def k_groups(self, k: int) -> int:
        return -(-k // self.isa.k_group)

    def block_bytes(self, k: int) -> int:
        """Bytes of one full panel block, and the distance from one to the next."""
        return self.k_groups(k) * self.group_bytes * LANES * self.nr

    def panel_bytes(self, k: int, n: int) -> int:
        """Bytes of the whole panel of a [k, n] matrix."""
        return self.k_groups(k) * self.group_bytes * LANES * -(-n // LANES)

    def blocks(self, n: int) -> int:
        """How many column blocks a panel of n columns has."""
        return -(-n // (LANES * self.nr))

    def block_nr(self, n: int, j: int) -> int:
        """Vectors of 16 columns in block j: `nr`, or fewer in the last block."""
        return min(self.nr, -(-(n - j * LANES * self.nr) // LANES))

    def microkernel(self, module: ir.Module, m: int, nr: int, acc: bool = False) -> ir.Function:
        """`void mk(a, a_row_bytes: i64, panel, c, c_row_bytes: i64, k_groups: i64, init)`.

        1 <= m <= mr, 1 <= nr <= self.nr; `panel` is the start of a block whose own nr this is.
        acc: start from what C holds instead of from zero. init: i32[m] from `rowsum`, if
        `needs_init`.
        """
        if not (1 <= m <= self.mr and 1 <= nr <= self.nr):
            raise ValueError(
                f"tile {m} x {nr} of {self.name}, which goes up to {self.mr} x {self.nr}"
            )
        name = f"mk_{self.name}_{m}x{nr}{'_acc' if acc else ''}"
        return once(module, name, lambda: _emit_tile(module, name, self, m, nr, acc))

    def rowsum(self, module: ir.Module) -> ir.Function:
        """`void rowsum(a, a_row_bytes: i64, m: i64, k_groups: i64, init)`: init[i] = -128 *
        sum(A[i, :]).
        """
        name = f"rowsum_{self.name}"
        return once(module, name, lambda: _emit_rowsum(module, name, self))

    def pack(self, module: ir.Module, trans: bool = False) -> ir.Function:
        """The function that packs blocks of B; see codegen/llvm/pack.py."""
        from tilewright.codegen.llvm.pack import emit_pack

        name = f"pack_{self.name}_{self.nr}{'_trans' if trans else ''}"
        return once(module, name, lambda: emit_pack(module, name, self, trans))


def choose(dtype: DType, machine: Machine) -> Kernel:
    """The best family for `dtype` operands on this machine. Raises ValueError for a dtype without
    products.
    """
    way = way_of(dtype, machine)
    mr, nr = register_tile(way, machine)
    return Kernel(ISAS[way.name](way.part, *way.options), mr, nr)


def _emit_tile(
    module: ir.Module, name: str, kernel: Kernel, m: int, nr: int, acc: bool
) -> ir.Function:
    way = kernel.isa
    fn = define(
        module,
        name,
        VOID,
        [
            ("a", PTR),
            ("a_row_bytes", I64),
            ("panel", PTR),
            ("c", PTR),
            ("c_row_bytes", I64),
            ("k_groups", I64),
            ("init", PTR),
        ],
    )
    fn.attributes.add("noinline")  # its registers are its own; a caller's would make it spill
    a, a_row_bytes, panel, c, c_row_bytes, k_groups, init = fn.args
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    parts = nr * LANES // way.part
    part_bytes = way.part * kernel.group_bytes
    row_a = [offset(b, a, b.mul(a_row_bytes, const(I64, i))) for i in range(m)]
    row_c = [offset(b, c, b.mul(c_row_bytes, const(I64, i))) for i in range(m)]

    # Rows that share their accumulators: one, or two under a matrix instruction.
    strips = [range(i, min(i + way.tall, m)) for i in range(0, m, way.tall)]

    def place_c(strip: range, v: int) -> list[ir.Value]:
        return [offset(b, row_c[i], v * way.part * 4) for i in strip]

    start = []
    for strip in strips:
        first = zero(way.acc_type())
        if kernel.needs_init:
            first = splat(b, b.load(offset(b, init, 4 * strip[0]), typ=I32, align=4), way.part)
        for v in range(parts):
            value = first
            if acc:
                value = way.load_c(b, place_c(strip, v))
                value = b.add(value, first) if kernel.needs_init else value
            start.append(value)

    def group(sums: list[ir.Value], at_a: ir.Value, at_panel: ir.Value, u: int) -> None:
        """One group of K for the whole tile; at_a and at_panel are byte offsets, u counts groups
        past them.
        """
        here = offset(b, offset(b, panel, at_panel), u * parts * part_bytes)

        def rows(strip: range) -> ways.Values:
            at = [offset(b, offset(b, row_a[i], at_a), u * kernel.group_bytes) for i in strip]
            return way.load_rows(b, at)

        if way.tall > 1:  # fewer registers hold the rows than the panel
            held = [rows(strip) for strip in strips]
            for v in range(parts):
                w = way.load_b(b, offset(b, here, v * part_bytes))
                for i, x in enumerate(held):
                    sums[i * parts + v] = way.step(b, sums[i * parts + v], x, w)
            return
        panel_parts = [way.load_b(b, offset(b, here, v * part_bytes)) for v in range(parts)]
        for i, strip in enumerate(strips):
            x = rows(strip)
            for v, w in enumerate(panel_parts):
                sums[i * parts + v] = way.step(b, sums[i * parts + v], x, w)

    sums = start
    turns = b.and_(k_groups, const(I64, -UNROLL))
    for first, last, step in ((0, turns, UNROLL), (turns, k_groups, 1)):
        with counted(b, first, last, step, sums, name="k") as loop:
            loop.next = list(loop.carried)
            at_a = b.mul(loop.i, const(I64, kernel.group_bytes))
            at_panel = b.mul(loop.i, const(I64, parts * part_bytes))
            for u in range(step):
                group(loop.next, at_a, at_panel, u)
        sums = loop.results

    for i, strip in enumerate(strips):
        for v in range(parts):
            way.store_c(b, sums[i * parts + v], place_c(strip, v))
    b.ret_void()
    return fn


def _emit_rowsum(module: ir.Module, name: str, kernel: Kernel) -> ir.Function:
    way = kernel.isa
    if not isinstance(way, ways.Int8Vnni) or not kernel.needs_init:
        raise ValueError(f"{kernel.name} starts from zero; it has no row sums")
    fn = define(
        module,
        name,
        VOID,
        [("a", PTR), ("a_row_bytes", I64), ("m", I64), ("k_groups", I64), ("init", PTR)],
    )
    a, a_row_bytes, m, k_groups, init = fn.args
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    lanes = way.part
    weight = const_splat(I8, 0x80, 4 * lanes)  # 128 as an unsigned byte, so each lane sums 128 * a
    whole = b.and_(k_groups, const(I64, -lanes))
    with counted(b, 0, m, name="row") as row:
        at = offset(b, a, b.mul(row.i, a_row_bytes))
        with counted(b, 0, whole, lanes, [zero(way.acc_type())], name="k") as wide:
            codes = b.load(
                offset(b, at, b.mul(wide.i, const(I64, 4))), typ=vector(I8, 4 * lanes), align=1
            )
            wide.next = [way.dot(b, wide.carried[0], weight, codes)]
        reduce = intrinsic(module, f"llvm.vector.reduce.add.v{lanes}i32", I32, [way.acc_type()])
        with counted(
            b, whole, k_groups, 1, [b.call(reduce, [wide.results[0]])], name="rest"
        ) as rest:
            codes = b.load(offset(b, at, b.mul(rest.i, const(I64, 4))), typ=vector(I8, 4), align=1)
            reduce4 = intrinsic(module, "llvm.vector.reduce.add.v4i32", I32, [vector(I32, 4)])
            four = b.call(reduce4, [b.sext(codes, vector(I32, 4))])
            rest.next = [b.add(rest.carried[0], b.shl(four, const(I32, 7)))]
        b.store(b.neg(rest.results[0]), offset(b, init, b.mul(row.i, const(I64, 4))), align=4)
    b.ret_void()
    return fn
