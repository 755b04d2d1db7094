"""A lowered function as LLVM text, with what the caller of its code must provide."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from tilewright.codegen.llvm.function import FunctionEmitter, Layout
from tilewright.ir.nodes import Function
from tilewright.machine import Machine


@dataclass(frozen=True, slots=True)
class NativeModule:
    """LLVM text whose function `worker` runs the program, and the memory it wants."""

    text: str
    layout: Layout


def emit(function: Function, machine: Machine) -> NativeModule:
    """Generate code for a function that went through the native pipeline."""
    module = ir.Module(name=function.name)
    module.triple = machine.triple
    layout = FunctionEmitter(module, function, machine).emit()
    return NativeModule(str(module), layout)
