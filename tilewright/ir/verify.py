"""What holds of every program, before and after each pass.

Each value is assigned once and read only where it is in scope; operands, attributes and result
types obey the operator table; blocks end in a `yield` that matches what their owner hands out;
`parallel` and `spmd` loops carry nothing. The complaint is drawn into the printed program under the
op at fault.
"""

from __future__ import annotations

from collections.abc import Iterable

from tilewright.errors import CompilerBug
from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Value
from tilewright.ir.ops import TABLE, RuleBroken
from tilewright.ir.printer import Line, operand_text, to_lines
from tilewright.ir.types import PanelType, ScalarType, TensorType, Type
from tilewright.ir.walk import LOOPS, initial_values
from tilewright.span import NOWHERE

# Attributes with a meaning that no typing rule looks at (`infer` demands the others itself).
NEEDED_ATTRS = {
    "full": ("value",),
    "fillpad": ("value",),
    "gather": ("dim",),
    "check_window": ("extents", "subject", "access"),
    "check_that": ("message",),
}
ONE_BLOCK = ("at", "sweep", "serial")


def verify(function: Function, after: str | None = None) -> None:
    """Raise CompilerBug with the complaints drawn into the program; `after` names the pass."""
    checker = _Checker()
    checker.function(function)
    if not checker.complaints:
        return
    blame = "invalid program" if after is None else f"{after} produced an invalid program"
    if after is not None:
        blame += " (it was valid before this pass)"
    _, first = checker.complaints[0]
    raise CompilerBug(f"{blame}: {first}", draw(to_lines(function), checker.complaints))


def draw(lines: Iterable[Line], complaints: list[tuple[Op | None, str]]) -> str:
    """The program with each complaint on a line under its op (those about no op come first)."""
    out = [f"^ {message}" for op, message in complaints if op is None]
    for line in lines:
        out.append(line.text)
        for op, message in complaints:
            if op is not None and op is line.op:
                out.append(_pointer(line.text, op) + f"  {message}" + _written(op))
    return "\n".join(out)


def _pointer(text: str, op: Op) -> str:
    """Carets under the operator and its operands."""
    head = " = " + op.name
    start = text.index(head) + 3 if op.results and head in text else len(text) - len(text.lstrip())
    ends = [found for found in (text.find(" {", start), text.find(" : ", start)) if found > 0]
    return " " * start + "^" * (min(ends, default=len(text)) - start)


def _written(op: Op) -> str:
    return "" if op.span == NOWHERE else f"   written at {op.span.short}"


class _Checker:
    """One walk over the function; `complaints` in program order."""

    def __init__(self) -> None:
        self.complaints: list[tuple[Op | None, str]] = []
        self.defined: set[str] = set()

    def complain(self, op: Op | None, message: str) -> None:
        self.complaints.append((op, message))

    def function(self, function: Function) -> None:
        scope: dict[str, Value] = {}
        for param in function.params:
            packed = param.direction == "frozen" and isinstance(param.value.type, PanelType)
            if not packed and not isinstance(param.value.type, ScalarType | TensorType):
                self.complain(None, f"parameter %{param.value.name} is a {param.value.type}")
            self.define(None, param.value, scope)
        self.ops(function.body, scope, None)

    def define(self, op: Op | None, value: Value, scope: dict[str, Value]) -> None:
        if value.name in self.defined:
            self.complain(op, f"%{value.name} is assigned twice")
        self.defined.add(value.name)
        scope[value.name] = value

    def ops(self, block: Block, scope: dict[str, Value], owner: Op | None) -> None:
        """The ops of one block; `scope` is this block's own copy of what is visible."""
        for position, op in enumerate(block.ops):
            last = position == len(block.ops) - 1
            if op.name == "yield" and (owner is None or not last):
                self.complain(op, "a yield is the last op of a loop, branch or region")
            if op.name == "return" and (owner is not None or not last):
                self.complain(op, "return is the last op of the function")
            for operand in op.operands:
                self.operand(op, operand, scope)
            self.rule(op)
            self.blocks(op, scope)
            for value in op.results:
                self.define(op, value, scope)

    def operand(self, op: Op, operand: Operand, scope: dict[str, Value]) -> None:
        if isinstance(operand, Const):
            whole = isinstance(operand.value, int)
            if operand.dtype.is_integer and not whole:
                self.complain(op, f"the literal {operand_text(operand)} is no integer")
            return
        found = scope.get(operand.name)
        if found is None:
            known = operand.name in self.defined
            where = (
                "is read outside the block that defines it"
                if known
                else "is not defined before this"
            )
            self.complain(op, f"%{operand.name} {where}")
        elif found.type != operand.type:
            self.complain(op, f"%{operand.name} is a {found.type}, read as {operand.type}")

    def rule(self, op: Op) -> None:
        """Operand count, attributes and result types, by the operator table."""
        row = TABLE.get(op.name)
        if row is None:
            self.complain(op, f"unknown operator {op.name!r}")
            return
        if [key for key, _ in op.attrs] != sorted({key for key, _ in op.attrs}):
            self.complain(op, "attributes are not in canonical order")
        missing = [key for key in NEEDED_ATTRS.get(op.name, ()) if op.attr(key) is None]
        if missing:
            self.complain(op, f"attribute {missing[0]!r} is missing")
            return
        takes = [word.strip() for word in row.takes.split(",") if word.strip()]
        groups = sum(word.startswith("*") for word in takes)
        rest = len(op.operands) - (len(takes) - groups)
        if rest < 0 or (rest % groups if groups else rest):
            self.complain(op, f"takes ({row.takes}), got {len(op.operands)} operands")
            return
        try:
            types = row.infer(op.operands, dict(op.attrs))
        except RuleBroken as broken:
            self.complain(op, broken.message)
        except KeyError as missing_key:
            self.complain(op, f"attribute {missing_key} is missing")
        else:
            if op.name != "if" and op.name not in ONE_BLOCK:
                self.same_types(op, types, op.results, "the rule gives", "the results are")

    def same_types(
        self, op: Op, wanted: Iterable[Type], found: Iterable[Operand], rule: str, what: str
    ) -> None:
        want, have = tuple(wanted), tuple(x.type for x in found)
        if want != have:
            self.complain(op, f"{rule} {_listed(want)}, {what} {_listed(have)}")

    def blocks(self, op: Op, scope: dict[str, Value]) -> None:
        """Block count and arguments, then the ops inside and what they yield."""
        count = 2 if op.name == "if" else 1 if op.name in LOOPS or op.name in ONE_BLOCK else 0
        if len(op.blocks) != count:
            self.complain(op, f"owns {count} blocks, got {len(op.blocks)}")
        if op.name == "for":
            self.counted(op)
        if op.name in LOOPS:
            for block in op.blocks:
                first = (x.type for x in initial_values(op))
                carried = block.args[LOOPS[op.name][1] :]
                self.same_types(op, first, carried, "the initial values are", "the block takes")
        for block in op.blocks:
            inner = dict(scope)
            for arg in block.args:
                self.define(op, arg, inner)
            if op.name not in LOOPS and block.args:
                self.complain(op, f"a block of {op.name!r} takes no arguments")
            self.ops(block, inner, op)
            if not block.ops or block.ops[-1].name != "yield":
                self.complain(op, "its block does not end in a yield")
                continue
            end = block.ops[-1]
            self.same_types(
                end, (r.type for r in op.results), end.operands, f"{op.name!r} gives", "this yields"
            )

    def counted(self, op: Op) -> None:
        initial = initial_values(op)
        if op.attr("kind") in ("parallel", "spmd") and initial:
            self.complain(
                op, f"a {op.attr('kind')} loop carries nothing, got {len(initial)} values"
            )
        if any(isinstance(x, Const) and x.value == 0 for x in op.operands[2:3]):
            self.complain(op, "the step is 0")
        for block in op.blocks:
            if not block.args:
                self.complain(op, "the block has no loop variable")
                continue
            variable = block.args[0]
            if not isinstance(variable.type, ScalarType) or not variable.type.dtype.is_integer:
                self.complain(op, f"the loop variable is a {variable.type}")


def _listed(types: tuple[Type, ...]) -> str:
    return "(" + ", ".join(map(str, types)) + ")"
