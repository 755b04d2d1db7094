"""Walking a function: arguments in, ops in program order, loops and branches, results out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal

import torch

from tilewright.dtypes import BOOL
from tilewright.errors import ArgumentError, CompilerBug, KernelError
from tilewright.interpreter import (
    elementwise,
    gather,
    matmul,
    memory,
    reduce,
    scalar,
    shape,
    sort,
)
from tilewright.interpreter.arrays import fp32, storage
from tilewright.interpreter.meanings import MEANINGS, Call
from tilewright.interpreter.memory import of_array
from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Param
from tilewright.ir.ops.table import dims
from tilewright.ir.printer import op_text
from tilewright.ir.types import ScalarType, TensorType

# importing them fills MEANINGS
FAMILIES = (elementwise, gather, matmul, memory, reduce, scalar, shape, sort)

Order = Literal["ascending", "reverse", "shuffled"]
UNORDERED = ("parallel", "spmd")
SHUFFLE_SEED = 20260526


@torch.no_grad()
def run(
    function: Function,
    args: Sequence[torch.Tensor | float],
    *,
    poison: bool = False,
    order: Order = "ascending",
) -> tuple[torch.Tensor, ...]:
    """Run `function` on `args` (one per parameter, in order) and give what its `return` names.

    poison: fill unspecified contents (fresh tensors, what lies outside a valid region) with NaN, or
            0x4D bytes in integers, so that reading them shows.
    order:  in which iterations of `parallel` and `spmd` loops run; a correct program cannot tell.
    Raises BoundsError before an access outside a tensor, KernelError where a check in the program
    fails, ArgumentError when `args` do not fit the parameters.
    """
    return Machine(poison, order).run(function, args)


def _argument(param: Param, arg: Any) -> Any:
    """An argument as the machine holds it: memory, or a Python number."""
    wanted, name = param.value.type, param.value.name
    if isinstance(wanted, ScalarType):
        if isinstance(arg, torch.Tensor):
            raise ArgumentError(f"{name} is a scalar parameter, got a tensor", param.span)
        if wanted.dtype.is_float:
            return fp32(arg)
        return bool(arg) if wanted.dtype == BOOL else int(arg)
    assert isinstance(wanted, TensorType)
    if not isinstance(arg, torch.Tensor):
        raise ArgumentError(
            f"{name} is a tensor parameter, got {arg.__class__.__name__}", param.span
        )
    if tuple(arg.shape) != wanted.shape or arg.dtype != storage(wanted.dtype):
        raise ArgumentError(
            f"{name} is {dims(arg.shape)} {arg.dtype}, wanted {dims(wanted.shape)} {wanted.dtype}",
            param.span,
        )
    if arg.numel() and not _strides_fit(arg, wanted):
        raise ArgumentError(
            f"{name} has strides {dims(arg.stride())}, wanted {dims(wanted.strides)}",
            param.span,
            help=f"pass {name}.contiguous()",
        )
    return of_array(arg, wanted, name)


def _strides_fit(arg: torch.Tensor, type: TensorType) -> bool:
    """Strides agree on every axis that has more than one element."""
    pairs = zip(type.shape, arg.stride(), type.strides, strict=True)
    return all(found == wanted for extent, found, wanted in pairs if extent > 1)


class Machine:
    """The state of one run: what each name holds.

    `checked.Checker` is this machine with more done at four points: `plain` around an operator, `decided`
    where a number decides which way the program goes, `counted` and `trip` around loops and iterations.
    """

    def __init__(self, poison: bool, order: Order) -> None:
        self.names: dict[str, Any] = {}
        self.poison, self.order = poison, order
        self.random = random.Random(SHUFFLE_SEED)
        self.returned: tuple[torch.Tensor, ...] = ()

    def run(self, function: Function, args: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        """Take the arguments, run the body; what its `return` names."""
        if len(args) != len(function.params):
            raise ArgumentError(
                f"{function.name} takes {len(function.params)} arguments, got {len(args)}",
                function.span,
            )
        for param, arg in zip(function.params, args, strict=True):
            self.names[param.value.name] = self.argument(param, arg)
        self.block(function.body)
        return self.returned

    def argument(self, param: Param, arg: Any) -> Any:
        """What a parameter holds."""
        return _argument(param, arg)

    def value(self, operand: Operand) -> Any:
        if isinstance(operand, Const):
            return fp32(operand.value) if operand.dtype.is_float else operand.value
        return self.names[operand.name]

    def steer(self, op: Op, operand: Operand) -> Any:
        """A condition or a bound of `op`."""
        return self.decided(op, self.value(operand))

    def decided(self, op: Op, value: Any) -> Any:
        """The number that decides which way `op` goes."""
        return value

    def values(self, operands: Sequence[Operand]) -> list[Any]:
        return [self.value(x) for x in operands]

    def block(self, block: Block) -> list[Any]:
        """Run the ops; what the block's `yield` hands out."""
        for op in block.ops:
            if op.name == "yield":
                return self.values(op.operands)
            self.op(op)
        return []

    def op(self, op: Op) -> None:
        match op.name:
            case "for":
                results = self.counted(op)
            case "while":
                results = self.conditional(op)
            case "if":
                results = self.block(op.blocks[0 if self.steer(op, op.operands[0]) else 1])
            case "at" | "sweep" | "serial":
                results = self.block(op.blocks[0])
            case "return":
                self.returned = tuple(m.whole() for m in self.values(op.operands))
                results = []
            case _:
                results = self.plain(op)
        for value, result in zip(op.results, results, strict=True):
            self.names[value.name] = result

    def plain(self, op: Op) -> list[Any]:
        """One op of the table by its meaning."""
        result = meant(Call(op, self.poison), self.values(op.operands))
        return [result] if op.results else []

    def conditional(self, op: Op) -> list[Any]:
        """As long as the first carried value is true."""
        carried = self.values(op.operands)
        while self.decided(op, carried[0]):
            for arg, value in zip(op.blocks[0].args, carried, strict=True):
                self.names[arg.name] = value
            carried = self.block(op.blocks[0])
        return carried

    def counted(self, op: Op) -> list[Any]:
        """Carried values go from one trip to the next; bounds were evaluated once."""
        start, stop, step = (self.steer(op, bound) for bound in op.operands[:3])
        carried = self.values(op.operands[3:])
        if step == 0:
            raise KernelError("the step of a loop is 0", op.span, help="use a positive step")
        trips: Sequence[int] = range(start, stop, step)
        if op.attr("kind") in UNORDERED and self.order != "ascending":
            trips = self.reordered(trips)
        for i in trips:
            carried = self.trip(op, i, carried)
        return carried

    def trip(self, op: Op, i: int, carried: list[Any]) -> list[Any]:
        """One iteration: what it hands to the next."""
        for arg, value in zip(op.blocks[0].args, (i, *carried), strict=True):
            self.names[arg.name] = value
        return self.block(op.blocks[0])

    def reordered(self, trips: Sequence[int]) -> Sequence[int]:
        if self.order == "reverse":
            return trips[::-1]
        shuffled = list(trips)
        self.random.shuffle(shuffled)
        return shuffled


def meant(call: Call, values: Sequence[Any]) -> Any:
    """What an operator gives. A failure of our own says which op it was."""
    op = call.op
    if op.name not in MEANINGS:
        raise CompilerBug(f"the interpreter does not know {op.name!r}", op_text(op))
    try:
        return MEANINGS[op.name](call, *values)
    except KernelError:
        raise
    except Exception as failure:
        raise CompilerBug(
            f"interpreting the op written at {op.span}: {failure!r}",
            op_text(op),
        ) from failure
