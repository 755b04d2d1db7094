"""Kernels in the `pl` language run by the interpreter: trace, verify, run."""

from __future__ import annotations

import torch
from ir_programs import dtype_of

from tilewright.dtypes import BOOL, FP32, INDEX
from tilewright.frontend.signature import signature_of
from tilewright.frontend.trace import Argument, ScalarArgument, TensorArgument, Traced, trace
from tilewright.interpreter import run
from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.ir.verify import verify
from tilewright.language.kernel import Kernel


def traced(kernel: Kernel, *args: torch.Tensor | float) -> Traced:
    """The kernel's program for these arguments, in parameter order; verified, and round-tripped."""
    types: dict[str, Argument] = {}
    for parameter, arg in zip(signature_of(kernel), args, strict=True):
        if isinstance(arg, torch.Tensor):
            types[parameter.name] = TensorArgument(tuple(arg.shape), dtype_of(arg))
        else:
            kind = BOOL if isinstance(arg, bool) else INDEX if isinstance(arg, int) else FP32
            types[parameter.name] = ScalarArgument(kind)
    program = trace(kernel, types)
    verify(program.function)
    assert parse(to_text(program.function)) == program.function
    return program


def interpret(kernel: Kernel, *args: torch.Tensor | float, **options) -> tuple[torch.Tensor, ...]:
    """Run the kernel; tensors that it creates and returns are made here."""
    program = traced(kernel, *args)
    fresh = [
        torch.full(r.type.shape, r.fill, dtype=getattr(torch, str(r.type.dtype.torch)))
        for r in program.fresh_results
    ]
    return run(program.function, [*args, *fresh], **options)
