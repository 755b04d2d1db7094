"""What binding weights costs in memory: the tensors, their packed copies, and the peak on the way.

    python benchmarks/bind_memory.py [--preset flash] [--tokens 128]

Resident memory of fresh processes, in MB: before the weights are made, with them, after `bind` and the first
call, and once the caller has dropped the tensors; `peak` is the highest of all. Linux only.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from pathlib import Path

STAGES = ("before", "weights", "bound", "dropped", "peak")


def resident(word: str = "VmRSS") -> float:
    """MB of this process that are in memory; VmHWM: at most so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(word):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {word}")


def once(preset: str, tokens: int, release: bool) -> dict[str, float]:
    """Bind and call in this process; MB at each stage."""
    import torch

    from tilewright.bench.problem import OUTPUTS, WEIGHTS
    from tilewright.golden import ScalarSpec
    from tilewright.models.deepseek_v4.config import PRESETS
    from tilewright.models.deepseek_v4.registry import Inputs, find

    cfg, entry = PRESETS[preset], find("prefill")
    specs = {s.name: s for s in entry.specs(cfg, Inputs(tokens, 0, max_seq=tokens))}
    # Drawing weights takes memory of its own; zeros that were written to take what the weights take.
    shapes = {name: (tuple(specs[name].shape), specs[name].dtype) for name in WEIGHTS}
    others = {
        name: s.to_python() if isinstance(s, ScalarSpec) else s.create_tensor()
        for name, s in specs.items()
        if name not in WEIGHTS
    }
    import llvmlite.binding  # noqa: F401  (not the weights' memory)

    entry.build(cfg).specialize(
        **{n: torch.empty(s, dtype=d, device="meta") for n, (s, d) in shapes.items()}, **others
    )
    found = {"before": resident()}
    weights = {n: torch.ones(shape, dtype=dtype) for n, (shape, dtype) in shapes.items()}
    found["weights"] = resident()
    kernel = entry.build(cfg).bind(release=release, **weights)
    kernel(**others)
    found["bound"] = resident()
    del weights
    gc.collect()
    found["dropped"], found["peak"] = resident(), resident("VmHWM")
    kernel(**others)
    assert all(others[name].any() for name in OUTPUTS)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="flash")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--once", choices=("keep", "release"), help="in this process; print JSON")
    asked = parser.parse_args()
    if asked.once:
        print(json.dumps(once(asked.preset, asked.tokens, asked.once == "release")))
        return
    print(f"{asked.preset}, {asked.tokens} tokens, MB of resident memory")
    print("| bind(...) | " + " | ".join(STAGES) + " |")
    print("|---" * (1 + len(STAGES)) + "|")
    for way, title in (("keep", "release=False"), ("release", "release=True")):
        command = [sys.executable, __file__, "--once", way]
        command += ["--preset", asked.preset, "--tokens", str(asked.tokens)]
        for _ in range(2):  # the second finds the code on disk: compiling takes memory too
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        mb = json.loads(done.stdout)
        print(f"| {title} | " + " | ".join(f"{mb[stage]:.0f}" for stage in STAGES) + " |")


if __name__ == "__main__":
    main()
