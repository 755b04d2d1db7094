"""What compiling costs: the first process, and those that find the code on disk.

    python benchmarks/compile_time.py [--preset flash] [--runs 7]

Every figure is the median over fresh processes that have imported Torch and the kernel, not llvmlite.
`compile` is what `specialize(...).compile_seconds` says; `wall` is the whole call.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

SHOWN = ("wall", "compile", "reading", "passes", "codegen", "llvm")


def once(kernel: str, preset: str) -> dict[str, float]:
    """Compile in this process; seconds of each part."""
    import torch

    from tilewright.golden import ScalarSpec
    from tilewright.models.deepseek_v4.config import PRESETS
    from tilewright.models.deepseek_v4.registry import Inputs, find

    entry = find(kernel)
    program = entry.build(PRESETS[preset])
    arguments = {
        spec.name: spec.to_python()
        if isinstance(spec, ScalarSpec)
        else torch.empty(spec.shape, dtype=spec.dtype, device="meta")
        for spec in entry.specs(PRESETS[preset], Inputs(entry.tokens, 0))
    }
    started = time.perf_counter()
    special = program.specialize(**arguments)
    wall = time.perf_counter() - started
    stages = special.executable.stages
    (entries,) = program.specializations["state"].entries.values()
    return {
        "wall": wall,
        "compile": special.compile_seconds,
        "reading": entries[0].trace_seconds,
        "passes": stages.passes,
        "codegen": stages.codegen,
        "llvm": stages.llvm,
    }


def fresh(kernel: str, preset: str, folder: str) -> dict[str, float]:
    """`once` in a process of its own."""
    command = [sys.executable, __file__, "--once", "--kernel", kernel, "--preset", preset]
    environment = {**os.environ, "TILEWRIGHT_CACHE": "1", "TILEWRIGHT_CACHE_DIR": folder}
    environment["PYTHONPYCACHEPREFIX"] = (
        folder  # bytecode is there for the second, as when installed
    )
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds: dict[str, float] = json.loads(done.stdout)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", default="prefill_qkv_proj_rope")
    parser.add_argument("--preset", default="flash")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--once", action="store_true", help="in this process; print JSON")
    asked = parser.parse_args()
    if asked.once:
        print(json.dumps(once(asked.kernel, asked.preset)))
        return
    rows: dict[str, list[dict[str, float]]] = {"first": [], "second": []}
    for _ in range(asked.runs):
        with tempfile.TemporaryDirectory() as folder:
            for times in rows.values():
                times.append(fresh(asked.kernel, asked.preset, folder))
    print(f"{asked.kernel} {asked.preset}, ms, median of {asked.runs} (lowest)")
    print("| process | " + " | ".join(SHOWN) + " |")
    print("|---" * (1 + len(SHOWN)) + "|")
    for name, times in rows.items():
        cells = [
            f"{1e3 * statistics.median(t[part] for t in times):.0f}"
            f" ({1e3 * min(t[part] for t in times):.0f})"
            for part in SHOWN
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
