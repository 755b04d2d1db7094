"""MoE feed-forward: router, top-2 by sort, per-expert SwiGLU in BF16, weighted combine, shared expert."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import NamedTuple

import pypto.language as pl


class Tiles(NamedTuple):
    tok: int = 8
    inter: int = 32
    k: int = 32


TILES = Tiles()


@dataclass(frozen=True)
class MoeConfig:
    """Sizes of one layer."""

    tokens: int = 16
    dim: int = 64
    inter: int = 64
    experts: int = 8
    topk: int = 2
    tiles: Tiles = TILES

    @property
    def k_blocks(self) -> int:
        return self.dim // self.tiles.k


CFG = MoeConfig()
T, D, INTER, E, TOPK = CFG.tokens, CFG.dim, CFG.inter, CFG.experts, CFG.topk
T_TILE, I_TILE, K_TILE = CFG.tiles
PAIRS = T * TOPK
SORT = 32
NEG = -1.0e30


@pl.jit.inline
def route(
    x: pl.Tensor[[T, D], pl.BF16],
    wg: pl.Tensor[[D, E], pl.FP32],
    ids: pl.Tensor[[T, TOPK], pl.INT32],
    weights: pl.Tensor[[T, TOPK], pl.FP32],
):
    """sigmoid scores, two best, normalised."""
    padded = pl.create_tensor([T, SORT], dtype=pl.FP32)
    for t0 in pl.parallel(0, T, T_TILE):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="router_logits"):
            xf = pl.cast(x[t0 : t0 + T_TILE, :], target_type=pl.FP32)
            logits = pl.matmul(xf, wg)
            scores = pl.recip(pl.add(pl.exp(pl.neg(logits)), 1.0))
            padded[t0 : t0 + T_TILE, :] = pl.full([T_TILE, SORT], dtype=pl.FP32, value=NEG)
            padded[t0 : t0 + T_TILE, 0:E] = scores
    for t in pl.parallel(T):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="router_topk"):
            row = pl.slice(padded, [1, SORT], [t, 0])
            idx = pl.arange(0, [1, SORT], dtype=pl.UINT32)
            pairs = pl.sort32(row, idx)
            best = pl.slice(pairs, [1, 2 * TOPK], [0, 0])
            vals = pl.gather(best, mask_pattern=pl.tile.MaskPattern.P0101)
            who = pl.gather(best, mask_pattern=pl.tile.MaskPattern.P1010, output_dtype=pl.INT32)
            total = pl.add(pl.row_sum(vals), 1e-20)
            weights[t : t + 1, :] = pl.row_expand_div(vals, total)
            ids[t : t + 1, :] = who
    return ids, weights


@pl.jit.inline
def count(ids: pl.Tensor, counts: pl.Tensor, slots: pl.Tensor):
    """Place of every (token, choice) among its expert's rows."""
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="count"):
        for e in pl.range(E):
            pl.write(counts, [e], pl.cast(0, pl.INT32))
        for t in pl.range(T):
            for j in pl.range(TOPK):
                e = pl.cast(pl.read(ids, [t, j]), pl.INDEX)
                n = pl.read(counts, [e])
                pl.write(slots, [t, j], n)
                pl.write(counts, [e], n + 1)
    return counts, slots


@pl.jit.inline
def scatter_rows(x: pl.Tensor, ids: pl.Tensor, slots: pl.Tensor, rows: pl.Tensor):
    flat = pl.reshape(rows, [E * T, D])
    for t in pl.range(T):
        for j in pl.range(TOPK):
            e = pl.read(ids, [t, j])
            s = pl.read(slots, [t, j])
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="dispatch"):
                flat = pl.assemble(flat, x[t : t + 1, :], [e * T + s, 0])
    return rows


@pl.jit.inline
def experts(
    rows: pl.Tensor, counts: pl.Tensor, w1: pl.Tensor, w3: pl.Tensor, w2: pl.Tensor, out: pl.Tensor
):
    for e in pl.parallel(E):
        n = pl.read(counts, [e])
        blocks = (n + T_TILE - 1) // T_TILE
        for b in pl.range(blocks):
            r0 = b * T_TILE
            valid = pl.min(T_TILE, n - r0)
            hidden = pl.create_tensor([T_TILE, INTER], dtype=pl.BF16)
            for i0 in pl.range(0, INTER, I_TILE):
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="gate_up"):
                    gate = pl.create_tensor([T_TILE, I_TILE], dtype=pl.FP32)
                    up = pl.create_tensor([T_TILE, I_TILE], dtype=pl.FP32)
                    for kb in pl.pipeline(CFG.k_blocks, stage=2):
                        k0 = kb * K_TILE
                        xe = pl.reshape(
                            pl.slice(
                                rows,
                                [1, T_TILE, K_TILE],
                                [e, r0, k0],
                                valid_shape=[1, valid, K_TILE],
                            ),
                            [T_TILE, K_TILE],
                        )
                        w1e = w1[e, k0 : k0 + K_TILE, i0 : i0 + I_TILE]
                        w3e = w3[e, k0 : k0 + K_TILE, i0 : i0 + I_TILE]
                        if kb == 0:
                            gate = pl.matmul(xe, w1e, out_dtype=pl.FP32)
                            up = pl.matmul(xe, w3e, out_dtype=pl.FP32)
                        else:
                            gate = pl.matmul_acc(gate, xe, w1e)
                            up = pl.matmul_acc(up, xe, w3e)
                    gate = pl.minimum(gate, 10.0)
                    up = pl.maximum(pl.minimum(up, 10.0), -10.0)
                    sig = pl.recip(pl.add(pl.exp(pl.neg(gate)), 1.0))
                    act = pl.mul(pl.mul(gate, sig), up)
                    hidden[:, i0 : i0 + I_TILE] = pl.cast(act, target_type=pl.BF16, mode="rint")
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="down"):
                h = hidden[:, :]
                y = pl.matmul(h, w2[e], out_dtype=pl.FP32)
                y = pl.set_validshape(y, valid, D)
                out[e, r0 : r0 + T_TILE, :] = y
    return out


@pl.jit
def moe(
    x: pl.Tensor[[T, D], pl.BF16],
    wg: pl.Tensor[[D, E], pl.FP32],
    w1: pl.Tensor[[E, D, INTER], pl.BF16],
    w3: pl.Tensor[[E, D, INTER], pl.BF16],
    w2: pl.Tensor[[E, INTER, D], pl.BF16],
    y: pl.Out[pl.Tensor[[T, D], pl.FP32]],
    ids: pl.Out[pl.Tensor[[T, TOPK], pl.INT32]],
    weights: pl.Out[pl.Tensor[[T, TOPK], pl.FP32]],
):
    ids, weights = route(x, wg, ids, weights)
    counts = pl.create_tensor([E], dtype=pl.INT32)
    slots = pl.create_tensor([T, TOPK], dtype=pl.INT32)
    counts, slots = count(ids, counts, slots)
    rows = pl.create_tensor([E, T, D], dtype=pl.BF16)
    rows = scatter_rows(x, ids, slots, rows)
    expert_out = pl.create_tensor([E, T, D], dtype=pl.FP32)
    expert_out = experts(rows, counts, w1, w3, w2, out=expert_out)
    for t in pl.parallel(T):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="combine"):
            acc = pl.full([1, D], dtype=pl.FP32, value=0.0)
            for j in pl.range(TOPK):
                e = pl.read(ids, [t, j])
                s = pl.read(slots, [t, j])
                w = pl.read(weights, [t, j])
                row = expert_out[e, s : s + 1, :]
                acc = pl.add(acc, pl.mul(row, w))
            y[t : t + 1, :] = acc
    return y, ids, weights


def golden(tensors):
    import torch

    x = tensors["x"].float()
    s = torch.sigmoid(x @ tensors["wg"])
    v, i = s.topk(TOPK, dim=-1)
    w = v / (v.sum(-1, keepdim=True) + 1e-20)
    y = torch.zeros(T, D)
    for t in range(T):
        for j in range(TOPK):
            e = int(i[t, j])
            g = (x[t] @ tensors["w1"][e].float()).clamp(max=10)
            u = (x[t] @ tensors["w3"][e].float()).clamp(-10, 10)
            h = (torch.nn.functional.silu(g) * u).to(torch.bfloat16).float()
            y[t] += w[t, j] * (h @ tensors["w2"][e].float())
    tensors["y"][:] = y
    tensors["ids"][:] = i.to(torch.int32)
    tensors["weights"][:] = w


def build_specs():
    import torch
    from golden import TensorSpec

    def weight(*shape):
        return lambda: torch.randn(*shape) / math.sqrt(shape[-2])

    return [
        TensorSpec("x", [T, D], torch.bfloat16, init_value=torch.randn),
        TensorSpec("wg", [D, E], torch.float32, init_value=weight(D, E)),
        TensorSpec("w1", [E, D, INTER], torch.bfloat16, init_value=weight(E, D, INTER)),
        TensorSpec("w3", [E, D, INTER], torch.bfloat16, init_value=weight(E, D, INTER)),
        TensorSpec("w2", [E, INTER, D], torch.bfloat16, init_value=weight(E, INTER, D)),
        TensorSpec("y", [T, D], torch.float32, is_output=True),
        TensorSpec("ids", [T, TOPK], torch.int32, is_output=True),
        TensorSpec("weights", [T, TOPK], torch.float32, is_output=True),
    ]


if __name__ == "__main__":
    from golden import ratio_allclose, run_jit, topk_pair_compare

    parser = argparse.ArgumentParser()
    parser.add_argument(
        "-p", "--platform", type=str, default="a2a3", choices=["a2a3", "a2a3sim", "a5", "a5sim"]
    )
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--enable-l2-swimlane", action="store_true", default=False)
    args = parser.parse_args()
    result = run_jit(
        fn=moe,
        specs=build_specs(),
        golden_fn=golden,
        runtime_cfg=dict(
            platform=args.platform,
            device_id=args.device,
            enable_l2_swimlane=args.enable_l2_swimlane,
        ),
        rtol=1e-2,
        atol=1e-2,
        compare_fn={"y": ratio_allclose(atol=1e-2, rtol=1e-2), "ids": topk_pair_compare("weights")},
    )
    if not result.passed:
        if result.error:
            print(f"Result: {result.error}")
        raise SystemExit(1)
