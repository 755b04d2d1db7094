"""The order of the native passes, a reason a line. What is run before them stands in `prepare`."""

from __future__ import annotations

from tilewright.ir.nodes import Function
from tilewright.machine import Machine
from tilewright.passes.block_rows import block_rows
from tilewright.passes.drop_dead import drop_dead
from tilewright.passes.fold_constants import fold_constants
from tilewright.passes.forward_stores import forward_stores
from tilewright.passes.fuse_loops import fuse_loops
from tilewright.passes.fuse_sweeps import fuse_sweeps
from tilewright.passes.merge_interleave import merge_interleave
from tilewright.passes.merge_products import merge_products
from tilewright.passes.parallelize import parallelize
from tilewright.passes.prepare import PREPARE, Observer, Pass, prepare, run
from tilewright.passes.read_direct import read_direct
from tilewright.passes.share_panels import share_panels
from tilewright.passes.skip_fill import skip_fill
from tilewright.passes.start_products import start_products
from tilewright.passes.tile_matmul import tile_matmul
from tilewright.passes.widen_columns import widen_columns

__all__ = ["PIPELINE", "PREPARE", "Observer", "Pass", "lower", "prepare", "run"]

PIPELINE: tuple[Pass, ...] = (
    fold_constants,  # one spelling of every offset, so that equal windows look equal
    read_direct,  # first of those that look at products: they know loads, not copies of them
    drop_dead,  # transposes that were read through, and what loops carry for nobody, keep products apart
    start_products,  # `if first: matmul else: matmul_acc` becomes one accumulation: fewer branches below
    merge_products,  # needs the branch gone; a walk over K becomes one product, which can then be widened
    fuse_loops,  # while a product's loop and those behind it count alike: alone, each would widen differently
    widen_columns,  # narrow column tiles become as wide as the caches like
    fuse_loops,  # needs equal trip counts, which widening makes likelier
    fold_constants,  # fused bodies spell their offsets alike again; loops that widening left with one turn go
    forward_stores,  # what one region leaves in memory for the next stays a tile; needs neighbouring regions
    drop_dead,  # temporaries that nobody reads any more would keep rows together
    merge_interleave,  # two scatters that fill all columns are one interleave, which needs no old contents
    skip_fill,  # while stores still cover whole windows: temporaries that are overwritten need no zeros
    tile_matmul,  # products become a pack and a packed product; needs rank 2 and explicit valid extents
    share_panels,  # needs the packs and the loops around them; frozen weights leave the program here
    block_rows,  # rows of a product and of what follows it go through the cache tile by tile
    fuse_sweeps,  # needs the final row tiles; chains of row-wise operators become one sweep
    drop_dead,  # what fusion and merging left unread
    parallelize,  # last, because it fixes which thread runs what
)


def lower(function: Function, machine: Machine, observe: Observer | None = None) -> Function:
    """The native pipeline."""
    return run(function, PIPELINE, machine, observe)
