"""A sweep: row by row, everything that a chain of row-wise operators does to a row.

For each row the ops fall into *strips*: loops over the columns, 64 at a time. A strip computes what is
needed at its end (a store, a reduction, a value handed out) by pulling operands recursively from memory,
so values between live in registers. A reduction ends a strip; what uses its result belongs to a later
*level*. A value that several strips want is computed again when that is cheap, else kept in a row buffer.

A row sum has four vectors of sixteen partial sums, taken in turn, joined pairwise: one tree per row length.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from llvmlite import ir

from tilewright.codegen.llvm.lanes import Lanes
from tilewright.codegen.llvm.places import Extent, Place, value_of
from tilewright.codegen.llvm.rows import LANES, Chunk, RowEmitter
from tilewright.codegen.llvm.types import I64, const, const_vector, counted, memory_type, shuffle, vector, zero
from tilewright.dtypes import DType
from tilewright.ir.nodes import Const, Op, Operand, Value, index
from tilewright.ir.ops.elementwise import BINARY, UNARY, compute_dtype, mask_pattern
from tilewright.ir.ops.reduce import ROW
from tilewright.ir.types import ScalarType, TileType

if TYPE_CHECKING:
    from tilewright.codegen.llvm.function import FunctionEmitter

CHUNKS = 4  # chunks a turn of the column loop, and partial sums of a reduction

# What computing a value once more costs, in simple instructions a chunk; above KEEP_ABOVE it is kept.
COSTS = {"div": 8, "sqrt": 8, "rsqrt": 16, "recip": 8, "exp": 100, "log": 100, "sin": 100, "cos": 100, "cast": 3}
KEEP_ABOVE = 12

ONE_OF_MANY = ("extract", "gather_mask")  # they may give one column of a wide row


@dataclass(slots=True)
class _Sink:
    """Something that a strip must have done when it ends: a store, a reduction, a value kept in memory."""

    op: Op
    value: Operand
    place: Place | None = None  # where a kept value goes


class SweepEmitter(RowEmitter):
    """Emits one sweep at the builder's position. Places of the values it hands out are in `handed_out`."""

    def __init__(self, owner: FunctionEmitter, op: Op) -> None:
        super().__init__(owner)
        block = op.blocks[0]
        self.ops = block.ops[:-1]
        self.makers: dict[Value, Op] = {result: made for made in self.ops for result in made.results}
        self.yields = block.ops[-1].operands
        self.handed_out: list[Place] = []
        self.kept: dict[Value, Place] = {}  # values that get a place in memory
        self.finished: set[Operand] = set()  # those whose strip has been emitted for this row
        self.forced: set[Value] = set()
        self.row_values: dict[Operand, ir.Value] = {}
        self.chunk_values: dict[tuple, ir.Value] = {}
        first = self.ops[0]
        shape = first.operands[0].type.shape if first.name == "store" else first.result.type.shape  # type: ignore[union-attr]
        self.leading: tuple[int, ...] = shape[:-1]

    # The rows

    def emit(self) -> list[Place]:
        sinks = self.plan()
        bounds = self.row_bounds()
        self.over_rows(bounds, lambda: self.row(sinks))
        return self.handed_out

    def row_bounds(self) -> list[Extent]:
        """How far each row loop goes: to the valid rows when every sink stops there."""
        bounds: list[Extent] = list(self.leading)
        stores = [op for op in self.ops if op.name == "store"]
        if self.yields or not stores or len(self.leading) != 1:
            return bounds
        counts = {self.store_rows(op) for op in stores}
        if len(counts) == 1:
            (count,) = counts
            bounds[0] = self.owner.extent(count)
        return bounds

    @staticmethod
    def store_rows(op: Op) -> Operand:
        """The valid extent of a store along the rows of its 2-D tile."""
        rank = len(op.operands[1].type.shape)  # type: ignore[union-attr]
        kept = [axis for axis in range(rank) if axis not in (op.attr("drop") or ())]
        return op.operands[2 + rank + kept[0]]

    # Planning: levels, strips, what to keep

    def plan(self) -> list[tuple[int, list[_Sink]]]:
        """Strips in order: (width, sinks)."""
        self.forced = self.must_keep()
        sinks = [_Sink(op, op.operands[0]) for op in self.ops if op.name == "store" or self.wanted(op)]
        for value in dict.fromkeys(self.yields):
            self.kept[value] = self.owner.new_tile(value.type)  # type: ignore[index]
            sinks.append(_Sink(self.makers[value], value, self.kept[value]))  # type: ignore[index]
        self.handed_out = [self.kept[value] for value in self.yields]  # type: ignore[index]
        sinks += self.keep_expensive(sinks)
        strips: dict[tuple[int, bool, int], list[_Sink]] = {}
        for sink in sinks:
            after_kept = sink.place is None  # a strip that keeps a value comes before those that read it
            strips.setdefault((self.level(sink.value), after_kept, _width(sink.value)), []).append(sink)
        merged: dict[tuple[int, int], list[_Sink]] = {}
        for level, _, width in sorted(strips):
            merged.setdefault((level, width), []).extend(strips[level, _, width])
        return [(width, group) for (_, width), group in merged.items()]

    def must_keep(self) -> set[Value]:
        """Zipped columns that are read at other offsets than they were zipped at, windows at run-time
        columns, and rows of which one column is taken: these go through a row buffer, which a later level reads."""
        forced: set[Value] = set()
        for op in self.ops:
            at_run_time = op.name == "extract" and not isinstance(op.operands[-1], Const)
            one_column = op.name in ONE_OF_MANY and _width(op.result) == 1
            if op.name not in ("extract", "gather_mask", "interleave", "scatter_mask"):
                continue
            for x in op.operands:
                zips = any(self.makers[v].name in ("interleave", "scatter_mask") for v in self.reaches(x))
                if x in self.makers and (zips or at_run_time or one_column) and _width(x) > 1:
                    forced.add(x)  # type: ignore[arg-type]
        return forced

    def wanted(self, op: Op) -> bool:
        """True for a reduction that something reads."""
        return op.name in ROW and self.read_later(op)

    def read_later(self, reduction: Op) -> bool:
        return any(reduction.result in op.operands for op in self.ops) or reduction.result in self.yields

    def level(self, value: Operand) -> int:
        """How many reductions must be finished before `value` can be computed."""
        known: dict[Operand, int] = {}

        def visit(x: Operand) -> int:
            if x not in known:
                made = self.makers.get(x)  # type: ignore[arg-type]
                operands = [] if made is None else [y for y in made.operands if isinstance(y.type, TileType)]
                below = max((visit(y) + (y in self.forced) for y in operands), default=0)
                known[x] = below + 1 if made is not None and made.name in ROW else below
            return known[x]

        return visit(value)

    def keep_expensive(self, sinks: list[_Sink]) -> list[_Sink]:
        """Row buffers for values that more than one strip would have to compute at a high price."""
        users: dict[Value, set] = {}
        for sink in sinks:
            strip = (self.level(sink.value), _width(sink.value), id(sink.op) if sink.op.name == "store" else 0)
            for value in self.reaches(sink.value):
                users.setdefault(value, set()).add(strip)
        kept = []
        for op in self.ops:
            if not op.results or op.name in ROW or _width(op.result) == 1 or op.result in self.kept:
                continue
            dear = len(users.get(op.result, ())) > 1 and self.price(op.result) > KEEP_ABOVE
            if dear or op.result in self.forced:
                row = TileType((op.result.type.shape[-1],), op.result.type.dtype)  # type: ignore[union-attr]
                buffer = self.owner.new_tile(row)
                strides = (0,) * (len(op.result.type.shape) - 1) + buffer.strides  # type: ignore[union-attr]
                shape = op.result.type.shape  # type: ignore[union-attr]
                place = Place(buffer.address, buffer.dtype, shape, strides, shape, padded=True)
                self.kept[op.result] = place
                kept.append(_Sink(op, op.result, place))
        return kept

    def reaches(self, value: Operand) -> set[Value]:
        """The sweep's values that computing `value` in one strip goes through."""
        found: set[Value] = set()
        work = [value]
        while work:
            x = work.pop()
            made = self.makers.get(x)  # type: ignore[arg-type]
            if made is None or x in found:
                continue
            found.add(x)  # type: ignore[arg-type]
            if made.name not in ROW:
                work += [y for y in made.operands if isinstance(y.type, TileType)]
        return found

    def price(self, value: Value) -> int:
        return sum(COSTS.get(self.makers[v].name, 1) for v in self.reaches(value) if _width(v) > 1)

    # One row: its strips

    def row(self, strips: list[tuple[int, list[_Sink]]]) -> None:
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
        for x in self.reaches(value):
            made = self.makers[x]
            if made.name not in ROW:
                for y in made.operands:
                    if isinstance(y.type, TileType) and _width(y) == 1:
                        self.row_value(y)

    def finish_narrow(self, sink: _Sink) -> None:
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

    def strip(self, width: int, sinks: list[_Sink]) -> None:
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
            self.row_values[sink.op.result] = self.combine(sink.op, totals[which * CHUNKS : (which + 1) * CHUNKS])

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
        return compute_dtype(op.result.type.dtype)  # type: ignore[union-attr]

    def accumulate(self, op: Op, total: ir.Value, chunk: Chunk) -> ir.Value:
        x = op.operands[0]
        dtype = self.sum_dtype(op)
        lanes = self.lanes.widen(x.type.dtype, self.pull(x, chunk))  # type: ignore[union-attr]
        valid = self.owner.extent(op.operands[-1])
        mask = self.column_mask(chunk, _width(x) if isinstance(valid, int) and valid >= _width(x) else valid, _width(x))
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
                empty = Lanes.constant(value.type, 0) if op.name == "row_sum" else self.narrow_identity(op, value.type)
                value = self.b.select(self.b.icmp_signed(">", value_of(valid), const(I64, 0)), value, empty)
            return value
        while len(parts) > 1:
            parts = [self.lanes.binary(join, dtype, a, c) for a, c in zip(parts[::2], parts[1::2], strict=True)]
        total, count = parts[0], LANES
        while count > 1:
            count //= 2
            low = shuffle(self.b, total, total, range(count))
            high = shuffle(self.b, total, total, range(count, 2 * count))
            total = self.lanes.binary(join, dtype, low, high)
        number = self.b.extract_element(total, const(I64, 0))
        return self.lanes.narrow(op.result.type.dtype, number)  # type: ignore[union-attr]

    def narrow_identity(self, op: Op, kind: ir.Type) -> ir.Value:
        dtype = op.result.type.dtype  # type: ignore[union-attr]
        lane = self.b.extract_element(self.identity(op), const(I64, 0))
        return self.lanes.narrow(dtype, lane)

    # Values of one row, one column

    def row_value(self, x: Operand) -> ir.Value:
        """A one-column value (or a scalar operand) of the current row."""
        if x not in self.row_values:
            self.row_values[x] = self.make_row_value(x)
        return self.row_values[x]

    def make_row_value(self, x: Operand) -> ir.Value:
        made = self.makers.get(x)  # type: ignore[arg-type]
        if made is None:
            return self.load_one(self.owner.place(x))  # type: ignore[arg-type]
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
        if _width(source) == 1:
            value = self.row_value(source)
        else:
            place = self.kept[source] if source in self.makers else self.owner.place(source)  # type: ignore[arg-type, index]
            column = op.operands[-1] if op.name == "extract" else index(mask_pattern(op.attr("pattern"))[1])
            value = self.load_one(place, self.owner.extent(column))
        kind = memory_type(op.result.type.dtype)  # type: ignore[union-attr]
        return self.b.bitcast(value, kind) if value.type != kind else value

    # Values of one chunk

    def pull(self, x: Operand, chunk: Chunk) -> ir.Value:
        """Sixteen columns of `x` in the current row."""
        key = (x, chunk.key)
        if key not in self.chunk_values:
            self.chunk_values[key] = self.make_chunk(x, chunk)
        return self.chunk_values[key]

    def make_chunk(self, x: Operand, chunk: Chunk) -> ir.Value:
        if _width(x) == 1:
            return self.lanes.spread(self.row_value(x), LANES)
        made = self.makers.get(x)  # type: ignore[arg-type]
        if x in self.finished:
            return self.load_chunk(self.kept[x], chunk)  # type: ignore[index]
        if made is None:
            return self.load_chunk(self.owner.place(x), chunk)  # type: ignore[arg-type]
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

    def compute(self, op: Op, lanes: int, operand, chunk: Chunk | None) -> ir.Value:
        """An element-wise op on `lanes` lanes; `operand(y)` gives a tile operand's lanes."""
        emit, name = self.lanes, op.name
        dtype: DType = op.result.type.dtype  # type: ignore[union-attr]
        if name in BINARY or name == "cmp":
            first = op.operands[0].type.dtype  # type: ignore[union-attr]
            x, y = operand(op.operands[0]), self.second(op.operands[1], first, lanes, operand)
            if name == "cmp":
                return emit.number(dtype, emit.compare(op.attr("kind"), first, x, y))
            return emit.binary(name, dtype, x, y)
        if name in UNARY:
            return emit.unary(name, dtype, operand(op.operands[0]))
        match name:
            case "cast":
                source = op.operands[0].type.dtype  # type: ignore[union-attr]
                return emit.cast(source, dtype, op.attr("mode"), operand(op.operands[0]))
            case "sel":
                mask, a, b = op.operands
                chosen = emit.nonzero(mask.type.dtype, operand(mask))  # type: ignore[union-attr]
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

    def second(self, y: Operand, dtype: DType, lanes: int, operand) -> ir.Value:
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

    def fillpad(self, op: Op, dtype: DType, lanes: int, operand, chunk: Chunk | None) -> ir.Value:
        x = operand(op.operands[0])
        pad = self.number(op.attr("value"), dtype, lanes)
        valid = [self.owner.extent(v) for v in op.operands[1:]]
        shape = op.result.type.shape  # type: ignore[union-attr]
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
        place = self.kept[source] if source in self.makers else self.owner.place(source)  # type: ignore[arg-type, index]
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
        kind = vector(memory_type(op.result.type.dtype), LANES)  # type: ignore[union-attr]
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
        if chunk.j is None and chunk.start >= _width(x):
            return zero(vector(memory_type(x.type.dtype), LANES))  # type: ignore[union-attr]
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
        lanes = [LANES + part * count + i // stride if i % stride == phase else i for i in range(LANES)]
        return shuffle(self.b, old, new, lanes)


_JOIN = {"row_sum": "add", "row_max": "maximum", "row_min": "minimum"}


def _width(x: Operand) -> int:
    return x.type.shape[-1]  # type: ignore[union-attr]
