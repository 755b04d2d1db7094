"""Where a thing was written: the author's file, line and columns, carried by every IR node."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of source text. Lines count from 1, columns from 0 (as in `ast`), ends exclusive."""

    file: str
    line: int
    col: int
    end_line: int
    end_col: int
    caller: Span | None = None  # the call that an inlined body was pasted at

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.col + 1}"

    @property
    def short(self) -> str:
        """`q_proj.py:41`, the form used in IR text, traces and symbol names."""
        return f"{self.file.rsplit('/', 1)[-1]}:{self.line}"


NOWHERE = Span("<generated>", 0, 0, 0, 0)
