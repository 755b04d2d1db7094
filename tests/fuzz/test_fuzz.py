"""Random programs: the interpreter's bits, natively and after every pass.

`FUZZ_PROGRAMS=2000 python -m pytest tests/fuzz` tries 2000 new ones (about half a second each).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import torch
from both_ways import compile_native, difference, guarded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import Program, shown, write_program

from tilewright.errors import BoundsError
from tilewright.interpreter import check as search
from tilewright.interpreter import run
from tilewright.ir.nodes import Function
from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.ir.verify import verify
from tilewright.machine import host
from tilewright.passes.pipeline import lower
from tilewright.passes.prepare import prepare

# A few, always the same ones; or as many new ones as FUZZ_PROGRAMS says.
ASKED = int(os.environ.get("FUZZ_PROGRAMS", "0"))
EVERY_DAY = 40


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Waking Torch's team costs more than the whole of a small operator."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def copies(program: Program) -> list[object]:
    return [x.clone() if isinstance(x, torch.Tensor) else x for x in program.args]


def interpreted(function: Function, program: Program, **options: object) -> list[torch.Tensor]:
    args = copies(program)
    with one_torch_thread():
        run(function, args, **options)  # type: ignore[arg-type]
    return [x for x in args if isinstance(x, torch.Tensor)]


def same(wanted: list[torch.Tensor], got: list[torch.Tensor], when: str) -> None:
    complaints = [
        f"argument {i}: {d}"
        for i, (a, b) in enumerate(zip(wanted, got, strict=True))
        if (d := difference(a, b))
    ]
    assert not complaints, f"{when}: " + "; ".join(complaints)


def check(program: Program) -> None:
    """Interpreted plain, poisoned, shuffled and checked; after every pass; natively on several threads."""
    function = program.function
    verify(function)
    assert parse(to_text(function)) == function
    wanted = interpreted(function, program)
    same(
        wanted, interpreted(function, program, poison=True), "the program reads what is unspecified"
    )
    same(
        wanted, interpreted(function, program, order="shuffled"), "the program depends on an order"
    )

    with one_torch_thread():
        found = search(function, copies(program))
    if program.astray:  # no other mistake follows from it
        found = tuple(x for x in found if not isinstance(x, BoundsError))
    assert found == (), "a checked run finds a mistake"

    last = function

    def observe(name: str, after: Function) -> None:
        nonlocal last
        if after == last:
            return
        last = after
        same(wanted, interpreted(after, program), f"after {name}")
        same(
            wanted,
            interpreted(after, program, poison=True, order="reverse"),
            f"after {name}, poisoned",
        )

    lower(prepare(function, host(), observe), host(), observe)
    native = compile_native(function)
    for threads in (1, 2, 3):
        got = guarded(program.args)
        native.run(got.args, threads)
        got.compare(program_args(wanted, program), f"natively on {threads} threads")


def program_args(tensors: list[torch.Tensor], program: Program) -> list[object]:
    """The results in the places of the arguments."""
    left = list(tensors)
    return [left.pop(0) if isinstance(x, torch.Tensor) else x for x in program.args]


@settings(
    max_examples=ASKED or EVERY_DAY,
    derandomize=not ASKED,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.randoms(use_true_random=False))
def test_a_random_program_gives_the_same_bits_everywhere(random: Random):
    program = write_program(random)
    with shown(program):
        check(program)
