"""While one panel is used, the next one comes closer."""

from __future__ import annotations

from collections.abc import Mapping

from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block, Function, Op, Operand, Value, index, make_attrs
from tilewright.ir.typed import as_value, literal_range
from tilewright.ir.types import PanelType
from tilewright.ir.walk import definitions, names_in_use
from tilewright.machine import Machine

PRODUCTS = ("matmul_packed", "matmul_packed_acc")

# Fewer row tiles than this use a panel so briefly that its own loading is all that counts.
MIN_TILES = 4

# Share of the free second-level cache that the next panel may take; the rest is for rows and results.
# INT8, 128 rows, K = 1024, one thread: 743 GOP/s without, 818 at 1/2, 830 at 3/4, 794 at all of it.
FREE_SHARE = 0.75


def fetch_ahead(fn: Function, machine: Machine) -> Function:
    """Ask for the next iteration's panel while the row tiles of this one are computed.

    Takes:  parallel loops whose products read a window of a packed matrix, row tile by row tile; windows
            move with the loop's variable.
    Gives:  the same values; a `fetch_ahead` of a part of the next window before the product of each row
            tile, as much in all as the second-level cache can take.
    Leaves: loops of few row tiles, panels packed on the spot, windows that a row tile takes for itself, loops
            that run backwards, panels that fill the cache by themselves.
    """
    return _FetchAhead(fn, machine).run()


class _FetchAhead:
    def __init__(self, fn: Function, machine: Machine) -> None:
        self.fn, self.machine = fn, machine
        self.defined: Mapping = definitions(fn)
        self.builder = Builder(names_in_use(fn))

    def run(self) -> Function:
        return Function(self.fn.name, self.fn.params, self.block(self.fn.body, None), self.fn.span)

    def block(self, block: Block, task: Op | None) -> Block:
        """`task`: the innermost parallel loop around."""
        ops: list[Op] = []
        for op in block.ops:
            inner = op if op.name == "for" and op.attr("kind") in ("parallel", "spmd") else task
            blocks = tuple(self.block(owned, inner) for owned in op.blocks)
            op = Op(op.name, op.operands, op.results, op.attrs, blocks, op.span)
            made = self.fetching(op, task)
            ops += [op] if made is None else made
        return Block(block.args, tuple(ops))

    def fetching(self, rows: Op, task: Op | None) -> list[Op] | None:
        """The row loop with a fetch before its product, and what computes the next window before it."""
        if task is None or rows.name != "for" or rows.attr("kind") != "range":
            return None
        turns, tasks = literal_range(rows), literal_range(task)
        products = [op for op in rows.blocks[0].ops if op.name in PRODUCTS]
        if turns is None or turns != range(len(turns)) or len(turns) < MIN_TILES:
            return None  # the tile's number says which part it fetches
        if not tasks or tasks.step < 0 or len(products) != 1:
            return None
        panel = products[0].operands[-2]
        place = self.defined.get(as_value(panel))
        window = place.op if place is not None and place.block is None else None
        share = self.share(panel.type)
        if (
            window is None
            or window.name != "panel_window"
            or window in rows.blocks[0].ops
            or share == 0
        ):
            return None
        variable = task.blocks[0].args[0]
        self.builder.span = rows.span
        with self.builder.block() as ops:
            following = self.builder.min(
                self.builder.add(variable, task.operands[2]), index(tasks[-1]), "next"
            )
            moved = tuple(self.at(x, variable, following) for x in window.operands[1:])
            if moved == window.operands[1:]:
                return None
            ahead = self.builder.value(
                "panel_window", [window.operands[0], *moved], "ahead", **dict(window.attrs)
            )
        tile, tiles = rows.blocks[0].args[0], index(len(turns))
        fetch = Op(
            "fetch_ahead", (ahead, tile, tiles), (), make_attrs({"share": share}), (), rows.span
        )
        body: list[Op] = []
        for op in rows.blocks[0].ops:
            body += [fetch, op] if op is products[0] else [op]
        block = Block(rows.blocks[0].args, tuple(body))
        return [*ops, Op(rows.name, rows.operands, rows.results, rows.attrs, (block,), rows.span)]

    def share(self, type: object) -> float:
        """Which part of a panel to fetch: what fits beside the one in use."""
        assert isinstance(type, PanelType)
        nbytes = type.k * type.n * type.dtype.nbytes
        return max(0.0, min(1.0, FREE_SHARE * (self.machine.l2 - nbytes) / nbytes))

    def at(self, x: Operand, variable: Value, following: Operand) -> Operand:
        """`x` with the loop's next value in place of this one."""
        if x == variable:
            return following
        place = self.defined.get(x) if isinstance(x, Value) else None
        if (
            place is None
            or place.op is None
            or place.block is not None
            or not place.op.name.startswith("s.")
        ):
            return x
        moved = tuple(self.at(y, variable, following) for y in place.op.operands)
        if moved == place.op.operands:
            return x
        return self.builder.scalar(place.op.name, *moved, hint=x.name)  # type: ignore[union-attr]
