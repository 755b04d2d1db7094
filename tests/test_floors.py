"""Imports go down, never sideways on floor 2: the map in docs/style.md, section 3, stays true."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tilewright"

GROUND = {"errors", "span", "dtypes", "knobs", "listeners", "machine", "blocking"}
LOWER = {*GROUND, "ir", "language"}
ENGINE_ROOM = {"frontend", "passes", "interpreter", "codegen", "runtime"}
# Arguments are checked, native lowers, compiles and calls, jit launches.
DRIVERS = {"jit", "arguments", "dispatch", "native", "bound"}

# What each room may import besides itself.
MAY_IMPORT: dict[str, set[str]] = {
    **dict.fromkeys(GROUND, GROUND),
    "language": GROUND,
    "ir": GROUND,
    "frontend": LOWER,
    **{room: {*GROUND, "ir"} for room in ENGINE_ROOM - {"frontend"}},
    **{room: {*LOWER, *ENGINE_ROOM, *DRIVERS} for room in DRIVERS},
    **{
        room: {*GROUND, "ir", *DRIVERS, "interpreter", "language", "golden", "torch_ext"}
        for room in ("golden", "torch_ext", "viz")
    },
    "models": {*GROUND, "language", "golden", "torch_ext", *DRIVERS},
    "integrations": {*GROUND, "language", "golden", "torch_ext", "models", *DRIVERS},
    "scripts": {*LOWER, "frontend", "golden"},
    # Beside cli, on the top floor: it measures whatever is below, down to single microkernels.
    "bench": {*LOWER, *ENGINE_ROOM, *DRIVERS, "golden", "models", "cli"},
}
TORCH_AT_IMPORT = {
    "interpreter", "golden", "torch_ext", "viz", "models", "integrations", "cli", "bench",
}  # fmt: skip
LLVM_AT_IMPORT = {"codegen", "runtime", "bench"}


def room_of(path: Path) -> str:
    """The module or folder directly under the package: `ir` for tilewright/ir/ops/table.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, everywhere: bool = True) -> Iterator[tuple[str, int]]:
    """Every imported module with its line; `everywhere=False`: what importing the file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside: set[ast.AST] = set()
    for node in ast.walk(tree):
        test = ast.unparse(node.test) if isinstance(node, ast.If) else ""
        if test == "__name__ == '__main__'":  # run as a script, a file is on the top floor
            inside.update(ast.walk(node))
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if not everywhere and (lazy or "TYPE_CHECKING" in test):
            inside.update(ast.walk(node))
    for node in ast.walk(tree):
        if node in inside:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = node.module or ""
            if node.level:
                here = ["tilewright", *path.relative_to(PACKAGE).parent.parts]
                base = here[: len(here) - node.level + 1]
                package = ".".join([*base, *filter(None, [node.module])])
            if package == "tilewright":  # `from tilewright import knobs` imports a room
                yield from ((f"tilewright.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield package, node.lineno


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def offence(path: Path, line: int, why: str) -> str:
    text = path.read_text(encoding="utf-8").splitlines()[line - 1].strip()
    return f"{path.relative_to(PACKAGE.parent)}:{line}: {text}\n    {why}"


def breaches(path: Path) -> Iterator[str]:
    """The imports of one file that the floors forbid."""
    room = room_of(path)
    if room not in MAY_IMPORT:
        return
    allowed = MAY_IMPORT[room] | {room}
    for name, line in imports(path):
        parts = name.split(".")
        if parts[0] == "tilewright" and len(parts) > 1 and parts[1] not in allowed:
            yield offence(path, line, f"{room} may import {', '.join(sorted(allowed))}")


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path):
    found = list(breaches(path))
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_importing_brings_neither_torch_nor_llvm_where_it_should_not(path: Path):
    room = room_of(path)
    heavy = set()
    if room not in TORCH_AT_IMPORT:
        heavy.add("torch")
    if room not in LLVM_AT_IMPORT:
        heavy.add("llvmlite")
    found = [
        offence(path, line, f"{room} must not import {name} when it is imported itself")
        for name, line in imports(path, everywhere=False)
        if name.split(".")[0] in heavy
    ]
    assert not found, "\n" + "\n".join(found)


def test_every_room_stands_on_a_floor():
    rooms = {room_of(path) for path in files()}
    assert rooms - set(MAY_IMPORT) <= {"__init__", "__main__", "cli"}


def test_an_upward_import_is_reported_with_its_line(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "tilewright")
    bad = tmp_path / "tilewright" / "ir" / "bad.py"
    bad.parent.mkdir(parents=True)
    bad.write_text("import ast\nfrom tilewright.passes.pipeline import lower\n")
    (found,) = breaches(bad)
    assert "bad.py:2: from tilewright.passes.pipeline import lower" in found
