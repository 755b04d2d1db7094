"""A table of what outside authors get wrong, and what they are told: broken_kernels.txt.

Each entry is the body of a kernel, then all that a call reports of it. `--update-golden` rewrites the reports;
read the diff.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tilewright.errors import CompilerBug, KernelError
from tilewright.frontend.lint import lint
from tilewright.language import Kernel

TABLE = Path(__file__).parent / "broken_kernels.txt"
HEAD = """\
import math
import numpy as np
import torch
import pypto.language as pl

SIZES = [1, 2, 3]
WEIGHTS = torch.zeros(16, 32)
HALF = np.float32(0.5)

class Config:
    def scale(self):
        return 2.0

CFG = Config()

def plain(a):
    return a

@pl.jit.inline
def helper(a: pl.Tensor, b: pl.Tensor, k: pl.Scalar[pl.INT32] = 0):
    b[:, :] = a

@pl.jit
def kernel(
    x: pl.Tensor[[16, 32], pl.FP32], w: pl.Tensor[[32, 64], pl.FP32], n: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor[[16, 32], pl.FP32]],
):
"""
FIRST = HEAD.count("\n")
BY_READING = "(the lint says so too)"


@dataclass(frozen=True)
class Entry:
    name: str
    body: str
    report: str


def entries() -> Iterator[Entry]:
    """The table: `=== name`, the body, `---`, the report."""
    for part in re.split(r"^=== ", TABLE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, rest = part.partition("\n")
        body, _, report = rest.partition("---\n")
        yield Entry(heading.strip(), body, report.strip("\n"))


ENTRIES = list(entries())


def written(folder: Path, body: str) -> Path:
    path = folder / "kernel.py"
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    path.write_text(HEAD.replace("pypto.", "tilewright.") + indented, encoding="utf-8")
    return path


def kernel_in(path: Path) -> Kernel:
    spec = importlib.util.spec_from_file_location("broken_kernel", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.kernel


def call(kernel: Kernel) -> None:
    x, w, y = torch.ones(16, 32), torch.ones(32, 64), torch.zeros(16, 32)
    kernel.run(x, w, 3, y, backend="interpreter")


def report_of(path: Path) -> tuple[KernelError, str]:
    """What a call reports, and as text with lines counted from the body's first."""
    with pytest.raises(KernelError) as caught:
        call(kernel_in(path))
    text = str(caught.value).replace(f"{path.parent}/", "")
    text = re.sub(r"(kernel\.py:|lines? )(\d+)", lambda m: f"{m[1]}{int(m[2]) - FIRST}", text)
    margin = "^( +)(\\d+) (?=\\| )"
    text = re.sub(margin, lambda m: f"{m[1]}{int(m[2]) - FIRST:>{len(m[2])}} ", text, flags=re.M)
    return caught.value, text


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_an_author_is_told_what_is_wrong_and_what_to_try(
    entry: Entry, tmp_path: Path, request: pytest.FixtureRequest
):
    path = written(tmp_path, entry.body)
    error, text = report_of(path)
    for mistake in (error, *error.also):
        assert mistake.span is not None
        assert mistake.span.file == str(path)
        assert mistake.help, "one thing to try"
    linted = [str(finding.error) for finding in lint(path).findings]
    told = [*map(str, error.also)]
    error.also = ()
    assert set(linted) <= {str(error), *told}, "the lint says what the front end says"
    if linted:
        text += f"\n{BY_READING}"
    if request.config.getoption("--update-golden"):
        update(entry, text)
    else:
        assert text == entry.report


def update(entry: Entry, report: str) -> None:
    table = TABLE.read_text(encoding="utf-8")
    start = table.index(f"=== {entry.name}\n")
    end = table.find("\n=== ", start) + 1 or len(table)
    text = f"=== {entry.name}\n{entry.body}---\n{report}\n\n"
    TABLE.write_text(table[:start] + text + table[end:], encoding="utf-8")


def test_names_in_the_table_are_told_apart():
    names = [entry.name for entry in ENTRIES]
    assert len(names) == len(set(names)) >= 60


def test_a_failure_of_the_front_end_itself_names_the_line(monkeypatch, tmp_path):
    """Not a bare exception of ours, and not called the author's mistake."""
    from tilewright.frontend import calls

    def stumble(*_: object) -> None:
        raise AssertionError

    kernel = kernel_in(written(tmp_path, "y[:, :] = pl.exp(x)"))
    monkeypatch.setitem(calls.HANDLERS, "exp", stumble)
    with pytest.raises(CompilerBug) as caught:
        call(kernel)
    assert f"kernel.py:{FIRST + 1}:15: error: the front end failed here" in str(caught.value)
    assert "please report it" in str(caught.value)
