"""Copying B into the order in which a microkernel streams it.

A panel of a [K, N] matrix is a row of column blocks, each as a microkernel reads it:

    [N / (16 nr)] [K / k_group] [16 nr] [k_group]    elements of B's own dtype, ^ isa.xor

K is padded with zeros to a whole group, N to a whole vector of 16 columns. Every block is `nr`
vectors wide except the last, which has as many as it needs (`Kernel.block_nr`): blocks start at
multiples of `Kernel.block_bytes(K)`. The panel is 64-byte aligned, and so is then every load of a
microkernel. A zero is stored as `0 ^ isa.xor`, so padding counts for exactly nothing in INT8
whatever A holds there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.blocking import LANES
from tilewright.codegen.llvm.isa import interleave
from tilewright.codegen.llvm.places import LINE
from tilewright.codegen.llvm.types import (
    I1,
    I32,
    I64,
    PTR,
    VOID,
    clamp,
    const,
    const_splat,
    const_vector,
    counted,
    define,
    fetch,
    index,
    intrinsic,
    minimum,
    offset,
    shuffle,
    splat,
    vector,
    zero,
)

if TYPE_CHECKING:
    from tilewright.codegen.llvm.microkernel import Kernel

# Groups of K that are packed for all blocks before the next: the pages of so few rows stay in the first-level
# TLB. INT8 [1024, 32768] on one thread of a Zen 5: 2.6 ms with 8, 3.6 when each block is packed from top to bottom.
STRIP = 4

# Groups of K that are asked for ahead: a row's part of a block is a line or two, which no prefetcher foresees.
# Zen 4, two threads, weights packed in the call: one token 2.3 ms without and 1.75 with, 128 tokens 16.5 and 15.4.
AHEAD = 8


def emit_pack(module: ir.Module, name: str, kernel: Kernel, trans: bool) -> ir.Function:
    """`void pack(b, b_row_bytes: i64, panel, k, n, k_groups, n_panel, j0, j1: i64)`.

    Packs column blocks j0 <= j < j1 of the panel of a [K, n_panel] matrix with `k_groups` groups.
    b:    the matrix, [K, N] row-major, or [N, K] if `trans`; its rows are `b_row_bytes` apart.
    k, n: rows and columns of the matrix that exist; nothing else is read, the rest becomes zero.
    """
    args = ["k", "n", "k_groups", "n_panel", "j0", "j1"]
    fn = define(
        module,
        name,
        VOID,
        [("b", PTR), ("b_row_bytes", I64), ("panel", PTR), *((arg, I64) for arg in args)],
    )
    fn.attributes.add("noinline")
    emitter = _Trans(kernel, fn) if trans else _Plain(kernel, fn)
    emitter.emit()
    return fn


class _Pack:
    """What packing from either storage order shares: the walk over blocks, and how a vector is
    stored.
    """

    def __init__(self, kernel: Kernel, fn: ir.Function) -> None:
        self.kernel = kernel
        self.group = kernel.k_group
        self.group_bytes = kernel.group_bytes
        self.element = ir.IntType(8 * kernel.dtype.nbytes)
        self.element_bytes = kernel.dtype.nbytes
        self.module = fn.module
        self.matrix, self.row_bytes, self.panel = fn.args[:3]
        self.k, self.n, self.k_groups, self.n_panel, self.j0, self.j1 = fn.args[3:]
        self.b = ir.IRBuilder(fn.append_basic_block("entry"))

    def emit(self) -> None:
        """The whole body; leaves the builder behind a return."""
        raise NotImplementedError

    def place(self, j: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Block j: its first column, its width in vectors of 16, its address in the panel."""
        b, width = self.b, LANES * self.kernel.nr
        column = b.mul(j, index(width))
        columns = minimum(b, b.sub(self.n_panel, column), index(width))
        vectors = b.lshr(b.add(columns, index(LANES - 1)), index(LANES.bit_length() - 1))
        block_bytes = b.mul(self.k_groups, index(width * self.group_bytes))
        return column, vectors, offset(b, self.panel, b.mul(j, block_bytes))

    def store(self, value: ir.Value, at: ir.Value, align: int) -> None:
        """Store packed elements, xor-ed."""
        b, xor = self.b, self.kernel.isa.xor
        if xor:
            lanes = value.type.count * value.type.element.width // self.element.width
            kind = vector(self.element, lanes)
            value = value if value.type == kind else b.bitcast(value, kind)
            value = b.xor(value, const_splat(self.element, xor, lanes))
        b.store(value, at, align=align)

    def load_some(self, at: ir.Value, count: ir.Value, lanes: int) -> ir.Value:
        """The first `count` of `lanes` elements at an address, zero for the others, which are not
        read.
        """
        b = self.b
        kind, bits = vector(self.element, lanes), vector(I1, lanes)
        name = f"llvm.masked.load.v{lanes}i{self.element.width}.p0"
        load = intrinsic(self.module, name, kind, [PTR, I32, bits, kind])
        short = b.trunc(count, I32)
        mask = b.icmp_signed("<", const_vector(I32, range(lanes)), splat(b, short, lanes))
        return b.call(load, [at, const(I32, self.element_bytes), mask, zero(kind)])


class _Plain(_Pack):
    """From [K, N]: a few neighbouring rows are interleaved."""

    def emit(self) -> None:
        b, width = self.b, LANES * self.kernel.nr
        # Whole groups of whole blocks go without masks, a few rows of all blocks at a time: a block
        # alone would touch a page for every 64 bytes that it reads.
        whole = b.sdiv(self.k, index(self.group))
        last = b.sdiv(self.n, index(width))
        last = b.select(b.icmp_signed("<", last, self.j0), self.j0, minimum(b, last, self.j1))
        with counted(b, 0, whole, STRIP, name="strip") as strip:
            end = minimum(b, b.add(strip.i, index(STRIP)), whole)
            with counted(b, self.j0, last, name="block") as block:
                column, _, out = self.place(block.i)
                source = offset(b, self.matrix, b.mul(column, index(self.element_bytes)))
                with counted(b, strip.i, end, name="group") as group:
                    self.interleaved(source, out, group.i, width)
        with counted(b, self.j0, self.j1, name="edge") as block:
            done = b.select(b.icmp_signed("<", block.i, last), whole, index(0))
            self.edge(*self.place(block.i), done)
        b.ret_void()

    def edge(self, column: ir.Value, vectors: ir.Value, out: ir.Value, done: ir.Value) -> None:
        """The groups of one block from `done` on, a vector at a time, masked to what exists."""
        b = self.b
        with counted(b, done, self.k_groups, name="group") as group:
            group_out = b.mul(group.i, b.mul(vectors, index(LANES * self.group_bytes)))
            with counted(b, 0, vectors, name="vector") as v:
                first = b.add(column, b.mul(v.i, index(LANES)))
                count = clamp(b, b.sub(self.n, first), LANES)
                at = offset(b, out, b.add(group_out, b.mul(v.i, index(LANES * self.group_bytes))))
                rows = []
                for r in range(self.group):
                    row = b.add(b.mul(group.i, index(self.group)), index(r))
                    here = b.select(b.icmp_signed("<", row, self.k), count, index(0))
                    place = b.add(
                        b.mul(row, self.row_bytes), b.mul(first, index(self.element_bytes))
                    )
                    rows.append(self.load_some(offset(b, self.matrix, place), here, LANES))
                self.store(interleave(b, rows), at, LANES * self.group_bytes)

    def interleaved(self, source: ir.Value, out: ir.Value, group: ir.Value, width: int) -> None:
        """One whole group of `width` columns, all of which exist."""
        b = self.b
        kind = vector(self.element, width)
        first = offset(b, source, b.mul(b.mul(group, index(self.group)), self.row_bytes))
        ahead = offset(b, first, b.mul(self.row_bytes, index(AHEAD * self.group)))
        rows = []
        for r in range(self.group):
            past = b.mul(self.row_bytes, index(r))
            rows.append(b.load(offset(b, first, past), typ=kind, align=self.element_bytes))
            for line in range(0, width * self.element_bytes, LINE):
                fetch(b, offset(b, offset(b, ahead, past), line))
        at = offset(b, out, b.mul(group, index(width * self.group_bytes)))
        self.store(interleave(b, rows), at, min(64, LANES * self.group_bytes))


class _Trans(_Pack):
    """From [N, K]: a group is already together in memory; squares of groups are transposed."""

    def emit(self) -> None:
        with counted(self.b, self.j0, self.j1, name="block") as block:
            self.block(*self.place(block.i))
        self.b.ret_void()

    def block(self, column: ir.Value, vectors: ir.Value, out: ir.Value) -> None:
        b, side = self.b, self.kernel.isa.part
        step_bytes = b.mul(vectors, index(LANES * self.group_bytes))  # from one group to the next
        whole = b.mul(b.sdiv(b.sdiv(self.k, index(self.group)), index(side)), index(side))
        with counted(b, 0, b.mul(vectors, index(LANES // side)), name="rows") as strip:
            first = b.add(column, b.mul(strip.i, index(side)))
            strip_out = offset(b, out, b.mul(strip.i, index(side * self.group_bytes)))
            full = b.icmp_signed("<=", b.add(first, index(side)), self.n)
            fast = b.select(full, whole, index(0))
            with counted(b, 0, fast, side, name="square") as square:
                units = self.transposed([self.row(first, r, square.i) for r in range(side)])
                for g in range(side):
                    at = b.mul(b.add(square.i, index(g)), step_bytes)
                    self.store(units[g], offset(b, strip_out, at), side * self.group_bytes)
            # The edges are a small share: an element at a time keeps their code short.
            with counted(b, fast, self.k_groups, name="edge") as group:
                to = offset(b, strip_out, b.mul(group.i, step_bytes))
                with counted(b, 0, side * self.group, name="element") as one:
                    line = b.lshr(one.i, index(self.group.bit_length() - 1))
                    within = b.and_(one.i, index(self.group - 1))
                    done = b.add(b.mul(group.i, index(self.group)), within)
                    value = self.element_or_zero(b.add(first, line), done)
                    self.store_element(
                        value, offset(b, to, b.mul(one.i, index(self.element_bytes)))
                    )

    def element_or_zero(self, row: ir.Value, column: ir.Value) -> ir.Value:
        """One element of the storage, read only if it exists."""
        b = self.b
        exists = b.and_(b.icmp_signed("<", row, self.n), b.icmp_signed("<", column, self.k))
        before = b.block
        with b.if_then(exists):
            place = b.add(b.mul(row, self.row_bytes), b.mul(column, index(self.element_bytes)))
            found = b.load(
                offset(b, self.matrix, place), typ=self.element, align=self.element_bytes
            )
            inside = b.block
        value = b.phi(self.element)
        value.add_incoming(zero(self.element), before)
        value.add_incoming(found, inside)
        return value

    def store_element(self, value: ir.Value, at: ir.Value) -> None:
        if self.kernel.isa.xor:
            value = self.b.xor(value, const(self.element, self.kernel.isa.xor))
        self.b.store(value, at, align=self.element_bytes)

    def address(self, first: ir.Value, r: int, group: ir.Value) -> ir.Value:
        b = self.b
        line = b.mul(b.add(first, index(r)), self.row_bytes)
        return offset(b, self.matrix, b.add(line, b.mul(group, index(self.group_bytes))))

    def row(self, first: ir.Value, r: int, group: ir.Value) -> ir.Value:
        """`side` groups of one row of the storage, each as one integer."""
        kind = vector(ir.IntType(8 * self.group_bytes), self.kernel.isa.part)
        return self.b.load(self.address(first, r, group), typ=kind, align=self.element_bytes)

    def transposed(self, rows: list[ir.Value]) -> list[ir.Value]:
        """A square of lanes, flipped: log2(side) rounds, each swaps halves of pairs of rows `far`
        apart.
        """
        side = len(rows)
        rows = list(rows)
        far = side // 2
        while far:
            low = [(lane & ~far) + (side if lane & far else 0) for lane in range(side)]
            high = [(lane | far) + (side if lane & far else 0) for lane in range(side)]
            for r in range(side):
                if not r & far:
                    x, y = rows[r], rows[r + far]
                    rows[r] = shuffle(self.b, x, y, low)
                    rows[r + far] = shuffle(self.b, x, y, high)
            far //= 2
        return rows
