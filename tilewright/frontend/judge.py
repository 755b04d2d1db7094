"""Who judges a script as text: runs the front end's checks, and keeps what they complain about."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NoReturn

from tilewright.errors import KernelError
from tilewright.frontend.expressions import no_attribute, unknown_word
from tilewright.frontend.script import LANGUAGE, MISSING, Script, word_at
from tilewright.frontend.source import is_language


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


class Judge:
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
                    self.ask(no_attribute, node, owner)


def _is_enumeration(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, Enum)


def _below(module: Any, name: str) -> str:
    """The path of a module's attribute below the language."""
    return f"{module.__name__.removeprefix(LANGUAGE[0])}.{name}"
