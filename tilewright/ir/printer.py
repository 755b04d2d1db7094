"""A program as text: one op a line, blocks indented, nothing left out that the parser needs.

    func scale(%x: tensor<64x256, FP32>, out %y: tensor<64x256, BF16>) {
      for %r0 in parallel(0, 64, 16) {
        at "scale" {
          %part = load %x[%r0, 0] valid [16, 256] {shape = [16, 256]} : tile<16x256, FP32>
          %v = cast %part {mode = "rint", to = BF16} : tile<16x256, BF16>
          store %v to %y[%r0, 0] valid [16, 256] {shape = [16, 256]}
          yield
        }
        yield
      }
    }

Literals: `3` is INDEX, `0.5` FP32, `true` BOOL, anything else names its dtype (`3:INT32`).
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.dtypes import BOOL, FP32, INDEX, DType
from tilewright.ir.nodes import Attr, Block, Const, Function, Op, Operand, Param, Value
from tilewright.ir.ops import TABLE
from tilewright.ir.ops.control import LOOP_KINDS
from tilewright.ir.types import ScalarType
from tilewright.ir.walk import LOOPS, carried_args, initial_values
from tilewright.span import NOWHERE, Span

_PLAIN_VALUE = re.compile(r"[\w.]+\Z")
_PLAIN_WORD = re.compile(r"(?!(?:true|false|nan|inf)\Z)[^\W\d][\w.]*\Z")
_PLAIN_FILE = re.compile(r'[^\s"@]+\Z')
QUIET_NAN = 0x7FF8_0000_0000_0000


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text and the op that it shows (None for headers and closing braces)."""

    text: str
    op: Op | None = None


def to_text(function: Function, spans: bool = False) -> str:
    """The whole function; with `spans`, where each op was written (`@ file:line:col..line:col`)."""
    return "\n".join(line.text for line in to_lines(function, spans)) + "\n"


def to_lines(function: Function, spans: bool = False) -> list[Line]:
    """The lines of `to_text`, each with its op."""
    params = ", ".join(_param(p, spans) for p in function.params)
    out = [Line(f"func {_word(function.name)}({params}){_at(function.span, spans)} {{")]
    _block(function.body, out, 1, spans)
    out.append(Line("}"))
    return out


def op_text(op: Op) -> str:
    """An op alone, without what its blocks hold: for messages."""
    return _head(op, False)[0]


def operand_text(operand: Operand) -> str:
    """`%name`, or a literal."""
    return _const(operand) if isinstance(operand, Const) else _name(operand)


def _block(block: Block, out: list[Line], depth: int, spans: bool) -> None:
    for op in block.ops:
        _op(op, out, depth, spans)


def _op(op: Op, out: list[Line], depth: int, spans: bool) -> None:
    pad = "  " * depth
    head, pretty = _head(op, spans)
    if not op.blocks:
        out.append(Line(pad + head, op))
        return
    for number, block in enumerate(op.blocks):
        between = "" if number == 0 else "} else " if op.name == "if" and pretty else "} "
        args = "" if pretty else _block_args(block)
        out.append(
            Line(
                f"{pad}{head + ' ' if number == 0 else between}{{{args}",
                op if number == 0 else None,
            )
        )
        _block(block, out, depth + 1, spans)
    out.append(Line(pad + "}"))


def _head(op: Op, spans: bool) -> tuple[str, bool]:
    """The op's line up to its first block, and whether its block arguments are told by it."""
    at = _at(op.span, spans)
    if _is_plain_loop(op):
        return _loop(op) + at, True
    region = op.name in ("at", "sweep", "serial") and len(op.blocks) == 1 and not op.operands
    branch = op.name == "if" and len(op.blocks) == 2 and len(op.operands) == 1
    if (region or branch) and not any(block.args for block in op.blocks):
        attrs = dict(op.attrs)
        words = [op.name, *map(operand_text, op.operands)]
        if op.name == "at" and isinstance(attrs.get("name"), str):
            words.append(json.dumps(attrs.pop("name")))
        return " ".join(words) + _attrs(attrs) + _arrow(op.results) + at, True
    results = ", ".join(map(_name, op.results))
    types = ", ".join(str(value.type) for value in op.results)
    text = f"{results} = {_word(op.name)}" if results else _word(op.name)
    operands = _operands(op)
    text += (" " + operands if operands else "") + _attrs(dict(op.attrs))
    return text + (f" : {types}" if types else "") + at, False


def _is_plain_loop(op: Op) -> bool:
    """Can the short form say it all: one block, a variable, every carried value with a result?"""
    if op.name not in LOOPS or len(op.blocks) != 1:
        return False
    if op.name == "for" and (len(op.operands) < 3 or op.attr("kind") not in LOOP_KINDS):
        return False
    count, leading = len(initial_values(op)), LOOPS[op.name][1]
    return len(op.blocks[0].args) == leading + count and len(op.results) == count


def _loop(op: Op) -> str:
    attrs = dict(op.attrs)
    (block,) = op.blocks
    text = "while"
    if op.name == "for":
        variable = block.args[0]
        bounds = ", ".join(map(operand_text, op.operands[:3]))
        text = f"for {_typed_unless(variable, variable.type == ScalarType(INDEX))}"
        text += f" in {attrs.pop('kind')}({bounds})"
    text += _attrs(attrs)
    if op.results:
        pairs = [
            f"{_typed_unless(arg, arg.type == start.type)} = {operand_text(start)}"
            for arg, start in zip(carried_args(op), initial_values(op), strict=True)
        ]
        results = [
            _typed_unless(value, value.type == arg.type)
            for value, arg in zip(op.results, carried_args(op), strict=True)
        ]
        text += f" carry ({', '.join(pairs)}) -> ({', '.join(results)})"
    return text


def _typed_unless(value: Value, implied: bool) -> str:
    return _name(value) if implied else f"{_name(value)}: {value.type}"


def _arrow(results: Sequence[Value]) -> str:
    return f" -> ({', '.join(f'{_name(v)}: {v.type}' for v in results)})" if results else ""


def _block_args(block: Block) -> str:
    return f" |{', '.join(f'{_name(v)}: {v.type}' for v in block.args)}|" if block.args else ""


def _operands(op: Op) -> str:
    """Operands in order; groups that the operator table marks with `*` go in brackets."""
    texts = [operand_text(x) for x in op.operands]
    takes = [word.strip() for word in TABLE[op.name].takes.split(",")] if op.name in TABLE else []
    singles = [word for word in takes if not word.startswith("*")]
    groups = [word[1:] for word in takes if word.startswith("*")]
    grouped = [name for name in groups if name in ("offsets", "valid", "indices")]
    rest = len(texts) - len(singles)
    if not grouped or grouped != groups or rest <= 0 or rest % len(groups):
        return ", ".join(texts)
    size = rest // len(groups)
    head = texts[: len(singles)]
    text = f"{head[0]} to {head[1]}" if op.name == "store" else ", ".join(head)
    for number, name in enumerate(groups):
        start = len(singles) + number * size
        inside = f"[{', '.join(texts[start : start + size])}]"
        if name == "valid":
            text += f" valid {inside}"
        elif len(head) == 1 or op.name == "store":
            text += inside
        else:
            text += f" at {inside}"
    return text.strip()


def _param(param: Param, spans: bool) -> str:
    direction = "" if param.direction == "in" else param.direction + " "
    return f"{direction}{_name(param.value)}: {param.value.type}{_at(param.span, spans)}"


def _attrs(attrs: dict[str, Attr]) -> str:
    if not attrs:
        return ""
    return (
        " {" + ", ".join(f"{_word(key)} = {attr_text(value)}" for key, value in attrs.items()) + "}"
    )


def attr_text(value: Attr) -> str:
    """An attribute in the form that the parser reads. TypeError on what is no attribute."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int():
            return str(int(value))
        case float():
            return float_text(value)
        case str():
            return json.dumps(value)
        case DType():
            return value.name
        case tuple() | list():
            return "[" + ", ".join(map(attr_text, value)) + "]"
    raise TypeError(
        f"{value!r} cannot be an attribute (int, float, bool, str, DType, None or a tuple of these)"
    )


def float_text(value: float) -> str:
    """Shortest text that gives the same 64 bits back; `nan(0x…)` for an unusual NaN."""
    if not math.isnan(value):
        return float.__repr__(float(value))
    (bits,) = struct.unpack("<Q", struct.pack("<d", value))
    return "nan" if bits == QUIET_NAN else f"nan(0x{bits:016x})"


def _const(const: Const) -> str:
    value = const.value
    text = attr_text(value)
    kind = BOOL if isinstance(value, bool) else INDEX if isinstance(value, int) else FP32
    return text if const.dtype == kind else f"{text}:{const.dtype}"


def _name(value: Value) -> str:
    return "%" + (value.name if _PLAIN_VALUE.match(value.name) else json.dumps(value.name))


def _word(name: str) -> str:
    return name if _PLAIN_WORD.match(name) else json.dumps(name)


def _at(span: Span, spans: bool) -> str:
    """` @ file:line:col..line:col`, then ` from` each call it was pasted at. Columns from 1."""
    if not spans or span == NOWHERE:
        return ""
    text, word, at = "", "@", span
    while True:
        file = at.file if _PLAIN_FILE.match(at.file) else json.dumps(at.file)
        text += f" {word} {file}:{at.line}:{at.col + 1}..{at.end_line}:{at.end_col + 1}"
        if at.caller is None:
            return text
        word, at = "from", at.caller
