"""DeepSeek-V4 head: hyper-connection head, final norm, vocabulary chunks, argmax (greedy sampling)."""

import pypto.language as pl

from config import FLASH as M

T = 16
D = M.hidden_size
HC = M.hc_mult
VOCAB = 8000
V_TILE = 160
V_CHUNKS = VOCAB // V_TILE
K_TILE = 1024
EPS = M.rms_norm_eps
HC_EPS = M.hc_eps
PAD = 16

assert VOCAB % V_TILE == 0


@pl.jit.inline
def hc_head(
    x: pl.Tensor[[T, HC * D], pl.BF16],
    fn: pl.Tensor[[HC, HC * D], pl.FP32],
    scale: pl.Tensor[[1], pl.FP32],
    base: pl.Tensor[[1, HC], pl.FP32],
    h: pl.Tensor[[T, D], pl.FP32],
):
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="hc_head"):
        xf0 = pl.cast(x[:, 0:K_TILE], target_type=pl.FP32)
        w0 = pl.slice(fn, [PAD, K_TILE], [0, 0], valid_shape=[HC, K_TILE])
        mix = pl.matmul(xf0, w0, b_trans=True, out_dtype=pl.FP32)
        sq = pl.row_sum(pl.mul(xf0, xf0))
        for kb in pl.range(1, HC * D // K_TILE):
            xk = pl.cast(x[:, kb * K_TILE : (kb + 1) * K_TILE], target_type=pl.FP32)
            wk = pl.slice(fn, [PAD, K_TILE], [0, kb * K_TILE], valid_shape=[HC, K_TILE])
            mix = pl.matmul_acc(mix, xk, wk, b_trans=True)
            sq = pl.add(sq, pl.row_sum(pl.mul(xk, xk)))
        inv = pl.rsqrt(pl.add(pl.mul(sq, 1.0 / (HC * D)), EPS), high_precision=True)
        m4 = pl.row_expand_mul(mix[:, 0:HC], inv)
        m4 = pl.col_expand_add(pl.mul(m4, pl.read(scale, [0])), base)
        pre = pl.add(pl.recip(pl.add(pl.exp(pl.neg(m4)), 1.0)), HC_EPS)
        for d0 in pl.range(0, D, K_TILE):
            acc = pl.row_expand_mul(
                pl.cast(x[:, d0 : d0 + K_TILE], target_type=pl.FP32), pre[:, 0:1]
            )
            for i in pl.unroll(1, HC):
                xi = pl.cast(x[:, i * D + d0 : i * D + d0 + K_TILE], target_type=pl.FP32)
                acc = pl.add(acc, pl.row_expand_mul(xi, pre[:, i : i + 1]))
            h[:, d0 : d0 + K_TILE] = acc
    return h


@pl.jit
def lm_head(
    x: pl.Tensor[[T, HC * D], pl.BF16],
    fn: pl.Tensor[[HC, HC * D], pl.FP32],
    scale: pl.Tensor[[1], pl.FP32],
    base: pl.Tensor[[1, HC], pl.FP32],
    norm_w: pl.Tensor[[D], pl.FP32],
    head_w: pl.Tensor[[VOCAB, D], pl.BF16],
    logits: pl.Out[pl.Tensor[[T, VOCAB], pl.FP32]],
    best_val: pl.Out[pl.Tensor[[T, 1], pl.FP32]],
    token: pl.Out[pl.Tensor[[T], pl.INT32]],
):
    h = pl.create_tensor([T, D], dtype=pl.FP32)
    h = hc_head(x, fn, scale, base, h)
    n16 = pl.create_tensor([T, D], dtype=pl.BF16)
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="final_norm"):
        row = h[:, :]
        var = pl.mul(pl.row_sum(pl.mul(row, row)), 1.0 / D)
        g = pl.reshape(norm_w, [1, D])
        n = pl.col_expand_mul(pl.row_expand_mul(row, pl.recip(pl.sqrt(pl.add(var, EPS)))), g)
        n16[:, :] = pl.cast(n, target_type=pl.BF16, mode="rint")
    chunk_max = pl.create_tensor([T, V_CHUNKS], dtype=pl.FP32)
    with pl.spmd(V_CHUNKS, name_hint="lm_head") as head_tid:
        vb = pl.tile.get_block_idx()
        v0 = vb * V_TILE
        acc = pl.create_tensor([T, V_TILE], dtype=pl.FP32)
        for kb in pl.pipeline(D // K_TILE, stage=2):
            a = n16[:, kb * K_TILE : (kb + 1) * K_TILE]
            w = head_w[v0 : v0 + V_TILE, kb * K_TILE : (kb + 1) * K_TILE]
            if kb == 0:
                acc = pl.matmul(a, w, b_trans=True)
            else:
                acc = pl.matmul_acc(acc, a, w, b_trans=True)
        logits[:, v0 : v0 + V_TILE] = acc
        chunk_max[:, vb : vb + 1] = pl.row_max(acc)
    with pl.at(
        level=pl.Level.CORE_GROUP, name_hint="argmax", deps=[head_tid], allow_early_resolve=True
    ):
        best_val[:, :] = pl.row_max(chunk_max[:, :])
        for t in pl.range(T):
            top = pl.read(best_val, [t, 0])
            found = pl.cast(-1, pl.INT32)
            for c in pl.range(V_CHUNKS):
                if found < 0 and pl.read(chunk_max, [t, c]) == top:
                    for j in pl.range(V_TILE):
                        v = c * V_TILE + j
                        if found < 0 and logits[t, v] >= top:
                            found = pl.cast(v, pl.INT32)
            pl.write(token, [t], found)
    return logits, best_val, token


def golden_head(tensors):
    import torch

    x = tensors["x"].float()
    inv = torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)
    pre = torch.sigmoid(x @ tensors["fn"].T * inv * tensors["scale"] + tensors["base"]) + HC_EPS
    h = (pre.unsqueeze(-1) * x.view(T, HC, D)).sum(1)
    n = (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + EPS) * tensors["norm_w"]).to(
        torch.bfloat16
    )
    logits = n.float() @ tensors["head_w"].float().T
    tensors["logits"][:] = logits
    v, i = logits.max(-1)
    tensors["best_val"][:, 0] = v
    tensors["token"][:] = i.int()


def build_tensor_specs():
    import torch
    from golden import TensorSpec

    return [
        TensorSpec("x", [T, HC * D], torch.bfloat16, init_value=torch.randn),
        TensorSpec(
            "fn", [HC, HC * D], torch.float32, init_value=lambda: torch.randn(HC, HC * D) / 128
        ),
        TensorSpec("scale", [1], torch.float32, init_value=1),
        TensorSpec("base", [1, HC], torch.float32, init_value=torch.randn),
        TensorSpec("norm_w", [D], torch.float32, init_value=torch.ones),
        TensorSpec(
            "head_w", [VOCAB, D], torch.bfloat16, init_value=lambda: torch.randn(VOCAB, D) / 64
        ),
        TensorSpec("logits", [T, VOCAB], torch.float32, is_output=True),
        TensorSpec("best_val", [T, 1], torch.float32, is_output=True),
        TensorSpec("token", [T], torch.int32, is_output=True),
    ]


def same_token(actual, expected, *, actual_outputs, expected_outputs, inputs, rtol, atol):

    lg = expected_outputs["logits"]
    gap = lg.max(-1).values - lg.gather(1, actual.long()[:, None])[:, 0]
    ok = bool((gap < 0.02).all())
    return ok, "" if ok else f"gaps {gap.tolist()}"


if __name__ == "__main__":
    import argparse
    from golden import ratio_allclose, run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument(
        "-p", "--platform", type=str, default="a2a3", choices=["a2a3", "a2a3sim", "a5", "a5sim"]
    )
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--enable-l2-swimlane", action="store_true", default=False)
    args = parser.parse_args()

    result = run_jit(
        fn=lm_head,
        specs=build_tensor_specs(),
        golden_fn=golden_head,
        runtime_cfg=dict(
            platform=args.platform,
            device_id=args.device,
            enable_l2_swimlane=args.enable_l2_swimlane,
        ),
        rtol=1e-3,
        atol=1e-3,
        compare_fn={
            "logits": ratio_allclose(atol=2e-2, rtol=2e-2),
            "best_val": ratio_allclose(atol=2e-2, rtol=2e-2),
            "token": same_token,
        },
    )
    if not result.passed:
        if result.error:
            print(result.error)
        raise SystemExit(1)
