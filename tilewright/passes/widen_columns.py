"""A loop over narrow column tiles takes wider ones, where each column is work of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tilewright.blocking import panel_fits, panel_streams
from tilewright.dtypes import DType
from tilewright.ir.affine import Affine, Movement, affine
from tilewright.ir.nodes import Block, Function, Op, Operand, Value, index, make_attrs
from tilewright.ir.ops import lookup
from tilewright.ir.ops.elementwise import BINARY, UNARY
from tilewright.ir.typed import (
    as_value,
    literal_range,
    shape_of,
    tensor_type_of,
    tile_type_of,
    whole_number,
)
from tilewright.ir.types import ScalarType, TileType
from tilewright.ir.walk import definitions, ops_in, root_tensor
from tilewright.machine import Machine

PER_COLUMN = frozenset((*BINARY, *UNARY, "cast", "cmp", "sel", "full", "splat", "broadcast"))

# Tasks that a shared loop keeps, so that threads have something to share out.
TASKS = 16
# A widened tile stays at or below this many columns; wider ones gain nothing and fill the caches.
MOST_COLUMNS = 512

Sides = tuple[int, int, DType]  # of a product: rows, K, and what is multiplied


def widen_columns(fn: Function, machine: Machine) -> Function:
    """Give a loop over column tiles fewer turns over wider tiles.

    Takes:  loops with literal bounds that carry nothing, whose body is a straight line (regions looked
            through) that reads and writes tensors either at columns that move on by just one tile a turn,
            or at windows that do not move; and that does nothing across columns.
    Gives:  the same values bit for bit: every column is computed by the same ops, a product's K included.
            The panel of a widened product takes at most half of the second-level cache, or more where many
            rows share it and are made FP32 for every task; a shared loop keeps enough turns to share out.
    Leaves: reductions along the row, gathers, windows that overlap or leave gaps, work on scalars that
            differ from turn to turn.
    """
    widener = _Widener(fn, machine)
    return replace(fn, body=widener.block(fn.body))


class _Widener:
    def __init__(self, fn: Function, machine: Machine) -> None:
        self.machine = machine
        self.defined: Mapping = definitions(fn)

    def block(self, block: Block) -> Block:
        return Block(block.args, tuple(map(self.op, block.ops)))

    def op(self, op: Op) -> Op:
        if not op.blocks:
            return op
        op = replace(op, blocks=tuple(map(self.block, op.blocks)))
        turns = literal_range(op) if op.name == "for" and not op.results else None
        if turns is None or turns.step < 0 or (turns.stop - turns.start) % turns.step:
            return op
        widths = self.moving_width(op, turns.step)
        if widths is None:
            return op
        width, products = widths
        times = self.times(op, len(turns), width, products)
        if times == 1:
            return op
        body = self.widened(op.blocks[0], times)
        return replace(op, operands=(*op.operands[:2], index(turns.step * times)), blocks=(body,))

    def times(self, loop: Op, trips: int, width: int, products: Sequence[Sides]) -> int:
        """How many turns become one: the most that divides the trip count and respects the limits."""
        shared = loop.attr("kind") in ("parallel", "spmd")
        for times in range(trips, 1, -1):
            columns = width * times
            if trips % times or columns > MOST_COLUMNS:
                continue
            if not all(self.affordable(sides, columns) for sides in products):
                continue
            if shared and trips // times < TASKS:
                continue
            return times
        return 1

    def affordable(self, sides: Sides, columns: int) -> bool:
        """Whether a product's panel of so many columns is one that the caches serve well."""
        m, k, dtype = sides
        fits = panel_fits(k * dtype.nbytes, columns, self.machine)
        return fits or panel_streams(m, columns, k, dtype, self.machine)

    # Which values have the loop's columns

    def moving_width(self, loop: Op, step: int) -> tuple[int, list[Sides]] | None:
        """(columns a turn, its products); None when columns are not independent."""
        self.movement = Movement(loop, self.defined)
        self.wide: set[Value] = set()
        moving = [self.window(op, step) for op in ops_in(loop) if op.name == "load"]
        self.constants = {width for width in moving if width}
        width, products = 0, list[Sides]()
        for op in ops_in(loop.blocks[0]):
            if op.name in ("at", "yield") and not op.operands:
                if op.results:
                    return None
                continue
            if op.name.startswith("s."):
                continue
            found = self.columns(op, step)
            if found is None or (found and width and found != width):
                return None
            width = width or found
            if op.name == "matmul" or op.name == "matmul_acc":
                b = tile_type_of(op.operands[-4])
                products.append((shape_of(op.result)[0], b.shape[0], b.dtype))
        return (width, products) if width and self.keeps_apart(loop) else None

    def columns(self, op: Op, step: int) -> int | None:
        """The moving columns that `op` handles; 0 when it has to do with none; None when it mixes them."""
        if op.name in ("load", "store"):
            return self.window(op, step)
        if any(isinstance(x.type, ScalarType) and self.movement.varies(x) for x in op.operands):
            return None
        operands = [x for x in op.operands if x in self.wide]
        if op.name in ("matmul", "matmul_acc"):
            b, n = op.operands[-4], op.operands[-1]
            acc_fits = op.name == "matmul" or op.operands[0] in self.wide
            a = op.operands[-5]
            if not operands:
                return 0 if op.name == "matmul" else None
            if a in self.wide or b not in self.wide or op.attr("b_trans") or not acc_fits:
                return None
            if n != index(shape_of(op.result)[1]):
                return None
            self.wide.add(op.result)
            return shape_of(op.result)[1]
        if op.name not in PER_COLUMN:
            return 0 if not operands and lookup(op.name).effect == "pure" else None
        if op.name == "full":
            return self.constant(op)
        if not operands:
            return 0
        width = shape_of(operands[0])[-1]
        tiles = [x for x in op.operands if isinstance(x.type, TileType)]
        if any(x not in self.wide and shape_of(x)[-1] != 1 for x in tiles):
            return None
        if shape_of(op.result)[-1] != width or len(shape_of(op.result)) != 2:
            return None
        self.wide.add(op.result)
        return int(width)

    def constant(self, op: Op) -> int | None:
        """A `full` as wide as the moving windows belongs to them."""
        width = shape_of(op.result)[-1]
        if width == 1 or width not in self.constants or len(shape_of(op.result)) != 2:
            return 0
        self.wide.add(op.result)
        return int(width)

    def window(self, op: Op, step: int) -> int | None:
        """The columns of a load or store whose window moves on by its width; 0 for a load that stays in
        its place, None for every other."""
        first = 1 if op.name == "load" else 2
        tensor = tensor_type_of(op.operands[first - 1])
        rank = len(tensor.shape)
        offsets, valid = op.operands[first : first + rank], op.operands[first + rank :]
        shape, drop = op.attr("shape"), op.attr("drop") or ()
        *still, last = offsets
        along = self.movement.of(last)
        if along is None or any(map(self.movement.varies, (*still, *valid))):
            return None
        if along == 0:
            if op.name == "load":
                return 0
            return None  # every turn writes the same window
        width = shape[-1]
        kept = rank - len(drop)
        if along * step != width or rank - 1 in drop or kept != 2 or valid[-1] != index(width):
            return None
        if op.name == "load":
            self.wide.add(op.result)
        elif op.operands[0] not in self.wide or op.attr("atomic"):
            return None
        return int(width)

    def keeps_apart(self, loop: Op) -> bool:
        """True when every access to memory that the loop writes is at the same columns of the same view.

        A turn then sees and overwrites its own columns only, so the order of turns does not matter.
        """
        columns: dict[Value, set[tuple[Operand, Affine | None]]] = {}
        written: set[Value] = set()
        for op in ops_in(loop):
            if op.name not in ("load", "store"):
                continue
            first = 1 if op.name == "load" else 2
            tensor = op.operands[first - 1]
            last = op.operands[first + len(shape_of(tensor)) - 1]
            moves = op.name == "store" or op.result in self.wide
            start = affine(last, self.defined) if moves else None
            columns.setdefault(self.root(tensor), set()).add((tensor, start))
            if op.name == "store":
                written.add(self.root(tensor))
        return all(len(columns[root]) == 1 for root in written)

    def root(self, x: Operand) -> Value:
        return root_tensor(as_value(x), self.defined)

    # Rebuilding

    def widened(self, block: Block, times: int) -> Block:
        names: dict[Value, Value] = {}

        def wide(value: Value) -> Value:
            own = tile_type_of(value)
            shape = (*own.shape[:-1], own.shape[-1] * times)
            return Value(value.name, TileType(shape, own.dtype))

        def rebuild(inner: Block) -> Block:
            ops = []
            for op in inner.ops:
                attrs = dict(op.attrs)
                operands = [names.get(x, x) if isinstance(x, Value) else x for x in op.operands]
                moves = op.name in ("load", "store") and (
                    op.operands[0] in self.wide or bool(set(op.results) & self.wide)
                )
                if moves or (set(op.results) & self.wide and "shape" in attrs):
                    attrs["shape"] = (*attrs["shape"][:-1], attrs["shape"][-1] * times)
                if moves or (op.name in ("matmul", "matmul_acc") and op.result in self.wide):
                    operands[-1] = index(whole_number(operands[-1]) * times)
                results = []
                for result in op.results:
                    if result in self.wide:
                        names[result] = wide(result)
                        result = names[result]
                    results.append(result)
                blocks = tuple(map(rebuild, op.blocks))
                ops.append(
                    Op(op.name, tuple(operands), tuple(results), make_attrs(attrs), blocks, op.span)
                )
            return Block(inner.args, tuple(ops))

        return rebuild(block)
