"""Split-K with atomic adds into a seeded output, spmd in both forms; InOut state (running mean and step)."""

import pypto.language as pl

M, K, N, SPLITS, BK = 32, 2048, 256, 4, 128
KS = K // SPLITS


@pl.jit.incore
def seed_zero(c: pl.Out[pl.Tensor[[M, N], pl.FP32]]):
    c[:, :] = pl.full([M, N], dtype=pl.FP32, value=0.0)
    return c


@pl.jit.inline
def partial(
    a: pl.Tensor[[M, K], pl.BF16], b: pl.Tensor[[K, N], pl.BF16], c: pl.Tensor[[M, N], pl.FP32]
):
    blk = pl.tile.get_block_idx()
    s = blk % SPLITS
    n0 = blk // SPLITS * 64
    acc = pl.create_tensor([M, 64], dtype=pl.FP32)
    for kb in pl.pipeline(KS // BK, stage=2):
        k0 = s * KS + kb * BK
        if kb == 0:
            acc = pl.matmul(a[:, k0 : k0 + BK], b[k0 : k0 + BK, n0 : n0 + 64], out_dtype=pl.FP32)
        else:
            acc = pl.matmul_acc(acc, a[:, k0 : k0 + BK], b[k0 : k0 + BK, n0 : n0 + 64])
    c = pl.assemble(c, acc, [0, n0], atomic=pl.AtomicType.Add)
    return c


@pl.jit
def splitk(
    a: pl.Tensor[[M, K], pl.BF16],
    b: pl.Tensor[[K, N], pl.BF16],
    state: pl.InOut[pl.Tensor[[1, N], pl.FP32]],
    step: pl.InOut[pl.Tensor[[1], pl.INT32]],
    momentum: pl.Scalar[pl.FP32],
    c: pl.Out[pl.Tensor[[M, N], pl.FP32]],
):
    c = seed_zero(c)
    with pl.spmd(SPLITS * (N // 64), name_hint="splitk") as tid:
        c = partial(a, b, c)
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="stats", deps=[tid]):
        mean = pl.mul(pl.col_sum(c[:, :]), 1.0 / M)
        old = state[:, :]
        keep = 1.0 - momentum
        state[:, :] = pl.add(pl.mul(old, momentum), pl.mul(mean, keep))
        n = pl.read(step, [0])
        pl.write(step, [0], pl.cast(n + 1, pl.INT32))
    return c


def golden(v):
    c = v["a"].float() @ v["b"].float()
    v["c"][:] = c
    v["state"].mul_(v["momentum"]).add_(c.mean(0, keepdim=True) * (1 - v["momentum"]))
    v["step"] += 1


if __name__ == "__main__":
    import argparse
    import torch
    from golden import ScalarSpec, TensorSpec, run_jit

    p = argparse.ArgumentParser()
    p.add_argument("-p", "--platform", default="a2a3")
    p.add_argument("-d", "--device", type=int, default=0)
    args = p.parse_args()
    result = run_jit(
        fn=splitk,
        specs=[
            TensorSpec("a", [M, K], torch.bfloat16, init_value=lambda: torch.randn(M, K) * 0.1),
            TensorSpec("b", [K, N], torch.bfloat16, init_value=lambda: torch.randn(K, N) * 0.1),
            TensorSpec("state", [1, N], torch.float32, init_value=torch.randn, is_output=True),
            TensorSpec("step", [1], torch.int32, init_value=41, is_output=True),
            ScalarSpec("momentum", torch.float32, 0.9),
            TensorSpec("c", [M, N], torch.float32, is_output=True),
        ],
        golden_fn=golden,
        rtol=1e-3,
        atol=1e-3,
        runtime_cfg={"platform": args.platform, "device_id": args.device},
    )
    print(result)
    exit(0 if result.passed else 1)
