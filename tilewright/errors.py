"""Two families of failure, never mixed, and the renderer that draws a caret under the author's line.

`KernelError` and its children are the author's mistakes: short, with file, line, column and one thing to
try. `CompilerBug` is ours: it keeps the traceback and the program text and asks to be reported.
"""

from __future__ import annotations

import difflib
import linecache
import sys
import traceback
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from types import FrameType, TracebackType

from tilewright.span import Span

OURS = str(Path(__file__).parent)
LIKENESS = 0.7  # row_summ is row_sum (0.93), ad is add (0.8); submit is not sub (0.67)


class KernelError(Exception):
    """A mistake in a kernel or in its arguments.

    message: what was found and what was wanted, one sentence.
    span:    where the author wrote it, if a line is to blame.
    notes:   further facts, one per line (shapes, where an operand came from).
    help:    one thing to try.
    places:  other lines that take part, each with what happens there.
    also:    further mistakes that were found in the same kernel.
    """

    def __init__(
        self,
        message: str,
        span: Span | None = None,
        notes: Sequence[str] = (),
        help: str | None = None,
        places: Sequence[tuple[Span, str]] = (),
    ) -> None:
        self.message = message
        self.span = span
        self.notes = tuple(notes)
        self.help = help
        self.places = tuple(places)
        self.also: tuple[KernelError, ...] = ()
        super().__init__(message)

    def __str__(self) -> str:
        return "\n\n".join(render(error) for error in (self, *self.also))


class ParserError(KernelError):
    """Root of what the front end refuses: a mistake in a kernel's source, found before anything runs."""


class ParserSyntaxError(ParserError):
    """A statement or expression in a form that the language does not have."""


class UnsupportedFeatureError(ParserError):
    """Python that is fine elsewhere, but not in a kernel."""


class UndefinedVariableError(ParserError):
    """A name that is not bound here."""


class ParserTypeError(ParserError):
    """Values of the wrong kind, shape or dtype."""


class NotConstantError(ParserTypeError, ValueError):
    """A run-time value where the compiler needs a constant, such as the extent of a tile."""


class InvalidOperationError(ParserError):
    """An operator that does not exist, or whose shape or dtype rule is broken."""


class ArgumentError(KernelError, TypeError):
    """A call with arguments that the kernel cannot take: count, dtype, rank, shape, device, layout, overlap."""


class ArgumentValueError(KernelError, ValueError):
    """A call whose argument has the right type and an impossible value."""


class SpecError(KernelError, ValueError):
    """Specs, comparators or tolerances of a golden run that do not fit together or to the kernel."""


class SpecTypeError(KernelError, TypeError):
    """Something of another kind than a golden run takes."""


class CheckpointError(KernelError, ValueError):
    """A checkpoint that is not what it should be: a file, a tensor, a value, or its config.json."""


class RankError(KernelError, RuntimeError):
    """Processes that work together and cannot go on: one is gone, does not answer, failed, or does something else."""


class BoundsError(KernelError, IndexError):
    """A window or an element outside its tensor, found at run time before the access."""


class UnsetError(KernelError):
    """Contents that nobody defined (fresh memory, what is not valid) reach where they matter."""


class RaceError(KernelError):
    """Iterations of a parallel loop that are not independent."""


class CheckFailed(KernelError):
    """What a checking run found: every mistake of the run, one report a place."""

    def __init__(self, name: str, reports: Sequence[KernelError]) -> None:
        self.reports = tuple(reports)
        count = "1 mistake" if len(self.reports) == 1 else f"{len(self.reports)} mistakes"
        super().__init__(f"{count} found in a checked run of {name!r}")

    def __str__(self) -> str:
        return "\n\n".join([*map(str, self.reports), self.message])


def outside(
    subject: str,
    access: str,
    axis: int,
    offset: int,
    count: int,
    extent: int,
    span: Span | None = None,
) -> BoundsError:
    """The error for elements [offset, offset + count) of an axis that has `extent`; both back ends raise this one."""
    name = subject.split(".")[0]
    verb = "write" if access == "write" else "read"
    return BoundsError(
        f"{verb} outside {name}: axis {axis} has {extent} elements, wanted {offset} to {offset + count}",
        span,
        notes=(f"the window starts at {offset} and takes {count}",),
        help="keep the offset inside, or give the part that exists with valid_shape",
    )


def index_outside(subject: str, where: int, count: int, span: Span | None = None) -> BoundsError:
    """The error for a flat index into a tensor of `count` elements; both back ends raise this one."""
    return BoundsError(
        f"write outside {subject.split('.')[0]}: it has {count} elements, wanted number {where}",
        span,
        help=f"flat indices count from 0 to {count - 1}",
    )


class CompilerBug(Exception):
    """The compiler broke its own rules. Nothing the author did; please report it with this text."""

    def __init__(self, message: str, program: str | None = None, span: Span | None = None) -> None:
        self.span = span
        if span is not None:
            message = "\n".join(_place(span, f"error: {message}", len(str(span.line)) + 2))
        text = f"{message}\n(this is a bug in tilewright, not in your kernel; please report it with this text)"
        super().__init__(text if program is None else f"{text}\n\n{program}")


def like(name: str, known: Iterable[str], owner: str = "") -> str | None:
    """Of the names that there are the one that was meant, if it looks like it."""
    near = difflib.get_close_matches(name, list(known), 1, LIKENESS)
    return f"did you mean {owner}{near[0]}?" if near else None


def raised_at(error: BaseException, file: str) -> Span | None:
    """The last piece of a file that was running when an exception was raised; None if none was."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    if not frames or frames[-1].lineno is None:
        return None
    frame, line = frames[-1], frames[-1].lineno
    known = [getattr(frame, name, None) for name in ("colno", "end_lineno", "end_colno")]
    if all(isinstance(n, int) for n in known):  # from Python 3.11 on
        return Span(file, line, int(known[0] or 0), int(known[1] or 0), int(known[2] or 0))
    return line_of(file, line)


def line_of(file: str, line: int) -> Span:
    """A whole line of a file, without its indentation."""
    text = linecache.getline(file, line).rstrip()
    return Span(file, line, len(text) - len(text.lstrip()), line, len(text))


def author_line() -> Span | None:
    """Where the caller's code is that asked us: the innermost frame that is none of ours."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return None
    file, known = frame.f_code.co_filename, (None, None, None, None)
    if hasattr(frame.f_code, "co_positions"):  # from Python 3.11 on
        known = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), known)
    line, end_line, col, end_col = known
    if line is None or end_line is None or col is None or end_col is None:
        return line_of(file, frame.f_lineno)
    return Span(file, line, col, end_line, end_col)


def _is_ours(file: str) -> bool:
    return file.startswith((OURS, "<string>"))


def without_our_frames(found: TracebackType | None) -> TracebackType | None:
    """A traceback of the author's own lines; None when there are none."""
    if found is None:
        return None
    found.tb_next = without_our_frames(found.tb_next)
    return found.tb_next if _is_ours(found.tb_frame.f_code.co_filename) else found


def render(error: KernelError) -> str:
    """`file:line:col: error: message`, the source line with carets, notes and help (style.md habit 8)."""
    lines = []
    if error.span is None:
        lines.append(f"error: {error.message}")
        margin = 0
    else:
        margin = len(str(error.span.line)) + 2
        lines += _place(error.span, f"error: {error.message}", margin)
    for span, what in error.places:
        lines += _place(span, f"note: {what}", margin)
    indent = " " * (margin + 1)
    lines += [f"{indent} = {note}" for note in error.notes]
    if error.help is not None:
        lines.append(f"{indent} = help: {error.help}")
    return "\n".join(lines)


def _place(span: Span, what: str, margin: int) -> list[str]:
    """What happens at a place, the line it is written on, and the calls that it was inlined at."""
    lines = [f"{span}: {what}", *_excerpt(span, margin)]
    if span.caller is not None:
        lines += _place(span.caller, "note: inlined here", margin)
    return lines


def _excerpt(span: Span, margin: int) -> list[str]:
    """The source line and a row of carets under the span; nothing when the source cannot be read."""
    text = linecache.getline(span.file, span.line).rstrip("\n")
    if not text:
        return []
    # `ast` counts columns in UTF-8 bytes; carets count characters.
    raw = text.encode()
    start = len(raw[: span.col].decode(errors="ignore"))
    end = (
        len(raw[: span.end_col].decode(errors="ignore"))
        if span.end_line == span.line
        else len(text)
    )
    carets = " " * start + "^" * max(1, end - start)
    return [f"{span.line:>{margin + 1}} | {text}", f"{'':>{margin + 1}} | {carets}"]
