"""The other half of the printer: reads a program's text back, equal to the last bit.

It checks the form only; `ir.verify` says whether the program obeys the rules. Line comments start
with `#`. Layout is free except that a line break ends an op.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable
from typing import TypeVar

from tilewright.dtypes import BOOL, BY_NAME, FP32, INDEX, DType
from tilewright.ir.nodes import Attr, Block, Const, Function, Op, Operand, Param, Value, make_attrs
from tilewright.ir.ops import TABLE
from tilewright.ir.tokens import IRSyntaxError, Reader, Token
from tilewright.ir.types import (
    PanelType,
    ScalarType,
    TensorType,
    TileType,
    Type,
    contiguous_strides,
)
from tilewright.span import NOWHERE, Span

T = TypeVar("T")


_ONE_PLACE = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^\s"@]+?):(\d+):(\d+)\.\.(\d+):(\d+)(?=\s|\Z)')
_TYPE = re.compile(r"(tile|tensor|panel)<([\dx]*), (\w+)(?:, strides ([\dx]+))?>\Z")
_SEPARATORS = ("valid", "to", "at")


__all__ = ["IRSyntaxError", "parse"]


def parse(text: str, file: str = "<ir>") -> Function:
    """The function that `text` describes. Raises IRSyntaxError naming `file`, line and column."""
    return _Parser(text, file).function()


class _Parser(Reader):
    """Recursive descent over the tokens; `self.values` maps a name to its latest definition."""

    def __init__(self, text: str, file: str) -> None:
        super().__init__(text, file)
        self.values: dict[str, Value] = {}

    # Function and blocks

    def function(self) -> Function:
        self.skip_lines()
        self.expect("func")
        name = self.word()
        self.expect("(")
        params: list[Param] = []
        while not self.sees(")"):
            params.append(self.param())
            if not self.accept(","):
                break
        self.expect(")")
        span = self.span()
        body = self.block(())
        self.skip_lines()
        if self.next.kind != "end":
            raise self.error(f"expected the end of the text, found {self.next.text!r}")
        return Function(name, tuple(params), body, span)

    def param(self) -> Param:
        direction = self.take().text if self.next.text in ("out", "inout", "frozen") else "in"
        value = self.definition(self.value_name(), self.annotation())
        return Param(value, direction, self.span())  # type: ignore[arg-type]

    def block(self, args: tuple[Value, ...]) -> Block:
        """`{`, one op a line, `}`. A block may begin with its arguments between bars."""
        self.expect("{")
        if self.accept("|"):
            args = self.many("|", lambda: self.definition(self.value_name(), self.annotation()))
        self.skip_lines()
        ops: list[Op] = []
        while not self.sees("}"):
            if self.next.kind == "end":
                raise self.error("a block is not closed: expected '}'")
            ops.append(self.op())
            if not self.sees("}"):
                self.expect_kind("newline", "the end of the line")
            self.skip_lines()
        self.expect("}")
        return Block(args, tuple(ops))

    # Ops

    def op(self) -> Op:
        if self.next.kind == "value":
            return self.generic()
        if self.sees("for") and self.tokens[self.position + 1].kind == "value":
            after = self.tokens[self.position + 2].text
            if after in ("in", ":"):
                return self.counted()
        if self.sees("while") and self.tokens[self.position + 1].text in ("carry", "{"):
            return self.conditional()
        if self.sees("if") or self.next.text in ("at", "sweep", "serial"):
            return self.region()
        return self.generic()

    def counted(self) -> Op:
        """`for %i in kind(start, stop, step) {attrs} carry (%a = initial, …) -> (%r, …) {`."""
        self.expect("for")
        variable = self.value_name()
        counts = self.annotation() if self.sees(":") else ScalarType(INDEX)
        self.expect("in")
        kind = self.word()
        self.expect("(")
        bounds = self.many(")", self.operand)
        attrs = {**self.attrs(), "kind": kind}
        return self.loop("for", bounds, [(variable, counts)], attrs)

    def conditional(self) -> Op:
        """`while {attrs} carry (%again = initial, …) -> (%r, …) {`."""
        self.expect("while")
        return self.loop("while", (), [], self.attrs())

    def loop(
        self,
        name: str,
        bounds: tuple[Operand, ...],
        variables: list[tuple[Token, Type]],
        attrs: dict[str, Attr],
    ) -> Op:
        """What every loop goes on with: `carry (%a = initial, …) -> (%r, …) {`."""
        carried: list[tuple[Token, Type, Operand]] = []
        results: list[tuple[Token, Type]] = []
        if self.accept("carry"):
            self.expect("(")
            while not self.accept(")"):
                token = self.value_name()
                written = self.annotation() if self.sees(":") else None
                self.expect("=")
                initial = self.operand()
                carried.append((token, written or initial.type, initial))
                if not self.sees(")"):
                    self.expect(",")
            self.expect("->")
            self.expect("(")
            while not self.accept(")"):
                token = self.value_name()
                implied = carried[len(results)][1] if len(results) < len(carried) else None
                written = self.annotation() if self.sees(":") else implied
                if written is None:
                    raise self.error("more results than carried values", token)
                results.append((token, written))
                if not self.sees(")"):
                    self.expect(",")
        span = self.span()
        names = [*variables, *((token, kind) for token, kind, _ in carried)]
        body = self.block(tuple(self.definition(token, kind) for token, kind in names))
        operands = (*bounds, *(initial for _, _, initial in carried))
        values = tuple(self.definition(token, kind) for token, kind in results)
        return Op(name, operands, values, make_attrs(attrs), (body,), span)

    def region(self) -> Op:
        """`if %c`, `at "name"`, `sweep`, `serial`; attributes, `-> (%r: type, …)`, blocks."""
        name = self.take().text
        operands = (self.operand(),) if name == "if" else ()
        attrs: dict[str, Attr] = {}
        if name == "at" and self.next.kind == "string":
            attrs["name"] = json.loads(self.take().text)
        attrs |= self.attrs()
        results: list[tuple[Token, Type]] = []
        if self.accept("->"):
            self.expect("(")
            while not self.accept(")"):
                results.append((self.value_name(), self.annotation()))
                if not self.sees(")"):
                    self.expect(",")
        span = self.span()
        blocks = [self.block(())]
        while self.accept("else") or self.sees("{"):
            blocks.append(self.block(()))
        values = tuple(self.definition(n, t) for n, t in results)
        return Op(name, operands, values, make_attrs(attrs), tuple(blocks), span)

    def generic(self) -> Op:
        """`%r, … = name operands {attrs} : type, … {block}`."""
        names: list[Token] = []
        while self.next.kind == "value":
            names.append(self.value_name())
            if not self.accept(","):
                self.expect("=")
        name_token = self.next
        name = self.word()
        if name not in TABLE:
            raise self.error(f"unknown operator {name!r}", name_token)
        operands = self.operands()
        attrs = self.attrs()
        types: list[Type] = []
        if self.accept(":"):
            types.append(self.type())
            while self.accept(","):
                types.append(self.type())
        if len(types) != len(names):
            raise self.error(f"{len(names)} results and {len(types)} types", name_token)
        span = self.span()
        blocks = []
        while self.sees("{"):
            blocks.append(self.block(()))
        values = tuple(self.definition(n, t) for n, t in zip(names, types, strict=True))
        return Op(name, operands, values, make_attrs(attrs), tuple(blocks), span)

    def operands(self) -> tuple[Operand, ...]:
        """Operands in order. Brackets, commas and the words valid, to, at only help the eye."""
        found: list[Operand] = []
        while True:
            if self.next.kind in ("value", "literal"):
                found.append(self.operand())
            elif self.next.text in ("[", "]", ",") or self.next.text in _SEPARATORS:
                self.take()
            else:
                return tuple(found)

    def operand(self) -> Operand:
        if self.next.kind == "value":
            token = self.take()
            name = _unquoted(token.text[1:])
            if name not in self.values:
                raise self.error(f"{token.text} is not defined above", token)
            return self.values[name]
        token = self.expect_kind("literal", "a value or a literal")
        text, _, suffix = token.text.partition(":")
        value = _number(text)
        if suffix:
            if suffix not in BY_NAME:
                raise self.error(f"unknown dtype {suffix!r}", token)
            return Const(value, BY_NAME[suffix])
        if isinstance(value, bool):
            return Const(value, BOOL)
        return Const(value, INDEX if isinstance(value, int) else FP32)

    # Parts

    def many(self, close: str, item: Callable[[], T]) -> tuple[T, ...]:
        """Items separated by commas up to `close`."""
        found = []
        while not self.accept(close):
            found.append(item())
            if not self.sees(close):
                self.expect(",")
        return tuple(found)

    def attrs(self) -> dict[str, Attr]:
        """`{key = value, …}`; a brace that ends its line opens a block instead."""
        following = self.tokens[min(self.position + 1, len(self.tokens) - 1)]
        if not self.sees("{") or following.kind == "newline" or following.text in ("|", "}"):
            return {}
        self.expect("{")
        return dict(self.many("}", self.pair))

    def pair(self) -> tuple[str, Attr]:
        key = self.word()
        self.expect("=")
        return key, self.attr()

    def attr(self) -> Attr:
        if self.accept("["):
            return self.many("]", self.attr)
        token = self.take()
        if token.kind == "literal" and ":" not in token.text:
            return _number(token.text)
        if token.kind == "string":
            return json.loads(token.text)
        if token.text == "none":
            return None
        if token.kind == "word" and token.text in BY_NAME:
            return BY_NAME[token.text]
        raise self.error(f"expected an attribute, found {token.text!r}", token)

    def annotation(self) -> Type:
        self.expect(":")
        return self.type()

    def type(self) -> Type:
        token = self.take()
        if token.kind == "word" and token.text in BY_NAME:
            return ScalarType(BY_NAME[token.text])
        match = _TYPE.match(token.text) if token.kind == "type" else None
        if match is None or match[3] not in BY_NAME:
            raise self.error(f"expected a type, found {token.text!r}", token)
        kind, dims, dtype = match[1], _dims(match[2]), BY_NAME[match[3]]
        return self.shaped(kind, dims, dtype, match[4], token)

    def shaped(
        self, kind: str, dims: tuple[int, ...], dtype: DType, strides: str | None, token: Token
    ) -> Type:
        if kind == "tensor":
            steps = contiguous_strides(dims) if strides is None else _dims(strides)
            return TensorType(dims, dtype, steps)
        if kind == "panel":
            if len(dims) != 2:
                raise self.error("a panel has two extents, k and n", token)
            return PanelType(dims[0], dims[1], dtype)
        return TileType(dims, dtype)

    def word(self) -> str:
        if self.next.kind == "string":
            return _unquoted(self.take().text)
        return self.expect_kind("word", "a name").text

    def value_name(self) -> Token:
        return self.expect_kind("value", "a %name")

    def definition(self, token: Token, type: Type) -> Value:
        name = _unquoted(token.text[1:])
        value = Value(name, type)
        self.values[name] = value
        return value

    def span(self) -> Span:
        if self.next.kind != "span":
            return NOWHERE
        text = self.take().text[2:]
        found: Span | None = None
        for match in reversed(list(_ONE_PLACE.finditer(text))):
            line, col, end_line, end_col = (int(part) for part in match.groups())
            file = match.group()[: match.start(1) - match.start() - 1]
            found = Span(_unquoted(file), line, col - 1, end_line, end_col - 1, found)
        return found or NOWHERE


def _unquoted(text: str) -> str:
    return str(json.loads(text)) if text.startswith('"') else text


def _dims(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("x")) if text else ()


def _number(text: str) -> int | float | bool:
    if text in ("true", "false"):
        return text == "true"
    if text.startswith("nan("):
        return float(struct.unpack("<d", struct.pack("<Q", int(text[4:-1], 16)))[0])
    if text == "nan":
        return math.nan
    return float(text) if any(c in text for c in ".ein") else int(text)
