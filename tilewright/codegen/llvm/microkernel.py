"""The MR x NR inner loop of a matrix product, for every dtype and instruction set.

    C[m, 16 nr] (+)= A[m, K] * panel[K, 16 nr]

A lies in memory as it is: rows of BF16, FP16, FP32 or INT8, `a_row_bytes` apart, read a group at a
time; where the instruction set multiplies wider numbers, `widen` has made them of a tile's rows
(`a_dtype`). B has been packed (codegen/llvm/pack.py). C is FP32 or INT32, row-major; all 16 nr columns are
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

from tilewright.blocking import LANES, WIDE_BLOCK, register_tile, sides, way_of
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
    fetch,
    intrinsic,
    offset,
    once,
    same_place,
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

LINE = 64  # bytes of a cache line
PAGE = 4096  # bytes; a prefetcher sees the physical pages, whose neighbours need not be ours

# Groups of K in one turn of the loop. Against one, two gain 30 % in the 1 x 4 tile of decode and
# nothing in large ones; four add 1 % at most and cost a third more compile time
# (benchmarks/microkernel.py).
UNROLL = 2

# Narrow blocks: lines of what comes next that a tile which does not fetch it whole asks for before it begins, as
# many as the processor takes to see a new stream by itself. Zen 3, one token, weights from memory: 3 % of the time.
OPENING = 8

# Wide blocks: so many pages ahead a tile of one row asks for the first lines of a page, for the same reason; a tile
# of more rows, which takes longer for a page, fewer. Zen 4, two threads, one token: 497 us without and 452 with
# where the weights come from the third level, 3 % where they come from memory; 4 rows 3 % from memory.
PAGES_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Kernel:
    """A family of microkernels: one dtype on one instruction set.

    mr, nr: the largest tile, in rows and in vectors of 16 columns; `nr` is also the width of a
    panel block. sides: blocks that a tile of 1, 2 … rows may take at once.
    """

    isa: Isa
    mr: int
    nr: int
    sides: tuple[int, ...]

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
        """Bytes of one group of one column of the panel."""
        return self.isa.k_group * self.isa.dtype.nbytes

    @property
    def a_dtype(self) -> DType:
        """Of A as tiles read it: `dtype`, or what `widen` makes of it."""
        return self.isa.a_dtype

    @property
    def a_group_bytes(self) -> int:
        """Bytes of one group of one row of A as tiles read it."""
        return self.isa.k_group * self.isa.a_dtype.nbytes

    @property
    def widens(self) -> bool:
        """Whether A must go through `widen` first."""
        return self.isa.wide is not None

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

    def side(self, m: int) -> int:
        """Neighbouring column blocks that a product of m rows takes side by side at most."""
        return self.sides[min(m, self.mr) - 1]

    def microkernel(
        self,
        module: ir.Module,
        m: int,
        nr: int,
        acc: bool = False,
        side: int = 1,
        fetch: int = 0,
    ) -> ir.Function:
        """`void mk(a, a_row_bytes, panel, c, c_row_bytes, k_groups, init, block_bytes, ahead)`.

        1 <= m <= mr, 1 <= nr <= self.nr; `panel` is the start of a block whose own nr this is.
        acc: start from what C holds instead of from zero. init: i32[m] from `rowsum`, if
        `needs_init`.
        side: so many whole blocks at once, `block_bytes` apart.
        fetch: where not 0, bring the first 1 / fetch of what lies at `ahead` into the second-level
        cache on the way, as much as the panel has (from each of `side` places); else only how what comes next
        begins.
        """
        if not (1 <= m <= self.mr and 1 <= nr <= self.nr):
            raise ValueError(
                f"tile {m} x {nr} of {self.name}, which goes up to {self.mr} x {self.nr}"
            )
        tile = _Tile(self, m, nr, acc, side, fetch)
        return once(module, tile.name, lambda: tile.emit(module))

    def rowsum(self, module: ir.Module) -> ir.Function:
        """`void rowsum(a, a_row_bytes: i64, m: i64, k_groups: i64, init)`: init[i] = -128 *
        sum(A[i, :]).
        """
        name = f"rowsum_{self.name}"
        return once(module, name, lambda: _emit_rowsum(module, name, self))

    def widen(self, module: ir.Module) -> ir.Function:
        """`void widen(a, a_row_bytes: i64, m: i64, k: i64, out, out_row_bytes: i64)`: m rows of k
        elements as `a_dtype`, with zeros behind them up to a whole group.
        """
        name = f"widen_{self.name}"
        return once(module, name, lambda: _emit_widen(module, name, self))

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
    return Kernel(ISAS[way.name](way.part, *way.options), mr, nr, sides(way, mr, nr, machine))


@dataclass(frozen=True, slots=True)
class _Tile:
    """One microkernel; what the fields are stands at `Kernel.microkernel`."""

    kernel: Kernel
    m: int
    nr: int
    acc: bool
    side: int
    fetch: int

    @property
    def name(self) -> str:
        beside = f"x{self.side}" if self.side > 1 else ""
        ends = ("_acc" if self.acc else "") + (f"_fetch{self.fetch}" if self.fetch else "")
        return f"mk_{self.kernel.name}_{self.m}x{self.nr}{beside}{ends}"

    @property
    def strips(self) -> list[range]:
        """Rows that share their accumulators: one, or two under a matrix instruction."""
        tall = self.kernel.isa.tall
        return [range(i, min(i + tall, self.m)) for i in range(0, self.m, tall)]

    @property
    def parts(self) -> int:
        """Registers of one strip of one block."""
        return self.nr * LANES // self.kernel.isa.part

    @property
    def panel_step(self) -> int:
        """Bytes of a block from one group of K to the next."""
        return self.parts * self.kernel.isa.part * self.kernel.group_bytes

    def emit(self, module: ir.Module) -> ir.Function:
        kernel, way = self.kernel, self.kernel.isa
        args = [("a", PTR), ("a_row_bytes", I64), ("panel", PTR), ("c", PTR), ("c_row_bytes", I64)]
        args += [("k_groups", I64), ("init", PTR), ("block_bytes", I64), ("ahead", PTR)]
        fn = define(module, self.name, VOID, args)
        fn.attributes.add("noinline")  # its registers are its own; a caller's would make it spill
        a, a_row_bytes, panel, c, c_row_bytes, k_groups, init, block_bytes, ahead = fn.args
        b = ir.IRBuilder(fn.append_basic_block("entry"))
        apart = [b.mul(block_bytes, const(I64, s)) for s in range(self.side)]
        # One row uses a part once a phase. From a place that LLVM cannot know to be the same it is loaded again,
        # as an operand, rather than held: holding ten parts for their second phase spills.
        alone = len(self.strips) == 1 and way.phases > 1
        starts = [panel, *(same_place(b, panel) for _ in range(way.phases - 1) if alone)]
        blocks = [[offset(b, start, beside) for beside in apart] for start in starts]
        wanted = [offset(b, ahead, beside) for beside in apart]
        row_a = [offset(b, a, b.mul(a_row_bytes, const(I64, i))) for i in range(self.m)]
        row_c = [offset(b, c, b.mul(c_row_bytes, const(I64, i))) for i in range(self.m)]
        columns = range(self.side * self.parts)
        places, sums = [], []
        for strip in self.strips:
            first = zero(way.acc_type())
            if kernel.needs_init:
                first = splat(b, b.load(offset(b, init, 4 * strip[0]), typ=I32, align=4), way.part)
            for v in columns:
                place = [offset(b, row_c[i], v * way.part * 4) for i in strip]
                value = first
                if self.acc:
                    held = way.load_c(b, place)
                    value = b.add(held, first) if kernel.needs_init else held
                places.append(place)
                sums.append(value)

        streams = self.kernel.nr >= WIDE_BLOCK and not self.fetch
        if not self.fetch and not streams:
            self.ask(b, wanted, OPENING)
        turns = b.and_(k_groups, const(I64, -UNROLL))
        for begin, end, step in ((0, turns, UNROLL), (turns, k_groups, 1)):
            with counted(b, begin, end, step, sums, name="k") as loop:
                loop.next = list(loop.carried)
                at_a = b.mul(loop.i, const(I64, kernel.a_group_bytes))
                at_panel = b.mul(loop.i, const(I64, self.panel_step))
                if self.fetch and step > 1:
                    self.bring_closer(b, wanted, at_panel)
                if streams and step > 1:
                    self.open_page(b, blocks[0], at_panel)
                for u in range(step):
                    rows = [offset(b, row, at_a) for row in row_a]
                    here = [[offset(b, at, at_panel) for at in places] for places in blocks]
                    self.group(b, loop.next, rows, here, u)
            sums = loop.results

        for total, place in zip(sums, places, strict=True):
            way.store_c(b, total, place)
        b.ret_void()
        return fn

    def group(
        self,
        b: ir.IRBuilder,
        sums: list[ir.Value],
        rows: list[ir.Value],
        blocks: list[list[ir.Value]],
        u: int,
    ) -> None:
        """One group of K for the whole tile, `u` groups past where `rows` and `blocks` (of the first phase, and
        of each later one where it has its own) point.
        """
        way = self.kernel.isa
        part_bytes = self.panel_step // self.parts
        past_panel = [u * self.panel_step + v * part_bytes for v in range(self.parts)]
        parts = [[offset(b, at, past) for at in places for past in past_panel] for places in blocks]
        past = u * self.kernel.a_group_bytes
        strips = [[offset(b, rows[i], past) for i in strip] for strip in self.strips]
        if way.tall > 1:  # fewer registers hold the rows than the panel
            held = [way.load_rows(b, strip) for strip in strips]
            for v, part in enumerate(parts[0]):
                w = way.load_b(b, part)
                for i, x in enumerate(held):
                    at = i * len(parts[0]) + v
                    sums[at] = way.step(b, sums[at], x, w)
            return
        # Block by block, so that no more of the panel is held than the largest tile holds.
        columns = len(parts[0])
        for first in range(0, columns, self.parts):
            for phase in range(way.phases):
                block = parts[phase % len(parts)][first : first + self.parts]
                panel = [way.load_b(b, part, phase) for part in block]
                for i, strip in enumerate(strips):
                    x = way.load_rows(b, strip, phase)
                    for v, w in enumerate(panel, i * columns + first):
                        sums[v] = way.step(b, sums[v], x, w)

    def bring_closer(self, b: ir.IRBuilder, wanted: list[ir.Value], at_panel: ir.Value) -> None:
        """This turn's lines of what is wanted next."""
        past = b.udiv(at_panel, const(I64, self.fetch))
        lines = -(-UNROLL * self.panel_step // (LINE * self.fetch))
        self.ask(b, [offset(b, place, past) for place in wanted], lines)

    def open_page(self, b: ir.IRBuilder, starts: list[ir.Value], at_panel: ir.Value) -> None:
        """A line of a later page of each block; the turns of this page ask for its first ones, one each."""
        page = b.and_(at_panel, const(I64, -PAGE))
        lines_a_turn = max(1, UNROLL * self.panel_step // LINE)
        line = b.udiv(b.sub(at_panel, page), const(I64, lines_a_turn))
        ahead = max(1, PAGES_AHEAD // self.m) * PAGE
        self.ask(
            b,
            [offset(b, start, b.add(b.add(page, line), const(I64, ahead))) for start in starts],
            1,
        )

    def ask(self, b: ir.IRBuilder, places: list[ir.Value], lines: int) -> None:
        """Bring so many lines of each place into the second-level cache."""
        for place in places:
            for i in range(lines):
                fetch(b, offset(b, place, LINE * i))


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


def _emit_widen(module: ir.Module, name: str, kernel: Kernel) -> ir.Function:
    narrow, wide = kernel.dtype, kernel.a_dtype
    if not kernel.widens:
        raise ValueError(f"{kernel.name} reads its left side as it is")
    args = [("a", PTR), ("a_row_bytes", I64), ("m", I64), ("k", I64), ("out", PTR)]
    fn = define(module, name, VOID, [*args, ("out_row_bytes", I64)])
    fn.attributes.add("noinline")
    a, a_row_bytes, m, k, out, out_row_bytes = fn.args
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    whole = b.and_(k, const(I64, -LANES))
    groups = b.add(k, const(I64, kernel.k_group - 1))
    end = b.sub(groups, b.urem(groups, const(I64, kernel.k_group)))
    with counted(b, 0, m, name="row") as row:
        source = offset(b, a, b.mul(row.i, a_row_bytes))
        target = offset(b, out, b.mul(row.i, out_row_bytes))
        for first, last, lanes in ((const(I64, 0), whole, LANES), (whole, k, 1)):
            with counted(b, first, last, lanes, name="k") as loop:
                at = offset(b, source, b.mul(loop.i, const(I64, narrow.nbytes)))
                x = b.load(at, typ=vector(bits_type(narrow), lanes), align=narrow.nbytes)
                to = offset(b, target, b.mul(loop.i, const(I64, wide.nbytes)))
                b.store(kernel.isa.widened(b, x), to, align=wide.nbytes)
        with counted(b, k, end, name="pad") as loop:
            at = offset(b, target, b.mul(loop.i, const(I64, wide.nbytes)))
            b.store(const(bits_type(wide), 0), at, align=wide.nbytes)
    b.ret_void()
    return fn


def bits_type(dtype: DType) -> ir.IntType:
    return ir.IntType(8 * dtype.nbytes)
