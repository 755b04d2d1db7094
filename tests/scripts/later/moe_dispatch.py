"""Tokens sent to their experts and back: counters in arrays, a chain of tasks, sums by atomic adds."""

import argparse

import pypto.language as pl
import torch
from golden import TensorSpec, ratio_allclose, run_jit

T_DYN = pl.dynamic("T_DYN")
EXPERTS, TOPK, D, INTER = 8, 2, 64, 64
SLOTS = 48  # of an expert
T_TILE = 16
COUNTERS = 3  # blocks that count


@pl.jit.inline
def count_tokens(ids: pl.Tensor, hist: pl.Array[[EXPERTS], pl.INT32], first: pl.Scalar[pl.INDEX]):
    for t in pl.range(first, pl.tensor.dim(ids, 0), pl.tile.get_block_num()):
        for k in pl.unroll(TOPK):
            e = pl.read(ids, [t, k])
            if e >= 0:
                hist[e] = hist[e] + 1


@pl.jit.incore
def expert(
    rows: pl.Tensor[[EXPERTS * SLOTS, D], pl.BF16],
    w1: pl.Tensor[[EXPERTS, D, INTER], pl.BF16],
    w2: pl.Tensor[[EXPERTS, INTER, D], pl.BF16],
    e: pl.Scalar[pl.INDEX],
    first: pl.Scalar[pl.INDEX],
    n: pl.Scalar[pl.INT32],
    out: pl.Out[pl.Tensor[[EXPERTS * SLOTS, D], pl.FP32]],
):
    x = pl.load(rows, [e * SLOTS + first, 0], [T_TILE, D], valid_shape=[n, D])
    h = pl.matmul(x, w1[e], out_dtype=pl.FP32)
    h = pl.mul(h, pl.recip(pl.add(pl.exp(pl.neg(h)), 1.0)))
    h16 = pl.cast(h, target_type=pl.BF16, mode="rint")
    y = pl.matmul(h16, w2[e, :, :], out_dtype=pl.FP32)
    out = pl.store(pl.set_validshape(y, n, D), [e * SLOTS + first, 0], out)
    return out


@pl.jit
def moe(
    x: pl.Tensor[[T_DYN, D], pl.BF16],
    ids: pl.Tensor[[T_DYN, TOPK], pl.INT32],
    gate: pl.Tensor[[T_DYN, TOPK], pl.FP32],
    w1: pl.Tensor[[EXPERTS, D, INTER], pl.BF16],
    w2: pl.Tensor[[EXPERTS, INTER, D], pl.BF16],
    counts: pl.Out[pl.Tensor[[1, EXPERTS], pl.INT32]],
    y: pl.Out[pl.Tensor[[T_DYN, D], pl.FP32]],
):
    t_dim = pl.tensor.dim(x, 0)
    sent = pl.create_tensor([EXPERTS * SLOTS, D], dtype=pl.BF16, manual_dep=True)
    back = pl.create_tensor([EXPERTS * SLOTS, D], dtype=pl.FP32, manual_dep=True)
    slots = pl.create_tensor([t_dim, TOPK], dtype=pl.INT32, init_value=-1)
    tids = pl.array.create(EXPERTS, pl.TASK_ID)
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="seed") as seeded:
        counts[:, :] = pl.full([1, EXPERTS], dtype=pl.INT32, value=0)
        for t0 in pl.range(0, t_dim, T_TILE):
            zero = pl.full([T_TILE, D], dtype=pl.FP32, value=0.0)
            y = pl.assemble(y, pl.set_validshape(zero, pl.min(T_TILE, t_dim - t0), D), [t0, 0])
    with pl.spmd(COUNTERS, name_hint="count", deps=[seeded]) as counted:
        hist = pl.array.create(EXPERTS, pl.INT32)
        count_tokens(ids, hist, first=pl.tile.get_block_idx())
        mine = pl.create_tile([1, EXPERTS], dtype=pl.INT32)
        for e in pl.range(EXPERTS):
            pl.tile.write(mine, [0, e], hist[e])
        pl.store(mine, [0, 0], counts, atomic=pl.AtomicType.Add)
    with pl.manual_scope():
        before = None
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="send", deps=[counted]) as all_sent:
            used = pl.array.create(EXPERTS, pl.INT32)
            for t in pl.range(t_dim):
                for k in pl.range(TOPK):
                    e = pl.cast(pl.read(ids, [t, k]), pl.INDEX)
                    if e < 0:
                        continue
                    slot = e * SLOTS + used[e]
                    sent[slot : slot + 1, :] = x[t : t + 1, :]
                    pl.write(slots, [t, k], pl.cast(slot, pl.INT32))
                    used[e] = used[e] + 1
        for e in pl.range(EXPERTS):
            n = pl.read(counts, [0, e])
            for first in pl.range(0, n, T_TILE):
                rows = pl.min(T_TILE, n - first)
                back, before = pl.submit(
                    expert, sent, w1, w2, e, first, rows, back, deps=[all_sent, before]
                )
            tids[e] = before
        done = pl.system.task_dummy(deps=[tids])
        for k in pl.parallel(TOPK):
            for t in pl.parallel(t_dim):
                s = pl.read(slots, [t, k])
                with pl.at(
                    level=pl.Level.CORE_GROUP, name_hint="add", deps=[done], predicate=(s >= 0)
                ):
                    row = pl.mul(back[s : s + 1, :], pl.read(gate, [t, k]))
                    y = pl.assemble(y, row, [t, 0], atomic=pl.AtomicType.Add)
    return counts, y


def golden_moe(tensors):
    for t, experts in enumerate(tensors["ids"].tolist()):
        for k, e in enumerate(experts):
            if e < 0:
                continue
            tensors["counts"][0, e] += 1
            h = torch.nn.functional.silu(tensors["x"][t].float() @ tensors["w1"][e].float())
            h = h.to(torch.bfloat16).float() @ tensors["w2"][e].float()
            tensors["y"][t] += h * tensors["gate"][t, k]


def build_tensor_specs(tokens):
    def init_ids():
        ids = torch.stack([torch.randperm(EXPERTS)[:TOPK] for _ in range(tokens)])
        ids[::2, 0] = torch.where(ids[::2, 1] == 3, ids[::2, 0], 3)  # one expert has more to do
        ids[1, 1] = -1  # and one token is sent once only
        return ids.to(torch.int32)

    return [
        TensorSpec("x", [tokens, D], torch.bfloat16, init_value=torch.randn),
        TensorSpec("ids", [tokens, TOPK], torch.int32, init_value=init_ids),
        TensorSpec("gate", [tokens, TOPK], torch.float32, init_value=torch.rand),
        TensorSpec(
            "w1",
            [EXPERTS, D, INTER],
            torch.bfloat16,
            init_value=lambda: torch.randn(EXPERTS, D, INTER) / 8,
        ),
        TensorSpec(
            "w2",
            [EXPERTS, INTER, D],
            torch.bfloat16,
            init_value=lambda: torch.randn(EXPERTS, INTER, D) / 8,
        ),
        TensorSpec("counts", [1, EXPERTS], torch.int32, is_output=True),
        TensorSpec("y", [tokens, D], torch.float32, is_output=True),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "-p", "--platform", type=str, default="a2a3", choices=["a2a3", "a2a3sim", "a5", "a5sim"]
    )
    parser.add_argument("-d", "--device", type=int, default=0)
    args = parser.parse_args()
    result = run_jit(
        fn=moe,
        specs=build_tensor_specs(45),
        golden_fn=golden_moe,
        runtime_cfg=dict(platform=args.platform, device_id=args.device),
        rtol=1e-3,
        atol=1e-3,
        compare_fn={"y": ratio_allclose(atol=2e-2, rtol=2e-2, max_error_ratio=0.01)},
    )
    if not result.passed:
        print(result.error)
        raise SystemExit(1)
