"""Calling `golden_fn`: what goes wrong in it is told at its own line."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from tilewright import knobs
from tilewright.errors import KernelError, raised_at
from tilewright.golden.launch import outputs_of
from tilewright.golden.spec import Spec, TensorSpec
from tilewright.span import Span

Golden = Callable[[dict[str, Any]], Any]


class GoldenError(KernelError):
    """A mistake in a golden: it raised, or left something that no output can be compared with."""


@dataclass(frozen=True)
class Computed:
    """The golden's outputs.

    mistakes:  outputs that cannot be compared, one error each.
    untouched: outputs that it never wrote, as far as one can see.
    """

    outputs: dict[str, Tensor]
    mistakes: tuple[GoldenError, ...]
    untouched: tuple[GoldenError, ...]


def compute(
    golden_fn: Golden,
    specs: Sequence[Spec],
    values: Mapping[str, Any],
    judged_otherwise: Collection[str] = (),
) -> Computed:
    """The golden's outputs, computed from copies of every argument.

    An output in `judged_otherwise` may have any shape and dtype: its comparator knows what to do.
    Raises GoldenError from whatever golden_fn raises.
    """
    copies = {n: v.clone() if isinstance(v, Tensor) else v for n, v in values.items()}
    before = {s.name: copies[s.name] for s in outputs_of(specs)}
    versions = {name: tensor._version for name, tensor in before.items()}
    returned = _called(golden_fn, copies)
    mistakes, untouched = [], []
    for spec in outputs_of(specs):
        made = copies.get(spec.name)
        mistake = _mistake(golden_fn, spec, made, spec.name in judged_otherwise)
        if mistake is not None:
            mistakes.append(mistake)
        elif (
            spec.role == "output"
            and made is before[spec.name]
            and made._version == versions[spec.name]
            and not bool(made.any())  # written through NumPy, it keeps its version
        ):
            untouched.append(_never_written(golden_fn, spec.name, returned))
    outputs = {n: t for n in before if isinstance(t := copies.get(n), Tensor)}
    return Computed(outputs, tuple(mistakes), tuple(untouched))


def _called(golden_fn: Golden, values: dict[str, Any]) -> Any:
    threads, before = knobs.golden_threads(), torch.get_num_threads()
    given = [f"{name} is {_kind(value)}" for name, value in values.items()]
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        return golden_fn(values)
    except KernelError:
        raise
    except Exception as error:
        what = f"no value named {error}" if isinstance(error, KeyError) else str(error)
        code = _code(golden_fn)
        raise GoldenError(
            f"{_name(golden_fn)} raised {type(error).__name__}: {what}",
            None if code is None else raised_at(error, code.co_filename),
            given,
            "a golden gets the specs' values by name and fills the outputs in place",
        ) from error
    finally:
        if threads is not None:
            torch.set_num_threads(before)


def _mistake(golden_fn: Golden, spec: TensorSpec, made: Any, any_form: bool) -> GoldenError | None:
    """Why an output cannot be compared, None when it can."""
    wanted = f"{list(spec.shape)} {_dtype(spec.dtype)}"
    advice = f'fill it in place: values["{spec.name}"][:] = …'
    if made is None:
        what = f"output {spec.name!r} is missing"
    elif not isinstance(made, Tensor):
        what = f"output {spec.name!r} is a {type(made).__name__}"
    elif not any_form and tuple(made.shape) != tuple(spec.shape):
        what = f"output {spec.name!r} is {_kind(made)}"
    elif not any_form and made.dtype != spec.dtype:
        what = f"output {spec.name!r} is {_kind(made)}"
        advice = f'{advice}, or values["{spec.name}"] = ….to(torch.{_dtype(spec.dtype)})'
    else:
        return None
    where = _assigned_at(golden_fn, spec.name)
    return GoldenError(
        f"after {_name(golden_fn)}, {what}; its spec says {wanted}", where, help=advice
    )


def _never_written(golden_fn: Golden, name: str, returned: Any) -> GoldenError:
    notes = [] if returned is None else ["what it returns is ignored"]
    return GoldenError(
        f"{_name(golden_fn)} never writes output {name!r}: zeros are expected",
        _assigned_at(golden_fn, name),
        notes,
        f'fill it in place: values["{name}"][:] = …',
    )


# -- where it is written ---------------------------------------------------------------------------


def _code(golden_fn: Any) -> CodeType | None:
    while isinstance(golden_fn, partial):
        golden_fn = golden_fn.func
    return getattr(inspect.unwrap(golden_fn), "__code__", None)


def _name(golden_fn: Any) -> str:
    code = _code(golden_fn)
    return "golden_fn" if code is None or code.co_name == "<lambda>" else code.co_name


def _assigned_at(golden_fn: Golden, name: str) -> Span | None:
    """Where `values["name"]` is assigned; else where the function begins."""
    code = _code(golden_fn)
    if code is None:
        return None
    first = code.co_firstlineno
    try:
        lines, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError):
        return Span(code.co_filename, first, 0, first, 1)
    indent = len(lines[0]) - len(lines[0].lstrip())
    nodes: list[Any] = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.slice, ast.Constant)
        and node.slice.value == name
    ]
    nodes = nodes or [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.Lambda))][:1]
    if not nodes:
        return Span(code.co_filename, first, 0, first, 1)
    node = nodes[-1]
    line, end = node.lineno + first - 1, (node.end_lineno or node.lineno) + first - 1
    if isinstance(node, ast.FunctionDef):
        return Span(code.co_filename, line, indent, line, indent + len(f"def {node.name}"))
    return Span(
        code.co_filename, line, node.col_offset + indent, end, (node.end_col_offset or 0) + indent
    )


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {_dtype(value.dtype)}"
    return repr(value)


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
