"""Program text cut into tokens, and a reader over them that knows where it is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tilewright.errors import KernelError
from tilewright.span import Span


class IRSyntaxError(KernelError):
    """Text that is no program. `span` holds its line and column; the message quotes the line."""


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    start: int


PLACE = r'(?:"(?:[^"\\]|\\.)*"|[^\s"@]+?):\d+:\d+\.\.\d+:\d+'
_TOKEN = re.compile(
    rf"""
    (?P<space>[ \t\r]+|\#[^\n]*)
  | (?P<newline>\n)
  | (?P<span>@[ ]{PLACE}(?:[ ]from[ ]{PLACE})*)
  | (?P<type>(?:tile|tensor|panel)<[^<>\n]*>)
  | (?P<value>%(?:"(?:[^"\\\n]|\\.)*"|[\w.]+))
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<arrow>->)
  | (?P<literal>(?:-?inf\b | nan\b(?:\(0x[0-9a-f]{{16}}\))? | true\b | false\b
      | -?\d+(?:\.\d+)?(?:e[+-]?\d+)?)
      (?::[A-Z]\w*)?(?![\w.]))
  | (?P<word>[^\W\d][\w.]*)
  | (?P<mark>[{{}}()\[\],=:|])
    """,
    re.VERBOSE,
)


class Reader:
    """The tokens of `text` with a position in them; errors name `file`, line and column."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file
        self.position = 0
        self.tokens = self.split()

    def split(self) -> list[Token]:
        tokens: list[Token] = []
        at = 0
        while at < len(self.text):
            match = _TOKEN.match(self.text, at)
            if match is None:
                raise self.error(f"cannot read {self.text[at]!r}", Token("", self.text[at], at))
            if match.lastgroup != "space":
                tokens.append(Token(match.lastgroup or "", match.group(), at))
            at = match.end()
        return [*tokens, Token("end", "", len(self.text))]

    def error(self, message: str, token: Token | None = None) -> IRSyntaxError:
        token = self.tokens[self.position] if token is None else token
        before = self.text[: token.start]
        line, start = before.count("\n") + 1, before.rfind("\n") + 1
        col = token.start - start
        length = max(1, len(token.text.strip("\n")))
        source = self.text[start:].split("\n", 1)[0]
        return IRSyntaxError(
            message,
            Span(self.file, line, col, line, col + length),
            notes=(source, " " * col + "^" * length),
        )

    @property
    def next(self) -> Token:
        return self.tokens[self.position]

    def take(self) -> Token:
        token = self.tokens[self.position]
        self.position += token.kind != "end"
        return token

    def sees(self, text: str) -> bool:
        return self.next.text == text and self.next.kind in ("mark", "word", "arrow", "newline")

    def accept(self, text: str) -> bool:
        if self.sees(text):
            self.take()
            return True
        return False

    def expect(self, text: str) -> Token:
        if not self.sees(text):
            found = repr(self.next.text) if self.next.kind != "end" else "the end of the text"
            raise self.error(f"expected {text!r}, found {found}")
        return self.take()

    def expect_kind(self, kind: str, what: str) -> Token:
        if self.next.kind != kind:
            found = repr(self.next.text) if self.next.kind != "end" else "the end of the text"
            raise self.error(f"expected {what}, found {found}")
        return self.take()

    def skip_lines(self) -> None:
        while self.next.kind == "newline":
            self.take()
