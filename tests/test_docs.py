"""The pages say what the code says: generated ones are up to date, the others name files that exist."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tilewright
import tilewright.golden
import tilewright.torch_ext
from tilewright.models.deepseek_v4 import weights

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WRITTEN = (
    "where.md",
    "adding-an-op.md",
    "numerics.md",
    "guide.md",
    "checkpoints.md",
    "run.md",
    "distributed.md",
)
# `passes/pipeline.py`, `tests/errors/`: a path in backticks, from the package or from the root
PATH = re.compile(r"`([\w/]+/(?:\w+\.\w+)?|\w+\.(?:py|md))`")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules beside the pages can be imported."""
    monkeypatch.syspath_prepend(DOCS)


@pytest.mark.parametrize("name", ["passes.md", "operators.md", "api.md", "files.md"])
def test_a_generated_page_is_up_to_date(scripts, name: str):
    page = dict(importlib.import_module("generate").pages())[name]
    assert (DOCS / name).read_text(encoding="utf-8") == page, "run `python docs/generate.py`"


def test_everything_that_programs_may_use_is_explained(scripts):
    assert not importlib.import_module("interface").undocumented(), (
        "write a docstring for each of them"
    )


def test_every_file_says_what_it_is_for(scripts):
    made = importlib.import_module("generate")
    files = (ROOT / "tilewright").rglob("*.py")
    silent = [str(f.relative_to(ROOT)) for f in files if not made.first_paragraph(f)]
    assert not silent, "begin each of them with a docstring: docs/files.md lists them"


def test_the_python_interface_names_what_the_packages_export():
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    for package in (tilewright, tilewright.golden, tilewright.torch_ext, weights):
        missing = [name for name in package.__all__ if f"`{name}`\n" not in page]
        assert not missing, package.__name__


def test_every_operator_has_a_test_that_runs_it_both_ways(scripts):
    made = importlib.import_module("generate")
    untested = [
        word.spellings[0]
        for word in made.operator_words()
        if not any(test.startswith(made.DIFFERENTIAL) for test in word.tests)
    ]
    assert not untested, "add a kernel to tests/operators/ that calls each of them"


@pytest.mark.parametrize("name", WRITTEN)
def test_every_file_that_a_page_names_exists(name: str):
    text = (DOCS / name).read_text(encoding="utf-8")
    paths = PATH.findall(text)
    links = re.findall(r"\]\(([\w./-]+)\)", text)
    assert len(paths) + len(links) > 5
    missing = [
        p for p in paths if not (ROOT / p).exists() and not (ROOT / "tilewright" / p).exists()
    ]
    assert missing + [link for link in links if not (DOCS / link).exists()] == []


def test_the_program_with_caches_prints_what_stands_below_it():
    text = (DOCS / "pytorch.md").read_text(encoding="utf-8").partition("## Caches")[2]
    program, printed = (
        re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "text")
    )
    assert program is not None
    assert printed is not None
    done = subprocess.run(
        [sys.executable, "-c", program[1]], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.stdout == printed[1], done.stderr


def test_the_code_that_adding_an_op_quotes_is_the_code():
    text = (DOCS / "adding-an-op.md").read_text(encoding="utf-8")
    quoted = re.findall(r"## \d\. .*?`([\w/]+\.py)`\n\n```python\n(.*?)```", text, re.DOTALL)
    assert len(quoted) == 5
    for path, code in quoted:
        source = {line.strip() for line in (ROOT / "tilewright" / path).read_text().splitlines()}
        for line in filter(None, map(str.strip, code.splitlines())):
            assert line in source or line == "...", f"{path} does not say: {line}"
