"""The CPU that code is made for: its LLVM name and features, cores, caches and vector width."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

KIB = 1024
MIB = 1024 * KIB

# Modest sizes that hold on nearly every core of the last ten years, for systems that do not tell.
DEFAULT_CACHES = {1: 32 * KIB, 2: 512 * KIB, 3: 8 * MIB}

SSE = frozenset({"sse", "sse2", "cx8", "fxsr", "mmx", "64bit"})
AVX2 = SSE | {
    "sse3",
    "ssse3",
    "sse4.1",
    "sse4.2",
    "popcnt",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "bmi",
    "bmi2",
    "lzcnt",
    "movbe",
}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@dataclass(frozen=True, slots=True)
class Machine:
    """One CPU model as code generation sees it.

    name:     LLVM's CPU name, `generic` when unknown.
    features: LLVM feature names that may be used; `absent`: those that must not be, whatever the
              name implies.
    l1d, l2, l3: bytes of data cache as seen from one core.
    """

    name: str
    triple: str
    features: frozenset[str]
    absent: frozenset[str] = frozenset()
    cores: int = 1
    l1d: int = DEFAULT_CACHES[1]
    l2: int = DEFAULT_CACHES[2]
    l3: int = DEFAULT_CACHES[3]

    def has(self, *features: str) -> bool:
        """Whether every one of the named LLVM features may be used."""
        return self.features.issuperset(features)

    def without(self, *features: str) -> Machine:
        """The same machine without these features and without those that build on them."""
        gone = frozenset(
            f for f in self.features | set(features) if any(_needs(f, g) for g in features)
        )
        return replace(self, features=self.features - gone, absent=self.absent | gone)

    @property
    def is_x86(self) -> bool:
        return self.triple.startswith(("x86_64", "i686", "amd64"))

    @property
    def is_aarch64(self) -> bool:
        return self.triple.startswith(("aarch64", "arm64"))

    @property
    def vector_bits(self) -> int:
        """Width of the vectors that code is written for."""
        if self.has("avx512f", "avx512bw", "avx512vl"):
            return 512
        return 256 if self.has("avx2") else 128

    @property
    def vector_registers(self) -> int:
        """How many of them there are."""
        return 32 if self.is_aarch64 or self.vector_bits == 512 else 16

    @property
    def target_features(self) -> str:
        """The feature string for LLVM; every feature is named, so the string says all there is to
        say.
        """
        on = [f"+{f}" for f in sorted(self.features)]
        off = [f"-{f}" for f in sorted(self.absent)]
        # Some CPU names ask LLVM to split 512-bit vectors in two; our tiles are sized for whole
        # ones.
        whole = ["-prefer-256-bit"] if self.vector_bits == 512 else []
        return ",".join(on + off + whole)


def _needs(feature: str, base: str) -> bool:
    """Whether an x86 feature cannot be had without `base` (or is `base`)."""
    if feature == base:
        return True
    wide = feature.startswith(("avx512", "avx10"))
    if base == "avx512f":
        return wide
    if base == "avx512bw":
        return feature in ("avx512vbmi", "avx512vbmi2", "avx512bitalg", "avx512bf16", "avx512fp16")
    if base == "avx2":
        return wide or feature.startswith(("avxvnni", "avxifma", "avxneconvert", "vaes", "vpclmul"))
    if base == "avx":
        return feature.startswith(("avx", "vaes", "vpclmul")) or feature in (
            "fma",
            "f16c",
            "fma4",
            "xop",
        )
    return False


def generic_x86_64() -> Machine:
    """Any 64-bit x86: SSE2 and nothing more."""
    return Machine("x86-64", "x86_64-unknown-linux-gnu", SSE)


def avx2(*more: str) -> Machine:
    """An x86 of the Haswell class (AVX2, FMA, F16C), with `more` features such as `avxvnni`."""
    return Machine("x86-64-v3", "x86_64-unknown-linux-gnu", AVX2 | set(more))


def avx512(*more: str) -> Machine:
    """An x86 of the Skylake server class, with `more` features such as `avx512vnni`,
    `avx512bf16`.
    """
    return Machine("x86-64-v4", "x86_64-unknown-linux-gnu", AVX512 | set(more))


def aarch64(*more: str) -> Machine:
    """Any 64-bit Arm with NEON, with `more` features such as `dotprod`, `bf16`."""
    return Machine("generic", "aarch64-unknown-linux-gnu", frozenset({"neon", "fp-armv8", *more}))


@cache
def host() -> Machine:
    """The machine that this process runs on. Asks LLVM on first use; an unknown CPU is a generic
    one.
    """
    import llvmlite.binding as llvm

    name, triple, known = (
        llvm.get_host_cpu_name() or "generic",
        llvm.get_process_triple(),
        llvm.get_host_cpu_features(),
    )
    features = frozenset(feature for feature, on in known.items() if on)
    if triple.startswith(("aarch64", "arm64")):
        features |= {"neon", "fp-armv8"} | _arm_features(Path("/proc/cpuinfo"), name)
    caches = {**DEFAULT_CACHES, **_caches(Path("/sys/devices/system/cpu/cpu0/cache"))}
    return Machine(
        name=name,
        triple=triple,
        features=features,
        absent=frozenset(known) - features,
        cores=_cores(),
        l1d=caches[1],
        l2=caches[2],
        l3=caches[3],
    )


def _arm_features(listing: Path, name: str) -> frozenset[str]:
    """The Arm features that our kernels use and that LLVM does not always report for the host."""
    if name.startswith("apple-"):
        return frozenset({"dotprod"})  # all of Apple's 64-bit processors for desktops
    try:
        lines = listing.read_text().splitlines()
    except OSError:
        return frozenset()
    listed = next(
        (line.split(":", 1)[1].split() for line in lines if line.startswith("Features")), []
    )
    names = {"asimddp": "dotprod", "bf16": "bf16", "i8mm": "i8mm"}
    return frozenset(names[feature] for feature in listed if feature in names)


def _cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _caches(folder: Path) -> dict[int, int]:
    """Bytes of each level of data cache as Linux lists them; levels it does not list are left
    out.
    """
    sizes: dict[int, int] = {}
    for index in sorted(folder.glob("index*")):
        try:
            if (index / "type").read_text().strip() == "Instruction":
                continue
            level = int((index / "level").read_text())
            sizes[level] = _size((index / "size").read_text().strip())
        except (OSError, ValueError):
            continue  # a container may hide some of these files; the defaults stand in
    return sizes


def _size(text: str) -> int:
    """`48K` -> 49152."""
    unit = {"K": KIB, "M": MIB, "G": KIB * MIB}.get(text[-1:])
    return int(text[:-1]) * unit if unit else int(text)
