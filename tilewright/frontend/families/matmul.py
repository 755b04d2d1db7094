"""Matrix products: only valid rows, columns and terms take part."""

from __future__ import annotations

from tilewright.errors import InvalidOperationError
from tilewright.frontend.operands import Call, block, constant, dtype_argument, handles
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import Block, Named
from tilewright.ir.nodes import Operand
from tilewright.ir.ops.matmul import accumulator_dtype


@handles("matmul")
def matmul(t: Tracer, call: Call) -> Named:
    """op(a) op(b)."""
    a, b = block(t, call, "a"), block(t, call, "b")
    if call.given("out_dtype"):
        wanted, found = dtype_argument(t, call, "out_dtype"), accumulator_dtype(a.dtype)
        if wanted != found:
            t.fail(
                InvalidOperationError,
                f"matmul of {a.dtype} adds up in {found}, out_dtype says {wanted}",
                call.at("out_dtype"),
                help=f"leave out_dtype out, and pl.cast the result to {wanted}",
            )
    return product(t, a, b, constant(t, call, "a_trans"), constant(t, call, "b_trans"))


@handles("matmul_acc")
def matmul_acc(t: Tracer, call: Call) -> Named:
    """acc + op(a) op(b)."""
    acc, a, b = block(t, call, "acc"), block(t, call, "a"), block(t, call, "b")
    return product(t, a, b, constant(t, call, "a_trans"), constant(t, call, "b_trans"), acc)


@handles("batch_matmul", "gemv")
def plain(t: Tracer, call: Call) -> Named:
    return product(t, block(t, call, "a"), block(t, call, "b"))


@handles("gemv_acc")
def gemv_acc(t: Tracer, call: Call) -> Named:
    acc, a, b = block(t, call, "acc"), block(t, call, "a"), block(t, call, "b")
    return product(t, a, b, acc=acc)


@handles("matmul_bias", "gemv_bias")
def biased(t: Tracer, call: Call) -> Named:
    """op(a) op(b) + bias in every row."""
    result = product(t, block(t, call, "a"), block(t, call, "b"))
    return Block(t.emit("add", [result.value, block(t, call, "bias").value]))


def product(
    t: Tracer,
    a: Block,
    b: Block,
    a_trans: bool = False,
    b_trans: bool = False,
    acc: Block | None = None,
) -> Block:
    """The valid extents decide m, k, n; the result is valid everywhere, 0 outside [m, n]."""
    attrs = {"a_trans": bool(a_trans) or None, "b_trans": bool(b_trans) or None}
    m, ka = _last_two(a, bool(a_trans))
    kb, n = _last_two(b, bool(b_trans))
    extents = [m, ka if ka == kb else t.min(ka, kb), n]
    if acc is None:
        return Block(
            t.emit(
                "matmul", [a.value, b.value, *extents], None if t.hint != "v" else "acc", **attrs
            )
        )
    return Block(
        t.emit(
            "matmul_acc",
            [acc.value, a.value, b.value, *extents],
            None if t.hint != "v" else "acc",
            **attrs,
        )
    )


def _last_two(x: Block, trans: bool) -> tuple[Operand, Operand]:
    extents = x.extents
    if len(extents) < 2:  # the operator's rule will say so
        return extents[-1], extents[-1]
    return (extents[-1], extents[-2]) if trans else (extents[-2], extents[-1])
