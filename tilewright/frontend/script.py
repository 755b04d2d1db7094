"""A script as text: what its names stand for, where its kernels are, whether it is a program.

Nothing of it is run. `lint` reads scripts through this.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import tilewright.language
from tilewright.frontend.source import span_of
from tilewright.language.kernel import Decorator
from tilewright.span import Span

# Both spellings of the language's module.
LANGUAGE = ("tilewright.language", "pypto.language")
GOLDEN = ("golden", "tilewright.golden")
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Missing:
    """A name that the language does not have."""


MISSING = Missing()


@dataclass(slots=True, eq=False)
class KernelText:
    """A function in the tile language: a decorated one, or a method of a program class."""

    name: str
    node: ast.FunctionDef
    script: Script
    entry: bool  # called from Python, not from other kernels
    around: tuple[Function, ...]  # the Python functions it is written in, outermost first
    method: bool = False
    calls: set[str] = field(default_factory=set)  # bare names that the body calls


class Script:
    """One file, parsed. SyntaxError when it is not Python, OSError when it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = str(path)
        text = path.read_bytes()
        self.tree = ast.parse(text, filename=self.file)
        compile(
            text, self.file, "exec", dont_inherit=True
        )  # `break` outside of a loop, and its like
        self.imports = _imports(self.tree, path.parent)
        self.kernels: list[KernelText] = []
        self._find_kernels(self.tree.body, ())
        self.functions = plain_functions(self.tree.body)

    def span(self, node: ast.AST) -> Span:
        """The text of a statement, an expression or a parameter."""
        return span_of(self.file, node)

    @cached_property
    def names(self) -> set[str]:
        """What the module binds at its top level, and functions in its place."""
        declared = (n.names for n in ast.walk(self.tree) if isinstance(n, ast.Global))
        return bound_names(self.tree.body).union(*declared)

    @cached_property
    def tried(self) -> set[ast.AST]:
        """What stands under a `try` that catches: the author is ready for it to fail."""
        bodies = (n.body for n in ast.walk(self.tree) if isinstance(n, ast.Try) and n.handlers)
        return {node for body in bodies for statement in body for node in ast.walk(statement)}

    @cached_property
    def later(self) -> set[ast.AST]:
        """What stands in functions, and so does not run when the file is imported."""
        functions = (n for n in ast.walk(self.tree) if isinstance(n, Function))
        return {node for f in functions for statement in f.body for node in ast.walk(statement)}

    @cached_property
    def at_import(self) -> list[ast.AST]:
        """What Python evaluates when it imports the file, in order; not what classes hold."""
        found: list[ast.AST] = []
        waiting: list[ast.AST] = list(reversed(self.tree.body))
        while waiting:
            node = waiting.pop()
            found.append(node)
            if isinstance(node, (ast.ClassDef, ast.Lambda)):
                continue
            inner = list(ast.iter_child_nodes(node))
            if isinstance(node, Function):
                arguments = node.args
                inner = [*node.decorator_list, *arguments.defaults]
                inner += [default for default in arguments.kw_defaults if default is not None]
                if not self.postponed:
                    annotations = [
                        a.annotation for a in ast.walk(arguments) if isinstance(a, ast.arg)
                    ]
                    inner += [a for a in (*annotations, node.returns) if a is not None]
            waiting += reversed(inner)
        return found

    @property
    def postponed(self) -> bool:
        """Whether Python leaves annotations as text."""
        return self.imports.get("annotations") == "__future__.annotations"

    @cached_property
    def open(self) -> bool:
        """Whether there may be names that nobody can see: a star import, `globals()`, `exec`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and any(a.name == "*" for a in node.names):
                return True
            if isinstance(node, ast.Name) and node.id in ("globals", "vars", "exec"):
                return True
        return False

    def word(self, node: ast.expr, hidden: set[str] | frozenset[str] = frozenset()) -> Any:
        """What of the language an expression names: MISSING for a name that it does not have.

        None for anything else; `hidden` are names that a function binds anew.
        """
        dotted = self.dotted(node, hidden)
        if dotted is None:
            return None
        for root in LANGUAGE:
            if dotted == root or dotted.startswith(f"{root}."):
                return word_at(dotted[len(root) + 1 :])
        return None

    def dotted(self, node: ast.expr, hidden: set[str] | frozenset[str]) -> str | None:
        """`pypto.language.add` for `pl.add`; None when it does not start with an imported name."""
        if isinstance(node, ast.Name):
            return None if node.id in hidden else self.imports.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.dotted(node.value, hidden)
            return None if owner is None else f"{owner}.{node.attr}"
        return None

    def is_program(self) -> bool:
        """Whether running the file does something: a `__main__` guard, or a kernel called at its top."""
        entries = {kernel.name for kernel in self.kernels if kernel.entry}
        for statement in self.tree.body:
            if isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):
                return True
            if isinstance(statement, (*_DEFINITIONS, ast.Import, ast.ImportFrom)):
                continue
            for call in (n for n in ast.walk(statement) if isinstance(n, ast.Call)):
                name = call.func.id if isinstance(call.func, ast.Name) else None
                dotted = self.dotted(call.func, frozenset()) or ""
                bare = isinstance(statement, (ast.Expr, ast.Raise))  # no constant is made by it
                if (
                    name in entries
                    or dotted.startswith(tuple(f"{g}.run" for g in GOLDEN))
                    or (bare and name in self.functions)
                ):
                    return True
        return False

    def _find_kernels(
        self, body: list[ast.stmt], around: tuple[Function, ...], program: bool = False
    ) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                is_program = any(self._is_language(d) for d in node.decorator_list)
                self._find_kernels(node.body, around, is_program or program)
            elif isinstance(node, ast.FunctionDef) and any(
                self._is_language(d) for d in node.decorator_list
            ):
                entry = any(self._is_entry(d) for d in node.decorator_list) or program
                kernel = KernelText(node.name, node, self, entry, around, method=program)
                kernel.calls = {
                    n.func.id
                    for n in ast.walk(node)
                    if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
                }
                self.kernels.append(kernel)
            elif isinstance(node, Function):
                self._find_kernels(node.body, (*around, node))
            else:
                for inner in ("body", "orelse", "finalbody"):
                    self._find_kernels(getattr(node, inner, []), around, program)

    def _is_language(self, decorator: ast.expr) -> bool:
        return self.word(_undressed(decorator)) is not None

    def _is_entry(self, decorator: ast.expr) -> bool:
        word = self.word(_undressed(decorator))
        return isinstance(word, Decorator) and word.kind == "entry"


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def word_at(path: str) -> Any:
    """The language's object at a dotted path below it, MISSING where there is none."""
    thing: Any = tilewright.language
    for name in filter(None, path.split(".")):
        inner = getattr(thing, name, MISSING)
        if isinstance(inner, ModuleType) and not inner.__name__.startswith(LANGUAGE[0]):
            return MISSING  # what our own modules import is no word
        thing = inner
    return thing


def plain_functions(body: list[ast.stmt]) -> set[str]:
    """Functions defined here without a decorator: Python's, unless `f = pl.jit(f)` follows."""
    assigned = {
        node.id
        for statement in body
        if isinstance(statement, (ast.Assign, ast.AnnAssign))
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    plain = {n.name for n in body if isinstance(n, Function) and not n.decorator_list}
    return plain - assigned


def bound_names(body: list[ast.stmt]) -> set[str]:
    """Names that statements bind, without looking into functions and classes."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, _DEFINITIONS):
            found.add(node.name)
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            found.add(node.name)
        waiting += ast.iter_child_nodes(node)
    return found


def parameters(node: Function) -> set[str]:
    a = node.args
    return {
        arg.arg
        for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg)
        if arg is not None
    }


def sibling(folder: Path, module: str) -> Path | None:
    """The file of a module that lies beside the script."""
    base = folder.joinpath(*module.split("."))
    return next((f for f in (base.with_suffix(".py"), base / "__init__.py") if f.is_file()), None)


def _undressed(decorator: ast.expr) -> ast.expr:
    return decorator.func if isinstance(decorator, ast.Call) else decorator


def _imports(tree: ast.Module, folder: Path) -> dict[str, str]:
    """Local name -> dotted name of what it was imported from, wherever in the file."""
    return {name: dotted for name, dotted, _ in imported(tree)}


def imported(tree: ast.Module) -> Iterator[tuple[str, str, ast.stmt]]:
    """(local name, dotted name, statement) of every import in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    yield alias.asname, alias.name, node
                else:
                    root = alias.name.split(".")[0]
                    yield root, root, node
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}", node
