"""All that a script's kernels say and the language does not have, found without running a line.

The checks are those of the front end, one construct at a time: shapes and types need arguments, and
are left to it.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

from tilewright.errors import KernelError, ParserSyntaxError
from tilewright.frontend.calls import may_call, named_arguments, refuse_callee
from tilewright.frontend.complaints import instead, undefined
from tilewright.frontend.expressions import (
    NO_EXPRESSION,
    check_comparison,
    no_attribute,
    refuse_expression,
    unknown_word,
)
from tilewright.frontend.families import HANDLERS
from tilewright.frontend.loops import check_loop, refuse_loop
from tilewright.frontend.scopes import check_with, refuse_scope
from tilewright.frontend.script import (
    LANGUAGE,
    MISSING,
    Function,
    KernelText,
    Script,
    bound_names,
    imported,
    parameters,
    plain_functions,
    sibling,
    word_at,
)
from tilewright.frontend.signature import missing_annotation
from tilewright.frontend.statements import NO_STATEMENT, check_assignment, refuse_statement
from tilewright.frontend.tracer import is_language
from tilewright.language.operator import operator_of
from tilewright.span import Span

WHILE_COMPILING = (
    "static_assert",
    "static_print",
    "yield_",
)  # they count their arguments themselves


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake; `kernel` is the function it is in, None outside of kernels."""

    error: KernelError
    kernel: str | None
    at_import: bool  # Python would stumble over it before the script begins


@dataclass(slots=True)
class Lint:
    """What was found in a script and in the kernels that it takes from files beside it.

    blocked: nothing of it could run: importing it fails, or no entry is free of mistakes.
    program: running the file does something.
    """

    findings: list[Finding] = field(default_factory=list)
    blocked: bool = False
    program: bool = True
    runnable: tuple[str, ...] = ()  # entries without a mistake, when others have some


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
        _check_kernel(kernel, result)
    result.findings = list({str(f.error): f for f in result.findings}.values())
    dirty = {f.kernel for f in result.findings if f.kernel is not None}
    entries = [k for k in kernels if k.entry]
    clean = [k.name for k in entries if not dirty & files.closure(k)]
    result.blocked = any(f.at_import for f in result.findings) or bool(entries and not clean)
    if dirty and not result.blocked:
        result.runnable = tuple(dict.fromkeys(clean))
    return result


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
        except SyntaxError as reason:
            line, col = reason.lineno or 1, max((reason.offset or 1) - 1, 0)
            span = Span(str(path), line, col, line, max((reason.end_offset or 0) - 1, col + 1))
            error = ParserSyntaxError(f"this is no Python: {reason.msg}", span)
            self.result.findings.append(Finding(error, None, at_import=True))
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


class _Judge:
    """Runs the front end's checks and keeps what they raise."""

    def __init__(self, script: Script, result: Lint) -> None:
        self.script, self.result = script, result
        self.kernel: str | None = None
        self.at_import = True

    def fail(
        self,
        kind: type[KernelError],
        message: str,
        node: ast.AST | None = None,
        help: str | None = None,
        notes: Sequence[str] = (),
    ) -> NoReturn:
        assert node is not None
        raise kind(message, self.script.span(node), notes, help)

    def ask(self, check: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
        """Whether a check of the front end is content."""
        try:
            check(self, *args, **kwargs)
        except KernelError as error:
            self.result.findings.append(Finding(error, self.kernel, self.at_import))
            return False
        return True

    def words(self, nodes: Iterable[ast.AST], hidden: set[str] | frozenset[str]) -> None:
        """Every name below that is looked up in the language is there."""
        for root in nodes:
            for node in ast.walk(root):
                if not isinstance(node, ast.Attribute) or node in self.script.tried:
                    continue
                owner = self.script.word(node.value, hidden)
                if owner is None or owner is MISSING:
                    continue
                if is_language(owner):
                    if word_at(_below(owner, node.attr)) is MISSING:
                        self.ask(unknown_word, node, owner)
                elif _is_enumeration(owner) and not hasattr(owner, node.attr):
                    self.ask(no_attribute, node)


def _is_enumeration(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, Enum)


def _below(module: Any, name: str) -> str:
    """The path of a module's attribute below the language."""
    return f"{module.__name__.removeprefix(LANGUAGE[0])}.{name}"


# -- the module ------------------------------------------------------------------------------------


def _check_module(script: Script, result: Lint) -> None:
    """Imports from the language, and its words outside of kernels."""
    judge = _Judge(script, result)
    for _, dotted, node in imported(script.tree):
        if node not in script.tried:
            judge.at_import = node not in script.later
            judge.ask(_check_import, dotted, node)
    judge.at_import = True
    _outside(judge, script.tree.body, frozenset())


def _check_import(judge: _Judge, dotted: str, node: ast.stmt) -> None:
    for root in LANGUAGE:
        below = dotted.removeprefix(f"{root}.")
        if below in (dotted, "*") or word_at(below) is not MISSING:
            continue
        owner, _, name = below.rpartition(".")
        near = instead(name, dir(word_at(owner)))
        judge.fail(KernelError, f"the language has no {below}", node, near)


def _outside(judge: _Judge, body: Sequence[ast.stmt], hidden: frozenset[str]) -> None:
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


# -- kernels ---------------------------------------------------------------------------------------


def _check_kernel(kernel: KernelText, result: Lint) -> None:
    """Every statement and expression of the body, and the names it uses."""
    judge = _Judge(kernel.script, result)
    judge.kernel, judge.at_import = kernel.name, False
    arguments = kernel.node.args
    for node in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs][kernel.method :]:
        if node.annotation is None:
            error = missing_annotation(node, kernel.script.span(node))
            result.findings.append(Finding(error, kernel.name, at_import=False))
    _Body(judge, kernel).statements(kernel.node.body)


class _Body:
    """A kernel's body, walked whole: a mistake hides no other."""

    def __init__(self, judge: _Judge, kernel: KernelText) -> None:
        self.judge, self.kernel, self.script = judge, kernel, kernel.script
        self.own = parameters(kernel.node) | bound_names(kernel.node.body)
        self.around = {name for f in kernel.around for name in parameters(f) | bound_names(f.body)}
        self.functions = {*plain_functions(self.script.tree.body)}
        for function in kernel.around:
            self.functions |= plain_functions(function.body)

    def statements(self, body: Sequence[ast.stmt]) -> None:
        for node in body:
            self.statement(node)

    def statement(self, node: ast.stmt) -> None:
        judge = self.judge
        if type(node) in NO_STATEMENT:
            judge.ask(refuse_statement, node)
            for name in ("body", "orelse", "finalbody") if isinstance(node, ast.Try) else ():
                self.statements(getattr(node, name))
            if isinstance(node, ast.AugAssign):
                self.expression(node.value)
            return
        match node:
            case ast.Assign() | ast.AnnAssign():
                judge.ask(check_assignment, node)
                if isinstance(node, ast.AnnAssign):
                    judge.words([node.annotation], self.own)
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    self.expression(target)
                if node.value is not None:
                    self.expression(node.value)
            case ast.For():
                self.loop(node)
            case ast.With():
                self.scope(node)
            case ast.If() | ast.While():
                self.expression(node.test)
                self.statements([*node.body, *node.orelse])
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self.expression(child)

    def loop(self, node: ast.For) -> None:
        over = node.iter
        word = self.script.word(over.func, self.own) if isinstance(over, ast.Call) else None
        operator = operator_of(word)
        if word is MISSING:
            self.judge.words([over], self.own)
        elif operator is not None and operator.name not in HANDLERS:
            self.expression(over)
        elif not isinstance(over, ast.Call) or word is not None or self.is_python(over.func):
            self.judge.ask(refuse_loop, node)
        self.judge.ask(check_loop, node)
        self.statements([*node.body, *node.orelse])

    def scope(self, node: ast.With) -> None:
        self.judge.ask(check_with, node)
        for item in node.items:
            expression = item.context_expr
            called = expression.func if isinstance(expression, ast.Call) else expression
            word = self.script.word(called, self.own)
            operator = operator_of(word)
            if word is MISSING:
                self.judge.words([expression], self.own)
            elif operator is not None and operator.name not in HANDLERS:
                self.expression(expression)
            elif word is not None or self.is_python(called):
                self.judge.ask(refuse_scope, expression)
        self.statements(node.body)

    def expression(self, node: ast.expr) -> None:
        if type(node) in NO_EXPRESSION and not isinstance(node, (ast.Slice, ast.Starred)):
            self.judge.ask(refuse_expression, node)
            return
        match node:
            case ast.Call():
                self.call(node)
            case ast.Attribute():
                self.judge.words([node], self.own)
                self.names(node.value)
            case ast.Name(ctx=ast.Load()):
                self.names(node)
            case ast.Compare():
                self.judge.ask(check_comparison, node)
                self.children(node)
            case _:
                self.children(node)

    def children(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.expression(child)

    def names(self, node: ast.expr) -> None:
        """A name is bound somewhere: in the kernel, around it, in the file or by Python."""
        if isinstance(node, ast.Attribute):
            self.names(node.value)
        elif not isinstance(node, ast.Name):
            self.expression(node)
        elif not (self.script.open or self.knows(node.id)):
            known = sorted(self.own | self.around | self.script.names)
            self.judge.ask(undefined, node, known)

    def knows(self, name: str) -> bool:
        scopes = (self.own, self.around, self.script.names, self.script.imports)
        return any(name in scope for scope in scopes) or hasattr(builtins, name)

    def call(self, node: ast.Call) -> None:
        arguments = [*node.args, *(k.value for k in node.keywords)]
        word = self.script.word(node.func, self.own)
        operator = operator_of(word)
        if word is not None:
            self.judge.words([node.func], self.own)
            if operator is not None and operator.name not in WHILE_COMPILING:
                self.judge.ask(named_arguments, node, operator)
            elif word is not MISSING and not may_call(word):
                self.judge.ask(refuse_callee, node, builtin=False, function=False)
        elif self.is_python(node.func):
            function = isinstance(node.func, ast.Name) and node.func.id in self.functions
            self.judge.ask(refuse_callee, node, builtin=not function, function=function)
        else:
            self.names(node.func)
        for argument in arguments:
            self.expression(argument.value if isinstance(argument, ast.Starred) else argument)

    def is_python(self, node: ast.expr) -> bool:
        """Whether a name stands for a builtin, or for a function of the file that is no kernel."""
        if not isinstance(node, ast.Name) or node.id in self.own:
            return False
        name = node.id
        if name in self.functions:
            return True
        return hasattr(builtins, name) and not self.binds(name)

    def binds(self, name: str) -> bool:
        return name in self.around or name in self.script.names or name in self.script.imports
