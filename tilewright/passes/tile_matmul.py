"""Products become a packed right-hand side and a product with it, the form that a microkernel eats."""

from __future__ import annotations

from itertools import product

from tilewright.ir.build import Builder
from tilewright.ir.nodes import Function, Op, Operand, index
from tilewright.ir.typed import shape_of, tile_type_of
from tilewright.ir.walk import Replace, map_ops, names_in_use
from tilewright.machine import Machine


def tile_matmul(fn: Function, machine: Machine) -> Function:
    """matmul -> pack + matmul_packed, matmul_acc -> pack + matmul_packed_acc.

    Takes:  matmul and matmul_acc of any rank, with valid extents.
    Gives:  2-D packed products; batch axes are unrolled. Where only part of K is valid, the left side is
            zero-padded (the panel is by itself), so what lies outside never reaches a sum. Rows of the
            result outside the valid ones are filled with zeros.
    Leaves: nothing of these two ops.
    """
    taken = names_in_use(fn)

    def rewrite(op: Op) -> Replace | None:
        if op.name not in ("matmul", "matmul_acc"):
            return None
        builder = Builder(taken)
        builder.span = op.span
        acc = op.operands[0] if op.name == "matmul_acc" else None
        a, b, m, k, n = op.operands[-5:]
        result = _batched(builder, op, acc, a, b, (m, k, n))
        taken.extend(value.name for made in builder.ops for value in made.results)
        return Replace(builder.ops, {op.result: result})

    return map_ops(fn, rewrite)


def _batched(
    builder: Builder,
    op: Op,
    acc: Operand | None,
    a: Operand,
    b: Operand,
    valid: tuple[Operand, ...],
) -> Operand:
    """One 2-D product per batch index, each put into its place of the result."""
    shape = shape_of(op.result)
    if len(shape) == len(shape_of(a)) == len(shape_of(b)) == 2:
        return _product(builder, op, acc, a, b, valid)
    dtype = tile_type_of(op.result).dtype
    out: Operand = acc or builder.value("full", shape=shape, dtype=dtype, value=0)
    for where in product(*map(range, shape[:-2])):
        part = _product(
            builder,
            op,
            None if acc is None else _matrix(builder, acc, where),
            _matrix(builder, a, where),
            _matrix(builder, b, where),
            valid,
        )
        window = (1,) * (len(shape) - 2) + shape[-2:]
        operands = [out, part, *map(index, (*where, 0, 0)), *map(index, window)]
        out = builder.value("insert", operands, shape=window, drop=tuple(range(len(shape) - 2)))
    return out


def _matrix(builder: Builder, tile: Operand, where: tuple[int, ...]) -> Operand:
    """The matrix of a batched tile at `where`; axes of extent 1 are shared by all."""
    shape = shape_of(tile)
    batch = shape[:-2]
    if not batch:
        return tile
    own = where[len(where) - len(batch) :]
    at = [index(0 if extent == 1 else i) for extent, i in zip(batch, own, strict=True)]
    window = (1,) * len(batch) + shape[-2:]
    return builder.value(
        "extract", [tile, *at, index(0), index(0)], shape=window, drop=tuple(range(len(batch)))
    )


def _product(
    builder: Builder,
    op: Op,
    acc: Operand | None,
    a: Operand,
    b: Operand,
    valid: tuple[Operand, ...],
) -> Operand:
    m, k, n = valid
    if op.attr("a_trans"):
        a = builder.value("transpose", [a], axis1=0, axis2=1)
    rows, depth = shape_of(a)
    trans = bool(op.attr("b_trans"))
    columns = shape_of(b)[0 if trans else 1]
    if k != index(depth):
        a = builder.value("fillpad", [a, index(rows), k], hint="a", value=0)
    panel = builder.value("pack", [b, k, n], hint="panel", trans=trans or None)
    if acc is None:
        out = builder.value("matmul_packed", [a, panel, m], hint=op.result.name)
    else:
        out = builder.value("matmul_packed_acc", [acc, a, panel, m], hint=op.result.name)
    if m == index(rows):
        return out
    if acc is None:
        return builder.value("fillpad", [out, m, index(columns)], hint="acc", value=0)
    # rows of acc beyond m keep their value: put back what the product left unspecified
    window = (rows, columns)
    kept = [acc, out, index(0), index(0), m, index(columns)]
    return builder.value("insert", kept, hint="acc", shape=window)
