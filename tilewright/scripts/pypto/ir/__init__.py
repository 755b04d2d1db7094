"""`pypto.ir` as far as older drafts use it: a program compiled before it is called."""

from __future__ import annotations

from typing import Any

from tilewright.errors import SpecTypeError, author_line
from tilewright.frontend.signature import signature_of
from tilewright.language import Program
from tilewright.scripts.pypto.ir.pass_manager import OptimizationStrategy

__all__ = ["OptimizationStrategy", "compile"]


def compile(program: Any, *args: Any, **labels: Any) -> Program:  # noqa: A001 (their name)
    """The program itself, compiled already where its parameters are tensors whose annotations say all.

    What else is given (an output folder, a strategy, a backend, dumps) are labels.
    Raises SpecTypeError for what is no `@pl.program` class.
    """
    import torch

    if not isinstance(program, Program):
        raise SpecTypeError(
            f"ir.compile wants a @pl.program class, got {getattr(program, '__name__', repr(program))}",
            author_line(),
            help="a @pl.jit kernel is compiled when it is called",
        )
    made: list[Any] = []
    for p in signature_of(program):
        if p.kind != "tensor" or p.shape is None or p.dtype is None or p.dtype.torch is None:
            return program
        extents = [n for n in p.shape if n is not None]
        if len(extents) < len(p.shape):
            return program
        made.append(torch.empty(extents, dtype=getattr(torch, p.dtype.torch), device="meta"))
    program.specialize(*made)
    return program
