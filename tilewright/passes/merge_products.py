"""A loop that walks over K, a slice at a time, is one product over all of K."""

from __future__ import annotations

from tilewright.ir.affine import affine
from tilewright.ir.build import Builder
from tilewright.ir.nodes import Const, Function, Op, Operand, Value, index
from tilewright.ir.walk import Replace, definitions, map_ops, names_in_use, uses
from tilewright.machine import Machine

# A chain of products has the bits of one product where slices end on a group of K; 4 is a multiple of every
# microkernel's group.
K_UNIT = 4


def merge_products(fn: Function, machine: Machine) -> Function:
    """Replace loops of matmul_acc over neighbouring slices of K by one matmul_acc.

    Takes:  sequential loops with literal bounds that do nothing but load a slice of each side, the next
            one in every turn, and add their product to a carried accumulator.
    Gives:  the same bits natively: accumulation over K is one chain either way. (The interpreter rounds to
            FP32 after every matmul_acc, so there a merged product may differ in the last bits.)
    Leaves: loops that store, slices that do not lie next to each other, slices of odd width.
    """
    return _Merger(fn).run()


class _Merger:
    def __init__(self, fn: Function) -> None:
        self.fn = fn
        self.defined = definitions(fn)
        self.readers = uses(fn)
        self.taken = names_in_use(fn)

    def run(self) -> Function:
        merged: Function = map_ops(self.fn, self.rewrite)
        return merged

    def rewrite(self, loop: Op) -> Replace | None:
        if loop.name != "for" or loop.attr("kind") not in ("range", "pipeline", "unroll"):
            return None
        bounds = [x.value for x in loop.operands[:3] if isinstance(x, Const)]
        body = loop.blocks[0]
        if len(bounds) != 3 or len(range(*bounds)) == 0 or not loop.results:
            return None
        products = [op for op in body.ops if op.name == "matmul_acc"]
        loads = [op for op in body.ops if op.name == "load"]
        others = [op for op in body.ops if op not in products and op not in loads]
        if len(products) != len(loop.results) or len(loads) > 2 * len(products):
            return None
        if any(op.name != "yield" and not op.name.startswith("s.") for op in others):
            return None
        builder = Builder(self.taken)
        values: dict[Value, Operand] = {}
        for arg, first, result, yielded in zip(
            body.args[1:], loop.operands[3:], loop.results, body.ops[-1].operands, strict=True
        ):
            product = next((op for op in products if op.result == yielded), None)
            if product is None or product.operands[0] != arg or len(self.readers.get(arg, ())) != 1:
                return None
            if len(self.readers.get(product.result, ())) != 1:
                return None
            builder.span = product.span
            sides = [self.widened(builder, x, loop, side, product) for x, side in zip(product.operands[1:3], "ab", strict=True)]
            if None in sides:
                return None
            depth = self.depth(product) * len(range(*bounds))
            m, _, n = product.operands[3:]
            operands = [*sides, m, index(depth), n]
            name = "matmul"
            if not self.is_zero(first):
                name, operands = "matmul_acc", [first, *operands]
            values[result] = builder.value(name, operands, result.name, **dict(product.attrs))  # type: ignore[arg-type]
        self.taken += [op.result.name for op in builder.ops]
        return Replace(builder.ops, values)

    def is_zero(self, x: Operand) -> bool:
        """True for a tile of zeros, which is what a product starts from anyway."""
        place = self.defined.get(x) if isinstance(x, Value) else None
        op = None if place is None or place.block is not None else place.op
        return op is not None and op.name == "full" and op.attr("value") == 0

    @staticmethod
    def depth(product: Op) -> int:
        """K of one slice."""
        a = product.operands[1].type.shape  # type: ignore[union-attr]
        return int(a[-2] if product.attr("a_trans") else a[-1])

    def widened(self, builder: Builder, x: Operand, loop: Op, side: str, product: Op) -> Value | None:
        """The load of all the slices that `x` is one of; None when they are not neighbours."""
        place = self.defined.get(x) if isinstance(x, Value) else None
        load = place.op if place is not None and place.block is None else None
        if load is None or load.name != "load" or load not in loop.blocks[0].ops or load.attr("drop"):
            return None
        if len(load.attr("shape")) != 2 or product.operands[4] != index(self.depth(product)):
            return None
        along_rows = bool(product.attr("a_trans")) if side == "a" else not product.attr("b_trans")
        axis = 0 if along_rows else 1
        variable = loop.blocks[0].args[0]
        bounds = [int(b.value) for b in loop.operands[:3] if isinstance(b, Const)]
        trips = len(range(*bounds))
        shape = list(load.attr("shape"))
        offsets, valid = load.operands[1:3], load.operands[3:]
        moves = [affine(offset, self.defined).factor(variable) * bounds[2] for offset in offsets]
        if moves[axis] != shape[axis] or moves[1 - axis] != 0 or shape[axis] % K_UNIT:
            return None
        if valid[axis] != index(shape[axis]) or any(self.inside(y, loop) for y in (offsets[1 - axis], valid[1 - axis])):
            return None
        start = self.at_start(builder, offsets[axis], loop)
        shape[axis] *= trips
        starts = [offsets[1 - axis]] * 2
        starts[axis] = start
        counts = [valid[1 - axis]] * 2
        counts[axis] = index(shape[axis])
        wide = [load.operands[0], *starts, *counts]
        builder.span = load.span
        return builder.value("load", wide, load.result.name, shape=tuple(shape))

    def inside(self, x: Operand, loop: Op) -> bool:
        """True when `x` is computed in the loop's body."""
        if isinstance(x, Const):
            return False
        place = self.defined[x]
        return place.op is not None and (place.op in loop.blocks[0].ops or x in loop.blocks[0].args)

    def at_start(self, builder: Builder, x: Operand, loop: Op) -> Operand:
        """`x` in the loop's first turn, computed before the loop."""
        if x == loop.blocks[0].args[0]:
            return loop.operands[0]
        if not self.inside(x, loop):
            return x
        op = self.defined[x].op  # type: ignore[index]
        operands = tuple(self.at_start(builder, y, loop) for y in op.operands)  # type: ignore[union-attr]
        return builder.scalar(op.name, *operands, hint=x.name)  # type: ignore[union-attr]
