"""A loop that walks over K, a slice at a time, is one product over all of K."""

from __future__ import annotations

from tilewright.ir.affine import Movement
from tilewright.ir.build import Builder, fold_scalar
from tilewright.ir.nodes import Const, Function, Op, Operand, Value, index
from tilewright.ir.typed import literal_range, shape_of
from tilewright.ir.walk import Replace, definitions, map_ops, names_in_use, uses
from tilewright.machine import Machine

# A chain of products has the bits of one product where slices end on a group of K. 4 is a multiple of every
# group of a float dtype; INT8 sums are exact however they are cut.
K_UNIT = 4


def merge_products(fn: Function, machine: Machine) -> Function:
    """Replace loops of matmul_acc over neighbouring slices of K by one matmul_acc.

    Takes:  sequential loops with literal bounds that do nothing but load a slice of each side, the next
            one in every turn, and add their product to a carried accumulator.
    Gives:  the same bits natively: accumulation over K is one chain either way. (The interpreter rounds to
            FP32 after every matmul_acc, so there a merged product may differ in the last bits.)
    Leaves: loops that store, slices that do not lie next to each other, slices of odd width, valid extents
            that differ from turn to turn.
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
        turns = literal_range(loop)
        body = loop.blocks[0]
        if not turns or not loop.results:
            return None
        products = [op for op in body.ops if op.name == "matmul_acc"]
        loads = [op for op in body.ops if op.name == "load"]
        others = [op for op in body.ops if op not in products and op not in loads]
        if len(products) != len(loop.results) or len(loads) > 2 * len(products):
            return None
        if any(op.name != "yield" and not op.name.startswith("s.") for op in others):
            return None
        self.movement = Movement(loop, self.defined)
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
            if any(self.movement.varies(x) for x in product.operands[3:]):
                return None
            builder.span = product.span
            a = self.widened(builder, product.operands[1], loop, "a", product)
            b = self.widened(builder, product.operands[2], loop, "b", product)
            if a is None or b is None:
                return None
            m, n = (
                self.at_start(builder, x, loop) for x in (product.operands[3], product.operands[5])
            )
            operands: list[Operand] = [a, b, m, index(self.depth(product) * len(turns)), n]
            name = "matmul"
            if not self.is_zero(first):
                name, operands = "matmul_acc", [first, *operands]
            values[result] = builder.value(name, operands, result.name, **dict(product.attrs))
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
        a = shape_of(product.operands[1])
        return a[-2] if product.attr("a_trans") else a[-1]

    def widened(
        self, builder: Builder, x: Operand, loop: Op, side: str, product: Op
    ) -> Value | None:
        """The load of all the slices that `x` is one of; None when they are not neighbours."""
        place = self.defined.get(x) if isinstance(x, Value) else None
        load = place.op if place is not None and place.block is None else None
        if load is None or load.name != "load" or load not in loop.blocks[0].ops:
            return None
        shape, drop = list(load.attr("shape")), load.attr("drop") or ()
        matrix = [axis for axis in range(len(shape)) if axis not in drop]
        if len(matrix) != 2 or product.operands[4] != index(self.depth(product)):
            return None
        along_rows = bool(product.attr("a_trans")) if side == "a" else not product.attr("b_trans")
        axis = matrix[0 if along_rows else 1]
        turns = literal_range(loop)
        assert turns, "rewrite has looked"
        offsets, valid = load.operands[1 : 1 + len(shape)], load.operands[1 + len(shape) :]
        along = self.movement.of(offsets[axis])
        others = [x for i in range(len(shape)) if i != axis for x in (offsets[i], valid[i])]
        if along is None or along * turns.step != shape[axis] or shape[axis] % K_UNIT:
            return None
        if valid[axis] != index(shape[axis]) or any(map(self.movement.varies, others)):
            return None
        shape[axis] *= len(turns)
        starts = [self.at_start(builder, x, loop) for x in offsets]
        counts = [self.at_start(builder, x, loop) for x in valid]
        counts[axis] = index(shape[axis])
        builder.span = load.span
        wide = [load.operands[0], *starts, *counts]
        return builder.value(
            "load", wide, load.result.name, shape=tuple(shape), drop=load.attr("drop")
        )

    def inside(self, x: Operand, loop: Op) -> bool:
        """True when `x` is computed in the loop's body."""
        if isinstance(x, Const):
            return False
        place = self.defined[x]
        return place.op is not None and (place.op in loop.blocks[0].ops or x in loop.blocks[0].args)

    def at_start(self, builder: Builder, x: Operand, loop: Op) -> Operand:
        """`x` in the loop's first turn, computed before the loop."""
        if not isinstance(x, Value) or not self.inside(x, loop):
            return x
        if x == loop.blocks[0].args[0]:
            return loop.operands[0]
        op = self.defined[x].op
        assert op is not None
        assert op.name.startswith("s."), "offsets in these loops are made of scalars"
        operands = tuple(self.at_start(builder, y, loop) for y in op.operands)
        folded = fold_scalar(op.name, operands)
        return folded or builder.value(op.name, operands, x.name, **dict(op.attrs))
