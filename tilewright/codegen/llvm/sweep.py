"""A sweep: row by row, everything that a chain of row-wise operators does to a row.

For each row the ops fall into *strips*: loops over the columns, 64 at a time (strips.py says which). A strip
computes what is needed at its end (a store, a reduction, a value handed out) by pulling operands recursively
from memory, so values between live in registers.

A row sum has four vectors of sixteen partial sums, taken in turn, joined pairwise: one tree per row length.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.codegen.llvm.lanes import Lanes
from tilewright.codegen.llvm.places import Extent, Place, value_of
from tilewright.codegen.llvm.rows import LANES, Chunk, RowEmitter
from tilewright.codegen.llvm.strips import ONE_OF_MANY, Sink, StripPlan, width_of
from tilewright.codegen.llvm.types import (
    I64,
    const,
    const_vector,
    counted,
    memory_type,
    shuffle,
    vector,
    zero,
)  # fmt: skip
from tilewright.dtypes import DType
from tilewright.ir.nodes import Const, Op, Operand, index
from tilewright.ir.ops.elementwise import BINARY, UNARY, compute_dtype, mask_pattern
from tilewright.ir.ops.reduce import ROW
from tilewright.ir.typed import shape_of, tile_type_of
from tilewright.ir.types import ScalarType, TileType

if TYPE_CHECKING:
    from tilewright.codegen.llvm.function import FunctionEmitter

CHUNKS = 4  # chunks a turn of the column loop, and partial sums of a reduction
_JOIN = {"row_sum": "add", "row_max": "maximum", "row_min": "minimum"}

Pull = Callable[[Operand], ir.Value]  # a tile operand's lanes


class SweepEmitter(RowEmitter):
    """Emits one sweep at the builder's position."""

    def __init__(self, owner: FunctionEmitter, op: Op) -> None:
        super().__init__(owner)
        block = op.blocks[0]
        self.ops = block.ops[:-1]
        self.plan = StripPlan(owner, self.ops, block.ops[-1].operands)
        self.makers, self.kept = self.plan.makers, self.plan.kept
        self.finished: set[Operand] = set()  # those whose strip has been emitted for this row
        self.row_values: dict[Operand, ir.Value] = {}
        self.chunk_values: dict[tuple[Operand, tuple[int, Fraction]], ir.Value] = {}
        first = self.ops[0]
        shape = shape_of(first.operands[0] if first.name == "store" else first.result)
        self.leading: tuple[int, ...] = shape[:-1]

    # The rows

    def emit(self) -> list[Place]:
        """Places of the values that the sweep hands out."""
        bounds = self.row_bounds()
        self.over_rows(bounds, lambda: self.row(self.plan.strips))
        return [self.kept[value] for value in self.plan.yields]

    def row_bounds(self) -> list[Extent]:
        """How far each row loop goes: to the valid rows when every sink stops there."""
        bounds: list[Extent] = list(self.leading)
        stores = [op for op in self.ops if op.name == "store"]
        if self.plan.yields or not stores or len(self.leading) != 1:
            return bounds
        counts = {self.store_rows(op) for op in stores}
        if len(counts) == 1:
            (count,) = counts
            bounds[0] = self.owner.extent(count)
        return bounds

    @staticmethod
    def store_rows(op: Op) -> Operand:
        """The valid extent of a store along the rows of its 2-D tile."""
        rank = len(shape_of(op.operands[1]))
        kept = [axis for axis in range(rank) if axis not in (op.attr("drop") or ())]
        return op.operands[2 + rank + kept[0]]

    # One row: its strips

    def row(self, strips: list[tuple[int, list[Sink]]]) -> None:
        self.finished = set()
        self.row_values = {}
        for width, sinks in strips:
            for sink in sinks:
                self.ready(sink.value)
            if width == 1:
                for sink in sinks:
                    self.finish_narrow(sink)
            else:
                self.strip(width, sinks)
            self.finished.update(s.value for s in sinks if s.place is not None)

    def ready(self, value: Operand) -> None:
        """Compute, ahead of the column loop, the one-column values that `value` is made with."""
        for x in self.plan.reaches(value):
            made = self.makers[x]
            if made.name not in ROW:
                for y in made.operands:
                    if isinstance(y.type, TileType) and width_of(y) == 1:
                        self.row_value(y)

    def finish_narrow(self, sink: Sink) -> None:
        """A sink of one column."""
        value = self.row_value(sink.value)
        if sink.place is not None:
            self.b.store(value, sink.place.at(self.b, [*self.pad(sink.place), 0]))
        elif sink.op.name == "store":
            place = self.owner.window_place(sink.op)
            with self.where_valid(place):
                self.b.store(value, place.at(self.b, [*self.pad(place), 0]))
        else:
            self.row_values[sink.op.result] = self.combine(sink.op, [value])

    def strip(self, width: int, sinks: list[Sink]) -> None:
        """Columns 0 … width: a loop over groups of chunks, then what is left in a straight line."""
        b = self.b
        reductions = [s for s in sinks if s.op.name in ROW and s.place is None]
        others = [s for s in sinks if s not in reductions]
        places = {id(s): s.place or self.owner.window_place(s.op) for s in others}
        starts = [self.identity(s.op) for s in reductions for _ in range(CHUNKS)]
        turn = LANES * CHUNKS
        whole = width // turn * turn

        def group(chunks: list[Chunk], totals: list[ir.Value]) -> list[ir.Value]:
            self.chunk_values = {}
            totals = list(totals)
            for number, chunk in enumerate(chunks):
                for which, sink in enumerate(reductions):
                    slot = which * CHUNKS + number % CHUNKS
                    totals[slot] = self.accumulate(sink.op, totals[slot], chunk)
                for sink in others:
                    self.put(self.pull(sink.value, chunk), places[id(sink)], chunk)
            return totals

        totals: list[ir.Value] = list(starts)
        first = 0
        if whole > turn:
            first = whole
            with counted(b, 0, whole, turn, totals, name="column") as loop:
                chunks = [Chunk(c * LANES, Fraction(1), loop.i) for c in range(CHUNKS)]
                loop.next = group(chunks, loop.carried)
            totals = loop.results
        for start in range(first, width, turn):
            chunks = [Chunk(c) for c in range(start, min(start + turn, width), LANES)]
            totals = group(chunks, totals)
        self.chunk_values = {}
        for which, sink in enumerate(reductions):
            self.row_values[sink.op.result] = self.combine(
                sink.op, totals[which * CHUNKS : (which + 1) * CHUNKS]
            )

    # Reductions

    def identity(self, op: Op) -> ir.Value:
        dtype = self.sum_dtype(op)
        kind = vector(memory_type(dtype), LANES)
        if op.name == "row_sum":
            return zero(kind)
        low = float("-inf") if dtype.is_float else dtype.int_range()[0]
        high = float("inf") if dtype.is_float else dtype.int_range()[1]
        return Lanes.constant(kind, low if op.name == "row_max" else high)

    @staticmethod
    def sum_dtype(op: Op) -> DType:
        """16-bit floats are reduced in FP32."""
        return compute_dtype(tile_type_of(op.result).dtype)

    def accumulate(self, op: Op, total: ir.Value, chunk: Chunk) -> ir.Value:
        x = op.operands[0]
        dtype = self.sum_dtype(op)
        lanes = self.lanes.widen(tile_type_of(x).dtype, self.pull(x, chunk))
        valid = self.owner.extent(op.operands[-1])
        width = width_of(x)
        count = width if isinstance(valid, int) and valid >= width else valid
        mask = self.column_mask(chunk, count, width)
        if mask is not None:
            lanes = self.b.select(mask, lanes, self.identity(op))
        return self.lanes.binary(_JOIN[op.name], dtype, total, lanes)

    def combine(self, op: Op, parts: list[ir.Value]) -> ir.Value:
        """The partial results of a row as one number, in the row's dtype."""
        dtype = self.sum_dtype(op)
        join = _JOIN[op.name]
        if not isinstance(parts[0].type, ir.VectorType):
            (value,) = parts  # a row of one column
            valid = self.owner.extent(op.operands[-1])
            if not isinstance(valid, int) or valid < 1:
                empty = (
                    Lanes.constant(value.type, 0)
                    if op.name == "row_sum"
                    else self.narrow_identity(op, value.type)
                )
                value = self.b.select(
                    self.b.icmp_signed(">", value_of(valid), const(I64, 0)), value, empty
                )
            return value
        while len(parts) > 1:
            parts = [
                self.lanes.binary(join, dtype, a, c)
                for a, c in zip(parts[::2], parts[1::2], strict=True)
            ]
        total, count = parts[0], LANES
        while count > 1:
            count //= 2
            low = shuffle(self.b, total, total, range(count))
            high = shuffle(self.b, total, total, range(count, 2 * count))
            total = self.lanes.binary(join, dtype, low, high)
        number = self.b.extract_element(total, const(I64, 0))
        return self.lanes.narrow(tile_type_of(op.result).dtype, number)

    def narrow_identity(self, op: Op, kind: ir.Type) -> ir.Value:
        dtype = tile_type_of(op.result).dtype
        lane = self.b.extract_element(self.identity(op), const(I64, 0))
        return self.lanes.narrow(dtype, lane)

    # Values of one row, one column

    def row_value(self, x: Operand) -> ir.Value:
        """A one-column value (or a scalar operand) of the current row."""
        if x not in self.row_values:
            self.row_values[x] = self.make_row_value(x)
        return self.row_values[x]

    def make_row_value(self, x: Operand) -> ir.Value:
        made = self.makers.get(x)
        if made is None:
            return self.load_one(self.owner.place(x))
        if made.name in ROW:  # of an operand that has one column itself
            return self.combine(made, [self.row_value(made.operands[0])])
        if made.name in ONE_OF_MANY:
            return self.one_column(made)
        if made.name in ("broadcast", "scatter_mask"):  # P1111 replaces the only column
            return self.row_value(made.operands[0])
        return self.compute(made, 1, lambda y: self.row_value(y), None)

    def one_column(self, op: Op) -> ir.Value:
        """The single column that `extract` or `gather_mask` takes, out of one or out of many."""
        source = op.operands[0]
        if width_of(source) == 1:
            value = self.row_value(source)
        else:
            place = self.place_of(source)
            column = (
                op.operands[-1]
                if op.name == "extract"
                else index(mask_pattern(op.attr("pattern"))[1])
            )
            value = self.load_one(place, self.owner.extent(column))
        kind = memory_type(tile_type_of(op.result).dtype)
        return self.b.bitcast(value, kind) if value.type != kind else value

    def place_of(self, x: Operand) -> Place:
        """Where a value lies in memory: its row buffer when the sweep makes it."""
        return self.kept[x] if x in self.makers else self.owner.place(x)

    # Values of one chunk

    def pull(self, x: Operand, chunk: Chunk) -> ir.Value:
        """Sixteen columns of `x` in the current row."""
        key = (x, chunk.key)
        if key not in self.chunk_values:
            self.chunk_values[key] = self.make_chunk(x, chunk)
        return self.chunk_values[key]

    def make_chunk(self, x: Operand, chunk: Chunk) -> ir.Value:
        if width_of(x) == 1:
            return self.lanes.spread(self.row_value(x), LANES)
        made = self.makers.get(x)
        if x in self.finished:
            return self.load_chunk(self.kept[x], chunk)
        if made is None:
            return self.load_chunk(self.owner.place(x), chunk)
        match made.name:
            case "extract":
                return self.extract(made, chunk)
            case "gather_mask":
                return self.gather_mask(made, chunk)
            case "interleave":
                return self.interleave(made, chunk)
            case "scatter_mask":
                return self.scatter_mask(made, chunk)
        return self.compute(made, LANES, lambda y: self.pull(y, chunk), chunk)

    def compute(self, op: Op, lanes: int, operand: Pull, chunk: Chunk | None) -> ir.Value:
        """An element-wise op on `lanes` lanes; `operand(y)` gives a tile operand's lanes."""
        emit, name = self.lanes, op.name
        dtype = tile_type_of(op.result).dtype
        if name in BINARY or name == "cmp":
            first = tile_type_of(op.operands[0]).dtype
            x, y = operand(op.operands[0]), self.second(op.operands[1], first, lanes, operand)
            if name == "cmp":
                return emit.number(dtype, emit.compare(op.attr("kind"), first, x, y))
            return emit.binary(name, dtype, x, y)
        if name in UNARY:
            return emit.unary(name, dtype, operand(op.operands[0]))
        match name:
            case "cast":
                source = tile_type_of(op.operands[0]).dtype
                return emit.cast(source, dtype, op.attr("mode"), operand(op.operands[0]))
            case "sel":
                mask, a, b = op.operands
                chosen = emit.nonzero(tile_type_of(mask).dtype, operand(mask))
                return self.b.select(chosen, operand(a), operand(b))
            case "broadcast":
                return operand(op.operands[0])
            case "full":
                return self.number(op.attr("value"), dtype, lanes)
            case "splat":
                return emit.spread(self.owner.scalar_as(op.operands[0], dtype), lanes)
            case "arange":
                return self.arange(op, dtype, lanes, chunk)
            case "fillpad":
                return self.fillpad(op, dtype, lanes, operand, chunk)
        raise KeyError(name)

    def second(self, y: Operand, dtype: DType, lanes: int, operand: Pull) -> ir.Value:
        """The right operand: a tile, or a scalar in every lane (FP32 for floats)."""
        if isinstance(y.type, ScalarType):
            return self.lanes.spread(self.owner.scalar_as(y, compute_dtype(dtype)), lanes)
        return operand(y)

    def number(self, value: float | int, dtype: DType, lanes: int) -> ir.Value:
        """A literal of `dtype` in every lane, rounded as a cast with `rint` would."""
        return self.lanes.spread(self.owner.scalar_as(Const(value, dtype), dtype), lanes)

    def arange(self, op: Op, dtype: DType, lanes: int, chunk: Chunk | None) -> ir.Value:
        start = self.lanes.spread(self.owner.scalar_as(op.operands[0], dtype), lanes)
        assert chunk is not None
        kind = memory_type(dtype)
        base = value_of(chunk.base(self.b))
        base = self.b.trunc(base, kind) if kind.width < 64 else base
        columns = self.b.add(self.lanes.spread(base, lanes), const_vector(kind, range(lanes)))
        return (self.b.sub if op.attr("descending") else self.b.add)(start, columns)

    def fillpad(
        self, op: Op, dtype: DType, lanes: int, operand: Pull, chunk: Chunk | None
    ) -> ir.Value:
        x = operand(op.operands[0])
        pad = self.number(op.attr("value"), dtype, lanes)
        valid = [self.owner.extent(v) for v in op.operands[1:]]
        shape = shape_of(op.result)
        inside: ir.Value | None = None
        for i, count, extent in zip(self.rows, valid[:-1], shape[:-1], strict=True):
            if count != extent:
                here = self.b.icmp_signed("<", value_of(i), value_of(count))
                inside = here if inside is None else self.b.and_(inside, here)
        mask = None if inside is None else self.lanes.spread(inside, lanes)
        if valid[-1] != shape[-1]:
            if chunk is None:
                columns = self.b.icmp_signed(">", value_of(valid[-1]), const(I64, 0))
            else:
                columns = self.dynamic_mask(chunk, valid[-1])
            mask = columns if mask is None else self.b.and_(mask, columns)
        return x if mask is None else self.b.select(mask, x, pad)

    # Moves within a row

    def extract(self, op: Op, chunk: Chunk) -> ir.Value:
        column = op.operands[-1]
        if isinstance(column, Const):
            return self.pull(op.operands[0], chunk.moved(int(column.value)))
        source = op.operands[0]
        place = self.place_of(source)
        first = self.b.add(value_of(chunk.base(self.b)), value_of(self.owner.extent(column)))
        moved = Chunk(0, Fraction(1), first)
        return self.load_chunk(place, moved, dynamic=True)

    def gather_mask(self, op: Op, chunk: Chunk) -> ir.Value:
        """Every stride-th column: as many neighbouring chunks of the source, then a shuffle."""
        stride, phase = mask_pattern(op.attr("pattern"))
        source = op.operands[0]
        parts = []
        for part in range(stride):
            wanted = chunk.scaled(Fraction(stride), chunk.start * stride + part * LANES)
            parts.append(self.pull_or_zero(source, wanted))
        if stride == 1:
            picked = parts[0]
        else:
            picked = self.strided(parts, stride, phase)
        kind = vector(memory_type(tile_type_of(op.result).dtype), LANES)
        return self.b.bitcast(picked, kind) if picked.type != kind else picked

    def strided(self, parts: list[ir.Value], stride: int, phase: int) -> ir.Value:
        """Lanes phase, phase + stride, … of the parts joined end to end."""
        if stride == 2:
            return shuffle(self.b, parts[0], parts[1], range(phase, 2 * LANES, 2))
        low = shuffle(self.b, parts[0], parts[1], range(phase, 2 * LANES, 4))
        high = shuffle(self.b, parts[2], parts[3], range(phase, 2 * LANES, 4))
        return shuffle(self.b, low, high, range(LANES))

    def pull_or_zero(self, x: Operand, chunk: Chunk) -> ir.Value:
        """A chunk, or zeros when it lies wholly past the last column."""
        if chunk.j is None and chunk.start >= width_of(x):
            return zero(vector(memory_type(tile_type_of(x).dtype), LANES))
        return self.pull(x, chunk)

    def interleave(self, op: Op, chunk: Chunk) -> ir.Value:
        """Half a chunk of each operand, zipped. Chunks come in pairs, so both halves are pulled once."""
        half = chunk.start // LANES % 2
        source = chunk.scaled(Fraction(1, 2), (chunk.start - half * LANES) // 2)
        even, odd = self.pull(op.operands[0], source), self.pull(op.operands[1], source)
        order = [lane for i in range(half * 8, half * 8 + 8) for lane in (i, LANES + i)]
        return shuffle(self.b, even, odd, order)

    def scatter_mask(self, op: Op, chunk: Chunk) -> ir.Value:
        """The old columns, with every stride-th replaced."""
        stride, phase = mask_pattern(op.attr("pattern"))
        old = self.pull(op.operands[1], chunk)
        if stride == 1:
            return self.pull(op.operands[0], chunk)
        part = chunk.start // LANES % stride
        source = chunk.scaled(Fraction(1, stride), (chunk.start - part * LANES) // stride)
        new = self.pull(op.operands[0], source)
        count = LANES // stride
        lanes = [
            LANES + part * count + i // stride if i % stride == phase else i for i in range(LANES)
        ]
        return shuffle(self.b, old, new, lanes)
