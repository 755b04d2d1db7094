"""Python source to IR: reads a kernel's text and gives the program, or the author's mistake with
its line.
"""

from __future__ import annotations

from tilewright.frontend.checking import check_syntax
from tilewright.frontend.mistakes import NeedsConstant
from tilewright.frontend.signature import Parameter, signature_of
from tilewright.frontend.source import Consulted, Watch
from tilewright.frontend.trace import FreshResult, ScalarArgument, TensorArgument, Traced, trace

__all__ = [
    "Consulted",
    "FreshResult",
    "NeedsConstant",
    "Parameter",
    "ScalarArgument",
    "TensorArgument",
    "Traced",
    "Watch",
    "check_syntax",
    "signature_of",
    "trace",
]
