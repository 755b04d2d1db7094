"""Rows of a tile or of a window in memory, sixteen columns at a time, and never past what is valid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.codegen.llvm.places import Extent, Place, value_of
from tilewright.codegen.llvm.types import (
    I1,
    I32,
    I64,
    PTR,
    VOID,
    const,
    const_vector,
    counted,
    index,
    intrinsic,
    memory_type,
    offset,
    opaque,
    vector,
    zero,
)  # fmt: skip
from tilewright.dtypes import DType

if TYPE_CHECKING:
    from tilewright.codegen.llvm.function import FunctionEmitter

# Elements a chunk: one 512-bit vector of FP32, two or four of what narrower machines have.
LANES = 16


@dataclass(frozen=True, slots=True)
class Chunk:
    """`LANES` columns from `scale * j + start`, where j is the column loop's variable (None: no loop)."""

    start: int
    scale: Fraction = Fraction(0)
    j: ir.Value | None = None

    @property
    def key(self) -> tuple[int, Fraction]:
        return self.start, self.scale

    def base(self, b: ir.IRBuilder) -> Extent:
        if self.j is None:
            return self.start
        j = self.j
        if self.scale.numerator != 1:
            j = b.mul(j, const(I64, self.scale.numerator))
        if self.scale.denominator != 1:
            j = b.sdiv(j, const(I64, self.scale.denominator))
        return b.add(j, const(I64, self.start)) if self.start else j

    def moved(self, columns: int) -> Chunk:
        return Chunk(self.start + columns, self.scale, self.j)

    def scaled(self, factor: Fraction, start: int) -> Chunk:
        return Chunk(start, self.scale * factor, self.j)


class RowEmitter:
    """Emits loads and stores of whole rows at the builder's position; `rows` says which row."""

    def __init__(self, owner: FunctionEmitter) -> None:
        self.owner = owner
        self.b = owner.b
        self.lanes = owner.lanes
        self.rows: list[Extent] = []  # indices of the current row

    def over_rows(
        self, bounds: Sequence[Extent], body: Callable[[], None], done: tuple[Extent, ...] = ()
    ) -> None:
        """`body` with `self.rows` at every row below the bounds."""
        if len(done) == len(bounds):
            self.rows = list(done)
            body()
            return
        bound = bounds[len(done)]
        if bound == 1:
            self.over_rows(bounds, body, (*done, 0))
            return
        with counted(self.b, 0, value_of(bound), name="row") as loop:
            self.over_rows(bounds, body, (*done, loop.i))

    def over_columns(self, width: int, body: Callable[[Chunk], None]) -> None:
        """`body` with every chunk of `width` columns."""
        whole = width // LANES * LANES
        if whole > 4 * LANES:
            with counted(self.b, 0, whole, LANES, name="column") as loop:
                body(Chunk(0, Fraction(1), loop.i))
        else:
            whole = 0
        for start in range(whole, width, LANES):
            body(Chunk(start))

    def copy(self, target: Place, source: Place) -> None:
        """Copy a tile, row by row; what is not valid in the source becomes 0, what is not in the target stays."""
        width = target.shape[-1]

        def row() -> None:
            if width == 1:
                with self.where_valid(target):
                    self.b.store(self.load_one(source), target.at(self.b, [*self.pad(target), 0]))
                return
            self.over_columns(
                width, lambda chunk: self.put(self.load_chunk(source, chunk), target, chunk)
            )

        self.over_rows(target.shape[:-1], row)

    def pad(self, place: Place) -> list[Extent]:
        """The current row's indices for a place that may have fewer or broadcast leading axes."""
        leading = place.shape[:-1]
        rows = self.rows[len(self.rows) - len(leading) :]
        return [0 if extent == 1 else i for i, extent in zip(rows, leading, strict=True)]

    def row_is_valid(self, place: Place) -> ir.Value | None:
        """A bit that says whether the current row may be touched; None when all may."""
        bit: ir.Value | None = None
        for i, valid, extent in zip(
            self.pad(place), place.valid[:-1], place.shape[:-1], strict=True
        ):
            if valid == extent:
                continue
            here = self.b.icmp_signed("<", value_of(i), value_of(valid))
            bit = here if bit is None else self.b.and_(bit, here)
        return bit

    @contextmanager
    def where_valid(self, place: Place) -> Iterator[None]:
        """Emit what follows for rows (and a first column) that may be touched."""
        bit = self.row_is_valid(place)
        if place.valid[-1] != place.shape[-1]:
            here = self.b.icmp_signed("<", const(I64, 0), value_of(place.valid[-1]))
            bit = here if bit is None else self.b.and_(bit, here)
        with nullcontext() if bit is None else self.b.if_then(bit):
            yield

    def dynamic_mask(self, chunk: Chunk, count: Extent) -> ir.Value:
        """Lanes whose column is below `count`."""
        left = self.b.sub(value_of(count), value_of(chunk.base(self.b)))
        return self.b.icmp_signed(
            "<", const_vector(I64, range(LANES)), self.lanes.spread(left, LANES)
        )

    def column_mask(self, chunk: Chunk, count: Extent, width: int) -> ir.Value | None:
        """Lanes below `count`; None when that is all of them."""
        if isinstance(count, int):
            if chunk.j is not None and count >= width:
                return None
            if chunk.j is None:
                left = count - chunk.start
                if left >= LANES:
                    return None
                return const_vector(I1, [int(lane < left) for lane in range(LANES)])
        return self.dynamic_mask(chunk, count)

    def load_chunk(self, place: Place, chunk: Chunk, dynamic: bool = False) -> ir.Value:
        """Sixteen columns from memory; lanes that may not be touched are 0.

        LLVM must not know a mask that also asks for the row: a load of FP32 or INT32 lanes whose upper half
        is surely off makes it stop (LLVM 22, AVX-512).
        """
        b = self.b
        kind = vector(memory_type(place.dtype), LANES)
        address = offset(b, place.at(b, self.pad(place)), self.scaled_base(chunk, place))
        count, row = place.valid[-1], self.row_is_valid(place)
        if row is not None and count != place.shape[-1]:
            count = opaque(b, value_of(count))
        if dynamic:
            mask = self.dynamic_mask(chunk, count)
        elif place.padded and place.valid[-1] == place.shape[-1]:
            mask = None
        else:
            mask = self.column_mask(chunk, count, place.shape[-1])
        if row is not None:
            rows = self.lanes.spread(row, LANES)
            mask = rows if mask is None else b.and_(mask, rows)
        if mask is None:
            load = b.load(address, typ=kind)
            load.align = place.dtype.nbytes
            return load
        name = f"llvm.masked.load.v{LANES}{_suffix(place.dtype)}.p0"
        masked = intrinsic(b.module, name, kind, [PTR, I32, mask.type, kind])
        return b.call(masked, [address, ir.Constant(I32, place.dtype.nbytes), mask, zero(kind)])

    def put(self, lanes: ir.Value, place: Place, chunk: Chunk) -> None:
        """Sixteen columns to memory, as far as they are valid.

        One column goes by a plain store, and LLVM must not find out that a mask is of one lane: it makes
        a narrowed element under such a mask (trunc i32 to i8) a store of the wide one (LLVM 22, AVX-512).
        """
        b = self.b
        address = offset(b, place.at(b, self.pad(place)), self.scaled_base(chunk, place))
        mask = None
        row = None if place.padded else self.row_is_valid(place)
        if not place.padded:
            count = place.valid[-1]
            if isinstance(count, int) and chunk.j is None and count - chunk.start == 1:
                with nullcontext() if row is None else b.if_then(row):
                    b.store(b.extract_element(lanes, const(I64, 0)), address)
                return
            if not isinstance(count, int) and place.dtype.nbytes < 4:
                count = opaque(b, count)
            mask = self.column_mask(chunk, count, place.shape[-1])
        if row is not None:
            rows = self.lanes.spread(row, LANES)
            mask = rows if mask is None else b.and_(mask, rows)
        if mask is None:
            b.store(lanes, address).align = place.dtype.nbytes
            return
        name = f"llvm.masked.store.v{LANES}{_suffix(place.dtype)}.p0"
        masked = intrinsic(b.module, name, VOID, [lanes.type, PTR, I32, mask.type])
        b.call(masked, [lanes, address, ir.Constant(I32, place.dtype.nbytes), mask])

    def scaled_base(self, chunk: Chunk, place: Place) -> Extent:
        base = chunk.base(self.b)
        nbytes = place.strides[-1]
        return base * nbytes if isinstance(base, int) else self.b.mul(base, index(nbytes))

    def load_one(self, place: Place, column: Extent = 0) -> ir.Value:
        """One column of the current row; 0 where that is not valid."""
        kind = memory_type(place.dtype)
        where = place.at(self.b, [*self.pad(place), column])
        if place.all_valid:
            return self.b.load(where, typ=kind)
        ok = self.row_is_valid(place)
        inside = self.b.icmp_signed(">", value_of(place.valid[-1]), value_of(column))
        ok = inside if ok is None else self.b.and_(ok, inside)
        spare = self.owner.spare()
        address = self.b.select(ok, where, spare)
        return self.b.select(ok, self.b.load(address, typ=kind), zero(kind))


def _suffix(dtype: DType) -> str:
    kind = memory_type(dtype)
    if isinstance(kind, ir.IntType):
        return f"i{kind.width}"
    return "f16" if isinstance(kind, ir.HalfType) else "f32"
