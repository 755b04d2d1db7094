"""What ends the reading of a statement: a mistake, or the need to read it again in another way."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.errors import KernelError


class NeedsConstant(Exception):
    """A run-time scalar stands where only a constant can: trace again with its value."""

    def __init__(self, parameter: str) -> None:
        self.parameter = parameter
        super().__init__(parameter)


class NeedsRegion(Exception):
    """Work on blocks met in orchestration: the statement is read again as a region of its own."""


class Follows(KernelError):
    """A consequence of a mistake that is on the list already."""


@dataclass(slots=True)
class Mistakes:
    """The mistakes of one kernel, each once: loops are read more than once, helpers at every call."""

    found: list[KernelError]
    met: int = 0  # how often something was wrong, known or not

    def note(self, error: Exception) -> None:
        """Add a mistake, unless it only follows from another."""
        self.met += 1
        if not isinstance(error, KernelError) or isinstance(error, Follows):
            return
        if not any(_same_place(error, known) for known in self.found):
            self.found.append(error)


def _same_place(a: KernelError, b: KernelError) -> bool:
    """Whether two complaints say the same of the same text, however it was reached."""
    if a.message != b.message or a.span is None or b.span is None:
        return False
    return (a.span.file, a.span.line, a.span.col) == (b.span.file, b.span.line, b.span.col)
