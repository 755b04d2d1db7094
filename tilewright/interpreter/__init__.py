"""The meaning of every operator: runs IR on Torch arrays, one op at a time.

`run` walks a function in program order; `check` does so with an eye on races, bounds and undefined
contents. Each family module holds one short function per operator
(`@meaning("row_max")`); rounding and overflow are decided there and nowhere else.
"""

from tilewright.interpreter.checked import check
from tilewright.interpreter.run import run

__all__ = ["check", "run"]
