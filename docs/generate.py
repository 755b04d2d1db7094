"""Writes the pages that follow from the code: passes.md and operators.md. `python docs/generate.py`."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import tilewright.language as pl
from tilewright.dtypes import BF16, INT32
from tilewright.frontend.trace import ScalarArgument, TensorArgument, trace
from tilewright.ir.nodes import Function
from tilewright.ir.ops import TABLE
from tilewright.ir.printer import to_text
from tilewright.language.operator import operator_of
from tilewright.machine import avx512
from tilewright.passes import pipeline, prepare

DOCS = Path(__file__).parent
GENERATED = "<!-- written by docs/generate.py; change the docstrings, then run it again -->\n"
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


def operators_page() -> str:
    out = [
        "# Operators",
        GENERATED,
        "First the words that a kernel may say, by family, then the operators of the IR that they become. "
        "What they mean to the last bit stands in the interpreter.",
        "## Words of the language",
    ]
    for module, words in by_module(language_words()).items():
        out += [f"### {module}", "\n".join(words)]
    out += [
        "## Operators of the IR",
        "Columns: the operator, what it takes in order (`*` repeats), its effect.",
    ]
    for module, rows in by_module(ir_operators()).items():
        out += [f"### {module}", "\n".join(rows)]
    return "\n\n".join(out) + "\n"


def language_words() -> Iterator[tuple[str, str]]:
    """(family, line) for every word of `pl`, and of `pl.tensor` and `pl.tile`."""
    for name in pl.__all__:
        thing = getattr(pl, name)
        if isinstance(thing, ModuleType):
            for word in vars(thing).values():
                operator = operator_of(word)
                if operator is not None and operator.name.startswith(f"{name}."):
                    yield f"pl.{name}", entry(f"pl.{operator.name}", operator.function)
        elif inspect.isfunction(thing) or inspect.isclass(thing):
            family = thing.__module__.removeprefix("tilewright.language.")
            operator = operator_of(thing)
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


def by_module(entries: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for module, line in entries:
        found.setdefault(module, []).append(line)
    return found


def one_line(doc: str | None) -> str:
    return " ".join((doc or "").split())


def fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.strip()}\n```"


if __name__ == "__main__":
    main()
