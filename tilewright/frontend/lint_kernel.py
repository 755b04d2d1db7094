"""One kernel as text: every statement and expression of it, checked without knowing an argument."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Sequence

from tilewright.frontend.calls import may_call, named_arguments, refuse_callee
from tilewright.frontend.checking import NO_STATEMENT, check_assignment, refuse_statement
from tilewright.frontend.complaints import undefined
from tilewright.frontend.expressions import NO_EXPRESSION, check_comparison, refuse_expression
from tilewright.frontend.families import HANDLERS
from tilewright.frontend.judge import Finding, Judge, Lint
from tilewright.frontend.loops import check_loop, refuse_loop
from tilewright.frontend.scopes import check_with, refuse_scope
from tilewright.frontend.script import MISSING, KernelText, bound_names, parameters, plain_functions
from tilewright.frontend.signature import missing_annotation
from tilewright.frontend.subscripts import check_subscript
from tilewright.language.operator import operator_of

# They count their arguments themselves.
WHILE_COMPILING = ("static_assert", "static_print", "yield_")
# Packages without kernels: whatever of them a kernel calls, it cannot.
FOREIGN = {*sys.stdlib_module_names, "numpy", "scipy", "torch"}


def check_kernel(kernel: KernelText, result: Lint) -> None:
    """Every statement and expression of the body, and the names it uses."""
    judge = Judge(kernel.script, result)
    judge.kernel, judge.at_import = kernel.name, False
    arguments = kernel.node.args
    for node in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs][kernel.method :]:
        if node.annotation is None:
            error = missing_annotation(node, kernel.script.span(node))
            result.findings.append(Finding(error, kernel.name, at_import=False))
    _Body(judge, kernel).statements(kernel.node.body)


class _Body:
    """A kernel's body, walked whole: a mistake hides no other."""

    def __init__(self, judge: Judge, kernel: KernelText) -> None:
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
            case ast.Expr(value=value) if type(value) in NO_EXPRESSION:
                judge.ask(refuse_expression, value)
            case ast.For():
                self.loop(node)
            case ast.With():
                self.scope(node)
            case ast.If() | ast.While():
                if isinstance(node, ast.While):
                    judge.ask(check_loop, node)
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
            case ast.Subscript() if not isinstance(node.value, (ast.List, ast.Tuple)):
                self.subscripts(node)
            case ast.Compare():
                self.judge.ask(check_comparison, node)
                self.children(node)
            case _:
                self.children(node)

    def subscripts(self, node: ast.Subscript) -> None:
        """No part of a subscript is `...`, None or a slice with a step."""
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        fine = [self.judge.ask(check_subscript, part) for part in parts]
        self.expression(node.value)
        for part, good in zip(parts, fine, strict=True):
            if good:
                self.expression(part)

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
        elif self.is_foreign(node.func):
            self.judge.ask(refuse_callee, node, builtin=False, function=False)
        elif self.is_python(node.func):
            function = isinstance(node.func, ast.Name) and node.func.id in self.functions
            self.judge.ask(refuse_callee, node, builtin=not function, function=function)
        else:
            self.names(node.func)
        for argument in arguments:
            self.expression(argument.value if isinstance(argument, ast.Starred) else argument)

    def is_foreign(self, node: ast.expr) -> bool:
        """Whether a name is one of a module that has no kernels: NumPy's, Torch's, Python's own."""
        dotted = self.script.dotted(node, self.own | self.around) or ""
        return isinstance(node, ast.Attribute) and dotted.split(".")[0] in FOREIGN

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
