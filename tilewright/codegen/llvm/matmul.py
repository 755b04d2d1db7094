"""Products: the right side packed into panels, then a microkernel for every row tile and column block."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright import blocking
from tilewright.codegen.llvm.microkernel import LANES, Kernel, choose
from tilewright.codegen.llvm.places import Extent, Panel, Place, value_of
from tilewright.codegen.llvm.rows import RowEmitter
from tilewright.codegen.llvm.types import (
    I64,
    PTR,
    const,
    counted,
    offset,
    zero,
)
from tilewright.ir.nodes import Op, Operand
from tilewright.ir.typed import tile_type_of
from tilewright.ir.types import PanelType, TileType

if TYPE_CHECKING:
    from tilewright.codegen.llvm.function import FunctionEmitter


def emit_pack(owner: FunctionEmitter, op: Op) -> None:
    """All column blocks of one panel; outside parallel loops every thread packs its share of them."""
    panel = op.result.type
    assert isinstance(panel, PanelType)
    b = owner.b
    kernel = choose(panel.dtype, owner.machine)
    source = owner.place(op.operands[0])
    address = owner.reserve(kernel.panel_bytes(panel.k, panel.n))
    owner.env[op.result] = Panel(
        address, panel.k, panel.n, panel.dtype, kernel.block_bytes(panel.k)
    )
    k, n = (value_of(owner.extent(x)) for x in op.operands[1:])
    first, last = const(I64, 0), const(I64, kernel.blocks(panel.n))
    if not owner.alone:
        last = b.sdiv(b.mul(b.add(owner.tid, const(I64, 1)), last), owner.nthreads)
        first = b.sdiv(b.mul(owner.tid, const(I64, kernel.blocks(panel.n))), owner.nthreads)
    pack = kernel.pack(owner.module, trans=bool(op.attr("trans")))
    sizes = [const(I64, kernel.k_groups(panel.k)), const(I64, panel.n), first, last]
    b.call(pack, [source.address, const(I64, source.strides[0]), address, k, n, *sizes])
    if not owner.alone:
        owner.barrier()


def whole_panel(owner: FunctionEmitter, address: ir.Value, kind: PanelType) -> Panel:
    """A panel that was packed before the launch."""
    kernel = choose(kind.dtype, owner.machine)
    return Panel(address, kind.k, kind.n, kind.dtype, kernel.block_bytes(kind.k))


def emit_panel_window(owner: FunctionEmitter, op: Op) -> None:
    """Where the window's first column block begins, at the window's first group of K."""
    b, whole = owner.b, owner.panel(op.operands[0])
    k0, n0 = (value_of(owner.extent(x)) for x in op.operands[1:])
    kernel = choose(whole.dtype, owner.machine)
    width = LANES * kernel.nr
    at = b.mul(b.sdiv(n0, const(I64, width)), const(I64, whole.stride))
    at = b.add(
        at, b.mul(b.sdiv(k0, const(I64, kernel.k_group)), const(I64, kernel.group_bytes * width))
    )
    k, n = op.attr("k"), op.attr("n")
    owner.env[op.result] = Panel(offset(b, whole.address, at), k, n, whole.dtype, whole.stride)


def emit_product(owner: FunctionEmitter, op: Op) -> None:
    """c = a * panel, or acc + a * panel, for the first `m` rows."""
    carried = op.name == "matmul_packed_acc"
    a, panel = op.operands[-3:-1]
    rows = owner.extent(op.operands[-1])
    kernel = choose(owner.panel(panel).dtype, owner.machine)
    if carried:
        c = owner.owned_tile(op.operands[0])
    else:
        c = owner.new_tile(tile_type_of(op.result))
    sizes = op.attr("sizes") or (
        (rows,) if isinstance(rows, int) else tuple(range(1, c.shape[0] + 1))
    )
    product = Product(owner, kernel, readable(owner, a, kernel), owner.panel(panel), c, carried)
    product.emit(rows, sizes)
    owner.env[op.result] = c
    owner.owned.add(op.result)


def readable(owner: FunctionEmitter, a: Operand, kernel: Kernel) -> Place:
    """The left side where it is, or a copy with zeros behind its rows when K ends inside a group: what lies
    there otherwise may be NaN, which a zero in the panel does not silence. (Widening adds its own zeros.)"""
    place = owner.place(a)
    rows, k = place.shape
    if k % kernel.k_group == 0 or kernel.widens:
        return place
    whole = TileType((rows, -(-k // kernel.k_group) * kernel.k_group), place.dtype)
    target = owner.new_tile(whole)
    RowEmitter(owner).copy(
        target,
        replace(place, shape=whole.shape, valid=(place.valid[0], place.valid[1]), padded=False),
    )
    return target


class Product:
    """One product into `c`, a tile of the arena, whose rows hold whole panel blocks.

    Many rows are cut into register tiles, and K into pieces (`blocking.piece_of`): every register tile takes a column
    block's piece before the next block is touched, so that a panel streams through the caches once
    while A's rows and C stay in the second level.
    """

    def __init__(
        self,
        owner: FunctionEmitter,
        kernel: Kernel,
        a: Place,
        panel: Panel,
        c: Place,
        carried: bool,
    ) -> None:
        self.owner, self.b, self.kernel = owner, owner.b, kernel
        self.a, self.panel, self.c, self.carried = a, panel, c, carried

    def emit(self, rows: Extent, sizes: tuple[int, ...]) -> None:
        """`sizes`: the row counts that `rows` can be."""
        if rows == 0:  # a literal: nothing is valid
            return
        b, kernel, k = self.b, self.kernel, self.panel.k
        self.rows, self.sizes = rows, sizes
        self.tiles = -(-max(sizes) // kernel.mr)  # register tiles at most
        piece = blocking.piece_of(k, kernel.dtype) if self.tiles > 1 else k
        self.init = self.owner.reserve(4 * max(sizes)) if kernel.needs_init else zero(PTR)
        if kernel.widens:
            groups = kernel.k_group * kernel.k_groups(piece)
            self.wide = self.owner.new_tile(TileType((max(sizes), groups), kernel.a_dtype))
        self.piece(const(I64, 0), piece, self.carried)
        with counted(b, 1, k // piece, name="kc") if k // piece > 1 else nullcontext() as loop:
            if loop is not None:
                self.piece(b.mul(loop.i, const(I64, piece)), piece, True)
        if k % piece:
            self.piece(const(I64, k // piece * piece), k % piece, True)

    def piece(self, k0: ir.Value, k: int, carried: bool) -> None:
        """Elements k0 … k0 + k of every sum."""
        b, kernel = self.b, self.kernel
        groups = const(I64, kernel.k_groups(k))
        a, pitch = self.a.at(b, [0, k0]), const(I64, self.a.strides[0])
        if kernel.needs_init:
            rowsum = kernel.rowsum(self.owner.module)
            b.call(rowsum, [a, pitch, value_of(self.rows), groups, self.init])
        if kernel.widens:
            widen, wide = kernel.widen(self.owner.module), self.wide
            wide_pitch = const(I64, wide.strides[0])
            sizes = [pitch, value_of(self.rows), const(I64, k)]
            b.call(widen, [a, *sizes, wide.address, wide_pitch])
            a, pitch = wide.address, wide_pitch
        n = self.panel.n
        blocks = kernel.blocks(n)
        full = blocks if kernel.block_nr(n, blocks - 1) == kernel.nr else blocks - 1
        before = b.sdiv(k0, const(I64, kernel.k_group))  # groups of K in earlier pieces

        def block(j: ir.Value, nr: int, side: int) -> None:
            group_bytes = kernel.group_bytes * LANES * nr
            at = b.add(
                b.mul(j, const(I64, self.panel.stride)), b.mul(before, const(I64, group_bytes))
            )
            start = offset(b, self.panel.address, at)
            c = offset(b, self.c.address, b.mul(j, const(I64, LANES * kernel.nr * 4)))
            nbytes = group_bytes * kernel.k_groups(k)
            ahead = offset(b, start, self.panel.stride * side if blocks > 1 else nbytes)
            self.block(_Block(a, pitch, start, c, groups, nr, side, carried, nbytes, ahead))

        start = 0
        for count, side in _shared(full, kernel.side(max(self.sizes))):
            with counted(b, start, start + count * side, side, name=f"block{side}") as loop:
                block(loop.i, kernel.nr, side)
            start += count * side
        if full < blocks:
            block(const(I64, full), kernel.block_nr(n, full), 1)

    def block(self, block: _Block) -> None:
        """Every row against one column block, in balanced register tiles."""
        b, most = self.b, self.kernel.mr
        if self.tiles == 1:
            self.tile(block, const(I64, 0), self.rows, self.sizes)
            return
        rows = value_of(self.rows)
        tiles = b.sdiv(b.add(rows, const(I64, most - 1)), const(I64, most))
        possible = sorted({size for m in self.sizes for size in _balanced(m, most)})
        with counted(b, 0, tiles, name="tile") as loop:
            r0 = b.sdiv(b.mul(loop.i, rows), tiles)
            r1 = b.sdiv(b.mul(b.add(loop.i, const(I64, 1)), rows), tiles)
            share = b.mul(loop.i, const(I64, block.nbytes // self.tiles))
            block = replace(block, ahead=offset(b, block.ahead, share))
            m = possible[0] if len(possible) == 1 else b.sub(r1, r0)
            self.tile(block, r0, m, possible)

    def tile(self, block: _Block, r0: ir.Value, rows: Extent, sizes: Sequence[int]) -> None:
        """One register tile, whichever of `sizes` it has, or none where a run-time `rows` is 0."""
        if isinstance(rows, int):
            self.call(block, r0, rows)
            return
        b = self.b
        after = b.append_basic_block("product")
        none = b.append_basic_block("no_rows")
        switch = b.switch(rows, none)
        for m in sizes:
            case = b.append_basic_block(f"rows{m}")
            switch.add_case(const(I64, m), case)
            b.position_at_end(case)
            self.call(block, r0, m)
            b.branch(after)
        b.position_at_end(none)
        b.branch(after)
        b.position_at_end(after)

    def call(self, block: _Block, r0: ir.Value, m: int) -> None:
        b = self.b
        kernel = self.kernel
        fetch = self.tiles if blocking.fetches(max(self.sizes), kernel.mr, kernel.nr) else 0
        microkernel = kernel.microkernel(
            self.owner.module, m, block.nr, block.carried, block.side, fetch
        )
        a = offset(b, block.a, b.mul(r0, block.a_pitch))
        c_pitch = const(I64, self.c.strides[0])
        c = offset(b, block.c, b.mul(r0, c_pitch))
        init = self.init
        if kernel.needs_init:
            init = offset(b, init, b.mul(r0, const(I64, 4)))
        apart = const(I64, self.panel.stride)
        arguments = [a, block.a_pitch, block.panel, c, c_pitch, block.groups, init]
        b.call(microkernel, [*arguments, apart, block.ahead])


@dataclass(frozen=True, slots=True)
class _Block:
    """A piece of one column block, or of `side` neighbours, and what is multiplied with it.

    a, c:   row 0 of the left side's piece and of the block's columns of C.
    nbytes: of a block's piece. ahead: what is wanted next.
    """

    a: ir.Value
    a_pitch: ir.Value
    panel: ir.Value
    c: ir.Value
    groups: ir.Value
    nr: int
    side: int
    carried: bool
    nbytes: int
    ahead: ir.Value


def _shared(blocks: int, most: int) -> list[tuple[int, int]]:
    """(count, side) of `blocks` column blocks in as few groups as possible, at most `most` side by side."""
    if not blocks:
        return []
    groups = -(-blocks // most)
    side, longer = divmod(blocks, groups)
    return [(n, s) for n, s in ((longer, side + 1), (groups - longer, side)) if n]


def _balanced(rows: int, most: int) -> set[int]:
    """The sizes of `rows` rows in as few tiles as possible that differ by one row at most."""
    tiles = -(-rows // most)
    return {rows // tiles, -(-rows // tiles)} if rows else set()


EMITTERS = {
    "pack": emit_pack,
    "panel_window": emit_panel_window,
    "matmul_packed": emit_product,
    "matmul_packed_acc": emit_product,
}
