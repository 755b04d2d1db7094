"""docs/guide.md, word for word: its blocks run in order in an empty folder, and print what stands below them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "guide.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
SETTING_UP = ".venv"  # what has this in it makes an environment: this one is made already
MINE = "export CHECKPOINT=DeepSeek-V4-Flash"  # what only a reader with that checkpoint can run
END = "--- end of a block ---"

# What differs between machines, and from run to run.
VARYING = (
    (re.compile(r"(\(\d+\.\d+%\)).*"), r"\1"),  # the worst element of an output that passed
    (re.compile(r"^\w+ +\w* *\d\.\d+e-\d\d.*|^ +\w+ +\d\.\d+e-\d\d.*", re.MULTILINE), "errors"),
    (re.compile(r"^  \w+: \d+ rows? judged from .*\n", re.MULTILINE), ""),
    (re.compile(r"\d+(\.\d+)? (us|ms|s)\b"), "time"),
    (re.compile(r"\(\d+\.\d+x\)"), "ratio"),
    (re.compile(r"threads \d+"), "threads"),
    (re.compile(r"[ \t]+"), " "),  # columns are as wide as what is in them
    (re.compile(r" $", re.MULTILINE), ""),
)


@dataclass(frozen=True)
class Block:
    """A fenced program and the text that stands below it."""

    language: str
    code: str
    line: int
    printed: str | None


def blocks() -> list[Block]:
    text = GUIDE.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    made = []
    for this, after in zip(found, [*found[1:], None], strict=True):
        if this[1] == "text":
            continue
        below = after[2] if after is not None and after[1] == "text" else None
        made.append(Block(this[1], this[2], text.count("\n", 0, this.start()) + 1, below))
    return made


def masked(text: str) -> str:
    for pattern, word in VARYING:
        text = pattern.sub(word, text)
    return text.strip()


@dataclass
class Reader:
    """Somebody with a shell in a folder, whose variables stay from one block to the next."""

    folder: Path
    environment: dict[str, str]

    def shell(self, code: str) -> tuple[int, str]:
        """Status, and what was printed on either stream."""
        kept = self.folder / "environment"
        done = subprocess.run(
            ["sh", "-c", f"{code}\nstatus=$?\nenv -0 > {kept}\nexit $status"],
            cwd=self.folder, env=self.environment, text=True, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        pairs = (pair.partition("=") for pair in kept.read_text().split("\0") if pair)
        self.environment.update({name: value for name, _, value in pairs})
        return done.returncode, done.stdout

    def python(self, parts: list[str]) -> tuple[list[str], str]:
        """What each part printed when all were pasted into one interactive Python, and its complaints."""
        pasted = "".join(f"{part}\nprint({END!r})\n" for part in parts)
        done = subprocess.run(
            [sys.executable, "-i", "-q"],
            cwd=self.folder, env=self.environment, text=True, timeout=300, input=pasted, capture_output=True,
        )  # fmt: skip
        return done.stdout.split(f"{END}\n")[:-1], done.stderr


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """As after `. .venv/bin/activate` in a clone, of which the guide needs the examples."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name, module in (("tilewright", "tilewright"), ("torchrun", "torch.distributed.run")):
        (bin_ / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (bin_ / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TILEWRIGHT_VERIFY": "0",  # other tests verify these programs
        "OMP_NUM_THREADS": "1",  # as torchrun would say, at length
        "PYTHONWARNINGS": "ignore",
    }
    return Reader(tmp_path, environment)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("sh") is None, reason="the guide is for a shell")
def test_every_block_prints_what_stands_below_it(reader: Reader):
    pytest.importorskip("transformers.models.deepseek_v4")
    session: list[Block] = []
    # The page has one session of Python, between two turns of the shell.
    for block in [*blocks(), Block("sh", "", 0, None)]:
        if block.language == "python":
            session.append(block)
            continue
        if session:
            check_session(reader, session)
            session = []
        if SETTING_UP in block.code or MINE in block.code:
            continue
        status, printed = reader.shell(block.code)
        wanted = block.printed or ""
        assert masked(printed) == masked(wanted), f"docs/guide.md:{block.line}"
        assert status == wanted.startswith("error:"), f"docs/guide.md:{block.line}"


def check_session(reader: Reader, session: list[Block]) -> None:
    printed, complaints = reader.python([block.code for block in session])
    assert "Error" not in complaints, complaints
    for block, text in zip(session, printed, strict=True):
        assert masked(text) == masked(block.printed or ""), f"docs/guide.md:{block.line}"


def test_setting_up_is_what_the_makefile_does():
    by_make, by_hand = (block.code for block in blocks() if SETTING_UP in block.code)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert by_make.splitlines()[0] == "make setup"
    assert re.search(r"^setup:", makefile, re.MULTILINE)
    assert "-c constraints.txt -e" in by_hand
    assert "-c constraints.txt -e" in makefile


def test_the_page_is_understood():
    found = blocks()
    assert {block.language for block in found} == {"sh", "python"}
    assert sum(block.printed is not None for block in found) > 15
    text = GUIDE.read_text(encoding="utf-8")
    assert text.count("```") == 2 * (len(found) + sum(b.printed is not None for b in found))
    assert sum(MINE in block.code for block in found) == 1
