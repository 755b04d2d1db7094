import pypto.language as pl

T = pl.dynamic("T")
D, V, VT, KT = 256, 1024, 128, 128


@pl.jit
def lm_head(
    x: pl.Tensor[[T, D], pl.BF16],
    w: pl.Tensor[[V, D], pl.BF16],
    logits: pl.Out[pl.Tensor[[T, V], pl.FP32]],
):
    x.bind_dynamic(0, T)
    t_dim = pl.tensor.dim(x, 0)
    for vb in pl.spmd(V // VT, name_hint="lm_head"):
        v0 = vb * VT
        for t0 in pl.range(0, t_dim, 16):
            rows = pl.min(16, t_dim - t0)
            acc = pl.create_tensor([16, VT], dtype=pl.FP32)
            for kb in pl.pipeline(D // KT, stage=2):
                a = pl.slice(x, [16, KT], [t0, kb * KT], valid_shape=[rows, KT])
                b = w[v0 : v0 + VT, kb * KT : kb * KT + KT]
                if kb == 0:
                    acc = pl.matmul(a, b, b_trans=True)
                else:
                    acc = pl.matmul_acc(acc, a, b, b_trans=True)
            for lane in pl.split_aiv(2, mode=pl.SplitMode.UP_DOWN):
                half = pl.aiv_shard(acc)
                n = pl.max(0, pl.min(8, rows - lane * 8))
                if n > 0:
                    out = pl.set_validshape(pl.mul(half, 2.0), n, VT)
                    logits = pl.assemble(logits, out, [t0 + lane * 8, v0])
    return logits


def golden(v):
    v["logits"][:] = 2 * (v["x"].float() @ v["w"].float().T)


if __name__ == "__main__":
    import torch
    from golden import TensorSpec, run_jit

    ok = True
    for n in (5, 16, 37):
        r = run_jit(
            lm_head,
            [
                TensorSpec("x", [n, D], torch.bfloat16, init_value=torch.randn),
                TensorSpec("w", [V, D], torch.bfloat16, init_value=torch.randn),
                TensorSpec("logits", [n, V], torch.float32, is_output=True),
            ],
            golden,
            rtol=1e-3,
            atol=1e-2,
        )
        ok &= r.passed
    raise SystemExit(not ok)
