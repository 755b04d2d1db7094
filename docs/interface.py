"""The page of the Python interface: what programs may import, as signatures and docstrings stand in the code."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, NamedTuple

from parts import GENERATED, fenced

from tilewright import knobs

# Headings, and modules with the names of each; no names: all that it exports.
API: dict[str, dict[str, tuple[str, ...]]] = {
    "Kernels": {
        "tilewright": ("jit", "Kernel", "Specialization", "check"),
        "tilewright.bound": ("BoundKernel",),
        "tilewright.frontend.lint": ("lint", "Lint", "Finding"),
    },
    "The golden harness": {"tilewright.golden": ()},
    "PyTorch": {
        "tilewright.torch_ext": (),
        "tilewright.torch_ext.ranks": ("Ranks", "share_threads"),
    },
    "DeepSeek-V4": {
        "tilewright.models.deepseek_v4.config": ("Config",),
        "tilewright.models.deepseek_v4.module": ("QKVProjRope", "Projected"),
        "tilewright.models.deepseek_v4.distributed": ("ShardedQKVProjRope", "heads_of"),
        "tilewright.models.deepseek_v4.registry": ("find", "Entry", "Inputs"),
        "tilewright.models.deepseek_v4.weights": (),
        "tilewright.models.deepseek_v4.accuracy": ("measure", "Question", "Error", "drawn_layer"),
    },
    "Hugging Face": {"tilewright.integrations.transformers": ("patch", "unpatch")},
    "Errors": {
        "tilewright.errors": (
            "KernelError",
            "ParserError",
            "ParserSyntaxError",
            "UnsupportedFeatureError",
            "UndefinedVariableError",
            "ParserTypeError",
            "NotConstantError",
            "InvalidOperationError",
            "ArgumentError",
            "ArgumentValueError",
            "CheckpointError",
            "RankError",
            "BoundsError",
            "UnsetError",
            "RaceError",
            "CheckFailed",
            "CompilerBug",
        )
    },
}


class Said(NamedTuple):
    """A public thing: its full name, how it is written in the source (code), and its docstring."""

    name: str
    code: str
    doc: str
    members: tuple[Said, ...] = ()


def api_page() -> str:
    out = [
        "# Python interface",
        GENERATED,
        "What programs may import, by purpose: signatures and docstrings as they stand in the code. What a kernel may "
        "say is in [operators.md](operators.md), the command line in `tilewright --help`. `T D H` are tokens, hidden "
        "size and heads; shapes are in brackets, and times in seconds where nothing else is said. Any call may raise "
        "`KernelError` or one of its children, which are [at the end](#errors).",
    ]
    for heading, modules in API.items():
        out.append(f"## {heading}")
        for module, things in api(modules):
            about = prose(importlib.import_module(module).__doc__ or "")
            out += [f"### `{module}`", about]
            for thing in things:
                out += described_thing(thing, "####")
    out += ["## Environment variables", "| variable | default | meaning |\n|---|---|---|"]
    out[-1] += "".join(
        f"\n| `{k.name}` | {f'`{k.default}`' if k.default else ''} | {k.meaning} |"
        for k in knobs.KNOBS
    )
    return "\n\n".join(out) + "\n"


def api(modules: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, list[Said]]]:
    """Each module with what is public in it."""
    for name, words in modules.items():
        module = importlib.import_module(name)
        yield name, [said(word, getattr(module, word)) for word in words or module.__all__]


def described_thing(thing: Said, level: str) -> list[str]:
    """A heading, the code, the docstring; then the members."""
    out = [f"{level} `{thing.name}`", fenced("python", thing.code), prose(thing.doc)]
    for member in thing.members:
        out += described_thing(member, level + "#")
    return out


def said(name: str, thing: Any) -> Said:
    if inspect.isfunction(thing):
        return Said(name, heads_of_source(thing)[0], inspect.getdoc(thing) or "")
    if inspect.isclass(thing):
        members = tuple(
            said(f"{name}.{word}", member.fget if isinstance(member, property) else member)
            for word, member in own_members(thing)
        )
        return Said(name, "\n".join(heads_of_source(thing)), thing.__doc__ or "", members)
    if isinstance(thing, UnionType):
        either = " | ".join(part.__name__ for part in thing.__args__)
        return Said(name, f"{name} = {either}", "Either of them.")
    return Said(name, f"@pl.{name}", type(thing).__doc__ or "")


def own_members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class itself defines and no base class describes."""
    for name, raw in vars(cls).items():
        member = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
        if name.startswith("_") and name != "__call__":
            continue
        inherited = any(hasattr(base, name) for base in cls.__bases__)
        if (inspect.isfunction(member) and not (inherited and not member.__doc__)) or isinstance(
            member, property
        ):
            yield name, member


def heads_of_source(thing: Any) -> list[str]:
    """A function's decorators and head; a class's head, annotated fields and how it is made."""
    lines = textwrap.dedent(inspect.getsource(thing)).splitlines()
    node = ast.parse("\n".join(lines)).body[0]
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)

    def head(part: ast.FunctionDef | ast.ClassDef) -> str:
        first = min([part.lineno, *(d.lineno for d in part.decorator_list)])
        code = "\n".join(lines[first - 1 : part.body[0].lineno - 1])
        return code.rstrip() if part.body[0].lineno > part.lineno else lines[first - 1]

    out = [head(node)]
    for part in node.body if isinstance(node, ast.ClassDef) else ():
        field = isinstance(part, ast.AnnAssign) and not ast.unparse(part.target).startswith("_")
        if field:
            out += lines[part.lineno - 1 : part.end_lineno]
        elif isinstance(part, ast.FunctionDef) and part.name == "__init__":
            out.append(head(part))
    return out


def prose(doc: str) -> str:
    """A docstring as Markdown: paragraphs, lists of `name: what it is`, indented code."""
    out: list[str] = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(doc)):
        lines = block.splitlines()
        if all(line.startswith("    ") for line in lines):
            out.append(fenced("python", textwrap.dedent(block)))
            continue
        parts: list[str] = []
        for line in lines:
            in_item = bool(parts) and parts[-1].startswith("- ")
            item = re.match(r"([a-z_]\w*(?:, \w+)*):\s+(.*)", line)
            if item and (out or parts):  # not in a first line, which says what the thing is
                parts.append(f"- `{item[1]}`: {item[2]}")
            elif (
                parts and line.startswith(" ") == in_item and not line.startswith(("- ", "Raises "))
            ):
                parts[-1] += f" {line.strip()}"
            else:
                parts.append(line)
        for before, part in zip(["", *parts], parts, strict=False):
            in_list = before.startswith("- ") and part.startswith("- ")
            out[-1:] = [f"{out[-1]}\n{part}"] if in_list else [*out[-1:], part]
    return "\n\n".join(out)


def undocumented() -> list[str]:
    """Public names without a docstring."""

    def empty(thing: Said) -> Iterator[str]:
        if not thing.doc.strip():
            yield thing.name
        for member in thing.members:
            yield from empty(member)

    return [
        f"{module}.{name}"
        for modules in API.values()
        for module, things in api(modules)
        for thing in things
        for name in empty(thing)
    ]
