"""The order of the passes, a reason a line. `prepare` is for both ways of running, `PIPELINE` for native."""

from __future__ import annotations

from collections.abc import Callable

from tilewright import knobs
from tilewright.ir.nodes import Function
from tilewright.ir.verify import verify
from tilewright.machine import Machine
from tilewright.passes.block_rows import block_rows
from tilewright.passes.check_windows import check_windows
from tilewright.passes.drop_dead import drop_dead
from tilewright.passes.fold_constants import fold_constants
from tilewright.passes.fuse_sweeps import fuse_sweeps
from tilewright.passes.merge_interleave import merge_interleave
from tilewright.passes.parallelize import parallelize
from tilewright.passes.share_panels import share_panels
from tilewright.passes.skip_fill import skip_fill
from tilewright.passes.start_products import start_products
from tilewright.passes.tile_matmul import tile_matmul

Pass = Callable[..., Function]
Observer = Callable[[str, Function], None]

PREPARE: tuple[Pass, ...] = (
    fold_constants,  # offsets become literals, so most windows are provably inside
    check_windows,  # the others get an explicit check, as early in the program as its offsets are known
)

PIPELINE: tuple[Pass, ...] = (
    fold_constants,  # one spelling of every offset, so that equal windows look equal
    start_products,  # `if first: matmul else: matmul_acc` becomes one accumulation: fewer branches below
    merge_interleave,  # two scatters that fill all columns are one interleave, which needs no old contents
    skip_fill,  # while stores still cover whole windows: temporaries that are overwritten need no zeros
    tile_matmul,  # products become a pack and a packed product; needs rank 2 and explicit valid extents
    share_panels,  # a pack still stands where its window is known; frozen weights leave the program here
    block_rows,  # rows of a product and of what follows it go through the cache tile by tile
    fuse_sweeps,  # needs the final row tiles; chains of row-wise operators become one sweep
    drop_dead,  # what fusion and merging left unread
    parallelize,  # last, because it fixes which thread runs what
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
            verify(function, after=step.__name__)
        if observe is not None:
            observe(step.__name__, function)
    return function


def prepare(function: Function, machine: Machine, observe: Observer | None = None) -> Function:
    """What both back ends run before anything else: bounds become explicit."""
    return run(function, PREPARE, machine, observe)


def lower(function: Function, machine: Machine, observe: Observer | None = None) -> Function:
    """The native pipeline."""
    return run(function, PIPELINE, machine, observe)
