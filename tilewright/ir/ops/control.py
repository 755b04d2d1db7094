"""Ops that own blocks: loops, branches, regions, and the sweep that passes make of row-wise work. Barriers."""

from __future__ import annotations

from tilewright.dtypes import BOOL
from tilewright.ir.nodes import Operand
from tilewright.ir.ops.table import Attrs, RuleBroken, integers, operator, scalar, tensor, tile
from tilewright.ir.types import TileType, Type

LOOP_KINDS = ("range", "parallel", "pipeline", "spmd", "unroll")


@operator("for", "start, stop, step, *initial", effect="control")
def _for(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """A loop of attrs['kind']. Block args: the variable, then the carried values; results: the last ones.

    The iterations of a `parallel` or `spmd` loop are independent and carry nothing.
    """
    if attrs["kind"] not in LOOP_KINDS:
        raise RuleBroken(f"unknown loop kind {attrs['kind']!r}")
    integers(operands[:3], 3, "loop bounds")
    return tuple(x.type for x in operands[3:])


@operator("while", "again, *initial", effect="control")
def _while(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """A loop that runs as long as the first of its carried values, a BOOL, is true.

    Block args: the carried values, that BOOL among them; results: the last ones.
    """
    if not operands or scalar(operands[0], "the condition").dtype != BOOL:
        raise RuleBroken("the first carried value must be BOOL")
    return tuple(x.type for x in operands)


@operator("if", "condition", effect="control")
def _if(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Two blocks, then and else; both yield the results."""
    if scalar(operands[0], "the condition").dtype != BOOL:
        raise RuleBroken(
            f"the condition must be BOOL, got {operands[0].type}",
            help="compare explicitly, for instance n != 0",
        )
    return ()


@operator("at", "", effect="control")
def _at(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """A region named attrs['name']; its yields are its results."""
    return ()


@operator("sweep", "", effect="control")
def _sweep(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Row-wise ops over one set of rows, done row by row; attrs['rows'] rows at most.

    Means the same as its ops one after the other. Nothing inside reads a row of another row's making.
    """
    return ()


@operator("serial", "", effect="control")
def _serial(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Orchestration between parallel loops: one thread runs it, the others wait."""
    return ()


@operator("syncall", "", effect="control")
def _syncall(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Every block of the spmd loop around gets here before any goes on. `split_barriers` takes it apart."""
    return ()


@operator("gather_lanes", "half", effect="control")
def _gather_lanes(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """The halves of both lanes, joined along attrs['axis']. `split_barriers` takes it apart."""
    half, axis = tile(operands[0], "the half"), attrs["axis"]
    if len(half.shape) != 2 or axis not in (0, 1):
        raise RuleBroken(f"two halves of a matrix are joined along axis 0 or 1, got {half}")
    shape = [extent * (2 if i == axis else 1) for i, extent in enumerate(half.shape)]
    return (TileType(tuple(shape), half.dtype),)


@operator("yield", "*values", effect="control")
def _yield(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Hand values to the op that owns this block."""
    return ()


@operator("return", "*tensors", effect="control")
def _return(operands: tuple[Operand, ...], attrs: Attrs) -> tuple[Type, ...]:
    """Name the results of the function."""
    for x in operands:
        tensor(x, "a result")
    return ()
