"""tilewright: tile kernels in Python, compiled for ordinary CPUs.

`import tilewright.language as pl` is what kernels are written in; calling one compiles and runs it.
"""

from __future__ import annotations

from tilewright import jit as _launching  # registers who runs kernels
from tilewright.errors import (
    ArgumentError,
    ArgumentValueError,
    BoundsError,
    CheckFailed,
    CompilerBug,
    KernelError,
    ParserError,
    RaceError,
    UnsetError,
)
from tilewright.language.kernel import Kernel, jit

__version__ = "0.1.0"

Specialization = _launching.Specialization
check = _launching.check

__all__ = [
    "ArgumentError",
    "ArgumentValueError",
    "BoundsError",
    "CheckFailed",
    "CompilerBug",
    "Kernel",
    "KernelError",
    "ParserError",
    "RaceError",
    "Specialization",
    "UnsetError",
    "check",
    "jit",
]
