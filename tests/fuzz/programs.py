"""Random valid programs whose results do not depend on the order of a sum.

Sums and products are taken of small whole numbers only (INT8 cast to what is needed), so both ways of
running give the same bits, and so does the interpreter after every pass. What a window does not cover
is tracked as the front end does, and never reaches an output.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from fuzz_base import Program, Scope
from fuzz_indices import Indices
from fuzz_memory import Memory
from fuzz_moves import Moves
from fuzz_orchestration import Orchestration
from fuzz_products import Products


class Author(Orchestration, Memory, Products, Moves, Indices):
    """Writes one program, a family of statements a base class."""

    def statement(self, scope: Scope) -> None:
        if not scope.tiles or self.often(22):
            self.load(scope)
            return
        choices = (
            self.unary, self.binary, self.binary, self.binary, self.cast, self.cast, self.reduce, self.reduce,
            self.broadcast, self.pattern, self.extract, self.insert, self.shape, self.pad, self.choose,
            self.product, self.product, self.scalars, self.gather, self.made, self.scatter, self.find, self.sort,
            self.put,
        )  # fmt: skip
        made = self.pick(choices)(scope)
        if made is not None:
            scope.tiles.append(made)


@contextmanager
def shown(program: Program) -> Iterator[None]:
    """Add the program's text to what fails inside."""
    from tilewright.ir.printer import to_text

    try:
        yield
    except Exception as error:
        error.add_note(to_text(program.function))
        raise


def write_program(random: Random) -> Program:
    return Author(random).program()
