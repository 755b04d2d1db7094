"""Fresh data, and data moved between memory and blocks."""

from __future__ import annotations

from tilewright.language.operator import operator
from tilewright.language.types import AtomicType, MemorySpace, PadValue, TensorLayout


@operator()
def create_tensor(shape, dtype, layout=TensorLayout.ND, manual_dep=False, init_value=None):
    """In orchestration a fresh tensor in memory, in a region a fresh block.

    Zeros, or init_value.
    """


@operator()
def create_tile(shape, dtype, target_memory=MemorySpace.Vec):
    """A fresh block of zeros."""


@operator()
def create_l1(shape, dtype, transpose=False):
    """A fresh block meant as a matmul operand."""


@operator()
def full(shape, dtype, value):
    """A block filled with a constant."""


@operator()
def arange(start, shape, dtype=None, descending=False):
    """start + j (start - j) along the last axis.

    Leading extents 1; INT16, INT32, UINT16 or UINT32.
    """


@operator()
def slice(t, shape, offset, valid_shape=None, drop_dims=None, pad_value=None, clamp=False):
    """A window of t: a view in orchestration, a copy in a region. valid_shape: how much of it
    exists.

    With valid_shape, the shape may reach past the end of t as long as the valid part does not; with
    clamp=True the valid part ends where t does. drop_dims lists axes of extent 1 to leave out.
    pad_value fills the part that is not valid, as fillpad does.
    """


@operator()
def assemble(target, source, offset, *, atomic=AtomicType.None_):
    """source put into target at offset.

    Into memory in place, into a block as a new block. Returns target.
    """


@operator()
def load(
    t,
    offsets,
    shapes,
    valid_shapes=None,
    target_memory=MemorySpace.Vec,
    transpose=False,
    valid_shape=None,
    clamp=False,
):
    """A window of a tensor as a block; transpose=True swaps the last two axes of the result."""


@operator()
def store(tile, offsets, t, shapes=None, *, atomic=AtomicType.None_):
    """The valid part of a block into t at offsets; returns t."""


@operator()
def move(x, target_memory=MemorySpace.Vec):
    """The same value in another memory."""


@operator("tile.extract")
def extract(tile, row, col, shape, target_memory=MemorySpace.Vec):
    """The window `shape` of a 2-D block at (row, col)."""


@operator()
def gather_row(acc, src, dst_offset, src_offset, shapes, transpose=False, valid_shape=None):
    """acc with a window of src copied in at dst_offset (transposed if asked)."""


@operator()
def read(t, indices):
    """One element as a scalar of t's dtype."""


@operator()
def write(t, indices, value):
    """Store one element, in place."""


@operator()
def set_validshape(x, rows, cols):
    """x [M,N] with valid region [rows, cols]."""


@operator()
def fillpad(x, pad_value=PadValue.zero):
    """x with its invalid elements replaced by the pad value, fully valid."""


@operator()
def no_dep(t):
    """t itself; a scheduling hint."""
