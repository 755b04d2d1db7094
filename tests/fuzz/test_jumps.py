"""Random bodies of loops, branches, break and continue: a kernel ends with Python's numbers.

The same text is run by Python itself, with stand-ins for the few words of `pl` that it uses.
`FUZZ_PROGRAMS=2000 python -m pytest tests/fuzz` tries 2000 new ones.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

ASKED = int(os.environ.get("FUZZ_PROGRAMS", "0"))
EVERY_DAY = 25
NATIVE = 5  # one in so many is compiled as well
NAMES = "abcd"
MOST_STEPS = 400  # of a program that Python takes too long for, nothing is asked

HEAD = """\
import tilewright.language as pl

@pl.jit
def kernel(n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    a, b, c, d = 0, 1, n, 3
"""


class TooLong(Exception):
    """The program has had its share of steps."""


class Author:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.lines: list[str] = []
        self.loops = 0

    def text(self) -> str:
        self.block(1, 0, [*NAMES])
        ends = [f"    pl.write(y, [{i}], pl.cast({x}, pl.INT64))" for i, x in enumerate(NAMES)]
        return HEAD + "\n".join([*self.lines, *ends]) + "\n"

    def say(self, depth: int, line: str) -> None:
        self.lines.append("    " * depth + line)

    def block(self, depth: int, inside: int, names: list[str]) -> None:
        """A few statements; `inside` how many loops are around, `names` what may be looked at."""
        names = list(names)
        for _ in range(1 + self.random.randrange(3)):
            what = self.random.randrange(10)
            if what < 4 or depth > 5:
                self.assign(depth, names)
            elif what < 7:
                self.branch(depth, inside, names)
            elif inside < 3:
                self.loop(depth, inside, names)

    def assign(self, depth: int, names: list[str]) -> None:
        if self.random.random() < 0.3 and depth > 1:
            name = f"t{len(self.lines)}"
            self.say(depth, f"{name} = {self.number(names)}")
            names.append(name)
        else:
            self.say(depth, f"{self.random.choice(NAMES)} = {self.number(names)}")

    def number(self, names: list[str]) -> str:
        x, y = self.random.choice(names), self.random.choice([*names, "1", "2", "5"])
        return f"({x} {self.random.choice('+-*')} {y}) % 97"

    def test(self, names: list[str]) -> str:
        x, limit = self.random.choice(names), self.random.randrange(1, 8)
        return f"{x} % {limit + 1} {self.random.choice(['<', '>=', '==', '!='])} {limit // 2}"

    def branch(self, depth: int, inside: int, names: list[str]) -> None:
        self.say(depth, f"if {self.test(names)}:")
        self.arm(depth + 1, inside, names)
        for _ in range(self.random.randrange(2)):
            self.say(depth, f"elif {self.test(names)}:")
            self.arm(depth + 1, inside, names)
        if self.random.random() < 0.5:
            self.say(depth, "else:")
            self.arm(depth + 1, inside, names)

    def arm(self, depth: int, inside: int, names: list[str]) -> None:
        jump = inside and self.random.random() < 0.5
        if not jump or self.random.random() < 0.5:
            self.block(depth, inside, names)
            if not self.lines[-1].startswith("    " * depth):
                self.say(depth, "pass")
        if jump:
            self.say(depth, self.random.choice(["break", "continue"]))

    def loop(self, depth: int, inside: int, names: list[str]) -> None:
        self.loops += 1
        name = f"i{self.loops}"
        if self.random.random() < 0.6:
            bounds = self.random.choice(["4", "n", "1, 6, 2", f"{self.random.choice(NAMES)} % 5"])
            self.say(depth, f"for {name} in pl.range({bounds}):")
            self.block(depth + 1, inside + 1, [*names, name])
        else:
            self.say(depth, f"{name} = 0")
            more = f"{name} < {self.random.randrange(1, 6)}"
            self.say(depth, f"while {more} and {self.test([*names, name])}:")
            self.say(depth + 1, f"{name} = {name} + 1")
            self.block(depth + 1, inside + 1, [*names, name])
        if not self.lines[-1].startswith("    " * (depth + 1)):
            self.say(depth + 1, "pass")


def by_python(text: str, n: int) -> list[int]:
    """What Python makes of it."""
    steps = 0

    def counted(*bounds: int) -> Any:
        nonlocal steps
        for i in range(*bounds):
            steps += 1
            if steps > MOST_STEPS:
                raise TooLong
            yield i

    y = [0] * len(NAMES)
    pl = SimpleNamespace(
        jit=lambda function: function,
        Scalar={None: None},
        Out={None: None},
        INDEX=None,
        INT64=None,
        Tensor=None,
        range=counted,
        cast=lambda value, _: value,
        write=lambda target, at, value: target.__setitem__(at[0], value),
    )
    names: dict[str, Any] = {"pl": pl}
    exec(text.replace("import tilewright.language as pl", ""), names)
    names["kernel"](n, y)
    return y


def load(text: str, folder: Path) -> Any:
    path = folder / "random_kernel.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("random_kernel", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.kernel


@pytest.mark.parametrize("seed", range(ASKED or EVERY_DAY))
def test_jumps_mean_what_they_mean_in_python(seed: int, tmp_path: Path):
    random = Random() if ASKED else Random(seed)
    text = Author(random).text()
    try:
        wanted = {n: by_python(text, n) for n in (0, 3, 7)}
    except TooLong:
        return
    kernel = load(text, tmp_path)
    for n, numbers in wanted.items():
        for backend in ["interpreter"] + ["native"] * (seed % NATIVE == 0):
            y = torch.zeros(len(NAMES), dtype=torch.int64)
            kernel.run(n, y, backend=backend)
            assert y.tolist() == numbers, f"n = {n} by {backend}:\n{text}"
