"""Kernels that were written for NPU tiles: what compiling them costs, and how fast they are here.

    python benchmarks/third_party.py [SCRIPT or FOLDER …] [--json FILE] [--passes]

Without arguments: the scripts in benchmarks/third_party, and those in tests/scripts. Each script runs in a
process of its own, as `tilewright run` would have it. Every kernel that it calls is then compiled anew without
the cache, and called with the arguments that the script gave it, natively and by the interpreter.

On one thread, which is the default, all times are processor time, which other processes hardly disturb; on
more, calls are timed by the wall. The best is what the measured peaks of as many threads allow: operations of
products by dtype, or every argument read or written once.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
SCRIPTS = (HERE / "third_party", ROOT / "tests" / "scripts")
GENERATORS = ("deep",)  # modules in third_party that write a script
SECONDS = 0.6  # of timed native calls
MOST_CALLS = 400
INTERPRETED = 3  # calls of the interpreter, as long as they take less than SLOW together
SLOW = 1.0
IN_CACHE = 8 << 20  # bytes: arguments of these kernels are in the last-level cache


@dataclass
class Row:
    """One kernel of a script, for arguments of one signature; times in seconds.

    compile: processor time by part: reading, each pass, codegen, llvm (and `total`).
    ops:     of products, by the dtype of their operands; a multiply-add is two.
    """

    script: str
    kernel: str
    lines: int
    compile: dict[str, float] = field(default_factory=dict)
    llvm_kib: float = 0.0
    native: float = 0.0
    native_least: float = 0.0
    interpreter: float = 0.0
    ops: dict[str, float] = field(default_factory=dict)
    nbytes: int = 0
    at_best: float = 0.0

    @property
    def ratio(self) -> float:
        """How many times as fast as the interpreter."""
        return self.interpreter / self.native

    @property
    def share(self) -> float:
        """Of what this machine can do at best."""
        return self.at_best / self.native_least


# -- in a process of its own -----------------------------------------------------------------------


def once(threads: int, script: Path) -> list[Row]:
    """Run the script, then measure what it called."""
    import torch

    from tilewright.scripts.outcome import Report
    from tilewright.scripts.worker import run_script

    torch.set_num_threads(threads)
    with calls_recorded() as calls:
        report = Report()
        status = run_script(script, [], True, report)
    if status:
        raise SystemExit(f"{script} left with {status}")
    return [measure(script, *call) for call in calls.values()]


@contextmanager
def calls_recorded() -> Iterator[dict[Any, tuple[Any, Any, list[Any]]]]:
    """The first launch of every specialisation within: kernel, its entry, copies of the arguments."""
    jit: Any = importlib.import_module("tilewright.jit")  # the package shows the decorator instead
    launch, calls = jit.launch, {}

    def recorded(kernel: Any, state: Any, bound: Any, *terms: Any) -> Any:
        entry = jit.entry_of(kernel, state, bound)
        if id(entry) not in calls:
            values = [
                bound.values[s.name] for s in state.slots if s.name not in entry.traced.constants
            ]
            values += jit.fresh_results(entry.traced)
            calls[id(entry)] = (kernel, entry, [copied(x) for x in values])
        return launch(kernel, state, bound, *terms)

    jit.launch = recorded
    try:
        yield calls
    finally:
        jit.launch = launch


def copied(x: Any) -> Any:
    import torch

    return x.clone() if isinstance(x, torch.Tensor) else x


def measure(script: Path, kernel: Any, entry: Any, args: list[Any]) -> Row:
    """Compile anew, then time calls."""
    import inspect

    import torch

    from tilewright.interpreter import run
    from tilewright.machine import host
    from tilewright.native import NativeProgram
    from tilewright.passes.prepare import prepare

    lines = sum(len(inspect.getsource(f).splitlines()) for f in reached(kernel))
    row = Row(script.stem, kernel.__name__, lines)
    row.compile, row.llvm_kib = compiled(kernel, entry)
    function = prepare(entry.traced.function, host())
    program = NativeProgram(function)
    row.nbytes = sum(x.numel() * x.element_size() for x in args if isinstance(x, torch.Tensor))
    given = [copied(x) for x in args]
    program.run(given)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: list[float] = []
    while sum(seconds) < SECONDS and len(seconds) < MOST_CALLS:
        started = clock()
        program.run(given)
        seconds.append(clock() - started)
    row.native, row.native_least = median(seconds), min(seconds)
    seconds = []
    while len(seconds) < INTERPRETED and sum(seconds) < SLOW:
        given = [copied(x) for x in args]
        with products_counted() as ops:
            started = clock()
            run(function, given)
            seconds.append(clock() - started)
    row.interpreter, row.ops = median(seconds), dict(ops)
    return row


def reached(kernel: Any) -> list[Any]:
    """The functions of a kernel: its own, and those that its module offers to it."""
    from tilewright.language.kernel import Kernel

    found, work = [], [kernel]
    while work:
        one = work.pop()
        if one in found:
            continue
        found.append(one)
        names = one.function.__code__.co_names
        work += [x for n in names if isinstance(x := one.function.__globals__.get(n), Kernel)]
    return [one.function for one in found]


def compiled(kernel: Any, entry: Any) -> tuple[dict[str, float], float]:
    """Processor seconds of every part of compiling, and KiB of LLVM text."""
    from tilewright.codegen.llvm.module import emit
    from tilewright.machine import host
    from tilewright.passes.pipeline import PIPELINE
    from tilewright.passes.prepare import PREPARE
    from tilewright.runtime import engine
    from tilewright.runtime.collector import collector_waits

    spent: dict[str, float] = {"reading": entry.trace_seconds}
    function, machine = entry.traced.function, host()
    with collector_waits():
        for step in (*PREPARE, *PIPELINE):
            started = time.process_time()
            function = step(function, machine)
            name = step.__name__
            spent[name] = spent.get(name, 0.0) + time.process_time() - started
        started = time.process_time()
        module = emit(function, machine)
        spent["codegen"] = time.process_time() - started
        started = time.process_time()
        engine.compile_object(module.text, machine)
        spent["llvm"] = time.process_time() - started
    spent["total"] = sum(spent.values())
    return spent, len(module.text) / 1024


@contextmanager
def products_counted() -> Iterator[Counter[str]]:
    """Operations of the products that the interpreter computes within, by operand dtype."""
    from tilewright.interpreter.meanings import MEANINGS

    found: Counter[str] = Counter()
    plain = {name: MEANINGS[name] for name in ("matmul", "matmul_acc")}

    def counting(name: str) -> Any:
        def meaning(call: Any, *operands: Any) -> Any:
            m, k, n = operands[-3:]
            *batch, _, _ = call.type.shape
            times = 1
            for extent in batch:
                times *= extent
            found[call.dtype_of(len(operands) - 5).name] += 2 * times * m * k * n
            return plain[name](call, *operands)

        return meaning

    MEANINGS.update({name: counting(name) for name in plain})
    try:
        yield found
    finally:
        MEANINGS.update(plain)


# -- all of them -----------------------------------------------------------------------------------


def scripts_among(paths: list[Path], folder: Path) -> list[Path]:
    """The scripts that golden runs can be expected of; those that are generated are put into `folder`."""
    found = []
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            text = file.read_text(encoding="utf-8")
            if file.stem in GENERATORS:
                written = folder / file.name
                made = subprocess.run(
                    [sys.executable, str(file)], capture_output=True, text=True, check=True
                )
                written.write_text(made.stdout, encoding="utf-8")
                found.append(written)
            elif "__main__" in text and "run" in text:
                found.append(file)
    return found


def in_process(script: Path, threads: int) -> list[Row] | str:
    """`once` in a process of its own; the last line of what it said when it failed."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        done = subprocess.run(
            [sys.executable, __file__, "--once", str(file), "--threads", str(threads), str(script)],
            env={**os.environ, "TILEWRIGHT_CACHE": "0", "TILEWRIGHT_SEED": "0", "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            return (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
        return [Row(**row) for row in json.loads(file.read_text())]


def set_at_best(rows: list[Row], threads: int) -> None:
    """The least times, from peaks that are measured now."""
    from tilewright.bench.peaks import measure as measured
    from tilewright.bench.peaks import read_gbs

    peaks = measured(threads).best(measured(threads))
    read = max(peaks.memory_gbs, read_gbs(IN_CACHE, threads))
    for row in rows:
        rates = {**peaks.gops, "FP16": peaks.gops["FP32"]}
        products = sum(n / (1e9 * rates[dtype]) for dtype, n in row.ops.items())
        row.at_best = max(products, row.nbytes / (1e9 * read))
    shown = ", ".join(f"{name} {rate:.0f}" for name, rate in peaks.gops.items())
    print(f"peaks of {threads} threads, 1e9 a second: {shown}; bytes {read:.0f}\n")


def table(rows: list[Row], passes: bool) -> str:
    """A line a kernel; with `passes`, the dearest five parts of compiling too."""
    lines = [
        "| script: kernel | lines | compile s | passes | codegen | llvm | native ms (least)"
        " | interpreter ms | ratio | Gop | of best |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        own = {k: v for k, v in row.compile.items() if k != "total"}
        inner = sum(own.values()) - own["reading"] - own["codegen"] - own["llvm"]
        gops = sum(row.ops.values()) / 1e9
        lines.append(
            f"| {row.script}: {row.kernel} | {row.lines} | {row.compile['total']:.2f} | {inner:.2f}"
            f" | {own['codegen']:.2f} | {own['llvm']:.2f}"
            f" | {1e3 * row.native:.2f} ({1e3 * row.native_least:.2f}) | {1e3 * row.interpreter:.1f}"
            f" | {row.ratio:.0f} | {gops:.3f} | {row.share:.0%} |"
        )
        if passes:
            dear = sorted(own.items(), key=lambda item: -item[1])[:6]
            lines.append("|   " + ", ".join(f"{k} {v:.3f}" for k, v in dear) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--passes", action="store_true", help="where compiling spends its time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.once:
        asked.once.write_text(
            json.dumps([asdict(row) for row in once(asked.threads, *asked.paths)])
        )
        return
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for script in scripts_among(asked.paths or list(SCRIPTS), Path(folder)):
            found = in_process(script, asked.threads)
            if isinstance(found, str):
                print(f"{script.stem}: {found}", file=sys.stderr)
            else:
                rows += found
    set_at_best(rows, asked.threads)
    print(table(rows, asked.passes))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
