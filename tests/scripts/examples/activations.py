"""SiLU, GELU and SwiGLU with a limit: a factory of kernels in closures, constants from a sibling."""

import pypto.language as pl
import sizes as cfg
from sizes import CFG, N_TILE, SIZES, T_TILE
from golden import TensorSpec, run_jit
import torch

T, N = SIZES.tokens, SIZES.inter


@pl.jit.inline
def sigmoid(x: pl.Tensor):
    return pl.recip(pl.add(pl.exp(pl.neg(x)), 1.0))


def make_kernel(kind, limit=CFG.swiglu_limit, t_tile=T_TILE):
    """One kernel for each kind: they only differ in the body."""
    if kind == "silu":

        @pl.jit
        def kernel(x: pl.Tensor[[T, N], pl.BF16], y: pl.Out[pl.Tensor[[T, N], pl.BF16]]):
            for t0 in pl.parallel(0, T, t_tile):
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="silu"):
                    xf = pl.cast(x[t0 : t0 + t_tile, :], target_type=pl.FP32)
                    gate = sigmoid(xf)
                    y[t0 : t0 + t_tile, :] = pl.cast(
                        pl.mul(xf, gate), target_type=pl.BF16, mode="rint"
                    )
            return y
    elif kind == "gelu":

        @pl.jit
        def kernel(x: pl.Tensor[[T, N], pl.BF16], y: pl.Out[pl.Tensor[[T, N], pl.BF16]]):
            for t0 in pl.parallel(0, T, t_tile):
                for n0 in pl.range(0, N, cfg.TILES["n"]):
                    with pl.at(level=pl.Level.CORE_GROUP, name_hint="gelu"):
                        xf = pl.cast(x[t0 : t0 + t_tile, n0 : n0 + N_TILE], target_type=pl.FP32)
                        x3 = pl.mul(pl.mul(xf, xf), xf)
                        inner = pl.mul(pl.add(xf, pl.mul(x3, 0.044715)), CFG.gelu_c)
                        # tanh(u) = 1 - 2 / (exp(2u) + 1)
                        e = pl.exp(pl.mul(inner, 2.0))
                        th = pl.add(pl.mul(pl.recip(pl.add(e, 1.0)), -2.0), 1.0)
                        half = pl.mul(xf, 0.5)
                        out = pl.mul(half, pl.add(th, 1.0))
                        y[t0 : t0 + t_tile, n0 : n0 + N_TILE] = pl.cast(
                            out, target_type=pl.BF16, mode="rint"
                        )
            return y
    else:

        @pl.jit
        def kernel(
            gate: pl.Tensor[[T, N], pl.FP32],
            up: pl.Tensor[[T, N], pl.FP32],
            y: pl.Out[pl.Tensor[[T, N], pl.FP32]],
        ):
            for t0 in pl.parallel(0, T, t_tile):
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="swiglu"):
                    g = pl.minimum(gate[t0 : t0 + t_tile, :], limit)
                    u = pl.maximum(pl.minimum(up[t0 : t0 + t_tile, :], limit), -limit)
                    denom = pl.add(pl.exp(pl.neg(g)), 1.0)
                    y[t0 : t0 + t_tile, :] = pl.mul(pl.div(g, denom), u)
            return y

    return kernel


def golden_silu(v):
    v["y"].copy_(torch.nn.functional.silu(v["x"].float()))


def golden_gelu(v):
    v["y"].copy_(torch.nn.functional.gelu(v["x"].float(), approximate="tanh"))


def golden_swiglu(v):
    lim = CFG.swiglu_limit
    v["y"].copy_(torch.nn.functional.silu(v["gate"].clamp(max=lim)) * v["up"].clamp(-lim, lim))


def specs(kind):
    if kind == "swiglu":
        return [
            TensorSpec("gate", list(CFG.shapes), torch.float32, lambda: torch.randn(T, N) * 8),
            TensorSpec("up", list(CFG.shapes), torch.float32, lambda: torch.randn(T, N) * 8),
            TensorSpec(name="y", shape=[T, N], dtype=torch.float32, is_output=True),
        ]
    return [
        TensorSpec("x", [T, N], torch.bfloat16, torch.randn),
        TensorSpec("y", [T, N], torch.bfloat16, is_output=True),
    ]


GOLDEN = {"silu": golden_silu, "gelu": golden_gelu, "swiglu": golden_swiglu}

if __name__ == "__main__":
    for kind, gold in GOLDEN.items():
        res = run_jit(make_kernel(kind), specs(kind), gold, rtol=1e-2, atol=1e-2)
        assert res.passed, res.error
    print("all good")
