"""`tilewright doctor`: this machine, and what the compiler will use of it."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from tilewright.cli.cache import summary
from tilewright.cli.console import console, size
from tilewright.knobs import KNOBS

PACKAGES = ("torch", "llvmlite", "numpy")
# Features that decide which instructions a product is made of; the rest is left to LLVM.
WATCHED = (
    *("avx2", "fma", "f16c", "avxvnni", "avx512f", "avx512bw", "avx512vl", "avx512vnni"),
    *("avx512bf16", "avx512fp16", "amx-int8", "amx-bf16"),
    *("neon", "dotprod", "i8mm", "bf16", "sve"),
)


def doctor() -> None:
    """Say what CPU was found, what the compiler will use of it, versions and knobs."""
    import torch  # noqa: F401  (its OpenMP team is the one that kernels run on)

    from tilewright.codegen.llvm.microkernel import choose
    from tilewright.dtypes import BF16, FP16, FP32, INT8
    from tilewright.machine import host
    from tilewright.runtime.threads import provider

    machine = host()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("CPU", f"{cpu_model()} ({machine.name}, {machine.triple})")
    table.add_row("cores", f"{machine.cores} usable, threads by {provider()}")
    table.add_row(
        "caches",
        f"L1d {size(machine.l1d)}   L2 {size(machine.l2)}   L3 {size(machine.l3)}, seen by a core",
    )
    table.add_row(
        "features", " ".join(f for f in WATCHED if machine.has(f)) or "none that matter here"
    )
    table.add_row("vectors", f"{machine.vector_registers} registers of {machine.vector_bits} bits")
    for dtype in (INT8, BF16, FP16, FP32):
        kernel = choose(dtype, machine)
        table.add_row(
            f"{dtype} product",
            f"{kernel.name}, tiles of {kernel.mr} x {16 * kernel.nr} accumulators",
        )
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    table.add_row("versions", "   ".join(versions))
    table.add_row("compiled code", escape(summary()))
    for knob in KNOBS:
        state = escape(knob.value or "empty")
        table.add_row(
            knob.name, f"{state}{'' if knob.value == knob.default else ' (set)'}   {knob.meaning}"
        )
    console().print(table)


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name as the system gives it."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
