"""Products: the right side packed into panels, then a microkernel for every row tile and column block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.codegen.llvm.microkernel import LANES, Kernel, choose
from tilewright.codegen.llvm.places import LINE, Extent, Panel, Place, value_of
from tilewright.codegen.llvm.rows import RowEmitter
from tilewright.codegen.llvm.types import (
    I32,
    I64,
    PTR,
    VOID,
    const,
    counted,
    intrinsic,
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


@dataclass(frozen=True, slots=True)
class Fetch:
    """What to bring closer while a product runs: `nbytes` of every column block of `panel`, from `start` on."""

    panel: Panel
    start: ir.Value
    nbytes: int


def emit_fetch_ahead(owner: FunctionEmitter, op: Op) -> None:
    """Note a part of a panel for the next product, which spreads the fetches over its column blocks."""
    panel = owner.panel(op.operands[0])
    part, parts = (owner.extent(x) for x in op.operands[1:])
    assert isinstance(parts, int)
    nbytes = -(-int(panel.stride * op.attr("share")) // parts // LINE) * LINE
    owner.fetch = Fetch(panel, owner.b.mul(value_of(part), const(I64, nbytes)), nbytes)


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
    owner.fetch = None
    owner.env[op.result] = c
    owner.owned.add(op.result)


def readable(owner: FunctionEmitter, a: Operand, kernel: Kernel) -> Place:
    """The left side where it is, or a copy with zeros behind its rows when K ends inside a group: what lies
    there otherwise may be NaN, which a zero in the panel does not silence."""
    place = owner.place(a)
    rows, k = place.shape
    if k % kernel.k_group == 0:
        return place
    whole = TileType((rows, -(-k // kernel.k_group) * kernel.k_group), place.dtype)
    target = owner.new_tile(whole)
    RowEmitter(owner).copy(
        target,
        replace(place, shape=whole.shape, valid=(place.valid[0], place.valid[1]), padded=False),
    )
    return target


class Product:
    """One product into `c`, a tile of the arena, whose rows hold whole panel blocks."""

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
        self.groups = const(I64, kernel.k_groups(panel.k))
        self.init = owner.reserve(4 * LANES) if kernel.needs_init else zero(PTR)

    def emit(self, rows: Extent, sizes: tuple[int, ...]) -> None:
        """`sizes`: the row counts that `rows` can be; larger ones are cut into balanced register tiles."""
        if rows == 0:  # a literal: nothing is valid
            return
        most = self.kernel.mr
        if max(sizes) <= most:
            self.tile(self.a.address, self.c.address, rows, sizes)
            return
        b = self.b
        rows = value_of(rows)
        tiles = b.sdiv(b.add(rows, const(I64, most - 1)), const(I64, most))
        with counted(b, 0, tiles, name="tile") as loop:
            r0 = b.sdiv(b.mul(loop.i, rows), tiles)
            r1 = b.sdiv(b.mul(b.add(loop.i, const(I64, 1)), rows), tiles)
            self.tile(
                offset(b, self.a.address, b.mul(r0, const(I64, self.a.strides[0]))),
                offset(b, self.c.address, b.mul(r0, const(I64, self.c.strides[0]))),
                b.sub(r1, r0),
                tuple(range(1, most + 1)),
            )

    def tile(self, a: ir.Value, c: ir.Value, rows: Extent, sizes: tuple[int, ...]) -> None:
        """One register tile of rows against every column block."""
        b = self.b
        if self.kernel.needs_init:
            rowsum = self.kernel.rowsum(self.owner.module)
            b.call(
                rowsum, [a, const(I64, self.a.strides[0]), value_of(rows), self.groups, self.init]
            )
        if isinstance(rows, int):
            self.columns(a, c, rows)
            return
        after = b.append_basic_block("product")
        none = b.append_basic_block("no_rows")
        switch = b.switch(rows, none)
        for m in sizes:
            case = b.append_basic_block(f"rows{m}")
            switch.add_case(const(I64, m), case)
            b.position_at_end(case)
            self.columns(a, c, m)
            b.branch(after)
        b.position_at_end(none)
        b.branch(after)
        b.position_at_end(after)

    def columns(self, a: ir.Value, c: ir.Value, m: int) -> None:
        """`m` rows against every column block: the full ones in a loop, then the narrower last one."""
        b, kernel, n = self.b, self.kernel, self.panel.n
        blocks = kernel.blocks(n)
        full = blocks if kernel.block_nr(n, blocks - 1) == kernel.nr else blocks - 1
        stride, width = self.panel.stride, LANES * kernel.nr * 4
        if full:
            with counted(b, 0, full, name="block") as loop:
                self.call(
                    a,
                    c,
                    m,
                    kernel.nr,
                    b.mul(loop.i, const(I64, stride)),
                    b.mul(loop.i, const(I64, width)),
                )
        if full < blocks:
            nr = kernel.block_nr(n, full)
            self.call(a, c, m, nr, const(I64, full * stride), const(I64, full * width))

    def call(
        self, a: ir.Value, c: ir.Value, m: int, nr: int, panel_at: ir.Value, c_at: ir.Value
    ) -> None:
        b = self.b
        if self.owner.fetch is not None and self.owner.fetch.panel.stride == self.panel.stride:
            self.bring_closer(self.owner.fetch, panel_at)
        microkernel = self.kernel.microkernel(self.owner.module, m, nr, self.carried)
        pitch, c_pitch = const(I64, self.a.strides[0]), const(I64, self.c.strides[0])
        panel = offset(b, self.panel.address, panel_at)
        b.call(microkernel, [a, pitch, panel, offset(b, c, c_at), c_pitch, self.groups, self.init])

    def bring_closer(self, fetch: Fetch, panel_at: ir.Value) -> None:
        """Prefetch this column block's share into the second-level cache."""
        b = self.b
        prefetch = intrinsic(self.owner.module, "llvm.prefetch.p0", VOID, [PTR, I32, I32, I32])
        start = offset(b, offset(b, fetch.panel.address, panel_at), fetch.start)
        read, second_level, data = const(I32, 0), const(I32, 2), const(I32, 1)
        with counted(b, 0, fetch.nbytes, LINE, name="ahead") as loop:
            b.call(prefetch, [offset(b, start, loop.i), read, second_level, data])


EMITTERS = {
    "fetch_ahead": emit_fetch_ahead,
    "pack": emit_pack,
    "panel_window": emit_panel_window,
    "matmul_packed": emit_product,
    "matmul_packed_acc": emit_product,
}
