"""MoE on one device: scatter by routing table, experts on what arrived, atomic combine."""

import pypto.language as pl

T, D, INTER, E, TOPK = 32, 128, 128, 4, 2
ROWS = 16
CAP = T * TOPK
LIMIT = 7.0


@pl.jit
def moe(
    x: pl.Tensor[[T, D], pl.BF16],
    ids: pl.Tensor[[T, TOPK], pl.INT32],
    gate: pl.Tensor[[T, TOPK], pl.FP32],
    w13: pl.Tensor[[E, D, 2 * INTER], pl.BF16],
    w2: pl.Tensor[[E, INTER, D], pl.BF16],
    counts: pl.InOut[pl.Tensor[[E], pl.INT32]],
    out: pl.InOut[pl.Tensor[[T, D], pl.FP32]],
):
    slots = pl.create_tensor([E * CAP, D], dtype=pl.BF16)
    slot_gate = pl.create_tensor([E * CAP, 1], dtype=pl.FP32)
    slot_token = pl.create_tensor([E * CAP], dtype=pl.INT32)
    # dispatch
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="dispatch"):
        fill = pl.array.create(E, pl.INT32)
        for t in pl.range(T):
            for k in pl.range(TOPK):
                e = pl.read(ids, [t, k])
                if e >= 0:
                    n = fill[e]
                    slots[e * CAP + n : e * CAP + n + 1, :] = x[t : t + 1, :]
                    pl.write(slot_gate, [e * CAP + n, 0], pl.read(gate, [t, k]))
                    pl.write(slot_token, [e * CAP + n], pl.cast(t, pl.INT32))
                    fill[e] = n + 1
        for e in pl.range(E):
            pl.write(counts, [e], fill[e])
    # experts
    for e in pl.range(E):
        n_rows = pl.read(counts, [e])
        blocks = (n_rows + ROWS - 1) // ROWS
        for b in pl.parallel(blocks):
            r0 = e * CAP + b * ROWS
            left = pl.min(ROWS, n_rows - b * ROWS)
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="expert"):
                a = pl.slice(slots, [ROWS, D], [r0, 0], valid_shape=[left, D])
                h = pl.matmul(a, w13[e, :, :], out_dtype=pl.FP32)
                g = pl.minimum(h[:, 0:INTER], LIMIT)
                u = pl.maximum(pl.minimum(h[:, INTER : 2 * INTER], LIMIT), -LIMIT)
                sig = pl.recip(pl.add(pl.exp(pl.neg(g)), 1.0))
                act = pl.mul(pl.mul(g, sig), u)
                act16 = pl.cast(act, target_type=pl.BF16, mode="rint")
                y = pl.matmul(act16, w2[e, :, :], out_dtype=pl.FP32)
                y = pl.row_expand_mul(y, slot_gate[r0 : r0 + ROWS, :])
                for r in pl.range(left):
                    t = pl.read(slot_token, [r0 + r])
                    row = pl.slice(y, [1, D], [r, 0])
                    out = pl.assemble(out, row, [t, 0], atomic=pl.AtomicType.Add)
    return out


def golden(v):
    import torch

    x, ids, gate = v["x"].float(), v["ids"], v["gate"]
    out = v["out"].clone()
    c = torch.zeros(E, dtype=torch.int32)
    for t in range(T):
        for k in range(TOPK):
            e = int(ids[t, k])
            if e < 0:
                continue
            c[e] += 1
            h = x[t] @ v["w13"][e].float()
            g = h[:INTER].clamp(max=LIMIT)
            u = h[INTER:].clamp(-LIMIT, LIMIT)
            a = (torch.nn.functional.silu(g) * u).bfloat16().float()
            out[t] += gate[t, k] * (a @ v["w2"][e].float())
    v["out"].copy_(out)
    v["counts"].copy_(c)


if __name__ == "__main__":
    import torch
    from golden import TensorSpec, ratio_allclose, run_jit

    specs = [
        TensorSpec("x", [T, D], torch.bfloat16, init_value=torch.randn),
        TensorSpec(
            "ids", [T, TOPK], torch.int32, init_value=lambda: torch.randint(-1, E, (T, TOPK))
        ),
        TensorSpec("gate", [T, TOPK], torch.float32, init_value=torch.rand),
        TensorSpec(
            "w13",
            [E, D, 2 * INTER],
            torch.bfloat16,
            init_value=lambda: torch.randn(E, D, 2 * INTER) * 0.1,
        ),
        TensorSpec(
            "w2", [E, INTER, D], torch.bfloat16, init_value=lambda: torch.randn(E, INTER, D) * 0.1
        ),
        TensorSpec("counts", [E], torch.int32, init_value=0, is_output=True),
        TensorSpec("out", [T, D], torch.float32, init_value=torch.zeros, is_output=True),
    ]
    r = run_jit(
        moe,
        specs,
        golden,
        rtol=1e-2,
        atol=1e-2,
        compare_fn={"out": ratio_allclose(atol=1e-2, rtol=1e-2)},
    )
    print(r)
    raise SystemExit(0 if r.passed else 1)
