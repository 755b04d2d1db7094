"""MTP: the draft head (norms of embedding and hidden state, projection of both), and verification of its draft."""

import pypto.language as pl

from config import FLASH as M, DECODE_BATCH

B = DECODE_BATCH
S = 2
T = B * S
D = M.hidden_size
HC = M.hc_mult
EPS = M.rms_norm_eps
VOCAB = M.vocab_size
V_LOCAL = VOCAB // 8
V_CHUNK = 128
N_CHUNKS = V_LOCAL // V_CHUNK
K_TILE = 512
N_TILE = 128

assert V_LOCAL % V_CHUNK == 0


@pl.jit.inline
def rms_to_bf16(x: pl.Tensor, w: pl.Tensor, y: pl.Tensor):
    w2 = pl.reshape(w, [1, D])
    rows = pl.tensor.dim(x, 0)
    for t0 in pl.parallel(0, rows, 8):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="mtp_norm"):
            part = pl.full([1, 8], dtype=pl.FP32, value=0.0)
            for k0 in pl.pipeline(0, D, K_TILE, stage=2):
                xc = pl.cast(x[t0 : t0 + 8, k0 : k0 + K_TILE], target_type=pl.FP32)
                part = pl.add(part, pl.reshape(pl.row_sum(pl.mul(xc, xc)), [1, 8]))
            var = pl.reshape(pl.add(pl.mul(part, 1.0 / D), EPS), [8, 1])
            inv = pl.recip(pl.sqrt(var))
            for k0 in pl.pipeline(0, D, K_TILE, stage=2):
                xc = pl.cast(x[t0 : t0 + 8, k0 : k0 + K_TILE], target_type=pl.FP32)
                wc = pl.cast(w2[:, k0 : k0 + K_TILE], target_type=pl.FP32)
                xn = pl.col_expand_mul(pl.row_expand_mul(xc, inv), wc)
                y[t0 : t0 + 8, k0 : k0 + K_TILE] = pl.cast(xn, target_type=pl.BF16, mode="rint")
    return y


@pl.jit
def mtp_head(
    hidden: pl.Tensor[[B, S, HC, D], pl.BF16],
    token_ids: pl.Tensor[[B, S], pl.INT32],
    embed: pl.Tensor[[V_LOCAL, D], pl.BF16],
    enorm_w: pl.Tensor[[D], pl.BF16],
    hnorm_w: pl.Tensor[[D], pl.BF16],
    e_proj: pl.Tensor[[D, D], pl.BF16],
    h_proj: pl.Tensor[[D, D], pl.BF16],
    out: pl.Out[pl.Tensor[[B, S, HC, D], pl.BF16]],
):
    h_rows = pl.reshape(hidden, [T * HC, D])
    o_rows = pl.reshape(out, [T * HC, D])
    ids = pl.reshape(token_ids, [T])
    e = pl.create_tensor([T, D], dtype=pl.BF16)
    for t in pl.range(T):
        tok = pl.cast(pl.read(ids, [t]), pl.INDEX)
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="embed_row"):
            e[t : t + 1, :] = embed[tok : tok + 1, :]
    e_n = pl.create_tensor([T, D], dtype=pl.BF16)
    e_n = rms_to_bf16(e, enorm_w, e_n)
    h_n = pl.create_tensor([T * HC, D], dtype=pl.BF16)
    h_n = rms_to_bf16(h_rows, hnorm_w, h_n)
    for nb in pl.spmd(D // N_TILE, name_hint="mtp_proj"):
        n0 = nb * N_TILE
        e_acc = pl.create_tensor([T, N_TILE], dtype=pl.FP32)
        h_acc = pl.create_tensor([T * HC, N_TILE], dtype=pl.FP32)
        for kb in pl.pipeline(D // K_TILE, stage=2):
            k0 = kb * K_TILE
            we = e_proj[n0 : n0 + N_TILE, k0 : k0 + K_TILE]
            wh = h_proj[n0 : n0 + N_TILE, k0 : k0 + K_TILE]
            if kb == 0:
                e_acc = pl.matmul(e_n[:, k0 : k0 + K_TILE], we, out_dtype=pl.FP32, b_trans=True)
                h_acc = pl.matmul(h_n[:, k0 : k0 + K_TILE], wh, out_dtype=pl.FP32, b_trans=True)
            else:
                e_acc = pl.matmul_acc(e_acc, e_n[:, k0 : k0 + K_TILE], we, b_trans=True)
                h_acc = pl.matmul_acc(h_acc, h_n[:, k0 : k0 + K_TILE], wh, b_trans=True)
        for t in pl.range(T):
            row = e_acc[t : t + 1, :]
            mix = pl.col_expand_add(h_acc[t * HC : t * HC + HC, :], row)
            o_rows[t * HC : t * HC + HC, n0 : n0 + N_TILE] = pl.cast(
                mix, target_type=pl.BF16, mode="rint"
            )
    return out


@pl.jit
def verify_draft(
    logits: pl.Tensor[[B, S, V_LOCAL], pl.FP32],
    draft: pl.Tensor[[B, S], pl.INT32],
    kv_len: pl.InOut[pl.Tensor[[B], pl.INT32]],
    accepted: pl.Out[pl.Tensor[[B], pl.INT32]],
    next_token: pl.Out[pl.Tensor[[B, S], pl.INT32]],
    all_accepted: pl.Out[pl.Tensor[[1], pl.BOOL]],
):
    """Greedy: position s is right when argmax(logits[s]) == draft[s + 1]; the first wrong one ends the request."""
    rows = pl.reshape(logits, [T, V_LOCAL])
    best = pl.create_tensor([T, 1], dtype=pl.INT32)
    for t0 in pl.parallel(0, T, 8):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="argmax"):
            cur_v = pl.full([8, 1], dtype=pl.FP32, value=-3.4e38)
            cur_i = pl.full([8, 1], dtype=pl.FP32, value=0.0)
            for c in pl.range(N_CHUNKS):
                x = rows[t0 : t0 + 8, c * V_CHUNK : c * V_CHUNK + V_CHUNK]
                m = pl.row_max(x)
                idx = pl.cast(pl.arange(0, [1, V_CHUNK], dtype=pl.INT32), target_type=pl.FP32)
                hit = pl.cmp(x, m, cmp_type=0)
                ids = pl.col_expand(x, idx)
                far = pl.mul(pl.add(hit, -1.0), -1e9)
                pos = pl.row_min(pl.add(ids, far))
                pos = pl.add(pos, pl.cast(c * V_CHUNK, pl.FP32))
                better = pl.cmp(m, cur_v, cmp_type=4)
                cur_i = pl.add(pl.mul(better, pos), pl.mul(pl.add(pl.neg(better), 1.0), cur_i))
                cur_v = pl.maximum(cur_v, m)
            best[t0 : t0 + 8, :] = pl.cast(cur_i, target_type=pl.INT32, mode="rint")
    ok_all = True
    for b in pl.range(B):
        n = 1
        going = True
        for s in pl.range(S - 1):
            want = pl.read(draft, [b, s + 1])
            got = pl.read(best, [b * S + s, 0])
            if going and got == want:
                n = n + 1
            else:
                going = False
                ok_all = False
        pl.write(accepted, [b], pl.cast(n, pl.INT32))
        pl.write(kv_len, [b], pl.cast(pl.read(kv_len, [b]) + n, pl.INT32))
        for s in pl.range(S):
            if s < n:
                pl.write(next_token, [b, s], pl.read(best, [b * S + s, 0]))
            else:
                pl.write(next_token, [b, s], pl.cast(-1, pl.INT32))
    pl.write(all_accepted, [0], ok_all)
    return kv_len, accepted, next_token, all_accepted


def golden_mtp(t):
    import torch

    def rms(x, w):
        x = x.float()
        return (
            (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * w.float())
            .bfloat16()
            .float()
        )

    e = rms(t["embed"][t["token_ids"].long()], t["enorm_w"]) @ t["e_proj"].float().T
    h = rms(t["hidden"], t["hnorm_w"]) @ t["h_proj"].float().T
    t["out"][:] = (e[:, :, None] + h).bfloat16()


def golden_verify(t):
    import torch

    best = t["logits"].argmax(-1).int()
    alls = True
    for b in range(B):
        n = 1
        while n < S and best[b, n - 1] == t["draft"][b, n]:
            n += 1
        alls &= n == S
        t["accepted"][b] = n
        t["kv_len"][b] += n
        t["next_token"][b] = torch.tensor([int(best[b, s]) if s < n else -1 for s in range(S)])
    t["all_accepted"][0] = alls


def specs_mtp():
    import torch
    from golden import TensorSpec

    def w():
        return torch.randn(D, D) / D**0.5

    return [
        TensorSpec("hidden", [B, S, HC, D], torch.bfloat16, init_value=torch.randn),
        TensorSpec(
            "token_ids", [B, S], torch.int32, init_value=lambda: torch.randint(0, V_LOCAL, (B, S))
        ),
        TensorSpec("embed", [V_LOCAL, D], torch.bfloat16, init_value=torch.randn),
        TensorSpec("enorm_w", [D], torch.bfloat16, init_value=torch.rand),
        TensorSpec("hnorm_w", [D], torch.bfloat16, init_value=torch.rand),
        TensorSpec("e_proj", [D, D], torch.bfloat16, init_value=w),
        TensorSpec("h_proj", [D, D], torch.bfloat16, init_value=w),
        TensorSpec("out", [B, S, HC, D], torch.bfloat16, is_output=True),
    ]


def specs_verify():
    import torch
    from golden import TensorSpec

    logits = torch.randn(B, S, V_LOCAL)
    draft = torch.randint(0, V_LOCAL, (B, S)).int()
    draft[::2, 1] = logits[::2, 0].argmax(-1).int()
    return [
        TensorSpec("logits", [B, S, V_LOCAL], torch.float32, init_value=logits),
        TensorSpec("draft", [B, S], torch.int32, init_value=draft),
        TensorSpec(
            "kv_len",
            [B],
            torch.int32,
            init_value=lambda: torch.randint(0, 4000, (B,)),
            is_output=True,
        ),
        TensorSpec("accepted", [B], torch.int32, is_output=True),
        TensorSpec("next_token", [B, S], torch.int32, is_output=True),
        TensorSpec("all_accepted", [1], torch.bool, is_output=True),
    ]


if __name__ == "__main__":
    import argparse
    from golden import ratio_allclose, run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--platform", type=str, default="a2a3")
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--enable-l2-swimlane", action="store_true", default=False)
    args = parser.parse_args()

    cases = [
        (mtp_head, specs_mtp(), golden_mtp, {"out": ratio_allclose(atol=1e-2, rtol=1e-2)}),
        (verify_draft, specs_verify(), golden_verify, None),
    ]
    for fn, specs, golden, compare in cases:
        result = run_jit(
            fn=fn,
            specs=specs,
            golden_fn=golden,
            runtime_cfg=dict(platform=args.platform, device_id=args.device),
            rtol=1e-3,
            atol=1e-3,
            compare_fn=compare,
        )
        if not result.passed:
            print(result.error)
            raise SystemExit(1)
