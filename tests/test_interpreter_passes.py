"""After every pass, the interpreter gets the bits that it got from the author's program.

One pass may move the last bits of FP32 here, once: merge_products makes one product of a chain, and the
interpreter rounds to FP32 after every link. (Native code does not: there the chain is one accumulation.)
"""

from __future__ import annotations

import torch
from pl_programs import traced

import tilewright.language as pl
from tilewright.interpreter import run
from tilewright.ir.nodes import Function
from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.machine import host
from tilewright.passes.pipeline import lower, prepare

T, D, N, EPS = 13, 128, 64, 1e-6


@pl.jit
def normed_product(
    x: pl.Tensor,
    gamma: pl.Tensor,
    w: pl.Tensor,
    start: pl.Scalar[pl.INT32],
    y: pl.Out[pl.Tensor],
    amax: pl.Out[pl.Tensor],
):
    normed = pl.create_tensor([T, D], dtype=pl.BF16)
    for t0 in pl.parallel(0, T, 4):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="norm"):
            rows = pl.min(4, T - t0)
            part = pl.cast(
                pl.slice(x, [4, D], [start + t0, 0], valid_shape=[rows, D]), target_type=pl.FP32
            )
            mean = pl.mul(pl.row_sum(pl.mul(part, part)), 1.0 / D)
            unit = pl.row_expand_mul(part, pl.rsqrt(pl.add(mean, EPS)))
            scaled = pl.col_expand_mul(unit, gamma[:, :])
            normed[t0 : t0 + 4, :] = pl.cast(scaled, target_type=pl.BF16, mode="rint")
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="product"):
        acc = pl.create_tensor([T, N], dtype=pl.FP32)
        for k in pl.pipeline(D // 32, stage=2):
            a = normed[:, k * 32 : k * 32 + 32]
            b = w[k * 32 : k * 32 + 32, :]
            if k == 0:
                acc = pl.matmul(a, b, out_dtype=pl.FP32)
            else:
                acc = pl.matmul_acc(acc, a, b)
        amax[:, :] = pl.row_max(pl.abs(acc))
        y[:, :] = pl.cast(acc, target_type=pl.BF16, mode="rint")


def test_no_pass_changes_a_bit_of_what_the_interpreter_computes():
    torch.manual_seed(5)
    x, gamma = torch.randn(20, D).bfloat16(), torch.randn(1, D)
    w = torch.randn(D, N).bfloat16()

    def outputs() -> list[torch.Tensor]:
        return [torch.full((T, N), 7.0).bfloat16(), torch.full((T, 1), 7.0)]

    def results(function: Function, **options) -> list[torch.Tensor]:
        out = outputs()
        run(function, [x, gamma, w, 5, *out], **options)
        return out

    program = traced(normed_product, x, gamma, w, 5, *outputs()).function
    wanted = results(program)
    seen = []

    def observe(name: str, function: Function) -> None:
        seen.append(name)
        if name == "merge_products":
            merged = results(function)
            torch.testing.assert_close(merged[1], wanted[1], rtol=1e-5, atol=0)  # amax, FP32
            assert (merged[0] != wanted[0]).float().mean() < 0.01  # y, BF16: one step, rarely
            wanted[:] = merged
        for options in ({}, {"poison": True}, {"order": "shuffled"}):
            got = results(function, **options)
            assert all(map(torch.equal, got, wanted)), f"after {name} with {options}"
        assert parse(to_text(function)) == function, f"after {name}"

    lower(prepare(program, host(), observe), host(), observe)
    assert len(seen) > 5
