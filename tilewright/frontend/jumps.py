"""`break` and `continue` as branches: what a jump skips moves under an `if`.

    if c:              broke = False
        break          if c:
    rest         ->        broke = True
                       else:
                           rest

The loop stops once `broke` is set (`carrying`). Where both arms of a branch may fall through, a flag
`skip` guards the rest instead.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tilewright.errors import UnsupportedFeatureError
from tilewright.frontend.tracer import Tracer

Loop = ast.For | ast.While | ast.With
Jumps = Literal["never", "maybe", "always"]


@dataclass(frozen=True, slots=True)
class Straight:
    """A loop's body without jumps, and the name that is true once a `break` was met (None: never)."""

    body: Sequence[ast.stmt]
    broke: str | None


class _Set(ast.Assign):
    """`flag = value` in the place of a jump."""

    jump: ast.stmt | None = None


class Branch(ast.If):
    """An `if` with jumps in it.

    jumps:  whether its arms always end in one; they need not bind what the other binds.
    wanted: the names that are looked at behind it.
    """

    jumps: tuple[bool, bool] = (False, False)
    wanted: frozenset[str] = frozenset()


def without_jumps(node: Loop, body: Sequence[ast.stmt]) -> Straight:
    """The body of the loop `node`, its own jumps turned into branches."""
    jumps = list(_jumps_in(body))
    if not jumps:
        return Straight(body, None)
    straightener = _Straightener(f"{node.lineno}_{node.col_offset}")
    straight = straightener.block(body)
    if straightener.skips:  # some branch needs the flag: every jump sets it
        straight = straightener.block(body)
    breaks = any(isinstance(jump, ast.Break) for jump in jumps)
    flags = [straightener.broke] * breaks + [straightener.skip] * straightener.skips
    return Straight(
        [*(_assign(flag, False, node) for flag in flags), *straight],
        straightener.broke if breaks else None,
    )


def refuse_jumps(t: Tracer, body: Sequence[ast.stmt], where: str, advice: str) -> None:
    """UnsupportedFeatureError at the first jump out of this body."""
    for jump in _jumps_in(body):
        word = "break" if isinstance(jump, ast.Break) else "continue"
        t.fail(UnsupportedFeatureError, f"{word} {where}", jump, advice)


def _jumps_in(statements: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The jumps of the loop whose body this is, those already rewritten too; not those of inner loops."""
    for statement in statements:
        match statement:
            case ast.Break() | ast.Continue():
                yield statement
            case _Set(jump=ast.stmt() as jump):
                yield jump
            case ast.If():
                yield from _jumps_in([*statement.body, *statement.orelse])
            case ast.With():
                yield from _jumps_in(statement.body)


def _ends(statements: Sequence[ast.stmt]) -> Jumps:
    """Whether running these statements ends in a jump."""
    found: Jumps = "never"
    for statement in statements:
        match statement:
            case ast.Break() | ast.Continue():
                return "always"
            case ast.If():
                arms = {_ends(statement.body), _ends(statement.orelse)}
            case ast.With():
                arms = {_ends(statement.body)}
            case _:
                continue
        if arms == {"always"}:
            return "always"
        if arms != {"never"}:
            found = "maybe"
    return found


class _Straightener:
    def __init__(self, place: str) -> None:
        self.broke, self.skip = f"broke.{place}", f"skip.{place}"
        self.skips = False

    def block(
        self, statements: Sequence[ast.stmt], wanted: frozenset[str] = frozenset()
    ) -> list[ast.stmt]:
        """The statements without jumps; `wanted` is looked at behind them."""
        out: list[ast.stmt] = []
        for position, statement in enumerate(statements):
            rest = list(statements[position + 1 :])
            if isinstance(statement, ast.Break | ast.Continue):
                return [*out, *self.flags(statement)]
            if _ends([statement]) == "never":
                out.append(statement)
                continue
            later = wanted | looked_at(rest)
            if isinstance(statement, ast.If):
                jumps = _ends(statement.body) == "always", _ends(statement.orelse) == "always"
                if any(jumps):  # the rest belongs to the arm that falls through
                    then = [*statement.body, *(() if jumps[0] else rest)]
                    otherwise = [*statement.orelse, *(() if jumps[1] else rest)]
                    return [*out, self.branch(statement, then, otherwise, wanted)]
                out.append(self.branch(statement, statement.body, statement.orelse, later))
            else:
                assert isinstance(statement, ast.With)
                scope = ast.With(statement.items, self.block(statement.body, later))
                out.append(ast.copy_location(scope, statement))
                if _ends(statement.body) == "always":
                    return out
            if rest:
                self.skips = True
                test = ast.UnaryOp(ast.Not(), ast.Name(self.skip, ast.Load()))
                guarded = ast.If(test, self.block(rest, wanted), [])
                out.append(_placed(guarded, rest[0]))
            return out
        return out

    def branch(
        self,
        node: ast.If,
        body: Sequence[ast.stmt],
        orelse: Sequence[ast.stmt],
        wanted: frozenset[str],
    ) -> ast.stmt:
        made = Branch(node.test, self.block(body, wanted), self.block(orelse, wanted))
        made.jumps = _ends(body) == "always", _ends(orelse) == "always"
        made.wanted = wanted
        return ast.copy_location(made, node)

    def flags(self, jump: ast.stmt) -> list[ast.stmt]:
        """What stands for a jump."""
        names = [self.broke] * isinstance(jump, ast.Break) + [self.skip] * self.skips
        return [_assign(name, True, jump) for name in names] or [
            ast.copy_location(ast.Pass(), jump)
        ]


def _assign(name: str, value: bool, place: ast.stmt) -> ast.stmt:
    made = _Set([ast.Name(name, ast.Store())], ast.Constant(value))
    if isinstance(place, ast.Break | ast.Continue):
        made.jump = place
    return _placed(made, place)


def _placed(made: ast.stmt, place: ast.AST) -> ast.stmt:
    """A node of ours and all in it, blamed on the author's."""
    for inner in ast.walk(made):
        if not hasattr(inner, "lineno"):
            ast.copy_location(inner, place)
    return made


def looked_at(statements: Sequence[ast.stmt]) -> frozenset[str]:
    """The names that these statements read."""
    nodes = (node for statement in statements for node in ast.walk(statement))
    return frozenset(n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))
