import argparse
import pypto.language as pl

T, HC, D = 16, 4, 256
MIX = 24
MIX_PAD = 32
ITERS = 8
EPS = 1e-6
BLK = 4


@pl.jit.inline
def sinkhorn(mix: pl.Tensor[[1, HC * HC], pl.FP32]):
    m = pl.reshape(mix, [HC, HC])
    m = pl.row_expand_sub(m, pl.row_max(m))
    m = pl.exp(m)
    for _ in pl.range(ITERS):
        m = pl.row_expand_div(m, pl.add(pl.row_sum(m), EPS))
        m = pl.col_expand_div(m, pl.add(pl.col_sum(m), EPS))
    return m


@pl.jit
def hc_pre(
    x: pl.Tensor[[T, HC, D], pl.BF16],
    fn: pl.Tensor[[MIX_PAD, HC * D], pl.FP32],
    base: pl.Tensor[[1, MIX_PAD], pl.FP32],
    y: pl.Out[pl.Tensor[[T, D], pl.BF16]],
    comb: pl.Out[pl.Tensor[[T, HC, HC], pl.FP32]],
):
    xf = pl.reshape(x, [T, HC * D])
    mixes = pl.create_tensor([T, MIX_PAD], dtype=pl.FP32)
    for b in pl.spmd(T // BLK, name_hint="mix"):
        t0 = b * BLK
        xr = pl.cast(xf[t0 : t0 + BLK, :], target_type=pl.FP32)
        sq = pl.row_sum(pl.mul(xr, xr))
        inv = pl.rsqrt(pl.add(pl.mul(sq, 1.0 / (HC * D)), EPS), high_precision=True)
        mm = pl.matmul(xr, fn, b_trans=True)
        mixes[t0 : t0 + BLK, :] = pl.col_expand_add(pl.row_expand_mul(mm, inv), base)
        pl.system.syncall(core_type="mix")
        other = (t0 + BLK) % T
        probe = mixes[other : other + BLK, :]
        pl.write(mixes, [t0, MIX_PAD - 1], pl.read(probe, [0, 0]))
    for t in pl.parallel(T):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="comb"):
            row = mixes[t : t + 1, :]
            pre = pl.recip(pl.add(pl.exp(pl.neg(row[:, 0:HC])), 1.0))
            m = sinkhorn(row[:, 2 * HC : 2 * HC + HC * HC])
            comb[t, :, :] = m
            xt = pl.cast(x[t, :, :], target_type=pl.FP32)
            acc = pl.full([1, D], dtype=pl.FP32, value=0.0)
            for h in pl.unroll(HC):
                acc = pl.add(acc, pl.mul(xt[h : h + 1, :], pl.read(pre, [0, h])))
            y[t : t + 1, :] = pl.cast(acc, target_type=pl.BF16, mode="rint")


def golden(v):
    import torch

    x = v["x"].float()
    xf = x.reshape(T, -1)
    inv = torch.rsqrt(xf.square().mean(-1, keepdim=True) + EPS)
    mix = (xf @ v["fn"].T) * inv + v["base"]
    pre = torch.sigmoid(mix[:, :HC])
    m = mix[:, 2 * HC : 2 * HC + HC * HC].reshape(T, HC, HC)
    m = (m - m.amax(-1, keepdim=True)).exp()
    for _ in range(ITERS):
        m = m / (m.sum(-1, keepdim=True) + EPS)
        m = m / (m.sum(-2, keepdim=True) + EPS)
    v["comb"][:] = m
    v["y"][:] = (pre[..., None] * x).sum(1).bfloat16()


if __name__ == "__main__":
    import torch
    from golden import TensorSpec, run_jit

    p = argparse.ArgumentParser()
    p.add_argument("-p", "--platform", default="a5")
    a, _ = p.parse_known_args()
    r = run_jit(
        hc_pre,
        [
            TensorSpec("x", [T, HC, D], torch.bfloat16, init_value=torch.randn),
            TensorSpec(
                "fn",
                [MIX_PAD, HC * D],
                torch.float32,
                init_value=lambda: torch.randn(MIX_PAD, HC * D) * 0.02,
            ),
            TensorSpec("base", [1, MIX_PAD], torch.float32, init_value=torch.randn),
            TensorSpec("y", [T, D], torch.bfloat16, is_output=True),
            TensorSpec("comb", [T, HC, HC], torch.float32, is_output=True),
        ],
        golden,
        runtime_cfg={"platform": a.platform},
        rtol=1e-2,
        atol=1e-2,
    )
    raise SystemExit(0 if r.passed else 1)
