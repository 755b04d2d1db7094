"""Kernel-library factories: every kernel a class made by a function of a config; a table of them is run."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import torch

import pypto.language as pl


class Act(enum.Enum):
    NONE = "none"
    RELU = "relu"
    GELU = "gelu_tanh"
    SILU = "silu"


@dataclasses.dataclass(frozen=True)
class GemmConfig:
    m: int = 64
    n: int = 96
    k: int = 128
    bm: int = 32
    bn: int = 32
    bk: int = 64
    act: Act = Act.NONE
    bias: bool = False

    def __post_init__(self) -> None:
        assert self.m % self.bm == 0
        assert self.n % self.bn == 0
        assert self.k % self.bk == 0


SQRT_2_PI = math.sqrt(2.0 / math.pi)


def build_gemm(cfg: GemmConfig = GemmConfig()) -> Any:
    M, N, K = cfg.m, cfg.n, cfg.k
    BM, BN, BK = cfg.bm, cfg.bn, cfg.bk
    k_steps = K // BK
    relu, gelu, silu = (cfg.act == a for a in (Act.RELU, Act.GELU, Act.SILU))
    with_bias = cfg.bias
    coeff = 0.044715

    @pl.program
    class Gemm:
        @pl.function(type=pl.FunctionType.Opaque)
        def gemm(
            self,
            a: pl.Tensor[[M, K], pl.BF16],
            b: pl.Tensor[[K, N], pl.BF16],
            bias: pl.Tensor[[1, N], pl.FP32],
            c: pl.Out[pl.Tensor[[M, N], pl.FP32]],
        ) -> pl.Tensor[[M, N], pl.FP32]:
            with pl.at(level=pl.Level.CORE_GROUP, optimizations=[pl.auto_chunk], name_hint="gemm"):
                for mi in pl.parallel(0, M, BM, chunk=2):
                    for ni in pl.parallel(0, N, BN, chunk=2):
                        a0 = pl.slice(a, [BM, BK], [mi, 0])
                        b0 = pl.slice(b, [BK, BN], [0, ni])
                        acc = pl.matmul(a0, b0, out_dtype=pl.FP32)
                        for ki in pl.range(1, k_steps):
                            ai = pl.slice(a, [BM, BK], [mi, ki * BK])
                            bi = pl.slice(b, [BK, BN], [ki * BK, ni])
                            acc = pl.matmul_acc(acc, ai, bi)
                        if with_bias:
                            acc = pl.add(acc, pl.slice(bias, [1, BN], [0, ni]))
                        if relu:
                            acc = pl.maximum(acc, 0.0)
                        if gelu:
                            cube = pl.mul(pl.mul(acc, acc), acc)
                            inner = pl.mul(pl.add(acc, pl.mul(cube, coeff)), SQRT_2_PI)
                            e2 = pl.exp(pl.mul(inner, -2.0))
                            th = pl.div(
                                pl.sub(2.0, pl.add(e2, 1.0)) if False else pl.neg(pl.sub(e2, 1.0)),
                                pl.add(e2, 1.0),
                            )
                            acc = pl.mul(pl.mul(acc, 0.5), pl.add(th, 1.0))
                        if silu:
                            acc = pl.div(acc, pl.add(pl.exp(pl.neg(acc)), 1.0))
                        c = pl.assemble(c, acc, [mi, ni])
            return c

    return Gemm


def golden_gemm(cfg: GemmConfig, tensors: dict[str, torch.Tensor]) -> None:
    r = tensors["a"].float() @ tensors["b"].float()
    if cfg.bias:
        r = r + tensors["bias"]
    f: dict[Act, Callable] = {
        Act.NONE: lambda v: v,
        Act.RELU: torch.relu,
        Act.GELU: functools.partial(torch.nn.functional.gelu, approximate="tanh"),
        Act.SILU: torch.nn.functional.silu,
    }
    tensors["c"][:] = f[cfg.act](r)


def gemm_specs(cfg: GemmConfig):
    from golden import TensorSpec

    return [
        TensorSpec(
            "a",
            [cfg.m, cfg.k],
            torch.bfloat16,
            init_value=lambda: torch.randn(cfg.m, cfg.k) / cfg.k**0.5,
        ),
        TensorSpec("b", [cfg.k, cfg.n], torch.bfloat16, init_value=torch.randn),
        TensorSpec("bias", [1, cfg.n], torch.float32, init_value=torch.randn),
        TensorSpec("c", [cfg.m, cfg.n], torch.float32, is_output=True),
    ]


def build_batched(batch=3, m=16, k=32, n=24, trans_b=True):
    b_shape = [batch, n, k] if trans_b else [batch, k, n]

    @pl.program
    class Batched:
        @pl.function(type=pl.FunctionType.InCore)
        def one(
            self,
            a: pl.Tensor[[m, k], pl.FP32],
            b: pl.Tensor[b_shape[1:], pl.FP32],
            c: pl.Out[pl.Tensor[[m, n], pl.FP32]],
        ) -> pl.Tensor[[m, n], pl.FP32]:
            r = pl.matmul(a, b, b_trans=trans_b)
            c = pl.assemble(c, r, [0, 0])
            return c

        @pl.function(type=pl.FunctionType.Orchestration)
        def main(
            self,
            a: pl.Tensor[[batch, m, k], pl.FP32],
            b: pl.Tensor[b_shape, pl.FP32],
            c: pl.Out[pl.Tensor[[batch, m, n], pl.FP32]],
        ) -> pl.Tensor[[batch, m, n], pl.FP32]:
            a2 = pl.reshape(a, [batch * m, k])
            b2 = pl.reshape(b, [batch * b_shape[1], b_shape[2]])
            c2 = pl.reshape(c, [batch * m, n])
            for i in pl.range(batch):
                ai = pl.slice(a2, [m, k], [i * m, 0])
                bi = pl.slice(b2, [b_shape[1], b_shape[2]], [i * b_shape[1], 0])
                ci = pl.slice(c2, [m, n], [i * m, 0])
                ci = self.one(ai, bi, ci)
            return c

    return Batched


def golden_batched(t, trans=True):
    t["c"][:] = t["a"] @ (t["b"].mT if trans else t["b"])


def build_softmax_stats(rows=32, cols=80, tile=8):
    """Softmax, and the columns' sums and maxima of the result, in one program of three functions."""

    @pl.program
    class Softmax:
        @pl.function(type=pl.FunctionType.InCore)
        def rows_(
            self, x: pl.Tensor[[rows, cols], pl.FP32], y: pl.Out[pl.Tensor[[rows, cols], pl.FP32]]
        ) -> pl.Tensor[[rows, cols], pl.FP32]:
            for r in pl.range(0, rows, tile):
                t = pl.load(x, [r, 0], [tile, cols])
                tmp = pl.create_tile([tile, cols], dtype=pl.FP32, target_memory=pl.MemorySpace.Vec)
                mx = pl.row_max(t, tmp)
                e = pl.exp(pl.row_expand_sub(t, mx))
                s = pl.row_sum(e, tmp)
                y = pl.store(pl.row_expand_div(e, s), [r, 0], y)
            return y

        @pl.function(type=pl.FunctionType.InCore)
        def columns(
            self, y: pl.Tensor[[rows, cols], pl.FP32], stats: pl.Out[pl.Tensor[[2, cols], pl.FP32]]
        ) -> pl.Tensor[[2, cols], pl.FP32]:
            t = pl.load(y, [0, 0], [rows, cols])
            stats = pl.store(pl.col_sum(t), [0, 0], stats)
            stats = pl.store(pl.col_max(t), [1, 0], stats)
            return stats

        @pl.function(type=pl.FunctionType.Orchestration)
        def run(
            self,
            x: pl.Tensor[[rows, cols], pl.FP32],
            y: pl.Out[pl.Tensor[[rows, cols], pl.FP32]],
            stats: pl.Out[pl.Tensor[[2, cols], pl.FP32]],
        ) -> tuple[pl.Tensor[[rows, cols], pl.FP32], pl.Tensor[[2, cols], pl.FP32]]:
            y = self.rows_(x, y)
            stats = self.columns(y, stats)
            return y, stats

    return Softmax


def golden_softmax(t):
    t["y"][:] = t["x"].softmax(-1)
    t["stats"][0] = t["y"].sum(0)
    t["stats"][1] = t["y"].amax(0)


def table():
    from golden import TensorSpec

    for cfg in (
        GemmConfig(),
        GemmConfig(act=Act.RELU, bias=True),
        GemmConfig(act=Act.GELU, bias=True, m=32),
        dataclasses.replace(GemmConfig(act=Act.SILU), bk=128),
    ):
        yield (
            f"gemm_{cfg.act.value}",
            build_gemm(cfg),
            gemm_specs(cfg),
            functools.partial(golden_gemm, cfg),
        )
    for trans in (True, False):
        yield (
            f"bmm_{trans}",
            build_batched(trans_b=trans),
            [
                TensorSpec("a", [3, 16, 32], torch.float32, init_value=torch.randn),
                TensorSpec(
                    "b",
                    [3, 24, 32] if trans else [3, 32, 24],
                    torch.float32,
                    init_value=torch.randn,
                ),
                TensorSpec("c", [3, 16, 24], torch.float32, is_output=True),
            ],
            lambda t, trans=trans: golden_batched(t, trans),
        )
    yield (
        "softmax",
        build_softmax_stats(),
        [
            TensorSpec("x", [32, 80], torch.float32, init_value=torch.randn),
            TensorSpec("y", [32, 80], torch.float32, is_output=True),
            TensorSpec("stats", [2, 80], torch.float32, is_output=True),
        ],
        golden_softmax,
    )


def main() -> int:
    from golden import run

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-p", "--platform", default="a2a3")
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--only", default=None)
    args = parser.parse_args()
    failures = []
    for name, program, specs, golden in table():
        if args.only and args.only not in name:
            continue
        result = run(
            program=program,
            specs=specs,
            golden_fn=golden,
            rtol=2e-3,
            atol=2e-3,
            runtime_cfg=dict(platform=args.platform, device_id=args.device),
        )
        print(f"{name}: {result}")
        if not result.passed:
            failures.append(name)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
