"""Writes the pages that follow from the code: passes.md, operators.md, api.md, files.md. `python docs/generate.py`."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from interface import api_page
from parts import GENERATED, fenced, one_line

import tilewright.language as pl
from tilewright.dtypes import BF16, INT32
from tilewright.frontend.families import HANDLERS
from tilewright.frontend.trace import ScalarArgument, TensorArgument, trace
from tilewright.ir.nodes import Function
from tilewright.ir.ops import TABLE
from tilewright.ir.printer import to_text
from tilewright.language.operator import Operator, operator_of
from tilewright.machine import avx512
from tilewright.passes import pipeline, prepare

DOCS = Path(__file__).parent
TESTS = DOCS.parent / "tests"
PACKAGE = DOCS.parent / "tilewright"
DIFFERENTIAL = (
    "operators/",
    "test_scheduling",
    "test_while",
    "test_break_and_return",
)  # tests of both back ends
MACHINE = avx512("avx512vnni", "avx512bf16")  # the page is the same wherever it is made

ROWS, DEPTH, COLUMNS = 16, 64, 256


@pl.jit
def example(
    x: pl.Tensor[[32, DEPTH], pl.BF16],
    w: pl.Tensor[[DEPTH, COLUMNS], pl.BF16],
    start: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[ROWS, COLUMNS], pl.BF16]],
):
    unit = pl.create_tensor([ROWS, DEPTH], dtype=pl.BF16)
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="norm"):
        rows = pl.cast(x[start : start + ROWS, :], target_type=pl.FP32)
        mean = pl.mul(pl.row_sum(pl.mul(rows, rows)), 1.0 / DEPTH)
        scaled = pl.row_expand_mul(rows, pl.rsqrt(pl.add(mean, 1e-6)))
        unit[:, :] = pl.cast(scaled, target_type=pl.BF16, mode="rint")
    for n in pl.parallel(0, COLUMNS, 64):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="product"):
            acc = pl.create_tensor([ROWS, 64], dtype=pl.FP32)
            for k in pl.range(0, DEPTH, 32):
                a, b = unit[:, k : k + 32], w[k : k + 32, n : n + 64]
                if k == 0:
                    acc = pl.matmul(a, b)
                else:
                    acc = pl.matmul_acc(acc, a, b)
            y[:, n : n + 64] = pl.cast(pl.neg(acc), target_type=pl.BF16, mode="rint")


def main() -> None:
    for name, page in pages():
        (DOCS / name).write_text(page, encoding="utf-8")
        print(f"wrote docs/{name}", file=sys.stderr)


def pages() -> Iterator[tuple[str, str]]:
    """Every generated page: its file name and its text."""
    yield "passes.md", passes_page()
    yield "operators.md", operators_page()
    yield "api.md", api_page()
    yield "files.md", files_page()


# Passes


def passes_page() -> str:
    function = example_program()
    out = [
        "# Passes",
        GENERATED,
        "A pass is one file in `tilewright/passes` with one function of its name, from a program to a "
        "program. The interpreter can run the program after any of them and gets the same bits, except "
        "where a pass says otherwise. The order below stands in `passes/prepare.py` (for both ways "
        "of running) and `passes/pipeline.py` (for machine code), with the reason for each place.",
        "To see the same for a kernel of yours: `tilewright show KERNEL --after PASS --diff`.",
        "## The example",
        fenced("python", inspect.getsource(example.function)),
        "as the front end reads it:",
        fenced("text", to_text(function)),
    ]
    steps = (*reasons(prepare, prepare.PREPARE), *reasons(pipeline, pipeline.PIPELINE))
    for number, (step, reason) in enumerate(steps, 1):
        changed = step(function, MACHINE)
        out += [f"## {number}. {step.__name__}", f"*{reason[0].upper()}{reason[1:]}.*"]
        if step not in [earlier for earlier, _ in steps[: number - 1]]:
            out.append(described(step))
        out.append(difference(function, changed))
        function = changed
    out += ["## What code is made from", fenced("text", to_text(function))]
    return "\n\n".join(out) + "\n"


def example_program() -> Function:
    arguments = {
        "x": TensorArgument((32, DEPTH), BF16),
        "w": TensorArgument((DEPTH, COLUMNS), BF16),
        "start": ScalarArgument(INT32),
        "y": TensorArgument((ROWS, COLUMNS), BF16),
    }
    return trace(example, arguments).function


def reasons(
    module: ModuleType, passes: tuple[pipeline.Pass, ...]
) -> list[tuple[pipeline.Pass, str]]:
    """Each pass with the comment on its line of the tuple."""
    comments = re.findall(r"^    (\w+),  # (.+)$", inspect.getsource(module), re.MULTILINE)
    assert [name for name, _ in comments] == [step.__name__ for step in passes]
    return [(step, reason) for step, (_, reason) in zip(passes, comments, strict=True)]


def described(step: Callable[..., object]) -> str:
    """The docstring, with Takes, Gives and Leaves as a list."""
    text = inspect.getdoc(step) or ""
    head, *clauses = re.split(r"^(Takes|Gives|Leaves):", text, flags=re.MULTILINE)
    lines = [" ".join(head.split()), ""]
    for word, clause in zip(clauses[::2], clauses[1::2], strict=True):
        lines.append(f"- **{word}** {' '.join(clause.split())}")
    return "\n".join(lines)


def difference(before: Function, after: Function) -> str:
    """What the pass did to the example."""
    if before == after:
        return "Nothing to do in the example."
    lines = difflib.unified_diff(
        to_text(before).splitlines(), to_text(after).splitlines(), "before", "after", "", "", 2, ""
    )
    return fenced("diff", "\n".join(lines))


# Operators


class Word(NamedTuple):
    """An operator of the language: every spelling, what a call is bound to, and who tests it."""

    operator: Operator
    spellings: list[str]
    tests: list[str]

    @property
    def family(self) -> str:
        return self.operator.function.__module__.removeprefix("tilewright.language.")

    @property
    def row(self) -> str:
        """Its line of the table."""
        takes = str(self.operator.signature).replace("'", "")
        first, *others = self.spellings
        called = f"`{first}{takes}`"
        if others:
            called += "<br>also " + " ".join(f"`{other}`" for other in others)
        meaning = one_line(inspect.getdoc(self.operator.function))
        cells = (called, meaning, "<br>".join(self.tests) or "**untested**")
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def operators_page() -> str:
    out = [
        "# Operators",
        GENERATED,
        "First the operators that a kernel may call, by family: how they are called, what they mean, and "
        f"the tests whose kernels call them (up to three). Kernels in `tests/{DIFFERENTIAL[0]}` run on both back "
        "ends, whose bits are compared with each other and with Torch or numbers made by hand. Then the "
        "other words of the language, and the operators of the IR that all of them become. What they mean "
        "to the last bit stands in the interpreter.",
        "## Operators of the language",
    ]
    table = "| operator | meaning | tests |\n|---|---|---|\n"
    for family, rows in by_module((word.family, word.row) for word in operator_words()).items():
        out += [f"### {family}", table + "\n".join(rows)]
    out.append("## Other words")
    for module, words in by_module(other_words()).items():
        out += [f"### {module}", "\n".join(words)]
    out += [
        "## Operators of the IR",
        "Columns: the operator, what it takes in order (`*` repeats), its effect.",
    ]
    for module, rows in by_module(ir_operators()).items():
        out += [f"### {module}", "\n".join(rows)]
    return "\n\n".join(out) + "\n"


def namespaces() -> dict[str, ModuleType]:
    """Where an author finds words: `pl.` and the modules inside it."""
    inside = {f"pl.{name}": getattr(pl, name) for name in pl.__all__}
    return {"pl": pl, **{name: x for name, x in inside.items() if isinstance(x, ModuleType)}}


def operator_words() -> list[Word]:
    """Every operator with all its spellings, in the order of their first ones."""
    spelled: dict[Operator, list[str]] = {}
    for prefix, module in namespaces().items():
        for name in module.__all__:
            operator = operator_of(getattr(module, name))
            if operator is not None and operator.name in HANDLERS:
                spelled.setdefault(operator, []).append(f"{prefix}.{name}")
    calls = tested_calls()
    words = []
    for operator, spellings in spelled.items():
        count: Counter[str] = Counter()
        for spelling in spellings:
            count.update(calls.get(spelling, {}))
        best = sorted(
            count, key=lambda file: (not file.startswith(DIFFERENTIAL), -count[file], file)
        )
        own = [s for s in spellings if s.rpartition(".")[2] == operator.name.rpartition(".")[2]]
        words.append(Word(operator, own + [s for s in spellings if s not in own], best[:3]))
    return sorted(words, key=lambda word: word.operator.name)


def tested_calls() -> dict[str, Counter[str]]:
    """spelling -> how often each test file calls it."""
    found: dict[str, Counter[str]] = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                spelling = ast.unparse(node.func)
                if spelling.startswith("pl."):
                    name = str(file.relative_to(TESTS)).removesuffix(".py")
                    found.setdefault(spelling, Counter())[name] += 1
    return found


def other_words() -> Iterator[tuple[str, str]]:
    """(family, line) for what is no operator: types, loops, scopes, hints."""
    for name in pl.__all__:
        thing = getattr(pl, name)
        if not (inspect.isfunction(thing) or inspect.isclass(thing)):
            continue
        operator = operator_of(thing)
        if operator is None or operator.name not in HANDLERS:
            family = thing.__module__.removeprefix("tilewright.language.")
            yield family, entry(f"pl.{name}", thing if operator is None else operator.function)


def entry(name: str, thing: Callable[..., object]) -> str:
    takes = "" if inspect.isclass(thing) else str(inspect.signature(thing)).split(" ->")[0]
    return f"- `{name}{takes.replace(chr(39), '')}`: {one_line(inspect.getdoc(thing))}"


def ir_operators() -> Iterator[tuple[str, str]]:
    """(family, line) for every row of the operator table; rows that share a rule share a line."""
    seen = set()
    for row in TABLE.values():
        if row.infer in seen:
            continue
        seen.add(row.infer)
        names = ", ".join(f"`{other.name}`" for other in TABLE.values() if other.infer is row.infer)
        family = row.infer.__module__.removeprefix("tilewright.ir.ops.")
        takes = f"({row.takes})" if row.takes else "()"
        yield family, f"- {names} `{takes}`, {row.effect}: {one_line(row.doc)}"


# Files


def files_page() -> str:
    """The page on files: what each says of itself in its first paragraph."""
    parts = [
        "# Every file of the package\n\n" + GENERATED,
        "What each file says it is for. [where.md](where.md) goes the other way: from a task to files.",
    ]
    for folder in sorted({path.parent for path in PACKAGE.rglob("*.py")}):
        about = {path.name: first_paragraph(path) for path in sorted(folder.glob("*.py"))}
        parts.append(f"## `{folder.relative_to(PACKAGE.parent)}/`")
        parts.append(about.pop("__init__.py", ""))
        parts.append("\n".join(f"- `{name}`: {doc}" for name, doc in about.items()))
    return "\n\n".join(filter(None, parts)) + "\n"


def first_paragraph(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return one_line(doc.partition("\n\n")[0])


def by_module(entries: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for module, line in entries:
        found.setdefault(module, []).append(line)
    return found


if __name__ == "__main__":
    main()
