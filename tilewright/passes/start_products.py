"""The accumulator idiom `if first: matmul else: matmul_acc` without its branch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block, Const, Function, Op, Value, make_attrs
from tilewright.ir.typed import as_value, tile_type_of, whole_number
from tilewright.ir.walk import Definition, definitions, map_ops, names_in_use, uses
from tilewright.machine import Machine


def start_products(fn: Function, machine: Machine) -> Function:
    """Start a carried accumulator from zero instead of branching on the first iteration.

    Takes:  `for k …: if k == first: acc = matmul(a, b) else: acc = matmul_acc(acc, a, b)` with at least one
            trip, where nothing else reads the carried accumulator.
    Gives:  `acc = 0; for k …: acc = matmul_acc(acc, a, b)`. The same bits: a product starts from zero too.
    Leaves: branches that do anything else, loops that may not run.
    """
    builder = Builder(names_in_use(fn))
    defined = definitions(fn)
    readers = uses(fn)

    def rewrite(op: Op) -> Op | tuple[Op, ...] | None:
        if op.name != "for" or not _surely_runs(op):
            return None
        body = op.blocks[0]
        zeros: dict[int, Op] = {}
        ops: list[Op] = []
        for inner in body.ops:
            products = _first_or_continue(inner, op, defined)
            if products is None:
                ops.append(inner)
                continue
            positions = [
                body.args.index(p.operands[0]) if p.operands[0] in body.args else 0
                for p in products
            ]
            alone = all(len(readers.get(as_value(p.operands[0]), ())) == 1 for p in products)
            if 0 in positions or not alone:
                ops.append(inner)
                continue
            for position, product in zip(positions, products, strict=True):
                acc = tile_type_of(product.result)
                attrs = make_attrs({"shape": acc.shape, "dtype": acc.dtype, "value": 0})
                start = builder.fresh(acc, "zero")
                zeros[position] = Op("full", (), (start,), attrs, (), product.span)
            ops.extend(products)
        if not zeros:
            return None
        operands = list(op.operands)
        for position, zero in zeros.items():
            operands[2 + position] = zero.result
        loop = replace(op, operands=tuple(operands), blocks=(Block(body.args, tuple(ops)),))
        return (*zeros.values(), loop)

    return map_ops(fn, rewrite)


def _surely_runs(loop: Op) -> bool:
    bounds = loop.operands[:3]
    return all(isinstance(x, Const) for x in bounds) and len(range(*map(whole_number, bounds))) > 0


def _first_or_continue(op: Op, loop: Op, defined: Mapping[Value, Definition]) -> list[Op] | None:
    """The `matmul_acc` ops that an `if first` means, renamed to the results of the `if`; None if it is not one."""
    if op.name != "if" or not isinstance(op.operands[0], Value):
        return None
    test = defined[op.operands[0]].op
    first = (loop.blocks[0].args[0], loop.operands[0])
    if test is None or test.name != "s.eq" or test.operands not in (first, first[::-1]):
        return None
    start, more = op.blocks
    if len(start.ops) != len(more.ops) or len(start.ops) - 1 != len(op.results):
        return None
    products: list[Op] = []
    for result, a, b in zip(op.results, start.ops, more.ops, strict=False):
        same = (
            a.name == "matmul"
            and b.name == "matmul_acc"
            and a.operands == b.operands[1:]
            and a.attrs == b.attrs
        )
        in_order = same and start.ops[-1].operands[len(products)] == a.result
        if not in_order or more.ops[-1].operands[len(products)] != b.result:
            return None
        products.append(replace(b, results=(result,)))
    return products
