"""A product reads its operands where they are, not a turned or reshaped copy of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tilewright.ir.nodes import Function, Op, Operand, Value, index, make_attrs
from tilewright.ir.typed import shape_of, tensor_type_of
from tilewright.ir.walk import Definition, Replace, definitions, map_ops, uses
from tilewright.machine import Machine


def read_direct(fn: Function, machine: Machine) -> Function:
    """Take transposes into the products that read them, and lost unit axes into the loads they come from.

    Takes:  matmul and matmul_acc of a matrix that is the transpose of another; loads of whole windows that
            are only ever read through one reshape that does nothing but remove axes of extent 1.
    Gives:  the same bits: the product's a_trans or b_trans is the other one; the load drops the axes.
    Leaves: products of more axes than two, windows of which only a part is valid. The transposes stay;
            drop_dead takes those that nobody else reads.
    """
    flatter: Function = map_ops(fn, _Flattener(fn).rewrite)
    defined = definitions(flatter)
    turned: Function = map_ops(flatter, lambda op: _untransposed(op, defined))
    return turned


class _Flattener:
    """Loads without the axes that their one reader takes away."""

    def __init__(self, fn: Function) -> None:
        self.readers = uses(fn)
        self.flat: dict[Value, Value] = {}  # a load's result -> what takes its place

    def rewrite(self, op: Op) -> Op | Replace | None:
        same = op.name == "reshape" and op.operands[0].type == op.result.type
        if same and op.operands[0] in self.flat.values():  # not one that puts axes back
            return Replace((), {op.result: op.operands[0]})
        drop = self.axes_to_drop(op) if op.name == "load" else None
        if not drop:
            return None
        (reshape,) = self.readers[op.result]
        flat = replace(op.result, type=reshape.result.type)
        self.flat[op.result] = flat
        attrs = make_attrs({**dict(op.attrs), "drop": drop})
        return Replace(
            (replace(op, results=(flat,), attrs=attrs),),
            {op.result: flat},
        )

    def axes_to_drop(self, load: Op) -> tuple[int, ...]:
        """The unit axes that the reader of a whole window takes away; () for every other load."""
        readers = self.readers.get(load.result, [])
        shape = tuple(load.attr("shape"))
        rank = len(tensor_type_of(load.operands[0]).shape)
        if len(readers) != 1 or readers[0].name != "reshape" or load.attr("drop"):
            return ()
        if load.operands[1 + rank :] != tuple(map(index, shape)):
            return ()
        wanted = list(shape_of(readers[0].result))
        drop = [axis for axis, extent in enumerate(shape[:-1]) if extent == 1]
        drop = drop[: rank - len(wanted)]
        kept = [extent for axis, extent in enumerate(shape) if axis not in drop]
        return tuple(drop) if len(wanted) >= 2 and kept == wanted else ()


def _untransposed(op: Op, defined: Mapping[Value, Definition]) -> Op | None:
    if op.name not in ("matmul", "matmul_acc"):
        return None
    attrs = dict(op.attrs)
    operands = list(op.operands)
    for position, flag in ((-5, "a_trans"), (-4, "b_trans")):
        while (source := _turned(operands[position], defined)) is not None:
            operands[position] = source
            attrs[flag] = not attrs.get(flag) or None
    if tuple(operands) == op.operands:
        return None
    return replace(op, operands=tuple(operands), attrs=make_attrs(attrs))


def _turned(x: Operand, defined: Mapping[Value, Definition]) -> Operand | None:
    """The matrix that `x` is the transpose of."""
    place = defined.get(x) if isinstance(x, Value) else None
    op = place.op if place is not None and place.block is None else None
    if op is None or op.name != "transpose" or len(shape_of(x)) != 2:
        return None
    return op.operands[0]
