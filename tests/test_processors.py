"""The Q/KV kernels as other x86 processors run them, on this one: whole kernels, bound and not, against the
reference. Where this processor has what the other has, its own instructions run; else tests/stand_in.py.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import stand_in
import torch
from native import MACHINES

from tilewright.codegen.llvm.microkernel import choose
from tilewright.dtypes import BF16, INT8
from tilewright.golden import ScalarSpec, run_jit
from tilewright.machine import host
from tilewright.models.deepseek_v4.config import DEMO, FLASH, Config
from tilewright.models.deepseek_v4.registry import Inputs, find

OTHERS = ("avx512-vnni-bf16", "avx512", "avx2-vnni", "avx2", "x86-64")
INSTRUCTIONS = {
    "avx512-vnni-bf16": ("i8_vnni", "bf16_dot"),
    "avx512": ("i8_madd", "bf16_wide"),
    "avx2-vnni": ("i8_vnni", "bf16_wide"),
    "avx2": ("i8_madd", "bf16_wide"),
    "x86-64": ("i8_madd", "bf16_wide"),
}
OUTPUTS = ("q", "kv", "qr", "qr_scale")


@pytest.fixture(params=OTHERS)
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its name; the compiler writes code for it until the test ends."""
    machine = MACHINES[request.param]()
    if host().is_aarch64:
        pytest.skip("code for x86 does not run on Arm")
    stand_in.become(machine, monkeypatch)
    return str(request.param)


def fresh(name: str, cfg: Config) -> Any:
    """The kernel without any code that this process has compiled for it."""
    module = importlib.import_module(f"tilewright.models.deepseek_v4.{find(name).name}")
    return module.build.__wrapped__(cfg)


def right(name: str, cfg: Config, tokens: int) -> None:
    entry = find(name)
    result = run_jit(
        fresh(name, cfg),
        entry.specs(cfg, Inputs(tokens, seed=tokens)),
        golden_fn=entry.golden(cfg),
        runtime_cfg={"log_level": "quiet", "threads": 2},
        compare_fn=entry.checks(cfg),
        strict=True,
    )
    assert result.passed, result


def test_each_multiplies_with_its_own_instructions(processor: str) -> None:
    machine = MACHINES[processor]()
    kernels = [choose(dtype, machine).name for dtype in (INT8, BF16)]
    assert [
        name.startswith(family)
        for name, family in zip(kernels, INSTRUCTIONS[processor], strict=True)
    ] == [True, True], kernels


@pytest.mark.parametrize("tokens", [1, 3, 7, 130])
def test_prefill_is_right_on(processor: str, tokens: int) -> None:
    right("prefill", DEMO, tokens)


@pytest.mark.parametrize("tokens", [1, 9])
def test_the_bf16_query_is_right_on(processor: str, tokens: int) -> None:
    right("decode_bf16", DEMO, tokens)


def test_full_size_is_right_on(processor: str) -> None:
    right("decode", FLASH, 7)  # K in several pieces, and one register tile more than full


def test_bound_weights_chunks_and_threads_change_no_bit_on(processor: str) -> None:
    values = {
        s.name: s.to_python() if isinstance(s, ScalarSpec) else s.create_tensor()
        for s in find("prefill").specs(DEMO, Inputs(40, start_pos=5, seed=1))
    }
    kernel = fresh("prefill", DEMO)

    def outputs(run: Any, first: int, count: int, **how: Any) -> list[torch.Tensor]:
        given = dict(values)
        given["x"] = values["x"][first : first + count].contiguous()
        given["start_pos"] = 5 + first
        for name in OUTPUTS:
            given[name] = torch.zeros_like(values[name][:count])
        run(given, how)
        return [given[name] for name in OUTPUTS]

    whole = outputs(lambda given, how: kernel.run(*given.values(), **how), 0, 40, threads=1)
    weights = {name: values[name] for name in ("wq_a", "wq_b", "wkv")}
    bound = kernel.bind(**weights)

    def by_bound(given: dict[str, Any], how: dict[str, Any]) -> None:
        bound.run(**{name: x for name, x in given.items() if name not in weights}, **how)

    for first, count, threads in ((0, 40, 3), (0, 1, 2), (39, 1, 1), (3, 7, 2), (7, 25, 2)):
        parts = outputs(by_bound, first, count, threads=threads)
        for name, part, all_rows in zip(OUTPUTS, parts, whole, strict=True):
            assert torch.equal(part, all_rows[first : first + count]), (name, first, count)
