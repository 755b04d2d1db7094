"""DeepSeek-V4 decode: KV compressor, ratio 4 with overlap. One new token a sequence.

kv_state / score_state [B, 2*RATIO, 2*HEAD_DIM]: first RATIO rows previous window, last RATIO rows the current one.
When (start_pos + 1) % RATIO == 0 the 2*RATIO rows are pooled, normed, roped and written to the cache.
"""

import pypto.language as pl

from config import DEMO as M, DECODE_BATCH

B = DECODE_BATCH
S = 1
D = M.hidden_size
HEAD_DIM = M.head_dim
ROPE_DIM = M.qk_rope_head_dim
ROPE_HALF = ROPE_DIM // 2
NOPE_DIM = HEAD_DIM - ROPE_DIM
EPS = M.rms_norm_eps
RATIO = 4
COFF = 2
OUT_DIM = COFF * HEAD_DIM
STATE_LEN = COFF * RATIO
MAX_SEQ = M.max_position_embeddings
CACHE_LEN = MAX_SEQ // RATIO

START_POS = 7

K_TILE = 512
N_TILE = 64
POOL_N = 128

assert B % 16 == 0
assert OUT_DIM % N_TILE == 0
assert D % K_TILE == 0


@pl.jit.inline
def project(
    x: pl.Tensor[[B, S, D], pl.BF16],
    wkv: pl.Tensor[[OUT_DIM, D], pl.BF16],
    wgate: pl.Tensor[[OUT_DIM, D], pl.BF16],
    kv: pl.Tensor[[B, OUT_DIM], pl.FP32],
    score: pl.Tensor[[B, OUT_DIM], pl.FP32],
):
    x_flat = pl.reshape(x, [B * S, D])
    for ob in pl.parallel(0, OUT_DIM, N_TILE):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="compress_proj"):
            kv_acc = pl.create_tensor([B, N_TILE], dtype=pl.FP32)
            sc_acc = pl.create_tensor([B, N_TILE], dtype=pl.FP32)
            for kb in pl.pipeline(0, D // K_TILE, 1, stage=2):
                k0 = kb * K_TILE
                xt = x_flat[:, k0 : k0 + K_TILE]
                wk = wkv[ob : ob + N_TILE, k0 : k0 + K_TILE]
                wg = wgate[ob : ob + N_TILE, k0 : k0 + K_TILE]
                if kb == 0:
                    kv_acc = pl.matmul(xt, wk, out_dtype=pl.FP32, b_trans=True)
                    sc_acc = pl.matmul(xt, wg, out_dtype=pl.FP32, b_trans=True)
                else:
                    kv_acc = pl.matmul_acc(kv_acc, xt, wk, b_trans=True)
                    sc_acc = pl.matmul_acc(sc_acc, xt, wg, b_trans=True)
            kv[:, ob : ob + N_TILE] = kv_acc
            score[:, ob : ob + N_TILE] = sc_acc
    return kv, score


@pl.jit
def compressor_r4(
    x: pl.Tensor[[B, S, D], pl.BF16],
    kv_state: pl.InOut[pl.Tensor[[B, STATE_LEN, OUT_DIM], pl.FP32]],
    score_state: pl.InOut[pl.Tensor[[B, STATE_LEN, OUT_DIM], pl.FP32]],
    wkv: pl.Tensor[[OUT_DIM, D], pl.BF16],
    wgate: pl.Tensor[[OUT_DIM, D], pl.BF16],
    ape: pl.Tensor[[RATIO, OUT_DIM], pl.FP32],
    norm_w: pl.Tensor[[HEAD_DIM], pl.BF16],
    cos: pl.Tensor[[1, ROPE_DIM], pl.BF16],
    sin: pl.Tensor[[1, ROPE_DIM], pl.BF16],
    even_select: pl.Tensor[[ROPE_DIM, ROPE_HALF], pl.BF16],
    odd_select: pl.Tensor[[ROPE_DIM, ROPE_HALF], pl.BF16],
    kv_cache: pl.InOut[pl.Tensor[[B, CACHE_LEN, HEAD_DIM], pl.BF16]],
    kv: pl.Out[pl.Tensor[[B, HEAD_DIM], pl.BF16]],
    start_pos: pl.Scalar[pl.INT32],
):
    should_compress = (start_pos + 1) % RATIO == 0
    slot = RATIO + start_pos % RATIO
    kv_p = pl.create_tensor([B, OUT_DIM], dtype=pl.FP32)
    sc_p = pl.create_tensor([B, OUT_DIM], dtype=pl.FP32)
    kv_p, sc_p = project(x, wkv, wgate, kv_p, sc_p)

    kv_st = pl.reshape(kv_state, [B, STATE_LEN * OUT_DIM])
    sc_st = pl.reshape(score_state, [B, STATE_LEN * OUT_DIM])
    cache2 = pl.reshape(kv_cache, [B * CACHE_LEN, HEAD_DIM])

    for ob in pl.parallel(OUT_DIM // POOL_N):
        o0 = ob * POOL_N
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="state_update"):
            a = ape[start_pos % RATIO : start_pos % RATIO + 1, o0 : o0 + POOL_N]
            sc = sc_p[:, o0 : o0 + POOL_N]
            ape_b = pl.col_expand(sc, a)
            sc = pl.add(sc, ape_b)
            kv_st = pl.assemble(kv_st, kv_p[:, o0 : o0 + POOL_N], [0, slot * OUT_DIM + o0])
            sc_st = pl.assemble(sc_st, sc, [0, slot * OUT_DIM + o0])

    if should_compress:
        pooled = pl.create_tensor([B, HEAD_DIM], dtype=pl.FP32)
        for hb in pl.parallel(0, HEAD_DIM // POOL_N):
            h0 = hb * POOL_N
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="softmax_pool"):
                mi = sc_st[:, h0 : h0 + POOL_N]
                for s in pl.range(1, RATIO):
                    mi = pl.maximum(mi, sc_st[:, s * OUT_DIM + h0 : s * OUT_DIM + h0 + POOL_N])
                for s in pl.range(RATIO, STATE_LEN):
                    c0 = s * OUT_DIM + HEAD_DIM + h0
                    mi = pl.maximum(mi, sc_st[:, c0 : c0 + POOL_N])
                li = pl.full([B, POOL_N], dtype=pl.FP32, value=0.0)
                oi = pl.full([B, POOL_N], dtype=pl.FP32, value=0.0)
                for s in pl.range(STATE_LEN):
                    c0 = s * OUT_DIM + (s // RATIO) * HEAD_DIM + h0
                    e = pl.exp(pl.sub(sc_st[:, c0 : c0 + POOL_N], mi))
                    li = pl.add(li, e)
                    oi = pl.add(oi, pl.mul(e, kv_st[:, c0 : c0 + POOL_N]))
                pooled[:, h0 : h0 + POOL_N] = pl.div(oi, li)
        # shift the window
        for b in pl.parallel(B):
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="shift"):
                cur = pl.slice(kv_st, [1, RATIO * OUT_DIM], [b, RATIO * OUT_DIM])
                kv_st = pl.assemble(kv_st, cur, [b, 0])
                cur_s = pl.slice(sc_st, [1, RATIO * OUT_DIM], [b, RATIO * OUT_DIM])
                sc_st = pl.assemble(sc_st, cur_s, [b, 0])
        normed = pl.create_tensor([B, HEAD_DIM], dtype=pl.BF16)
        g = pl.reshape(norm_w, [1, HEAD_DIM])
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="kv_rms"):
            sq = pl.full([1, B], dtype=pl.FP32, value=0.0)
            for hb in pl.range(HEAD_DIM // POOL_N):
                h0 = hb * POOL_N
                c = pooled[:, h0 : h0 + POOL_N]
                sq = pl.add(sq, pl.reshape(pl.row_sum(pl.mul(c, c)), [1, B]))
            inv = pl.reshape(pl.recip(pl.sqrt(pl.add(pl.mul(sq, 1.0 / HEAD_DIM), EPS))), [B, 1])
            for hb in pl.range(HEAD_DIM // POOL_N):
                h0 = hb * POOL_N
                c = pooled[:, h0 : h0 + POOL_N]
                gf = pl.cast(g[:, h0 : h0 + POOL_N], target_type=pl.FP32)
                n = pl.col_expand_mul(pl.row_expand_mul(c, inv), gf)
                normed[:, h0 : h0 + POOL_N] = pl.cast(n, target_type=pl.BF16, mode="rint")
        rope_buf = pl.create_tensor([B, ROPE_DIM], dtype=pl.FP32)
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="rope_select"):
            tail = normed[:, NOPE_DIM:HEAD_DIM]
            ev = pl.matmul(tail, even_select, out_dtype=pl.FP32)
            od = pl.matmul(tail, odd_select, out_dtype=pl.FP32)
            cl = pl.cast(cos[:, 0:ROPE_HALF], target_type=pl.FP32)
            sl = pl.cast(sin[:, 0:ROPE_HALF], target_type=pl.FP32)
            re = pl.sub(pl.col_expand_mul(ev, cl), pl.col_expand_mul(od, sl))
            ro = pl.add(pl.col_expand_mul(ev, sl), pl.col_expand_mul(od, cl))
            re16 = pl.cast(re, target_type=pl.BF16, mode="rint")
            ro16 = pl.cast(ro, target_type=pl.BF16, mode="rint")
            re_back = pl.matmul(re16, even_select, out_dtype=pl.FP32, b_trans=True)
            rope_buf[:, :] = pl.matmul_acc(re_back, ro16, odd_select, b_trans=True)
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="cache_write"):
            r16 = pl.cast(rope_buf[:, :], target_type=pl.BF16, mode="rint")
            kv[:, 0:NOPE_DIM] = normed[:, 0:NOPE_DIM]
            kv[:, NOPE_DIM:HEAD_DIM] = r16
        for b in pl.range(B):
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="cache_scatter"):
                row = kv[b : b + 1, :]
                cache2 = pl.assemble(cache2, row, [b * CACHE_LEN + start_pos // RATIO, 0])
    return kv_state, score_state, kv_cache, kv


def golden_compressor(tensors):
    import torch

    sp = int(tensors["start_pos"])
    x = tensors["x"].float().reshape(B, D)
    kv = x @ tensors["wkv"].float().T
    score = x @ tensors["wgate"].float().T + tensors["ape"][sp % RATIO]
    kv_state, score_state = tensors["kv_state"], tensors["score_state"]
    kv_state[:, RATIO + sp % RATIO] = kv
    score_state[:, RATIO + sp % RATIO] = score
    if (sp + 1) % RATIO != 0:
        return
    k = torch.cat([kv_state[:, :RATIO, :HEAD_DIM], kv_state[:, RATIO:, HEAD_DIM:]], 1)
    s = torch.cat([score_state[:, :RATIO, :HEAD_DIM], score_state[:, RATIO:, HEAD_DIM:]], 1)
    o = (k * s.softmax(1)).sum(1)
    kv_state[:, :RATIO] = kv_state[:, RATIO:].clone()
    score_state[:, :RATIO] = score_state[:, RATIO:].clone()
    o = o * torch.rsqrt(o.square().mean(-1, keepdim=True) + EPS) * tensors["norm_w"].float()
    o = o.to(torch.bfloat16).float()
    cos, sin = tensors["cos"].float()[:, :ROPE_HALF], tensors["sin"].float()[:, :ROPE_HALF]
    r = o[:, NOPE_DIM:]
    ev, od = r[:, 0::2], r[:, 1::2]
    out = torch.stack([ev * cos - od * sin, ev * sin + od * cos], -1).flatten(-2)
    o = torch.cat([o[:, :NOPE_DIM], out], -1).to(torch.bfloat16)
    tensors["kv"][:] = o
    tensors["kv_cache"][:, sp // RATIO] = o


def build_tensor_specs(start_pos):
    import torch
    from golden import ScalarSpec, TensorSpec

    def init_even():
        e = torch.zeros(ROPE_DIM, ROPE_HALF)
        e[torch.arange(0, ROPE_DIM, 2), torch.arange(ROPE_HALF)] = 1
        return e

    def init_odd():
        e = torch.zeros(ROPE_DIM, ROPE_HALF)
        e[torch.arange(1, ROPE_DIM, 2), torch.arange(ROPE_HALF)] = 1
        return e

    def w():
        return torch.randn(OUT_DIM, D) / D**0.5

    return [
        TensorSpec("x", [B, S, D], torch.bfloat16, init_value=torch.randn),
        TensorSpec(
            "kv_state",
            [B, STATE_LEN, OUT_DIM],
            torch.float32,
            init_value=torch.randn,
            is_output=True,
        ),
        TensorSpec(
            "score_state",
            [B, STATE_LEN, OUT_DIM],
            torch.float32,
            init_value=torch.randn,
            is_output=True,
        ),
        TensorSpec("wkv", [OUT_DIM, D], torch.bfloat16, init_value=w),
        TensorSpec("wgate", [OUT_DIM, D], torch.bfloat16, init_value=w),
        TensorSpec("ape", [RATIO, OUT_DIM], torch.float32, init_value=torch.randn),
        TensorSpec("norm_w", [HEAD_DIM], torch.bfloat16, init_value=torch.ones),
        TensorSpec("cos", [1, ROPE_DIM], torch.bfloat16, init_value=torch.rand),
        TensorSpec("sin", [1, ROPE_DIM], torch.bfloat16, init_value=torch.rand),
        TensorSpec("even_select", [ROPE_DIM, ROPE_HALF], torch.bfloat16, init_value=init_even),
        TensorSpec("odd_select", [ROPE_DIM, ROPE_HALF], torch.bfloat16, init_value=init_odd),
        TensorSpec(
            "kv_cache",
            [B, CACHE_LEN, HEAD_DIM],
            torch.bfloat16,
            init_value=torch.zeros,
            is_output=True,
        ),
        TensorSpec("kv", [B, HEAD_DIM], torch.bfloat16, is_output=True),
        ScalarSpec("start_pos", torch.int32, start_pos),
    ]


if __name__ == "__main__":
    import argparse
    from golden import ratio_allclose, run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--platform", type=str, default="a2a3")
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--start-pos", type=int, default=START_POS)
    parser.add_argument("--enable-l2-swimlane", type=int, nargs="?", const=1, default=0)
    args = parser.parse_args()
    result = run_jit(
        fn=compressor_r4,
        specs=build_tensor_specs(args.start_pos),
        golden_fn=golden_compressor,
        runtime_cfg=dict(
            platform=args.platform,
            device_id=args.device,
            enable_l2_swimlane=args.enable_l2_swimlane,
        ),
        rtol=1e-3,
        atol=1e-3,
        compare_fn={
            "kv": ratio_allclose(atol=1e-2, rtol=1e-2),
            "kv_cache": ratio_allclose(atol=1e-2, rtol=1e-2),
        },
    )
    if not result.passed:
        if result.error:
            print(result.error)
        raise SystemExit(1)
