"""A kernel's text: its syntax tree, a span for every node, and the names that it closes over."""

from __future__ import annotations

import ast
import inspect
import linecache
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from types import CellType, FunctionType
from typing import Any

from tilewright.dtypes import DType
from tilewright.errors import UnsupportedFeatureError
from tilewright.language.kernel import Kernel
from tilewright.span import Span


@dataclass(frozen=True, slots=True)
class Source:
    """Where a kernel is written, and its definition.

    Lines and columns of the nodes are those of the file.
    """

    file: str
    function: ast.FunctionDef

    def span(self, node: ast.AST, caller: Span | None = None) -> Span:
        """The author's text behind a node; a definition stands for its first line."""
        return span_of(self.file, node, self.function.lineno, caller)

    def text(self, node: ast.AST) -> str:
        """The node as code, on one line."""
        return ast.unparse(node)


def span_of(file: str, node: ast.AST, otherwise: int = 1, caller: Span | None = None) -> Span:
    """The text behind a node of a file; `otherwise` is the line of one that knows none."""
    line, col = getattr(node, "lineno", otherwise), getattr(node, "col_offset", 0)
    if isinstance(node, ast.FunctionDef):
        return Span(file, line, col, line, col + len(f"def {node.name}"), caller)
    end_line = getattr(node, "end_lineno", None) or line
    end_col = getattr(node, "end_col_offset", None) or col + 1
    return Span(file, line, col, end_line, end_col, caller)


@cache
def source_of(kernel: Kernel) -> Source:
    """Parse the kernel's text.

    UnsupportedFeatureError when it cannot be found or is no plain `def`.
    """
    code = kernel.function.__code__
    definition = _in_its_file(kernel.function)
    if definition is not None:
        return Source(code.co_filename, definition)
    try:
        lines, first = inspect.getsourcelines(kernel.function)
    except (OSError, IndentationError) as reason:
        raise UnsupportedFeatureError(
            f"the source of {kernel.__name__!r} cannot be read: {reason}",
            help="write the kernel in a file; a prompt and exec leave no source",
        ) from None
    text = "".join(lines)
    # An indented definition is put under an `if`, so that columns and lines stay those of the file.
    wrapped = f"if 1:\n{text}" if text[:1].isspace() else f"\n{text}"
    try:
        tree = ast.parse(wrapped)
    except SyntaxError as reason:
        raise UnsupportedFeatureError(
            f"the source of {kernel.__name__!r} cannot be parsed: {reason.msg}",
            help="decorate a def",
        ) from None
    ast.increment_lineno(tree, first - 2)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            return Source(code.co_filename, node)
    raise UnsupportedFeatureError(
        f"the source of {kernel.__name__!r} is no plain function definition", help="decorate a def"
    )


def _in_its_file(function: FunctionType) -> ast.FunctionDef | None:
    """The definition at its line of its file; None where the file is none that Python can read as a whole."""
    code = function.__code__
    linecache.checkcache(code.co_filename)
    text = "".join(linecache.getlines(code.co_filename, function.__globals__))
    return _definitions(text).get((code.co_firstlineno, code.co_name))


@lru_cache(maxsize=64)
def _definitions(text: str) -> dict[tuple[int, str], ast.FunctionDef]:
    """Every function of a file by its first line, which is that of its first decorator, and its name."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return {}
    found = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return {
        (min([node.lineno, *(d.lineno for d in node.decorator_list)]), node.name): node
        for node in found
    }


@dataclass(frozen=True, slots=True)
class Consulted:
    """A Python value that the program depends on, with a way to see whether it has changed."""

    name: str
    read: Callable[[], Any]
    seen: Any

    def changed(self) -> bool:
        """Whether reading it again gives another value; a value that is gone has changed."""
        try:
            value = self.read()
        except (KeyError, AttributeError, ValueError, IndexError):
            return True
        if value is self.seen or (type(self.seen) is _Identity and self.seen.thing is value):
            return False  # what nearly every call finds
        now = frozen(value)
        return not (now is self.seen or (type(now) is type(self.seen) and now == self.seen))


class Watch:
    """Consulted values, looked at together: a part of every call.

    Globals and values in closures, as nearly all of them are, are compared by identity first.
    """

    def __init__(self, consulted: Iterable[Consulted]) -> None:
        groups: dict[Any, list[Consulted]] = {}
        for value in consulted:
            groups.setdefault(_source(value), []).append(value)
        self._others = groups.pop(None, [])
        self._groups = [
            (_reader([value.read for value in values]), [_thing(v.seen) for v in values], values)
            for values in groups.values()
        ]

    def changed(self) -> bool:
        """Whether any of the values is another one now; a value that is gone has changed."""
        try:
            for read, things, values in self._groups:
                if not all(map(operator.is_, read(), things)) and _any_changed(values):
                    return True
        except (NameError, ValueError):
            return True
        return bool(self._others) and _any_changed(self._others)


def _any_changed(values: list[Consulted]) -> bool:
    for value in values:  # noqa: SIM110 (any() over a generator takes twice as long)
        if value.changed():
            return True
    return False


def _source(value: Consulted) -> Any:
    """With what a value can be read together; None if not, or if the same object may have changed, as a list."""
    seen = value.seen
    if seen is not None and not isinstance(seen, (bool, int, float, str, DType, _Identity)):
        return None
    read = value.read
    return (
        id(read.names)
        if isinstance(read, Global)
        else type(read)
        if isinstance(read, Cell)
        else None
    )


def _reader(reads: list[Any]) -> Callable[[], Iterable[Any]]:
    """Reads some globals of one module, or some cells.

    Python's own code for a global remembers where in the dict it is: it looks at neither the name nor the
    table of hashes, which is most of what finding it takes when the caches are cold.
    """
    if isinstance(reads[0], Cell):
        return partial(map, operator.attrgetter("cell_contents"), [read.cell for read in reads])
    names = ", ".join(read.name for read in reads)
    found: Callable[[], Iterable[Any]] = eval(f"lambda: ({names},)", reads[0].names)
    return found


def _thing(seen: Any) -> Any:
    """The object of which `seen` is the frozen form."""
    return seen.thing if isinstance(seen, _Identity) else seen


def frozen(value: Any) -> Any:
    """A value to compare with later: lists are copied, objects stand for themselves."""
    if isinstance(value, (list, tuple)):
        return tuple(frozen(item) for item in value)
    if value is None or isinstance(value, (bool, int, float, str, DType)):
        return value
    return _Identity(value)


@dataclass(frozen=True, slots=True, eq=False)
class _Identity:
    """An object that equals only itself."""

    thing: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


@dataclass(frozen=True, slots=True)
class Global:
    """Reads one name of a namespace."""

    names: dict[str, Any]
    name: str

    def __call__(self) -> Any:
        return self.names[self.name]


@dataclass(frozen=True, slots=True)
class Cell:
    """Reads a variable of an enclosing function; ValueError when it has no value."""

    cell: CellType

    def __call__(self) -> Any:
        return self.cell.cell_contents


def enclosing_reader(function: FunctionType, name: str) -> Callable[[], Any] | None:
    """How to read the value that `name` has around a function: in a closure, then among the
    globals.
    """
    free = function.__code__.co_freevars
    if name in free and function.__closure__ is not None:
        return Cell(function.__closure__[free.index(name)])
    names = function.__globals__
    if name in names:
        return Global(names, name)
    return None


def is_language(value: object) -> bool:
    """Whether a Python object is a word or a module of the tile language."""
    name = getattr(value, "__name__", "")
    return isinstance(name, str) and name.startswith(("tilewright.language", "pypto"))
