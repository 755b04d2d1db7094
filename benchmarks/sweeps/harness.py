"""What every sweep shares: a constant is set for a moment, code is made with it, and all values take turns.

A sweep is a script that names a constant, the values worth trying and what is timed. It prints a table a
subject (value, median, ratio to the value that is chosen) and appends it, with the machine's name, to
`benchmarks/results/sweeps.jsonl`. Values that change a bit of an output are an error: a tuning constant
decides speed only.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tilewright import bound
from tilewright.bench.measure import Timing, in_turns
from tilewright.bench.problem import OUTPUTS, WEIGHTS, Problems
from tilewright.bench.run import describe
from tilewright.machine import host
from tilewright.models.deepseek_v4.config import PRESETS
from tilewright.models.deepseek_v4.registry import find

RECORD = Path(__file__).parents[1] / "results" / "sweeps.jsonl"

Run = Callable[[], Sequence[Tensor]]  # one timed call; gives its outputs


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    preset: str = "flash"
    tokens: tuple[int, ...] = (1, 8, 128)
    threads: int = 1
    rounds: int = 5


@dataclass(frozen=True)
class Subject:
    """One thing that is timed. build: makes code with the constants as they are now, and runs it once."""

    name: str
    build: Callable[[], Run]


@dataclass(frozen=True)
class Constant:
    """A module's attribute, as its users read it when they make code."""

    module: str
    name: str

    @property
    def chosen(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)

    @contextmanager
    def set(self, value: Any) -> Iterator[None]:
        """The constant is `value`; nothing that was compiled with another is found, on disk or here."""
        owner = importlib.import_module(self.module)
        chosen, packers = self.chosen, dict(bound._prepackers)
        caching = os.environ.get("TILEWRIGHT_CACHE")
        os.environ["TILEWRIGHT_CACHE"] = "0"
        bound._prepackers.clear()
        setattr(owner, self.name, value)
        try:
            yield
        finally:
            setattr(owner, self.name, chosen)
            bound._prepackers.clear()
            bound._prepackers.update(packers)
            if caching is None:
                del os.environ["TILEWRIGHT_CACHE"]
            else:
                os.environ["TILEWRIGHT_CACHE"] = caching


# -- subjects --------------------------------------------------------------------------------------


def projection(options: Options) -> Iterator[Subject]:
    """The bound prefill kernel, for each number of tokens."""
    problems = Problems(find("prefill"), PRESETS[options.preset], seed=0)
    for tokens in options.tokens:
        problem = problems.of(tokens)
        weights = {name: problem.values[name] for name in WEIGHTS}
        others = {name: x for name, x in problem.values.items() if name not in WEIGHTS}

        def build(weights: Any = weights, others: Any = others, problem: Any = problem) -> Run:
            kernel = problem.entry.build(problem.cfg).bind(**weights)

            def run() -> Sequence[Tensor]:
                kernel.run(**others, threads=options.threads)
                return [others[name] for name in OUTPUTS]

            run()
            return run

        yield Subject(f"prefill {options.preset} T={tokens}", build)


def unbound(options: Options) -> Iterator[Subject]:
    """The prefill kernel that packs its weights in every call, for each number of tokens."""
    problems = Problems(find("prefill"), PRESETS[options.preset], seed=0)
    for tokens in options.tokens:
        problem = problems.of(tokens)
        kernel = problem.entry.build(problem.cfg)
        args = [problem.values[name] for name in kernel.signature.parameters]
        outputs = [problem.values[name] for name in OUTPUTS]
        name = f"prefill {options.preset} unbound T={tokens}"
        yield of_kernel(name, kernel, args, options, outputs)


def of_kernel(
    name: str,
    kernel: Any,
    args: Sequence[Any],
    options: Options,
    outputs: Sequence[Tensor] | None = None,
) -> Subject:
    """A kernel whose last argument is its output, or that has these."""

    def build() -> Run:
        kernel.specializations.clear()  # or the code of another value would be found
        special = kernel.specialize(*args, backend="native")

        def run() -> Sequence[Tensor]:
            special.run(args, options.threads)
            return outputs or [args[-1]]

        run()
        return run

    return Subject(name, build)


# -- measuring -------------------------------------------------------------------------------------


def measure(
    constant: Constant, values: Sequence[Any], subject: Subject, options: Options
) -> dict[Any, Timing]:
    """The timing of every value. RuntimeError when two values do not give the same bits."""
    ways: dict[str, list[Callable[[], object]]] = {}
    first: list[Tensor] | None = None
    for value in values:
        with constant.set(value):
            run = subject.build()
        outputs = [x.clone() for x in run()]
        first = first or outputs
        if not all(map(same_bits, first, outputs)):
            raise RuntimeError(f"{constant.name} = {value} changes bits of {subject.name}")
        ways[repr(value)] = [run]
    timings = in_turns(ways, options.rounds, cold=False)
    return {value: timings[repr(value)] for value in values}


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.contiguous().view(torch.int8).equal(b.contiguous().view(torch.int8))


def table(title: str, timings: Mapping[Any, Timing], chosen: Any) -> str:
    """A line a value; the chosen one is marked."""
    lines = [title, f"{'value':>12} {'median us':>12} {'p10':>12} {'p90':>12} {'ratio':>7}"]
    for value, timing in timings.items():
        times = [1e6 * t for t in (timing.median, timing.percentile(0.1), timing.percentile(0.9))]
        ratio = timing.median / timings[chosen].median
        mark = "  <- chosen" if value == chosen else ""
        lines.append(
            f"{value!s:>12} " + " ".join(f"{t:12.1f}" for t in times) + f" {ratio:7.3f}{mark}"
        )
    return "\n".join(lines)


def record(
    constant: Constant, subject: Subject, timings: Mapping[Any, Timing], options: Options
) -> dict[str, Any]:
    """One line of the results."""
    machine = describe(host(), {})
    del machine["peaks"]
    chosen = constant.chosen
    return {
        "when": time.strftime("%Y-%m-%d"),
        "constant": f"{constant.module.removeprefix('tilewright.')}.{constant.name}",
        "chosen": chosen,
        "subject": subject.name,
        "threads": options.threads,
        "machine": machine,
        "rows": [
            {
                "value": value,
                "median_us": round(1e6 * timing.median, 2),
                "p10_us": round(1e6 * timing.percentile(0.1), 2),
                "p90_us": round(1e6 * timing.percentile(0.9), 2),
                "ratio": round(timing.median / timings[chosen].median, 4),
            }
            for value, timing in timings.items()
        ],
    }


def main(
    constant: Constant,
    values: Sequence[Any],
    subjects: Callable[[Options], Iterator[Subject]] = projection,
) -> None:
    """The command line of a sweep. values: what is tried besides the chosen one."""
    summary = (importlib.import_module("__main__").__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--preset", default=Options.preset, choices=PRESETS)
    parser.add_argument("--tokens", default="1,8,128", help="numbers of tokens, with commas")
    parser.add_argument("--threads", type=int, default=Options.threads)
    parser.add_argument("--rounds", type=int, default=Options.rounds)
    parser.add_argument("--record", type=Path, default=RECORD, help="a line of JSON is added here")
    parser.add_argument("--no-record", action="store_true", help="print the table only")
    asked = parser.parse_args()
    tokens = tuple(int(part) for part in asked.tokens.split(","))
    options = Options(asked.preset, tokens, asked.threads, asked.rounds)
    chosen = constant.chosen
    every = sorted({*values, chosen})
    for subject in subjects(options):
        timings = measure(constant, every, subject, options)
        print(
            table(f"\n{constant.name}: {subject.name}, {options.threads} threads", timings, chosen)
        )
        if not asked.no_record:
            asked.record.parent.mkdir(parents=True, exist_ok=True)
            with asked.record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record(constant, subject, timings, options)) + "\n")


def pieces(sizes: Sequence[int], options: Options, kernel: Any) -> Iterator[Subject]:
    """A row-wise kernel on [n / 1024, 1024] tensors of so many elements."""
    for size in sizes:
        x = torch.rand(size // 1024, 1024)
        yield of_kernel(f"{size} elements", kernel, [x, torch.empty_like(x)], options)
