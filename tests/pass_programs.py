"""What tests of passes share: IR text in, IR text out, and equal bits on random inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from textwrap import dedent

import pytest
import torch
from both_ways import compile_native, draw
from ir_programs import same_bits

from tilewright.interpreter import run
from tilewright.ir.nodes import Function
from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.ir.types import TensorType
from tilewright.ir.verify import verify
from tilewright.machine import Machine, avx512, host
from tilewright.passes import pipeline
from tilewright.passes.pipeline import prepare

Pass = Callable[[Function, Machine], Function]
MACHINE = avx512("avx512vnni", "avx512bf16")  # row tiles of 6, whatever runs the tests
SEED = 20


def assert_pass(step: Pass, before: str, after: str, **scalars: int) -> None:
    """`step` turns the one program into the other, letter by letter, and both give the same bits."""
    program = parse(before)
    verify(program)
    result = step(program, MACHINE)
    verify(result, after=step.__name__)
    assert to_text(result) == dedent(after).lstrip()
    assert_same_results(program, result, **scalars)


def assert_unchanged(step: Pass, program: str, **scalars: int) -> None:
    """`step` leaves the program alone; it is written the way the printer writes it."""
    assert_pass(step, program, program, **scalars)


def assert_same_results(before: Function, after: Function, **scalars: int) -> None:
    """Equal bits in every tensor argument, and nothing unspecified or unordered shows in them."""
    wanted = interpreted(before, **scalars)
    for options in ({}, {"poison": True}, {"order": "shuffled"}):
        for name, got in interpreted(after, options, **scalars).items():
            assert same_bits(got, wanted[name]), f"%{name} differs with {options}"


def interpreted(
    function: Function, options: Mapping[str, object] | None = None, **scalars: int
) -> dict[str, torch.Tensor]:
    """The tensor arguments after a run of the interpreter on the same random inputs every time."""
    args = arguments(function, scalars)
    run(function, list(args.values()), **(options or {}))
    return {name: x for name, x in args.items() if isinstance(x, torch.Tensor)}


def natively(text: str, threads: int = 2, **scalars: int) -> dict[str, torch.Tensor]:
    """The same by machine code, through the whole pipeline."""
    function = parse(text)
    args = arguments(function, scalars)
    compile_native(function).run(list(args.values()), threads=threads)
    return {name: x for name, x in args.items() if isinstance(x, torch.Tensor)}


def assert_native_agrees(text: str, **scalars: int) -> None:
    """Machine code and interpreter give the same bits: for programs whose arithmetic is exact."""
    wanted = interpreted(prepare(parse(text), host()), **scalars)
    for threads in (1, 2):
        for name, got in natively(text, threads, **scalars).items():
            assert same_bits(got, wanted[name]), f"%{name} differs on {threads} threads"


def assert_pass_changes_no_bit(step: Pass, text: str, **scalars: int) -> None:
    """Machine code with and without `step` gives the same bits, on numbers whose sums round."""
    function = parse(text)
    verify(function)
    results, programs = [], []
    for passes in (pipeline.PIPELINE, tuple(p for p in pipeline.PIPELINE if p is not step)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TILEWRIGHT_CACHE", "0")  # a key does not name the passes
            patch.setattr(pipeline, "PIPELINE", passes)
            program = compile_native(function)
            programs.append(to_text(program.lowered))
        args = arguments(function, scalars)
        for seed, (name, x) in enumerate(args.items()):
            if isinstance(x, torch.Tensor) and x.is_floating_point():
                args[name] = draw(x.shape, x.dtype, seed, plain=True)
        program.run(list(args.values()), threads=2)
        results.append({name: x for name, x in args.items() if isinstance(x, torch.Tensor)})
    assert programs[0] != programs[1], f"{step.__name__} does nothing here"
    for name, got in results[0].items():
        assert same_bits(got, results[1][name]), f"%{name} differs without {step.__name__}"


def arguments(function: Function, scalars: Mapping[str, int]) -> dict[str, torch.Tensor | int]:
    """Random small whole numbers in every tensor (sums of them are exact), the given scalars."""
    generator = torch.Generator().manual_seed(SEED)
    found: dict[str, torch.Tensor | int] = {}
    for param in function.params:
        kind = param.value.type
        if isinstance(kind, TensorType):
            dtype = getattr(torch, str(kind.dtype.torch))
            found[param.value.name] = torch.randint(-9, 10, kind.shape, generator=generator).to(
                dtype
            )
        else:
            found[param.value.name] = scalars[param.value.name]
    return found
