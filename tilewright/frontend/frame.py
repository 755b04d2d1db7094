"""One function body being read: what its names mean, and what it has given so far."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from tilewright.frontend.source import Source
from tilewright.frontend.values import Binding, Named
from tilewright.language.kernel import Kernel
from tilewright.span import Span


@dataclass(slots=True)
class Frame:
    """One function body being read: the entry's, or an inlined one's."""

    kernel: Kernel
    source: Source
    caller: Span | None = None
    names: dict[str, Binding] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)  # names out of scope, and why
    aliases: dict[str, str] = field(default_factory=dict)  # parameter -> the caller's name for it
    written_back: set[str] = field(default_factory=set)
    yielded: tuple[Named, ...] | None = None
    yielded_names: tuple[str, ...] = ()
    returned: bool = False  # "return.value" holds what; nothing after it is read
    depth: int = 0  # how many loops and branches are around the call
    extents: dict[str, int] = field(default_factory=dict)  # of symbols in annotations

    def copy(self) -> Frame:
        """The state of now, which later changes leave alone."""
        held = replace(self)
        held.become(self)
        return held

    def become(self, other: Frame) -> None:
        """Take over the state of `other`, which later changes leave alone too."""
        for part in fields(self):
            value = getattr(other, part.name)
            setattr(self, part.name, value.copy() if isinstance(value, (dict, set)) else value)
