"""Prefill compressor: packed tokens of several requests; ratio 4 (overlapping windows) and 128, with state."""

import pypto.language as pl

from config import FLASH as M

T_DYN = pl.dynamic("T_DYN")
B_DYN = pl.dynamic("B_DYN")
C_DYN = pl.dynamic("C_DYN")
D = M.hidden_size
HEAD_DIM = M.head_dim
ROPE_DIM = M.qk_rope_head_dim
NOPE = HEAD_DIM - ROPE_DIM
EPS = M.rms_norm_eps
OUT4 = 2 * HEAD_DIM
MAX_POS = 2048
M_TILE = 64
K_TILE = 128
N_TILE = 128
NEG = -1e30


@pl.jit.inline
def project(x: pl.Tensor, w: pl.Tensor, y: pl.Tensor):
    t_dim = pl.tensor.dim(x, 0)
    n_dim = w.shape[0]
    for mb in pl.parallel((t_dim + M_TILE - 1) // M_TILE):
        m0 = mb * M_TILE
        rows = pl.min(M_TILE, t_dim - m0)
        for n0 in pl.parallel(0, n_dim, N_TILE):
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="cmp_proj"):
                acc = pl.create_tensor([M_TILE, N_TILE], dtype=pl.FP32)
                for kb in pl.pipeline(0, D // K_TILE, 1, stage=4):
                    k0 = kb * K_TILE
                    a = pl.slice(x, [M_TILE, K_TILE], [m0, k0], valid_shape=[rows, K_TILE])
                    b = w[n0 : n0 + N_TILE, k0 : k0 + K_TILE]
                    if kb == 0:
                        acc = pl.matmul(a, b, b_trans=True, out_dtype=pl.FP32)
                    else:
                        acc = pl.matmul_acc(acc, a, b, b_trans=True)
                y = pl.assemble(y, pl.set_validshape(acc, rows, N_TILE), [m0, n0])
    return y


@pl.jit.inline
def finish(
    row: pl.Tensor, norm_w: pl.Tensor, cos: pl.Tensor, sin: pl.Tensor, pos: pl.Scalar[pl.INDEX]
):
    var = pl.add(pl.mul(pl.row_sum(pl.mul(row, row)), 1.0 / HEAD_DIM), EPS)
    n = pl.row_expand_mul(row, pl.rsqrt(var, high_precision=True))
    n = pl.mul(n, pl.cast(pl.reshape(norm_w, [1, HEAD_DIM]), target_type=pl.FP32))
    tail = pl.slice(n, [1, ROPE_DIM], [0, NOPE])
    even = pl.gather(tail, mask_pattern=pl.tile.MaskPattern.P0101)
    odd = pl.gather(tail, mask_pattern=pl.tile.MaskPattern.P1010)
    c = cos[pos : pos + 1, 0 : ROPE_DIM // 2]
    s = sin[pos : pos + 1, 0 : ROPE_DIM // 2]
    r0 = pl.sub(pl.mul(even, c), pl.mul(odd, s))
    r1 = pl.add(pl.mul(even, s), pl.mul(odd, c))
    inter = pl.tensor.scatter(r0, mask_pattern=pl.tile.MaskPattern.P0101, dst=tail)
    inter = pl.tensor.scatter(r1, mask_pattern=pl.tile.MaskPattern.P1010, dst=inter)
    return pl.concat(
        pl.cast(n[:, 0:NOPE], target_type=pl.BF16, mode="rint"),
        pl.cast(inter, target_type=pl.BF16, mode="rint"),
    )


@pl.jit
def prefill_compressor_r4(
    x: pl.Tensor[[T_DYN, D], pl.BF16],
    wkv: pl.Tensor[[OUT4, D], pl.BF16],
    wgate: pl.Tensor[[OUT4, D], pl.BF16],
    ape: pl.Tensor[[4, OUT4], pl.FP32],
    norm_w: pl.Tensor[[HEAD_DIM], pl.BF16],
    cos: pl.Tensor[[MAX_POS, ROPE_DIM], pl.FP32],
    sin: pl.Tensor[[MAX_POS, ROPE_DIM], pl.FP32],
    cu_seqlens: pl.Tensor[[B_DYN], pl.INT32],
    start_pos: pl.Tensor[[B_DYN], pl.INT32],
    kv_state: pl.InOut[pl.Tensor[[B_DYN, 8, OUT4], pl.FP32]],
    score_state: pl.InOut[pl.Tensor[[B_DYN, 8, OUT4], pl.FP32]],
    kv_cmp: pl.Out[pl.Tensor[[C_DYN, HEAD_DIM], pl.BF16]],
    cu_cmp: pl.Tensor[[B_DYN], pl.INT32],
):
    """cu_seqlens[b] is the end of request b; start_pos a multiple of 4; kv_state[b, 0:4] the previous window."""
    t_dim = pl.tensor.dim(x, 0)
    batch = pl.tensor.dim(cu_seqlens, 0)
    kv = pl.create_tensor([t_dim, OUT4], dtype=pl.FP32)
    score = pl.create_tensor([t_dim, OUT4], dtype=pl.FP32)
    kv = project(x, wkv, kv)
    score = project(x, wgate, score)
    for b in pl.range(batch):
        begin = 0
        cbegin = 0
        if b > 0:
            begin = pl.cast(pl.read(cu_seqlens, [b - 1]), pl.INDEX)
            cbegin = pl.cast(pl.read(cu_cmp, [b - 1]), pl.INDEX)
        n = pl.cast(pl.read(cu_seqlens, [b]), pl.INDEX) - begin
        sp = pl.read(start_pos, [b])
        full = n // 4
        for c in pl.parallel(full):
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="pool4"):
                t0 = begin + c * 4
                cur_s = pl.add(score[t0 : t0 + 4, HEAD_DIM:OUT4], ape[:, HEAD_DIM:OUT4])
                cur_k = kv[t0 : t0 + 4, HEAD_DIM:OUT4]
                prev_s = score_state[b, 0:4, 0:HEAD_DIM]
                prev_k = kv_state[b, 0:4, 0:HEAD_DIM]
                if c > 0:
                    prev_s = pl.add(score[t0 - 4 : t0, 0:HEAD_DIM], ape[:, 0:HEAD_DIM])
                    prev_k = kv[t0 - 4 : t0, 0:HEAD_DIM]
                if c == 0 and sp == 0:
                    prev_s = pl.full([4, HEAD_DIM], dtype=pl.FP32, value=NEG)
                mx = pl.maximum(pl.col_max(cur_s), pl.col_max(prev_s))
                e1 = pl.col_expand_expdif(cur_s, mx)
                e0 = pl.col_expand_expdif(prev_s, mx)
                den = pl.add(pl.col_sum(e0), pl.col_sum(e1))
                num = pl.add(pl.col_sum(pl.mul(e0, prev_k)), pl.col_sum(pl.mul(e1, cur_k)))
                row = finish(pl.div(num, den), norm_w, cos, sin, sp + c * 4)
                kv_cmp[cbegin + c : cbegin + c + 1, :] = row
        if full > 0:
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="keep_prev"):
                last = begin + full * 4 - 4
                kv_state[b, 0:4, :] = kv[last : last + 4, :]
                score_state[b, 0:4, :] = pl.add(score[last : last + 4, :], ape[:, :])
        for i in pl.range(n % 4):
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="keep_tail"):
                tt = begin + full * 4 + i
                kv_state[b, 4 + i : 5 + i, :] = kv[tt : tt + 1, :]
                score_state[b, 4 + i : 5 + i, :] = pl.add(score[tt : tt + 1, :], ape[i : i + 1, :])
    return kv_state, score_state, kv_cmp


@pl.jit
def prefill_compressor_r128(
    x: pl.Tensor[[T_DYN, D], pl.BF16],
    wkv: pl.Tensor[[HEAD_DIM, D], pl.BF16],
    wgate: pl.Tensor[[HEAD_DIM, D], pl.BF16],
    ape: pl.Tensor[[128, HEAD_DIM], pl.FP32],
    norm_w: pl.Tensor[[HEAD_DIM], pl.BF16],
    cos: pl.Tensor[[MAX_POS, ROPE_DIM], pl.FP32],
    sin: pl.Tensor[[MAX_POS, ROPE_DIM], pl.FP32],
    kv_state: pl.InOut[pl.Tensor[[128, HEAD_DIM], pl.FP32]],
    score_state: pl.InOut[pl.Tensor[[128, HEAD_DIM], pl.FP32]],
    kv_cmp: pl.Out[pl.Tensor[[C_DYN, HEAD_DIM], pl.BF16]],
    start_pos: pl.Scalar[pl.INT32],
):
    t_dim = pl.tensor.dim(x, 0)
    kv = pl.create_tensor([t_dim, HEAD_DIM], dtype=pl.FP32)
    score = pl.create_tensor([t_dim, HEAD_DIM], dtype=pl.FP32)
    kv = project(x, wkv, kv)
    score = project(x, wgate, score)
    ph = start_pos % 128
    done = 0
    c = 0
    # windows finish one after the other; the first one may have begun in an earlier call
    while done < t_dim:
        take = pl.min(128 - ph, t_dim - done)
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="fill_state"):
            blk_k = pl.slice(kv, [128, HEAD_DIM], [done, 0], valid_shape=[take, HEAD_DIM])
            blk_s = pl.add(
                pl.slice(score, [128, HEAD_DIM], [done, 0], valid_shape=[take, HEAD_DIM]),
                pl.slice(ape, [128, HEAD_DIM], [ph, 0], valid_shape=[take, HEAD_DIM]),
            )
            kv_state = pl.assemble(kv_state, blk_k, [ph, 0])
            score_state = pl.assemble(score_state, blk_s, [ph, 0])
        if ph + take == 128:
            pooled = pl.create_tensor([1, HEAD_DIM], dtype=pl.FP32)
            for h0 in pl.parallel(0, HEAD_DIM, 128):
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="pool128"):
                    s = score_state[:, h0 : h0 + 128]
                    e = pl.col_expand_expdif(s, pl.col_max(s))
                    pooled[:, h0 : h0 + 128] = pl.div(
                        pl.col_sum(pl.mul(e, kv_state[:, h0 : h0 + 128])), pl.col_sum(e)
                    )
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="finish"):
                pos = start_pos + done - ph
                frow = finish(pooled[:, :], norm_w, cos, sin, pos)
                kv_cmp[c : c + 1, :] = frow
            c = c + 1
        done = done + take
        ph = 0
    return kv_state, score_state, kv_cmp


def g_finish(row, t, pos):
    import torch

    n = row * torch.rsqrt(row.square().mean(-1, keepdim=True) + EPS) * t["norm_w"].float()
    a = n[NOPE:].clone()
    c, s = t["cos"][pos, : ROPE_DIM // 2], t["sin"][pos, : ROPE_DIM // 2]
    n[NOPE:] = torch.stack([a[0::2] * c - a[1::2] * s, a[0::2] * s + a[1::2] * c], -1).flatten()
    return n.bfloat16()


def golden_r4(t):
    import torch

    x = t["x"].float()
    kv, sc = x @ t["wkv"].float().T, x @ t["wgate"].float().T
    b0 = c0 = 0
    for b in range(len(t["cu_seqlens"])):
        e = int(t["cu_seqlens"][b])
        sp = int(t["start_pos"][b])
        k, s = kv[b0:e], sc[b0:e] + t["ape"].repeat((e - b0) // 4 + 1, 1)[: e - b0]
        pk, ps = t["kv_state"][b, :4, :HEAD_DIM], t["score_state"][b, :4, :HEAD_DIM].clone()
        if sp == 0:
            ps[:] = NEG
        full = (e - b0) // 4
        for c in range(full):
            ck, cs = k[4 * c : 4 * c + 4], s[4 * c : 4 * c + 4]
            w = torch.cat([ps, cs[:, HEAD_DIM:]]).softmax(0)
            t["kv_cmp"][c0 + c] = g_finish(
                (w * torch.cat([pk, ck[:, HEAD_DIM:]])).sum(0), t, sp + 4 * c
            )
            pk, ps = ck[:, :HEAD_DIM], cs[:, :HEAD_DIM]
        if full:
            t["kv_state"][b, :4], t["score_state"][b, :4] = (
                k[4 * full - 4 : 4 * full],
                s[4 * full - 4 : 4 * full],
            )
        r = (e - b0) % 4
        if r:
            t["kv_state"][b, 4 : 4 + r], t["score_state"][b, 4 : 4 + r] = k[-r:], s[-r:]
        b0, c0 = e, c0 + full


def golden_r128(t):

    x = t["x"].float()
    kv, sc = x @ t["wkv"].float().T, x @ t["wgate"].float().T
    sp, c = int(t["start_pos"]), 0
    for i in range(len(x)):
        ph = (sp + i) % 128
        t["kv_state"][ph] = kv[i]
        t["score_state"][ph] = sc[i] + t["ape"][ph]
        if ph == 127:
            t["kv_cmp"][c] = g_finish(
                (t["score_state"].softmax(0) * t["kv_state"]).sum(0), t, sp + i - 127
            )
            c += 1


def base(out, ratio, n):
    import torch
    from golden import TensorSpec

    def w():
        return torch.randn(out, D) / D**0.5

    return [
        TensorSpec("x", [n, D], torch.bfloat16, init_value=torch.randn),
        TensorSpec("wkv", [out, D], torch.bfloat16, init_value=w),
        TensorSpec("wgate", [out, D], torch.bfloat16, init_value=w),
        TensorSpec("ape", [ratio, out], torch.float32, init_value=torch.randn),
        TensorSpec("norm_w", [HEAD_DIM], torch.bfloat16, init_value=torch.rand),
        TensorSpec("cos", [MAX_POS, ROPE_DIM], torch.float32, init_value=torch.rand),
        TensorSpec("sin", [MAX_POS, ROPE_DIM], torch.float32, init_value=torch.rand),
    ]


def specs_r4(lens=(37, 3, 64, 101), starts=(0, 8, 400, 12)):
    import torch
    from golden import TensorSpec

    b = len(lens)
    cu = torch.tensor(lens).cumsum(0).int()
    cc = (torch.tensor(lens) // 4).cumsum(0).int()
    return [
        *base(OUT4, 4, sum(lens)),
        TensorSpec("cu_seqlens", [b], torch.int32, init_value=cu),
        TensorSpec("start_pos", [b], torch.int32, init_value=torch.tensor(starts)),
        TensorSpec("kv_state", [b, 8, OUT4], torch.float32, init_value=torch.randn, is_output=True),
        TensorSpec(
            "score_state", [b, 8, OUT4], torch.float32, init_value=torch.randn, is_output=True
        ),
        TensorSpec("kv_cmp", [int(cc[-1]), HEAD_DIM], torch.bfloat16, is_output=True),
        TensorSpec("cu_cmp", [b], torch.int32, init_value=cc),
    ]


def specs_r128(n=300, sp=70):
    import torch
    from golden import ScalarSpec, TensorSpec

    return [
        *base(HEAD_DIM, 128, n),
        TensorSpec(
            "kv_state", [128, HEAD_DIM], torch.float32, init_value=torch.randn, is_output=True
        ),
        TensorSpec(
            "score_state", [128, HEAD_DIM], torch.float32, init_value=torch.randn, is_output=True
        ),
        TensorSpec("kv_cmp", [(sp % 128 + n) // 128, HEAD_DIM], torch.bfloat16, is_output=True),
        ScalarSpec("start_pos", torch.int32, sp),
    ]


if __name__ == "__main__":
    import argparse
    from golden import ratio_allclose, run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--platform", type=str, default="a2a3")
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--enable-l2-swimlane", action="store_true", default=False)
    args = parser.parse_args()

    close = {
        "kv_cmp": ratio_allclose(atol=1e-2, rtol=1e-2),
        "kv_state": ratio_allclose(atol=1e-3, rtol=1e-3),
        "score_state": ratio_allclose(atol=1e-3, rtol=1e-3),
    }
    cases = [
        (prefill_compressor_r4, specs_r4(), golden_r4, close),
        (prefill_compressor_r128, specs_r128(), golden_r128, close),
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
