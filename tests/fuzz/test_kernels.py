"""Random kernels as authors write them: interpreter and machine code agree to the bit, a checked run is silent.

`FUZZ_PROGRAMS=2000 python -m pytest tests/fuzz` tries 2000 new ones.
"""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from both_ways import difference
from kernel_author import Author, Written
from test_fuzz import one_torch_thread
from test_jumps import load

import tilewright

ASKED = int(os.environ.get("FUZZ_PROGRAMS", "0"))
EVERY_DAY = 25


def copies(args: list[Any]) -> list[Any]:
    return [x.clone() if isinstance(x, torch.Tensor) else x for x in args]


def compare(wanted: list[Any], got: list[Any], when: str) -> None:
    for i, (a, b) in enumerate(zip(wanted, got, strict=True)):
        if isinstance(a, torch.Tensor):
            assert (d := difference(a, b)) is None, f"{when}, argument {i}: {d}"


def check(written: Written, tokens: int, scalar: int, folder: Path) -> None:
    kernel = load(written.text, folder)
    args = written.args(tokens, scalar)
    wanted, checked = copies(args), copies(args)
    with one_torch_thread():
        kernel.run(*wanted, backend="interpreter")
        reports = tilewright.check(kernel, *checked)
    assert reports == (), "a checked run finds a mistake:\n" + "\n".join(map(str, reports))
    compare(wanted, checked, "checked")
    for threads in (1, 3):
        native = copies(args)
        kernel.run(*native, backend="native", threads=threads)
        compare(wanted, native, f"natively on {threads} threads")


def check_seed(seed: int, folder: Path) -> None:
    random = Random(seed)
    author = Author(random)
    written = author.kernel()
    tile = author.tile
    tokens = random.choice((0, 1, tile - 1, tile, tile + 1, 2 * tile + 3, 5 * tile + 2))
    scalar = random.randrange(20)
    try:
        check(written, tokens, scalar, folder)
    except Exception as error:
        error.add_note(f"seed {seed}, {tokens} tokens, s = {scalar}\n{written.text}")
        raise


@pytest.mark.parametrize("seed", range(ASKED or EVERY_DAY))
def test_a_random_kernel_gives_the_same_bits_everywhere(seed: int, tmp_path: Path):
    check_seed(Random().randrange(1 << 40) if ASKED else seed, tmp_path)
