"""The benchmark: peaks, then for every problem the check of all outputs, then the timing in turns."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from math import ceil
from typing import Any

from tilewright.bench import peaks
from tilewright.bench.budget import Budget, foretell
from tilewright.bench.engines import PEERS
from tilewright.bench.measure import Timing, in_turns
from tilewright.bench.peaks import Peaks
from tilewright.bench.peers import Run, Unavailable, Weights, torch_threads
from tilewright.bench.problem import OUTPUTS, WEIGHTS, Outputs, Problem, Problems
from tilewright.bench.results import Report, Result, Row
from tilewright.bench.roofline import Work, roof, work_of
from tilewright.errors import ArgumentValueError
from tilewright.machine import Machine, host
from tilewright.models.deepseek_v4.config import PRESETS
from tilewright.models.deepseek_v4.registry import find
from tilewright.runtime.threads import provider

OURS, UNBOUND = "tilewright", "tilewright unbound"
# Copies of the weights in a cold run take this many times the last-level cache, so that a copy is
# gone when its turn comes again even where the cache keeps what is old.
COLD = 3
MOST_COPIES = 8  # of small weights; more would take long to pack and to compile for
# Tokens of a peer's outputs that are judged. Its rounding makes every row a suspect that is looked
# into, about 5 ms each. All of ours are.
PEER_ROWS = 256
# Seconds for the calls of one peer in one row; compiling comes on top.
PEER_BUDGET = 20.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What to measure: every kernel with every number of tokens and of threads."""

    kernels: tuple[str, ...]
    preset: str
    tokens: tuple[int, ...]
    threads: tuple[int, ...]
    peers: tuple[str, ...] = ("torch_eager", "torch_compile", "torch_best")
    rounds: int = 7
    cold: bool = False
    unbound: bool = False
    seed: int = 0
    peer_budget: float = PEER_BUDGET

    @property
    def steps(self) -> int:
        """How often `bench` says what it begins."""
        problems = len(self.kernels) * len(self.tokens) * len(self.threads)
        return 2 + problems * (2 + len(self.peers))


def bench(request: Request, say: Say) -> Report:
    """Measure everything asked for. say: told what is going on, `Request.steps` times.

    Peaks are measured before and after everything else, and the higher ones count: a moment of
    noise in one of them would make every share too good. Raises what `check` raises.
    """
    check(request)
    machine, cfg = host(), PRESETS[request.preset]
    copies = copies_for(work_of(cfg, 1), machine) if request.cold else 1
    entries = [find(name) for name in request.kernels]

    def all_peaks() -> dict[int, Peaks]:
        say(f"peaks of {', '.join(map(str, request.threads))} threads")
        return {n: peaks.measure(n, machine) for n in request.threads}

    before = all_peaks()
    measured: list[Measured] = []
    for entry in entries:
        problems = Problems(entry, cfg, request.seed)
        for tokens in request.tokens:
            problem = problems.of(tokens)
            for count in request.threads:
                with torch_threads(count):
                    measured.append(_measure(request, problem, count, copies, say))
    after = all_peaks()
    highest = {n: before[n].best(after[n]) for n in request.threads}
    rows = [row for found in measured for row in found.rows(request.cold, highest[found.threads])]
    return Report(describe(machine, highest), tuple(rows))


def check(request: Request) -> None:
    """Raise ArgumentValueError for a request that makes no sense."""
    unknown = [name for name in request.peers if name not in PEERS]
    if unknown:
        raise ArgumentValueError(
            f"no peer is named {unknown[0]!r}", help=f"there are {', '.join(PEERS)}"
        )
    for name in request.kernels:
        try:
            entry = find(name)
        except KeyError as error:
            raise ArgumentValueError(str(error.args[0])) from error
        if entry.query != "int8":
            raise ArgumentValueError(
                f"{entry.name} has no INT8 product, and roofline and peers are those of one",
                help="`tilewright check` times it beside FP32 Torch",
            )
        if entry.cached:
            raise ArgumentValueError(
                f"{entry.name} writes a cache too, and no peer does",
                help="bench `decode`, which is the same without the cache",
            )
    if request.cold:
        copies_for(work_of(PRESETS[request.preset], 1), host())


def copies_for(work: Work, machine: Machine) -> int:
    """How many copies of the weights a cold run rotates through; raises ArgumentValueError where
    even the most are too small.
    """
    wanted = ceil(COLD * machine.l3 / work.weight_bytes)
    if wanted > MOST_COPIES:
        raise ArgumentValueError(
            f"weights of {work.weight_bytes / 1e6:.1f} MB stay in a cache of"
            f" {machine.l3 / 1e6:.0f} MB whatever is done with {MOST_COPIES} copies of them",
            help="--cold wants a larger preset",
        )
    return max(2, wanted)


def describe(machine: Machine, highest: Mapping[int, Peaks]) -> dict[str, Any]:
    """The machine and the versions that the figures belong to."""
    from tilewright.cli.doctor import cpu_model

    return {
        "cpu": cpu_model(),
        "name": machine.name,
        "cores": machine.cores,
        "l1d": machine.l1d,
        "l2": machine.l2,
        "l3": machine.l3,
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "threads_by": provider().rsplit("/", 1)[-1],
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "llvmlite")},
        },
        "peaks": [asdict(found) for found in highest.values()],
    }


# -- one problem -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What was found for one problem, by who ran it. read: of as many bytes as the weights have, nothing else done."""

    problem: Problem
    threads: int
    results: Mapping[str, Result]
    read: Timing

    def rows(self, cold: bool, highest: Peaks) -> Iterator[Row]:
        """A row of the bound kernel, and one of the unbound kernel if it was measured."""
        work = work_of(self.problem.cfg, self.problem.tokens)
        limit = roof(work, highest, self.read.median)
        peers = {name: found for name, found in self.results.items() if name in PEERS}
        for name in (OURS, UNBOUND):
            if name in self.results:
                yield Row(
                    kernel=self.problem.entry.name,
                    preset=self.problem.cfg.name,
                    tokens=self.problem.tokens,
                    threads=self.threads,
                    bound=name == OURS,
                    cold=cold,
                    ours=self.results[name],
                    peers=peers,
                    roofline_us=limit.seconds * 1e6,
                    bound_by=limit.bound_by,
                    read=self.read,
                    ops=work.int8_ops + work.bf16_ops,
                    weight_bytes=work.weight_bytes,
                )


def _measure(request: Request, problem: Problem, threads: int, copies: int, say: Say) -> Measured:
    """Check everybody's outputs, then time those who run here in turns."""
    title = f"{problem.entry.name} {problem.cfg.name} T={problem.tokens} threads={threads}"
    weights = problem.weights(copies)
    say(f"{title}: {OURS}")
    ways: dict[str, Sequence[Run]] = {OURS: [_bound(problem, w, threads) for w in weights]}
    if request.unbound:
        ways[UNBOUND] = [_unbound(problem, w, threads) for w in weights]
    judged = {name: _judge_ours(problem, runs) for name, runs in ways.items()}
    fewer = {}
    for name in request.peers:
        say(f"{title}: {name}")
        try:
            ways[name], judged[name], fewer[name] = _peer(request, name, problem, weights)
        except Unavailable as reason:
            judged[name] = Result(skipped=str(reason))
    say(f"{title}: {request.rounds} rounds")
    readers = _readers(work_of(problem.cfg, 1).weight_bytes, threads, copies)
    timings = in_turns({**ways, **readers}, request.rounds, request.cold, fewer=fewer)
    results = {name: replace(found, timing=timings.get(name)) for name, found in judged.items()}
    read = min((timings[name] for name in readers), key=lambda timing: timing.median)
    return Measured(problem, threads, results, read)


def _readers(nbytes: int, threads: int, copies: int) -> dict[str, list[Callable[[], None]]]:
    """Calls that read so many bytes, of as many buffers as there are copies of the weights."""
    buffers = [peaks.Buffer(nbytes, threads) for _ in range(copies)]
    return {
        f"read, {streams} streams": [buffer.reader(streams) for buffer in buffers]
        for streams in peaks.STREAMS
    }


def _peer(
    request: Request, name: str, problem: Problem, weights: Sequence[Weights]
) -> tuple[list[Run], Result, int]:
    """A peer's calls, the verdict on its outputs, and in how many rounds it can take part.

    Raises Unavailable where it does not run, or not within its budget.
    """
    peer, budget = PEERS[name](), Budget(request.peer_budget)
    each, first = peer.calls
    beforehand = each * len(weights) + first + 1
    products = peer.products(problem, weights[0])
    if products is not None:
        call = foretell(products, problem.tokens, budget.call(beforehand))
        if call > budget.call(beforehand):
            raise Unavailable(budget.refusal(call))
    runs = peer.build(problem, weights)
    start = time.perf_counter()
    outputs = runs[0]()
    call = time.perf_counter() - start
    verdict = problem.judge(outputs, PEER_ROWS)
    rounds = budget.rounds(call, 1, request.rounds)
    if rounds == 0:
        raise Unavailable(budget.refusal(call))
    return runs, Result(within=verdict.within, passed=verdict.passed), rounds


def _bound(problem: Problem, weights: Weights, threads: int) -> Run:
    """Our kernel with its weights bound; compiled and packed by the first call, which is made."""
    kernel = problem.entry.build(problem.cfg).bind(**weights)
    others = {name: value for name, value in problem.values.items() if name not in WEIGHTS}
    return _ready(kernel, others, threads)


def _unbound(problem: Problem, weights: Weights, threads: int) -> Run:
    """Our kernel as it is: it packs its weights in every call."""
    return _ready(problem.entry.build(problem.cfg), {**problem.values, **weights}, threads)


def _ready(kernel: Any, arguments: dict[str, Any], threads: int) -> Run:
    outputs: Outputs = {name: arguments[name] for name in OUTPUTS}

    def run() -> Outputs:
        kernel.run(**arguments, threads=threads)
        return outputs

    run()
    return run


def _judge_ours(problem: Problem, runs: Sequence[Run]) -> Result:
    """Poison the outputs, run, judge every element; every further copy must give the same bits."""
    found = []
    for run in runs:
        for name in OUTPUTS:
            tensor = problem.values[name]
            tensor.fill_(float("nan") if tensor.is_floating_point() else -128)
        found.append({name: tensor.clone() for name, tensor in run().items()})
    verdict = problem.judge(found[0])
    same = all(found[0][name].equal(other[name]) for other in found[1:] for name in OUTPUTS)
    return Result(within=verdict.within, passed=verdict.passed and same)
