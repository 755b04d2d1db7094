"""Small arrays of scalars: made, read and changed."""

from __future__ import annotations

import ast

from tilewright.dtypes import BOOL, TASK_ID, DType
from tilewright.errors import InvalidOperationError, ParserTypeError
from tilewright.frontend.families.memory import as_integer, read_element
from tilewright.frontend.operands import Call, dtype_argument, handles, literal_as
from tilewright.frontend.options import TASK_HELP, is_task
from tilewright.frontend.tracer import Tracer
from tilewright.frontend.values import Array, Constant, Named, Tensor, Token, describe, to_number
from tilewright.ir.nodes import Const, Operand


@handles("array.create")
def create(t: Tracer, call: Call) -> Named:
    """Zeros in memory of their own; of task ids only the number is kept."""
    count = t.constant(
        call["n"], call.at("n"), "the size of an array", help="make it as large as it can get"
    )
    dtype = dtype_argument(t, call, "dtype")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        t.fail(
            InvalidOperationError,
            f"an array of {count!r} elements",
            call.at("n"),
            help="give it a positive number of elements",
        )
    if dtype == TASK_ID:
        return Array(count, dtype, None)
    if not (dtype.is_integer or dtype == BOOL):
        t.fail(
            InvalidOperationError,
            f"the elements of an array are integers, BOOLs or task ids, got {dtype}",
            call.at("dtype"),
            help="floats go into a tensor: pl.create_tensor, pl.read, pl.write",
        )
    zero = False if dtype == BOOL else 0
    hint = None if t.hint != "v" else "a"
    memory = t.emit("create", [], hint, shape=(count,), dtype=dtype, value=zero)
    return Array(count, dtype, Tensor(memory, memory.name, fresh=True))


def read_item(t: Tracer, array: Array, node: ast.Subscript, at: Named) -> Named:
    """`a[i]`."""
    index = _index(t, array, at, node)
    if array.memory is None:
        return Token()
    return read_element(t, array.memory, (index,), node)


def write_item(t: Tracer, array: Array, node: ast.Subscript, at: Named, value: Named) -> None:
    """`a[i] = v`. Integers of every width fit, as long as their value does."""
    index = _index(t, array, at, node)
    if array.memory is None:
        if not is_task(value):
            text = f"an element of {describe(array)} is a task id, got {describe(value)}"
            t.fail(ParserTypeError, text, node, TASK_HELP)
        return
    t.note_write(array.memory)
    t.builder.op("write", [array.memory.value, _element(t, array.dtype, value, node), index])


def _element(t: Tracer, dtype: DType, value: Named, node: ast.AST) -> Operand:
    number = to_number(value)
    fits = number is not None and (
        number.dtype == dtype or (number.dtype.is_integer and dtype.is_integer)
    )
    if number is None or not fits:
        t.fail(
            ParserTypeError,
            f"an element is {dtype}, got {describe(value)}",
            node,
            help=f"pl.cast(…, pl.{dtype}) first" if number is not None else None,
        )
    if isinstance(value, Constant) or isinstance(number.operand, Const):
        assert isinstance(number.operand, Const)
        return Const(literal_as(t, "array", number.operand.value, dtype, node), dtype)
    return as_integer(t, number, dtype)


def _index(t: Tracer, array: Array, at: Named, node: ast.Subscript) -> Operand:
    index = t.index(at, node.slice, "the subscript of an array")
    if isinstance(index, Const) and not 0 <= index.value < array.count and not t.dead:
        t.fail(
            InvalidOperationError,
            f"index {index.value} is outside {describe(array)}",
            node,
            help=f"indices count from 0 to {array.count - 1}",
        )
    return index
