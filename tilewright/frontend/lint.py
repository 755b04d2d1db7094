"""All that a script's kernels say and the language does not have, found without running a line.

The checks are those of the front end, one construct at a time: shapes and types need arguments, and
are left to it.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Sequence
from pathlib import Path

from tilewright.errors import KernelError, ParserSyntaxError
from tilewright.frontend.complaints import instead, undefined
from tilewright.frontend.judge import Finding, Judge, Lint
from tilewright.frontend.lint_kernel import check_kernel
from tilewright.frontend.script import (
    LANGUAGE,
    MISSING,
    Function,
    KernelText,
    Script,
    bound_names,
    imported,
    parameters,
    sibling,
    word_at,
)
from tilewright.span import Span

__all__ = ["Finding", "Lint", "lint", "no_python"]


def lint(path: Path) -> Lint:
    """Read a script and list its mistakes; nothing of it is run. Raises OSError when it cannot be read."""
    result = Lint()
    files = _Files(result)
    main = files.read(path)
    if main is None:
        result.blocked = True
        return result
    result.program = main.is_program()
    kernels = files.reachable(main)
    for kernel in kernels:
        check_kernel(kernel, result)
    result.findings = list({str(f.error): f for f in result.findings}.values())
    dirty = {f.kernel for f in result.findings if f.kernel is not None}
    entries = [k for k in kernels if k.entry]
    clean = [k.name for k in entries if not dirty & files.closure(k)]
    result.blocked = any(f.at_import for f in result.findings) or bool(entries and not clean)
    if dirty and not result.blocked:
        result.runnable = tuple(dict.fromkeys(clean))
    return result


def no_python(reason: Exception, path: Path) -> ParserSyntaxError:
    """What Python itself says of a file that it cannot read."""
    line, col = (
        getattr(reason, "lineno", None) or 1,
        max((getattr(reason, "offset", 1) or 1) - 1, 0),
    )
    end = max((getattr(reason, "end_offset", 0) or 0) - 1, col + 1)
    text = reason.msg if isinstance(reason, SyntaxError) else "it is nested too deeply"
    return ParserSyntaxError(
        f"this is no Python: {text}",
        Span(str(path), line, col, line, end),
        help="Python reads the file before anything else does: look here and one line above",
    )


class _Files:
    """The script and the files beside it that it imports, each read once."""

    def __init__(self, result: Lint) -> None:
        self.result = result
        self.read_so_far: dict[Path, Script | None] = {}

    def read(self, path: Path) -> Script | None:
        """The file and its module-level mistakes; None when it is no Python."""
        if path in self.read_so_far:
            return self.read_so_far[path]
        self.read_so_far[path] = None
        try:
            script = Script(path)
        except (SyntaxError, RecursionError, MemoryError) as reason:
            self.result.findings.append(Finding(no_python(reason, path), None, at_import=True))
            return None
        self.read_so_far[path] = script
        _check_module(script, self.result)
        for _, dotted, _ in imported(script.tree):
            self.beside(script, dotted)
        return script

    def beside(self, script: Script, dotted: str) -> tuple[Script | None, str]:
        """(the file beside a script that an imported name comes from, the name in it)."""
        module, _, name = dotted.rpartition(".")
        path = sibling(script.path.parent, module or dotted)
        return (None, name) if path is None else (self.read(path), name)

    def named(self, script: Script, name: str) -> list[KernelText]:
        """The kernels that a bare name can mean in a file, through imports of imports."""
        here: Script | None = script
        seen: set[tuple[Path, str]] = set()
        while here is not None and (here.path, name) not in seen:
            seen.add((here.path, name))
            own = [k for k in here.kernels if k.name == name and not k.method]
            if own or name not in here.imports:
                return own
            here, name = self.beside(here, here.imports[name])
        return []

    def reachable(self, main: Script) -> list[KernelText]:
        """Every kernel of a file, those that it imports by name, and what all these call."""
        found: list[KernelText] = []
        waiting = [*main.kernels, *(k for name in main.imports for k in self.named(main, name))]
        while waiting:
            kernel = waiting.pop(0)
            if kernel not in found:
                found.append(kernel)
                waiting += (
                    k for name in sorted(kernel.calls) for k in self.named(kernel.script, name)
                )
        return found

    def closure(self, kernel: KernelText) -> set[str]:
        """The names of a kernel and of all it calls; methods of a program stand for each other."""
        found, waiting = set(), [kernel]
        while waiting:
            now = waiting.pop()
            if now.name not in found:
                found.add(now.name)
                waiting += (k for name in now.calls for k in self.named(now.script, name))
                if now.method:
                    waiting += (k for k in now.script.kernels if k.method)
        return found


# -- the module ------------------------------------------------------------------------------------


def _check_module(script: Script, result: Lint) -> None:
    """Imports from the language, and its words outside of kernels."""
    judge = Judge(script, result)
    for _, dotted, node in imported(script.tree):
        if node not in script.tried:
            judge.at_import = node not in script.later
            judge.ask(_check_import, dotted, node)
    judge.at_import = True
    if not script.open:
        _check_names(judge)
    _outside(judge, script.tree.body, frozenset())


def _check_names(judge: Judge) -> None:
    """What importing the file looks up is bound in it: a forgotten import, a misspelt golden."""
    script = judge.script
    inner = {n.id for n in script.at_import if isinstance(n, ast.Name) and not _is_read(n)}
    known = script.names | set(script.imports) | inner  # a comprehension binds names of its own
    places = {**vars(builtins), "__file__": None, "__annotations__": None}
    told: set[str] = set()
    for node in script.at_import:
        if not isinstance(node, ast.Name) or node in script.tried or node.id in told:
            continue
        if _is_read(node) and node.id not in known and node.id not in places:
            told.add(node.id)
            judge.ask(undefined, node, sorted(known))


def _is_read(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Load)


def _check_import(judge: Judge, dotted: str, node: ast.stmt) -> None:
    for root in LANGUAGE:
        below = dotted.removeprefix(f"{root}.")
        if below in (dotted, "*") or word_at(below) is not MISSING:
            continue
        owner, _, name = below.rpartition(".")
        near = instead(name, dir(word_at(owner)))
        judge.fail(KernelError, f"the language has no {below}", node, near)


def _outside(judge: Judge, body: Sequence[ast.stmt], hidden: frozenset[str]) -> None:
    """The language's words in Python: at the top of a file at import, in functions when called."""
    kernels = {kernel.node: kernel for kernel in judge.script.kernels}
    for node in body:
        kernel = kernels.get(node) if isinstance(node, ast.FunctionDef) else None
        if isinstance(node, Function):
            before = judge.kernel, judge.at_import
            heading = [
                *node.decorator_list,
                *node.args.defaults,
                *filter(None, node.args.kw_defaults),
            ]
            annotations = [a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg)]
            written = [a for a in (*annotations, node.returns) if a is not None]
            judge.kernel = kernel.name if kernel else judge.kernel
            judge.words(heading, hidden)
            judge.at_import = judge.at_import and not judge.script.postponed
            judge.words(written, hidden)
            judge.kernel, judge.at_import = before
            if kernel is None:
                judge.at_import = False
                inner = hidden | parameters(node) | _own_names(node)
                judge.kernel = _kernel_inside(judge.script, node)
                _outside(judge, node.body, inner)
                judge.kernel, judge.at_import = before
        elif isinstance(node, ast.ClassDef):
            judge.words([*node.decorator_list, *node.bases], hidden)
            _outside(judge, node.body, hidden)
        else:
            bodies = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
            statements = {id(s) for inner in bodies for s in inner}
            handlers = getattr(node, "handlers", [])
            own = [c for c in ast.iter_child_nodes(node) if id(c) not in statements]
            judge.words([c for c in own if c not in handlers], hidden)
            for inner in (*bodies, *(h.body for h in handlers)):
                _outside(judge, inner, hidden)


def _own_names(node: Function) -> set[str]:
    """What a function binds itself; an import in it is known to the script."""
    imports = {(a.asname or a.name).split(".")[0] for n in ast.walk(node) for a in _aliases(n)}
    return bound_names(node.body) - imports


def _aliases(node: ast.AST) -> list[ast.alias]:
    return node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else []


def _kernel_inside(script: Script, function: Function) -> str | None:
    """The kernel that a function makes: a mistake around it is one in it."""
    return next((k.name for k in script.kernels if function in k.around), None)
