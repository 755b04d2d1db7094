"""What a call takes in memory beside its arguments and its results, for short and long prompts.

    python benchmarks/context_memory.py [--preset flash] [--tokens 512,2048,16384]

Each row is a fresh process: weights are packed, then one call is made. `peak` is how far resident memory rose in
that call at most, `results` what the outputs take of it, `beside` the rest, in MB: scratch, and code read from disk.
Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

WAYS = {
    "module": "`QKVProjRope`",
    "padding": "with every eighth row padding",
    "cache": "with a window of 128 as cache",
    "prefill_qkv_proj_rope": "prefill kernel, one launch",
    "qkv_proj_rope": "decode kernel, one launch",
    "qkv_proj_rope_cached": "cached kernel, one launch",
}
COLUMNS = ("results", "peak", "beside")
START = 1000  # any position


def status(word: str) -> float:
    """MB: VmRSS is what of this process is in memory, VmHWM the most since `clear_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(word):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {word}")


def clear_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def once(preset: str, tokens: int, way: str) -> dict[str, float]:
    """One call in this process; MB of it."""
    import torch

    from tilewright.models.deepseek_v4.config import PRESETS

    cfg = replace(PRESETS[preset], max_positions=1 << 20)
    x = torch.ones(tokens, cfg.hidden_size, dtype=torch.bfloat16)
    call = of_kernel(cfg, way, x) if "_rope" in way else of_module(cfg, way, x)
    ctypes.CDLL(None).malloc_trim(
        0
    )  # what preparing took and freed is not to be had again for nothing
    before = status("VmRSS")
    clear_peak()
    made = call()
    peak = status("VmHWM") - before
    results = sum(y.nbytes for y in made) / 1e6
    assert all(bool(y[0].any()) for y in made)
    return {"results": results, "peak": peak, "beside": peak - results}


def of_module(cfg: Any, way: str, x: Any) -> Callable[[], Any]:
    import torch

    from tilewright.models.deepseek_v4.module import QKVProjRope, buffers
    from tilewright.models.deepseek_v4.slots import window_slots

    ones = {n: torch.ones(shape, dtype=dtype) for n, (shape, dtype) in buffers(cfg).items()}
    layer = QKVProjRope(cfg, ones)
    positions = torch.arange(len(x)) + START
    more: dict[str, Any] = {}
    if way == "padding":
        positions[7::8] = -1
    if way == "cache":
        more["cache"] = torch.zeros(1, 128, cfg.head_dim, dtype=torch.bfloat16)
        more["slots"] = window_slots(positions, 128)

    def call() -> Any:
        return layer(x, position_ids=positions, **more)

    short = {n: t[:1] if n == "slots" else t for n, t in more.items()}
    layer(x[:1], position_ids=positions[:1], **short)  # packs the weights
    return call


def of_kernel(cfg: Any, way: str, x: Any) -> Callable[[], Any]:
    import torch

    from tilewright.golden import ScalarSpec
    from tilewright.models.deepseek_v4.registry import Inputs, find

    entry = find(way)
    specs = {s.name: s for s in entry.specs(cfg, Inputs(len(x), 0, max_seq=len(x)))}
    values: dict[str, Any] = {}
    for name, spec in specs.items():
        if isinstance(spec, ScalarSpec):
            values[name] = spec.to_python()
        elif name in ("slots", "cache", "rope_cos", "rope_sin"):
            values[name] = spec.create_tensor()
        elif spec.is_output:
            values[name] = torch.empty(tuple(spec.shape), dtype=spec.dtype)  # no pages yet
        else:
            values[name] = torch.ones(tuple(spec.shape), dtype=spec.dtype)
    values["x"] = x
    kernel = entry.build(cfg).bind(**{n: values.pop(n) for n in ("wq_a", "wq_b", "wkv")})
    kernel.specialize(**values)
    results = [values[n] for n in ("q", "kv", "qr", "qr_scale")]

    def call() -> Any:
        kernel(**values)
        return results

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="flash")
    parser.add_argument("--tokens", default="512,2048,16384")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--once", choices=WAYS, help="in this process; print JSON")
    asked = parser.parse_args()
    counts = [int(n) for n in asked.tokens.split(",")]
    if asked.once:
        print(json.dumps(once(asked.preset, counts[0], asked.once)))
        return
    print(f"{asked.preset}, MB of resident memory")
    print("| call | tokens | " + " | ".join(COLUMNS) + " |")
    print("|---" * (2 + len(COLUMNS)) + "|")
    for way in asked.ways.split(","):
        for tokens in counts:
            command = [sys.executable, __file__, "--once", way]
            command += ["--preset", asked.preset, "--tokens", str(tokens)]
            for _ in range(2):  # the second finds the code on disk: compiling takes memory too
                done = subprocess.run(command, capture_output=True, text=True, check=True)
            mb = json.loads(done.stdout)
            figures = " | ".join(f"{mb[column]:.1f}" for column in COLUMNS)
            print(f"| {WAYS[way]} | {tokens} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
