"""The state of reading one program: where we are, what names mean, what has been emitted."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

from tilewright import knobs
from tilewright.dtypes import FP32, INDEX
from tilewright.errors import (
    InvalidOperationError,
    KernelError,
    NotConstantError,
    ParserTypeError,
    UndefinedVariableError,
    UnsupportedFeatureError,
)
from tilewright.frontend.complaints import undefined
from tilewright.frontend.copies import PICKED_CHANGED, PICKED_HELP, PICKED_WRITTEN, Copies
from tilewright.frontend.frame import Frame
from tilewright.frontend.mistakes import Follows, Mistakes, NeedsConstant, NeedsRegion
from tilewright.frontend.source import Consulted, enclosing_reader, frozen, is_language
from tilewright.frontend.symbolic import Symbolic, Symbols
from tilewright.frontend.values import (
    Binding,
    Block,
    Constant,
    Items,
    Named,
    Number,
    Tensor,
    Unknown,
    describe,
    from_python,
    is_number,
    literal,
    operands_of,
    renamed,
)
from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block as Ops
from tilewright.ir.nodes import Const, Op, Operand, Value
from tilewright.ir.ops.table import RuleBroken, dims
from tilewright.language.loops import SplitMode
from tilewright.span import Span

MOST_ELEMENTS = 1 << 40  # of a tensor or block
HERE = ("in_region", "hint", "launch", "dead", "doubts", "inside")  # what says where we are


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a tracer before an attempt; it may be gone back to more than once."""

    frames: list[tuple[Frame, Frame]]  # each with its state
    node: ast.AST
    made: dict[str, int]  # a mark in the builder
    known: int  # a mark in the symbols
    prints: int
    copies: Copies
    here: dict[str, Any]


class Tracer:
    """Reads statements and appends IR. The functions of the sibling modules take it as `t`."""

    def __init__(self, frame: Frame, taken: Sequence[str] = ()) -> None:
        self.builder = Builder(taken)
        self.frame = frame
        self.frames: list[Frame] = [frame]
        self.in_region = False
        self.inside: list[str] = []  # loops (by kind) and branches around, outermost first
        self.dead = 0  # inside a body that never runs: its shapes are checked, its bounds are not
        self.doubts = 0  # inside bodies that may never run: their bounds are for run time to check
        self.launch: tuple[Operand, Operand] | None = None  # this block of how many, in pl.spmd
        self.block_looks = 0  # how often somebody asked which
        self.unrolled = (
            1  # times that what is read now is written out, by the pl.unroll loops around
        )
        self.torn: set[str] = set()  # names of another tensor in each arm of an if that was read
        self.picks = False  # whether such a name stands for a copy behind the if
        self.calls = 0  # of other kernels
        self.lane: tuple[Operand, SplitMode] | None = None  # of the pl.split_aiv loop around
        self.consulted: dict[Any, Consulted] = {}
        self.reads: dict[int, Binding] = {}  # bindings that were looked at
        self.written: set[str] = set()  # roots of the tensors stored to
        self.copies = Copies()  # that stand for one of several tensors
        self.writes = 0  # how many stores and writes were met, so that two reads can be compared
        self.prints: list[str] = []
        self.warned: set[Span] = set()  # what a warning was given for
        self.symbols = Symbols()
        self.mistakes: Mistakes | None = None  # where to collect them and go on
        self.hint = "v"
        self.node: ast.AST = frame.source.function
        self.zero_reads = knobs.zero_reads()
        setting = Consulted(knobs.BOUNDS.name, knobs.zero_reads, self.zero_reads)
        self.consulted[knobs.BOUNDS.name] = setting

    # Spans and complaints

    def span(self, node: ast.AST | None = None) -> Span:
        return self.frame.source.span(node or self.node, self.frame.caller)

    @contextmanager
    def at(self, node: ast.AST) -> Iterator[None]:
        """Blame `node` for what is emitted or refused inside."""
        before = self.node
        self.node = node
        self.builder.span = self.span(node)
        yield
        self.node = before
        self.builder.span = self.span(before)

    def fail(
        self,
        kind: type[KernelError],
        message: str,
        node: ast.AST | None = None,
        help: str | None = None,
        notes: Sequence[str] = (),
    ) -> NoReturn:
        raise kind(message, self.span(node), notes, help)

    @contextmanager
    def rules(
        self, what: str, node: ast.AST, kind: type[KernelError] = InvalidOperationError
    ) -> Iterator[None]:
        """Turn a broken rule of the operator table into the author's error."""
        try:
            yield
        except RuleBroken as broken:
            self.fail(kind, f"{what}: {broken.message}", node, broken.help, self.notes(node))

    def notes(self, node: ast.AST) -> list[str]:
        """What the names under a node are: `x_tile is a [16, 128] BF16 block, bound on line 38`."""
        notes = []
        for name in dict.fromkeys(n.id for n in ast.walk(node) if isinstance(n, ast.Name)):
            binding = self.frame.names.get(name)
            if binding is not None and isinstance(binding.value, (Block, Tensor)):
                where = f", bound on line {binding.line}" if binding.line else ""
                notes.append(f"{name} is {describe(binding.value)}{where}")
        return notes

    # Names

    def lookup(self, node: ast.Name) -> Named:
        """What a name stands for: a local, then a value around the function."""
        binding = self.frame.names.get(node.id)
        if binding is not None:
            self.reads[id(binding)] = binding
            if isinstance(binding.value, Unknown):
                self.fail(Follows, f"{node.id!r} depends on a mistake above", node)
            if isinstance(binding.value, Tensor):
                self.note_read(binding.value, node)
            return binding.value
        if node.id in self.frame.gone:
            self.fail(
                UndefinedVariableError,
                f"{node.id!r} {self.frame.gone[node.id]}",
                node,
                help="bind it before the loop or branch",
            )
        function = self.frame.kernel.function
        read = enclosing_reader(function, node.id)
        if read is not None:
            try:
                return self.consult(node.id, (id(function.__globals__), node.id), read)
            except ValueError:
                self.fail(
                    UndefinedVariableError,
                    f"{node.id!r} has no value yet around the kernel",
                    node,
                    help="bind it before the kernel is called",
                )
        builtins = function.__globals__.get("__builtins__", {})
        found = (
            builtins.get(node.id)
            if isinstance(builtins, dict)
            else getattr(builtins, node.id, None)
        )
        if found is not None:
            return Constant(found)
        undefined(self, node, [*self.frame.names, *function.__globals__])

    def consult(self, name: str, key: Any, read: Callable[[], Any]) -> Named:
        """A Python value from outside the kernel; the program is stale once it changes."""
        value = read()
        if getattr(value, "operator", None) is None and not is_language(value):
            self.consulted.setdefault(key, Consulted(name, read, frozen(value)))
        return from_python(value)

    def bind(self, name: str, value: Named, node: ast.AST | None = None) -> None:
        """Let `name` stand for `value` from here on."""
        line = getattr(node or self.node, "lineno", 0)
        self.frame.names[name] = Binding(value, line)
        self.frame.gone.pop(name, None)
        self.frame.aliases.pop(name, None)

    def update(self, name: str, value: Named) -> None:
        """The block behind `name` was written to: where it came in as an argument, the caller sees
        it too.
        """
        binding = self.frame.names.get(name)
        self.frame.names[name] = Binding(value, binding.line if binding else 0)
        if name in self.frame.aliases:
            self.frame.written_back.add(name)

    def drop(self, name: str, why: str) -> None:
        """Let `name` mean nothing from here on; using it says why."""
        self.frame.names.pop(name, None)
        self.frame.gone[name] = why

    # Scalars

    def operand(self, value: Named, node: ast.AST, what: str) -> Operand:
        """A scalar operand. ParserTypeError for anything else."""
        if isinstance(value, Number):
            return value.operand
        if isinstance(value, Constant) and is_number(value.value):
            return literal(value.value)
        self.fail(
            ParserTypeError,
            f"{what} must be a scalar, got {describe(value)}",
            node,
            help="pl.read takes a scalar out of a tensor",
        )

    def index(self, value: Named, node: ast.AST, what: str) -> Operand:
        """An integer scalar operand."""
        operand = self.operand(value, node, what)
        dtype = operand.type.dtype
        if not dtype.is_integer:
            divided = any(isinstance(n, ast.Div) for n in ast.walk(node))
            hint = (
                "write // instead of /"
                if divided
                else "write it without a fraction"
                if isinstance(operand, Const) and dtype == FP32
                else "pl.cast(…, pl.INT32) it first"
                if dtype.is_float
                else "write a number; pl.cast(…, pl.INT32) makes one of a condition"
            )
            found = describe(value)
            self.fail(ParserTypeError, f"{what} must be an integer, got {found}", node, hint)
        if isinstance(operand, Const) and operand.dtype != INDEX:
            return Const(operand.value, INDEX)
        return operand

    def constant(self, value: Named, node: ast.AST, what: str, help: str | None = None) -> Any:
        """A Python number known while compiling. NeedsConstant when a parameter decides it."""
        if isinstance(value, Constant):
            return value.value
        if isinstance(value, Number):
            if isinstance(value.operand, Const):
                return value.operand.value
            symbolic = self.symbolic(value.operand)
            if not symbolic.terms:
                return symbolic.constant
            for parameter in self.parameters_in(value.operand):
                raise NeedsConstant(parameter)
        self.fail(
            NotConstantError,
            f"{what} must be known when the kernel is compiled, got {describe(value)}",
            node,
            help or "write a number, a global, or a parameter that every call gives",
        )

    def extent(self, value: Named, node: ast.AST, what: str) -> int:
        """A positive constant integer."""
        found = self.constant(value, node, what, help="a run-time extent goes into valid_shape=")
        if isinstance(found, bool) or not isinstance(found, int):
            divided = any(isinstance(n, ast.Div) for n in ast.walk(node))
            hint = "write // instead of /" if divided else "write a whole number"
            self.fail(
                ParserTypeError,
                f"{what} must be an integer, got {describe(Constant(found))}",
                node,
                hint,
            )
        return found

    def shape(self, value: Named, node: ast.AST, what: str, least: int = 1) -> tuple[int, ...]:
        """A list of constant extents, positive unless `least` is 0: memory may be empty, no block is."""
        if not isinstance(value, Items) or not value.values:
            self.fail(
                ParserTypeError,
                f"{what} must be a list of extents, got {describe(value)}",
                node,
                help="write the extents in brackets: [16, 32]",
            )
        nodes = node.elts if isinstance(node, (ast.List, ast.Tuple)) else [node] * len(value.values)
        extents = tuple(
            self.extent(v, n, f"extent {axis} of {what}")
            for axis, (v, n) in enumerate(zip(value.values, nodes, strict=True))
        )
        if prod(extents) > MOST_ELEMENTS:
            self.fail(
                InvalidOperationError,
                f"{what} has {prod(extents)} elements, more than any memory: {dims(extents)}",
                node,
                help="take the extents one by one; a smaller tile and a loop do the rest",
            )
        if any(extent < least for extent in extents):
            self.fail(
                InvalidOperationError,
                f"{what} needs positive extents, got {dims(extents)}",
                node,
                help="write every extent out; a part that may be empty is a valid_shape",
            )
        return extents

    def indices(self, value: Named, node: ast.AST, what: str, count: int) -> tuple[Operand, ...]:
        """A list of integer scalars, one per axis."""
        items = value.values if isinstance(value, Items) else (value,) if count == 1 else None
        if items is None:
            self.fail(
                ParserTypeError,
                f"{what} must be a list of {count}, got {describe(value)}",
                node,
                help="write one for each axis: [0, 0]",
            )
        if len(items) != count:
            self.fail(
                InvalidOperationError,
                f"{what} needs {count} scalars, one per axis, got {len(items)}",
                node,
                help=f"write [{', '.join(['0'] * count)}] for the first element",
            )
        nodes = node.elts if isinstance(node, (ast.List, ast.Tuple)) else [node] * count
        return tuple(self.index(v, n, what) for v, n in zip(items, nodes, strict=True))

    def scalar(
        self, name: str, *operands: Operand, node: ast.AST | None = None, hint: str = "i"
    ) -> Operand:
        """A scalar op, folded where possible; remembers enough to compare offsets symbolically."""
        with self.rules(f"scalar {name[2:]}", node or self.node):
            result = self.builder.scalar(name, *operands, hint=hint)
        if isinstance(result, Value):
            self.symbols.record(name, operands, result)
        return result

    def symbolic(self, operand: Operand) -> Symbolic:
        return self.symbols.of(operand)

    def parameters_in(self, operand: Operand) -> list[str]:
        """Scalar parameters that decide a value."""
        return self.symbols.names_in(operand, self.scalar_parameters)

    scalar_parameters: frozenset[str] = frozenset()

    def note_read(self, source: Tensor, node: ast.AST) -> None:
        """What `source` holds is about to be looked at."""
        if not self.copies.read(source.root, len(self.inside)):
            self.fail(UnsupportedFeatureError, PICKED_CHANGED, node, PICKED_HELP)

    def note_write(self, target: Tensor) -> None:
        """Memory behind `target` is about to change."""
        if not self.copies.written(target.root, len(self.inside)):
            self.fail(UnsupportedFeatureError, PICKED_WRITTEN, self.node, PICKED_HELP)
        self.written.add(target.root)
        self.writes += 1

    def min(self, a: Operand, b: Operand) -> Operand:
        return self.scalar("s.min", a, b)

    # Regions

    def need_region(self) -> None:
        """Called by whatever works on blocks."""
        if not self.in_region:
            raise NeedsRegion

    def emit(
        self, name: str, operands: Sequence[Operand], hint: str | None = None, **attrs: Any
    ) -> Value:
        """An op with one result, called after the name that the author gives it."""
        return self.builder.value(name, operands, hint or self.hint, **attrs)

    @contextmanager
    def naming(self, hint: str) -> Iterator[None]:
        """Call results after `hint` inside."""
        before, self.hint = self.hint, hint
        yield
        self.hint = before

    def region(self, name: str, node: ast.AST, body: Callable[[], None]) -> None:
        """Run `body` as a region; names bound inside stand for the region's results afterwards."""
        if self.in_region:
            body()
            return
        span = self.span(node)
        with self.builder.block() as ops:
            self.in_region = True
            try:
                body()
            finally:
                self.in_region = False
            inside = {r.name for op in ops for r in op.results}
            leaving: dict[str, Value] = {}
            for binding in self.frame.names.values():
                for operand in operands_of(binding.value):
                    if isinstance(operand, Value) and operand.name in inside:
                        leaving.setdefault(operand.name, operand)
            values = list(leaving.values())
            self.builder.op("yield", values, span=span)
        op = self.builder.structured(
            "at",
            (),
            (Ops((), tuple(ops)),),
            [v.type for v in values],
            [v.name for v in values],
            span=span,
            name=name,
        )
        results = dict(zip(leaving, op.results, strict=True))
        for old, new in results.items():
            self.symbols.copy(leaving[old], new)

        def outside(operand: Operand) -> Operand:
            return results.get(operand.name, operand) if isinstance(operand, Value) else operand

        for key, binding in list(self.frame.names.items()):
            moved = renamed(binding.value, outside)
            if moved is not binding.value and moved != binding.value:
                self.frame.names[key] = Binding(moved, binding.line)

    @contextmanager
    def within(self, what: str) -> Iterator[None]:
        """Inside a loop or a branch."""
        before = self.inside
        self.inside = [*before, what]
        try:
            yield
        finally:
            self.inside = before

    @contextmanager
    def runs(self, surely: bool | None) -> Iterator[None]:
        """Inside a body that runs, never runs (False), or of which only a run can tell (None)."""
        before = self.dead, self.doubts
        self.dead += surely is False
        self.doubts += surely is None
        try:
            yield
        finally:
            self.dead, self.doubts = before

    # Attempts that can be taken back

    def snapshot(self) -> Snapshot:
        return Snapshot(
            frames=[(frame, frame.copy()) for frame in self.frames],
            node=self.node,
            made=self.builder.mark(),
            known=self.symbols.mark(),
            prints=len(self.prints),
            copies=self.copies.snapshot(),
            here={name: getattr(self, name) for name in HERE},
        )

    def restore(self, snapshot: Snapshot) -> None:
        self.frames = [frame for frame, _ in snapshot.frames]
        self.frame = self.frames[-1]
        for frame, before in snapshot.frames:
            frame.become(before)
        self.node = snapshot.node
        self.builder.reset(snapshot.made)
        self.builder.span = self.span()
        self.symbols.cut(snapshot.known)
        del self.prints[snapshot.prints :]
        self.copies = snapshot.copies.snapshot()
        for name, value in snapshot.here.items():
            setattr(self, name, value)

    @contextmanager
    def discarded(self) -> Iterator[None]:
        """What is emitted inside never was; symbolic knowledge gained inside goes with it."""
        mark, symbols = self.builder.mark(), self.symbols.mark()
        with self.builder.block():
            yield
        self.builder.reset(mark)
        self.symbols.cut(symbols)

    def flush(self, ops: Sequence[Op]) -> None:
        for op in ops:
            self.builder.append(op)
