"""Write normed, roped keys into a paged pool by a slot mapping (-1 skips); tokens dynamic; pool compared as a pool."""

import pypto.language as pl
import torch
from golden import RunResult, ScalarSpec, TensorSpec, mapped_pool_ratio_allclose, run_jit

T_DYN = pl.dynamic("T_DYN")
T_MAX, D, ROPE = 64, 128, 64
NOPE = D - ROPE
PAGE, PAGES = 16, 12
TILE = 8


@pl.jit.inline(auto_scope=False)
def norm_rows(x: pl.Tensor[[T_DYN, D], pl.BF16], g: pl.Tensor[[1, D], pl.FP32], out: pl.Tensor):
    t_dim = pl.tensor.dim(x, 0)
    for b in pl.spmd((t_dim + TILE - 1) // TILE, name_hint="norm_rows", allow_early_resolve=True):
        t0 = b * TILE
        n = pl.min(TILE, t_dim - t0)
        xf = pl.cast(pl.slice(x, [TILE, D], [t0, 0], valid_shape=[n, D]), target_type=pl.FP32)
        inv = pl.rsqrt(
            pl.add(pl.mul(pl.row_sum(pl.mul(xf, xf)), 1.0 / D), 1e-6), high_precision=True
        )
        out[t0 : t0 + TILE, :] = pl.col_expand_mul(pl.row_expand_mul(xf, inv), g)
    return out


@pl.jit(auto_scope=False)
def kv_update(
    x: pl.Tensor[[T_DYN, D], pl.BF16],
    g: pl.Tensor[[D], pl.FP32],
    cos: pl.Tensor[[T_DYN, ROPE], pl.FP32],
    sin: pl.Tensor[[T_DYN, ROPE], pl.FP32],
    slots: pl.Tensor[[T_DYN], pl.INT64],
    num_tokens: pl.Scalar[pl.INT32],
    pool: pl.InOut[pl.Tensor[[PAGES, PAGE, D], pl.BF16]],
):
    x.bind_dynamic(0, T_DYN)
    cos.bind_dynamic(0, T_DYN)
    sin.bind_dynamic(0, T_DYN)
    slots.bind_dynamic(0, T_DYN)
    t_dim = pl.tensor.dim(x, 0)
    rows = pl.reshape(pool, [PAGES * PAGE, D])
    g2 = pl.reshape(g, [1, D])
    normed = pl.create_tensor([(t_dim + TILE - 1) // TILE * TILE, D], dtype=pl.FP32)
    with pl.scope(mode=pl.ScopeMode.MANUAL):
        normed = norm_rows(x, g2, normed)
        for t in pl.range(t_dim):
            slot = pl.read(slots, [t])
            if t < num_tokens and slot >= 0:
                s = pl.cast(slot, pl.INDEX)
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="rope_write"):
                    low = normed[t : t + 1, 0:NOPE]
                    pe = normed[t : t + 1, NOPE:D]
                    j = pl.arange(0, [1, ROPE], dtype=pl.INT32)
                    other = pl.gather(pe, dim=1, index=pl.tensor.xors(j, 1))
                    rot = pl.add(pl.mul(pe, cos[t : t + 1, :]), pl.mul(other, sin[t : t + 1, :]))
                    rows[s : s + 1, 0:NOPE] = pl.cast(low, target_type=pl.BF16, mode="rint")
                    rows[s : s + 1, NOPE:D] = pl.cast(rot, target_type=pl.BF16, mode="rint")
    return pool


def golden(v):
    n = v["num_tokens"]
    x = v["x"].float()
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * v["g"]
    pe = y[:, NOPE:]
    other = pe.view(-1, ROPE // 2, 2).flip(-1).reshape(pe.shape)
    y = torch.cat([y[:, :NOPE], pe * v["cos"] + other * v["sin"]], -1).bfloat16()
    flat = v["pool"].view(-1, D)
    for t in range(n):
        s = int(v["slots"][t])
        if s >= 0:
            flat[s] = y[t]


def specs(tokens, live):
    ang = torch.arange(tokens)[:, None] * (10000.0 ** (-torch.arange(0, ROPE, 2) / ROPE))
    sign = torch.tensor([-1.0, 1.0]).repeat(ROPE // 2)
    slots = torch.randperm(PAGES * PAGE)[:tokens].to(torch.int64)
    slots[1::5] = -1
    slots[live:] = -1
    return [
        TensorSpec("x", [tokens, D], torch.bfloat16, torch.randn),
        TensorSpec("g", [D], torch.float32, torch.rand),
        TensorSpec("cos", [tokens, ROPE], torch.float32, ang.cos().repeat_interleave(2, 1)),
        TensorSpec("sin", [tokens, ROPE], torch.float32, ang.sin().repeat_interleave(2, 1) * sign),
        TensorSpec("slots", [tokens], torch.int64, slots),
        ScalarSpec("num_tokens", torch.int32, live),
        TensorSpec(
            "pool", [PAGES, PAGE, D], torch.bfloat16, init_value=torch.randn, is_output=True
        ),
    ]


if __name__ == "__main__":
    import argparse
    import sys

    ap = argparse.ArgumentParser()
    ap.add_argument("-p", "--platform", default="a2a3")
    ap.add_argument("-d", "--device", type=int, default=0)
    ap.add_argument("--enable-chip-swimlane", action="store_true")
    a = ap.parse_args()
    status = 0
    for tokens, live in ((64, 64), (13, 10), (1, 1)):
        result: RunResult = run_jit(
            kv_update,
            specs(tokens, live),
            golden_fn=golden,
            runtime_cfg=dict(
                platform=a.platform, device_id=a.device, enable_chip_swimlane=a.enable_chip_swimlane
            ),
            compare_fn={
                "pool": mapped_pool_ratio_allclose(
                    "slots",
                    mapping_shape=(tokens,),
                    block_size=PAGE,
                    atol=1e-2,
                    rtol=1e-2,
                    max_error_ratio=0.0,
                )
            },
        )
        status |= not result.passed
        if result.error:
            print(result.error)
    sys.exit(int(status))
