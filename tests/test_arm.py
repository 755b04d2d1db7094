"""Whole kernels as Arm code, run under emulation and judged like any other."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from emulator import run_program
from native import machine_named

import tilewright.language as pl
from tilewright.golden import Case, ScalarSpec
from tilewright.golden.validate import judge_outputs
from tilewright.ir.nodes import Function
from tilewright.models.deepseek_v4.config import DEMO
from tilewright.models.deepseek_v4.registry import Inputs, find

OUTPUTS = ("q", "kv", "qr", "qr_scale")
every_arm = pytest.mark.parametrize("name", ["arm", "arm-dot", "arm-matrix"])


@pl.jit
def scaled_product(
    x: pl.Tensor[[13, 37], pl.INT8],
    w: pl.Tensor[[37, 90], pl.INT8],
    gain: pl.Tensor[[13, 1], pl.FP32],
    y: pl.Out[pl.Tensor[[13, 90], pl.BF16]],
):
    """A K that no group of K divides, columns that fill no vector, rows that fill no tile."""
    for n0 in pl.parallel(0, 90, 45):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="scaled"):
            acc = pl.matmul(x, w[:, n0 : n0 + 45], out_dtype=pl.INT32)
            wide = pl.cast(acc, target_type=pl.FP32, mode="rint")
            y[:, n0 : n0 + 45] = pl.cast(
                pl.row_expand_mul(wide, gain), target_type=pl.BF16, mode="rint"
            )


def program(kernel: Any, args: list[Any]) -> Function:
    function: Function = kernel.specialize(*args, backend="interpreter").function
    return function


@every_arm
def test_a_small_kernel_gives_the_bits_of_the_interpreter(name: str) -> None:
    machine = machine_named(name)
    draw = torch.Generator().manual_seed(4)
    x, w = (
        torch.randint(-128, 128, s, generator=draw).to(torch.int8) for s in ((13, 37), (37, 90))
    )
    gain = torch.rand(13, 1, generator=draw)
    want, got = (torch.full((13, 90), float("nan"), dtype=torch.bfloat16) for _ in range(2))
    scaled_product.run(x, w, gain, want, backend="interpreter")
    run_program(program(scaled_product, [x, w, gain, got]), machine, [x, w, gain, got])
    assert got.view(torch.int16).equal(want.view(torch.int16))


@cache
def inputs(tokens: int) -> dict[str, Any]:
    """The arguments of prefill at DEMO size, outputs poisoned."""
    specs = find("prefill").specs(DEMO, Inputs(tokens, 0, max_seq=64, seed=5))
    values = {
        s.name: s.to_python() if isinstance(s, ScalarSpec) else s.create_tensor() for s in specs
    }
    for name in OUTPUTS:
        values[name].fill_(float("nan") if values[name].is_floating_point() else 77)
    return values


def prefill(name: str, values: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The outputs on an Arm machine."""
    machine = machine_named(name)
    own = {n: v.clone() if n in OUTPUTS else v for n, v in values.items()}
    args = list(own.values())
    run_program(program(find("prefill").build(DEMO), args), machine, args)
    return {n: own[n] for n in OUTPUTS}


@every_arm
def test_prefill_is_right(name: str) -> None:
    values, entry = inputs(7), find("prefill")
    actual = prefill(name, values)
    expected = entry.reference(values, DEMO, torch.float64)
    reports = judge_outputs(Case(actual, expected, values), compare_fn=entry.checks(DEMO))
    assert {r.name: r.passed for r in reports} == dict.fromkeys(OUTPUTS, True)


def test_a_token_has_the_same_bits_alone_and_beside_an_odd_number_of_others() -> None:
    """Matrix instructions take rows in pairs; the last of three has an empty neighbour."""
    values = inputs(7)
    whole = prefill("arm-matrix", values)
    first = {n: v[:3] if n in (*OUTPUTS, "x") else v for n, v in values.items()}
    part = prefill("arm-matrix", first)
    for name in OUTPUTS:
        assert part[name].equal(whole[name][:3]), name
