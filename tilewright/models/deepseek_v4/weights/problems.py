"""What is wrong with a checkpoint, collected so that all of it is said at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tilewright.errors import CheckpointError

# Told how far long work is: what is being done, bytes done, bytes in all.
Tell = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """A `Tell` that tells nobody."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where (a file, and a tensor or field of it), found, wanted, a remedy."""

    where: str
    found: str
    wanted: str
    help: str

    def __str__(self) -> str:
        return f"{self.where}: found {self.found}, wanted {self.wanted}"


@dataclass
class Problems:
    """Problems so far. subject: what they are problems of, for the headline of several."""

    subject: str
    found: list[Problem] = field(default_factory=list)

    def add(self, where: str, found: str, wanted: str, help: str) -> None:
        """Note one; the same one twice is noted once."""
        problem = Problem(where, found, wanted, help)
        if problem not in self.found:
            self.found.append(problem)

    def raise_any(self) -> None:
        """CheckpointError with everything that was noted; nothing if there is nothing."""
        if len(self.found) == 1:
            only = self.found[0]
            notes = () if only.where == self.subject else (f"in {self.subject}",)
            raise CheckpointError(str(only), notes=notes, help=only.help)
        if self.found:
            raise CheckpointError(
                f"{len(self.found)} problems in {self.subject}",
                notes=[str(problem) for problem in self.found],
                help=self.found[0].help,
            )


def listed(names: list[str], most: int = 4) -> str:
    """`a, b, c and 5 more`."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"
