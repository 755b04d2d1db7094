"""What a launch needs to know about a compiled program, in a form that can be kept on disk.

Where the author wrote what is not kept: the same program may come from a file that has moved on. Spans
are numbered in the order of the program, and `identity` covers which nodes share one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tilewright.dtypes import BY_NAME, DType
from tilewright.ir.nodes import Attr, Function, Op, Param, make_attrs
from tilewright.ir.printer import to_text
from tilewright.ir.types import PanelType
from tilewright.ir.walk import ops_in
from tilewright.span import NOWHERE, Span


@dataclass(frozen=True, slots=True)
class Record:
    """What goes with machine code.

    params: those of the lowered program, in which a frozen matrix has become a panel.
    checks: a failed check's number is its place here, from 1; only their names, attributes and spans.
    small:  too little work for more than one thread.
    """

    shared_bytes: int
    private_bytes: int
    params: tuple[Param, ...]
    checks: tuple[Op, ...]
    small: bool


def identity(function: Function) -> str:
    """A text that two programs share when they compile to the same code and the same record."""
    numbers = _numbered(function)
    shared = " ".join(str(numbers[span]) for span in _spans(function))
    return f"{to_text(function)}spans {shared}"


def to_json(record: Record, function: Function) -> dict[str, Any]:
    """The record of `function` as JSON values. ValueError for what has no such form."""
    numbers = _numbered(function)
    return {
        "shared_bytes": record.shared_bytes,
        "private_bytes": record.private_bytes,
        "panels": _panels(record.params, function.params),
        "checks": [
            [op.name, {k: _plain(v) for k, v in op.attrs}, _number(numbers, op.span)]
            for op in record.checks
        ],
        "small": record.small,
    }


def from_json(values: dict[str, Any], function: Function) -> Record:
    """The record that `to_json` made from a program with the identity of `function`."""
    panels = {
        name: PanelType(k, n, BY_NAME[dtype]) for name, (k, n, dtype) in values["panels"].items()
    }
    spans = list(_numbered(function))
    return Record(
        values["shared_bytes"],
        values["private_bytes"],
        tuple(
            replace(p, value=replace(p.value, type=panels[p.value.name]))
            if p.value.name in panels
            else p
            for p in function.params
        ),
        tuple(
            Op(name, attrs=make_attrs({k: _attr(v) for k, v in attrs.items()}), span=spans[span])
            for name, attrs, span in values["checks"]
        ),
        values["small"],
    )


def _panels(params: Sequence[Param], before: Sequence[Param]) -> dict[str, tuple[int, int, str]]:
    panels = {}
    for param, was in zip(params, before, strict=True):
        kind = param.value.type
        if isinstance(kind, PanelType):
            panels[param.value.name] = (kind.k, kind.n, kind.dtype.name)
            was = replace(was, value=replace(was.value, type=kind))
        if param != was:
            raise ValueError(f"the passes made {param} of {was}")
    return panels


def _spans(function: Function) -> Iterator[Span]:
    yield NOWHERE
    yield function.span
    yield from (param.span for param in function.params)
    yield from (op.span for op in ops_in(function))


def _numbered(function: Function) -> dict[Span, int]:
    """Each span once, numbered by its first use."""
    return {span: number for number, span in enumerate(dict.fromkeys(_spans(function)))}


def _number(numbers: dict[Span, int], span: Span) -> int:
    if span not in numbers:
        raise ValueError(f"the passes made up the span {span}")
    return numbers[span]


def _plain(value: Attr) -> Any:
    """An attribute as a JSON value: sequences are lists, a dtype is an object."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case DType():
            return {"dtype": value.name}
        case tuple() | list():
            return [_plain(item) for item in value]
    raise ValueError(f"{value!r} is no attribute")


def _attr(value: Any) -> Attr:
    match value:
        case {"dtype": name}:
            return BY_NAME[name]
        case list():
            return tuple(_attr(item) for item in value)
    return value
