"""The kernel's calls in one run: arguments, poison, guards, and the same bits every time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tilewright.errors import SpecError, author_line
from tilewright.golden.guards import POISONS, Guarded, guarded
from tilewright.golden.result import Bench
from tilewright.golden.spec import Spec, TensorSpec
from tilewright.jit import filled


class Launch:
    """The kernel's calls: arguments, poison, guards, repeated runs."""

    def __init__(
        self,
        fn: Any,
        specs: Sequence[Spec],
        values: Mapping[str, Any],
        snapshot: Mapping[str, Tensor],
        backend: str | None,
        threads: int | None,
        strict: bool,
    ) -> None:
        self.fn, self.specs, self.snapshot = fn, specs, snapshot
        self.options = {
            k: v for k, v in (("backend", backend), ("threads", threads)) if v is not None
        }
        self.arguments = dict(values)
        self.guards: dict[str, Guarded] = {}
        self.found: list[str] = []
        if strict:
            for spec in outputs_of(specs):
                self.guards[spec.name] = guarded(values[spec.name])
                self.arguments[spec.name] = self.guards[spec.name].tensor
        self.outputs: dict[str, Tensor] = {}

    def run(self, repeats: int, warmup: int = 0) -> Bench:
        """The validated call, then `repeats` warm ones that must give the same bits.

        `warmup` calls come before these and are not in the figures.
        """
        first = self._call(POISONS[0])
        self.outputs = {
            spec.name: self.arguments[spec.name].clone() for spec in outputs_of(self.specs)
        }
        warm = []
        for number in range(1, warmup + repeats + 1):
            warm.append(self._call(POISONS[number % 2]))
            if number == 1:
                self._compare_bits()
        return Bench(first, tuple(warm[warmup:]))

    def problems(self, snapshot: Mapping[str, Tensor]) -> list[str]:
        """What went wrong beside the values of the outputs."""
        if self.guards:
            for spec in self.specs:
                read_only = isinstance(spec, TensorSpec) and spec.role == "input"
                if read_only and not same_bits(self.arguments[spec.name], snapshot[spec.name]):
                    self.found.append(f"'{spec.name}': the kernel wrote to this input")
        return list(dict.fromkeys(self.found))

    def _call(self, poison: int) -> float:
        for spec in outputs_of(self.specs):
            guard = self.guards.get(spec.name)
            if guard is not None:
                guard.poison(poison)
            if spec.role == "in-out":
                self.arguments[spec.name].copy_(self.snapshot[spec.name])
        args = [self.arguments[spec.name] for spec in given_to(self.fn, self.specs)]
        call = self.fn.run if self.options else self.fn
        held = [self.arguments[s.name] for s in outputs_of(self.specs) if s.role == "in-out"]
        with filled(held):
            started = time.perf_counter()
            result = call(*args, **self.options)
            seconds = time.perf_counter() - started
        self._keep(result, self.specs[len(args) :])
        for name, guard in self.guards.items():
            trespass = guard.trespass(poison)
            if trespass:
                self.found.append(f"'{name}': {trespass}")
        return seconds

    def _keep(self, result: Any, specs: Sequence[Spec]) -> None:
        """Copy what a call in return style gave to the outputs that it stands for."""
        if not specs:
            return
        results = result if isinstance(result, tuple) else (result,)
        wanted = [f"{spec.name} {list(self.arguments[spec.name].shape)}" for spec in specs]
        if len(results) != len(specs) or not all(isinstance(r, Tensor) for r in results):
            names = list(self.fn.signature.parameters)
            given = [s for s in self.specs if not (isinstance(s, TensorSpec) and s.is_output)]
            stray = [s.name for s in given if s.name not in names]
            raise SpecError(
                f"the kernel takes {len(self.specs) - len(specs)} arguments and returns "
                f"{len(results) if result is not None else 'nothing'}, wanted {', '.join(wanted)}",
                author_line(),
                notes=[f"no parameter is called {name!r}" for name in stray],
                help=f"one spec for each of {', '.join(names)}, in this order; results follow",
            )
        for spec, found in zip(specs, results, strict=True):
            target = self.arguments[spec.name]
            if found.shape != target.shape or found.dtype != target.dtype:
                raise SpecError(
                    f"the kernel returns {list(found.shape)} {found.dtype} for {spec.name!r}, "
                    f"wanted {list(target.shape)} {target.dtype}",
                    getattr(spec, "place", None),
                    help="correct the spec, or what the kernel creates",
                )
            target.copy_(found)

    def _compare_bits(self) -> None:
        """Another poison, the same result: nothing was left unwritten, nothing depends on luck."""
        for name, before in self.outputs.items():
            after = self.arguments[name]
            if not same_bits(before, after):
                changed = int((bytes_of(before) != bytes_of(after)).sum())
                self.found.append(
                    f"'{name}': {changed} bytes differ between two runs; "
                    "an element is never written, or the kernel is not deterministic"
                )


def given_to(fn: Any, specs: Sequence[Spec]) -> list[Spec]:
    """The specs that are arguments; in return style the outputs that the kernel has no parameters for come last."""
    signature = getattr(fn, "signature", None)
    if signature is None:
        return list(specs)
    count = min(len(signature.parameters), len(specs))
    results = all(isinstance(s, TensorSpec) and s.role == "output" for s in specs[count:])
    return list(specs[:count] if results else specs)


def bytes_of(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(bytes_of(a), bytes_of(b))


def outputs_of(specs: Sequence[Spec]) -> list[TensorSpec]:
    """The specs of outputs and in-outs."""
    return [spec for spec in specs if isinstance(spec, TensorSpec) and spec.is_output]
