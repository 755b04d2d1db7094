"""Random programs: the interpreter's bits, natively and after every pass.

`TILEWRIGHT_FUZZ=2000 python -m pytest tests/fuzz` tries that many instead of the few of every day.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from random import Random

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from both_ways import compile_native, difference, guarded  # noqa: E402
from programs import Program, shown, write_program  # noqa: E402

from tilewright.interpreter import run  # noqa: E402
from tilewright.ir.nodes import Function  # noqa: E402
from tilewright.ir.parser import parse  # noqa: E402
from tilewright.ir.printer import to_text  # noqa: E402
from tilewright.ir.verify import verify  # noqa: E402
from tilewright.machine import host  # noqa: E402
from tilewright.passes.pipeline import lower, prepare  # noqa: E402

EXAMPLES = int(os.environ.get("TILEWRIGHT_FUZZ", "0"))

settings.register_profile(
    "fuzz",
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def interpreted(function: Function, program: Program, **options: object) -> list[torch.Tensor]:
    args = [x.clone() if isinstance(x, torch.Tensor) else x for x in program.args]
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
    """Interpreted plain, poisoned and shuffled; after every pass; natively on several threads."""
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

    def observe(name: str, after: Function) -> None:
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


@settings(settings.get_profile("fuzz"))
@given(st.randoms(use_true_random=False))
def test_a_random_program_gives_the_same_bits_everywhere(random: Random):
    program = write_program(random)
    with shown(program):
        check(program)
