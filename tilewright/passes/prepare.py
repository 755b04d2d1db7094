"""What both back ends run before anything else, and how passes are run in order.

Apart from `pipeline`, so that a program whose code was kept is ready without loading the other passes.
"""

from __future__ import annotations

from collections.abc import Callable

from tilewright import knobs
from tilewright.ir.nodes import Function
from tilewright.machine import Machine
from tilewright.passes.check_windows import check_windows
from tilewright.passes.drop_limits import drop_limits
from tilewright.passes.fold_constants import fold_constants
from tilewright.passes.split_barriers import split_barriers
from tilewright.passes.zero_outside import zero_outside

Pass = Callable[..., Function]
Observer = Callable[[str, Function], None]

PREPARE: tuple[Pass, ...] = (
    split_barriers,  # first, so that no other pass meets a barrier
    drop_limits,  # only a checking run, which takes the program as it was read, looks at them
    fold_constants,  # offsets become literals, so most windows are provably inside
    zero_outside,  # needs those literals to see what is inside; its loads are then checked like any other
    check_windows,  # the others get an explicit check, as early in the program as its offsets are known
)


def run(
    function: Function, passes: tuple[Pass, ...], machine: Machine, observe: Observer | None = None
) -> Function:
    """Run `passes` in order. `observe(name, function)` sees the program after each.

    With the knob TILEWRIGHT_VERIFY on (tests do), the verifier looks between passes and a pass that
    breaks the program is named in the CompilerBug.
    """
    for step in passes:
        function = step(function, machine)
        if knobs.verify():
            from tilewright.ir.verify import verify

            verify(function, after=step.__name__)
        if observe is not None:
            observe(step.__name__, function)
    return function


def prepare(function: Function, machine: Machine, observe: Observer | None = None) -> Function:
    """Bounds become explicit."""
    return run(function, PREPARE, machine, observe)
