"""Decoding attention: RoPE, cache update, paged context, softmax in two stages, projection, residual."""

import argparse

import pypto.language as pl

BATCH = 3
HIDDEN = 128
HEADS = 4
KV_HEADS = 2
HEAD_DIM = 32
HALF = HEAD_DIM // 2
Q_PER_KV = HEADS // KV_HEADS
Q_PAD = 16
BLOCK = 16
MAX_BLOCKS = 4
MAX_SEQ = BLOCK * MAX_BLOCKS
POOL = BATCH * MAX_BLOCKS + 2
KV_DIM = KV_HEADS * HEAD_DIM
ATTN_SCALE = 1.0 / (HEAD_DIM**0.5)
EPS = 1e-6
K_CHUNK = 64
N_CHUNK = 32


@pl.jit.inline
def rms_norm(
    x: pl.Tensor[[BATCH, HIDDEN], pl.BF16],
    gamma: pl.Tensor[[1, HIDDEN], pl.FP32],
    out: pl.Tensor[[BATCH, HIDDEN], pl.BF16],
):
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="rms_norm"):
        sq = pl.full([1, BATCH], dtype=pl.FP32, value=0.0)
        for kb in pl.range(HIDDEN // K_CHUNK):
            k0 = kb * K_CHUNK
            c = pl.cast(x[:, k0 : k0 + K_CHUNK], target_type=pl.FP32)
            sq = pl.add(sq, pl.reshape(pl.row_sum(pl.mul(c, c)), [1, BATCH]))
        var = pl.reshape(pl.add(pl.mul(sq, 1.0 / HIDDEN), EPS), [BATCH, 1])
        inv = pl.recip(pl.sqrt(var))
        for kb in pl.range(HIDDEN // K_CHUNK):
            k0 = kb * K_CHUNK
            c = pl.cast(x[:, k0 : k0 + K_CHUNK], target_type=pl.FP32)
            g = gamma[:, k0 : k0 + K_CHUNK]
            n = pl.col_expand_mul(pl.row_expand_mul(c, inv), g)
            out[:, k0 : k0 + K_CHUNK] = pl.cast(n, target_type=pl.BF16, mode="rint")
    return out


@pl.jit.inline
def project(x: pl.Tensor, w: pl.Tensor, out: pl.Tensor):
    """out = x @ w, N in chunks, K pipelined."""
    k_dim = x.shape[1]
    n_dim = w.shape[1]
    for n0 in pl.parallel(0, n_dim, N_CHUNK):
        acc = pl.create_tensor([BATCH, N_CHUNK], dtype=pl.FP32)
        with pl.at(
            level=pl.Level.CORE_GROUP,
            optimizations=[pl.split(pl.SplitMode.UP_DOWN)],
            name_hint="project",
        ):
            for kb in pl.pipeline(0, k_dim // K_CHUNK, stage=2):
                k0 = kb * K_CHUNK
                a = pl.slice(x, [BATCH, K_CHUNK], [0, k0])
                b = pl.slice(w, [K_CHUNK, N_CHUNK], [k0, n0])
                if kb == 0:
                    acc = pl.matmul(a, b, out_dtype=pl.FP32)
                else:
                    acc = pl.matmul_acc(acc, a, b)
            out = pl.assemble(out, acc, [0, n0])
    return out


@pl.jit
def decode_attention(
    hidden: pl.Tensor[[BATCH, HIDDEN], pl.BF16],
    gamma: pl.Tensor[[1, HIDDEN], pl.FP32],
    wq: pl.Tensor[[HIDDEN, HEADS * HEAD_DIM], pl.BF16],
    wk: pl.Tensor[[HIDDEN, KV_DIM], pl.BF16],
    wv: pl.Tensor[[HIDDEN, KV_DIM], pl.BF16],
    wo: pl.Tensor[[HEADS * HEAD_DIM, HIDDEN], pl.BF16],
    cos: pl.Tensor[[MAX_SEQ, HEAD_DIM], pl.FP32],
    sin: pl.Tensor[[MAX_SEQ, HEAD_DIM], pl.FP32],
    seq_lens: pl.Tensor[[BATCH], pl.INT32],
    block_table: pl.Tensor[[BATCH * MAX_BLOCKS], pl.INT32],
    k_cache: pl.InOut[pl.Tensor[[POOL * KV_HEADS * BLOCK, HEAD_DIM], pl.BF16]],
    v_cache: pl.InOut[pl.Tensor[[POOL * KV_HEADS * BLOCK, HEAD_DIM], pl.BF16]],
    out: pl.Out[pl.Tensor[[BATCH, HIDDEN], pl.BF16]],
):
    normed = pl.create_tensor([BATCH, HIDDEN], dtype=pl.BF16)
    normed = rms_norm(hidden, gamma, normed)
    q = pl.create_tensor([BATCH, HEADS * HEAD_DIM], dtype=pl.FP32)
    k = pl.create_tensor([BATCH, KV_DIM], dtype=pl.FP32)
    v = pl.create_tensor([BATCH, KV_DIM], dtype=pl.FP32)
    q = project(normed, wq, q)
    k = project(normed, wk, k)
    v = project(normed, wv, v)

    attn = pl.create_tensor([BATCH, HEADS * HEAD_DIM], dtype=pl.BF16)
    q_padded = pl.create_tensor([BATCH * KV_HEADS * Q_PAD, HEAD_DIM], dtype=pl.BF16)
    for b in pl.parallel(BATCH):
        ctx_len = pl.read(seq_lens, [b])
        pos = ctx_len - 1
        ctx_blocks = (ctx_len + BLOCK - 1) // BLOCK
        cos_lo = pl.slice(cos, [1, HALF], [pos, 0])
        cos_hi = pl.slice(cos, [1, HALF], [pos, HALF])
        sin_lo = pl.slice(sin, [1, HALF], [pos, 0])
        sin_hi = pl.slice(sin, [1, HALF], [pos, HALF])
        slot_block = pl.read(block_table, [b * MAX_BLOCKS + pos // BLOCK])
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="rope_kv"):
            for g in pl.range(KV_HEADS):
                col = g * HEAD_DIM
                row = (slot_block * KV_HEADS + g) * BLOCK + pos % BLOCK
                lo = k[b : b + 1, col : col + HALF]
                hi = k[b : b + 1, col + HALF : col + HEAD_DIM]
                rot_lo = pl.sub(pl.col_expand_mul(lo, cos_lo), pl.col_expand_mul(hi, sin_lo))
                rot_hi = pl.add(pl.col_expand_mul(hi, cos_hi), pl.col_expand_mul(lo, sin_hi))
                k_cache = pl.assemble(
                    k_cache, pl.cast(rot_lo, target_type=pl.BF16, mode="rint"), [row, 0]
                )
                k_cache = pl.assemble(
                    k_cache, pl.cast(rot_hi, target_type=pl.BF16, mode="rint"), [row, HALF]
                )
                v_cache[row : row + 1, :] = pl.cast(
                    v[b : b + 1, col : col + HEAD_DIM], target_type=pl.BF16, mode="rint"
                )
                q_base = (b * KV_HEADS + g) * Q_PAD
                q_padded[q_base : q_base + Q_PAD, :] = pl.cast(
                    pl.full([Q_PAD, HEAD_DIM], dtype=pl.FP32, value=0.0), target_type=pl.BF16
                )
                for i in pl.range(Q_PER_KV):
                    qc = (g * Q_PER_KV + i) * HEAD_DIM
                    q_lo = q[b : b + 1, qc : qc + HALF]
                    q_hi = q[b : b + 1, qc + HALF : qc + HEAD_DIM]
                    r_lo = pl.sub(pl.mul(q_lo, cos_lo), pl.mul(q_hi, sin_lo))
                    r_hi = pl.add(pl.mul(q_hi, cos_hi), pl.mul(q_lo, sin_hi))
                    q_padded[q_base + i : q_base + i + 1, 0:HALF] = pl.cast(
                        r_lo, target_type=pl.BF16, mode="rint"
                    )
                    q_padded[q_base + i : q_base + i + 1, HALF:HEAD_DIM] = pl.cast(
                        r_hi, target_type=pl.BF16, mode="rint"
                    )

        for g in pl.parallel(KV_HEADS):
            q_base = (b * KV_HEADS + g) * Q_PAD
            q_group = pl.slice(q_padded, [Q_PAD, HEAD_DIM], [q_base, 0])
            scores = pl.create_tensor([MAX_BLOCKS * Q_PAD, BLOCK], dtype=pl.FP32)
            probs = pl.create_tensor([MAX_BLOCKS * Q_PAD, BLOCK], dtype=pl.BF16)
            cur_m = pl.create_tensor([MAX_BLOCKS * Q_PAD, 1], dtype=pl.FP32)
            cur_l = pl.create_tensor([MAX_BLOCKS * Q_PAD, 1], dtype=pl.FP32)
            tmp_o = pl.create_tensor([MAX_BLOCKS * Q_PAD, HEAD_DIM], dtype=pl.FP32)
            for sb in pl.range(ctx_blocks):
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="qk"):
                    page = pl.read(block_table, [b * MAX_BLOCKS + sb])
                    row = (page * KV_HEADS + g) * BLOCK
                    k_tile = pl.slice(k_cache, [BLOCK, HEAD_DIM], [row, 0])
                    scores = pl.assemble(
                        scores,
                        pl.matmul(q_group, k_tile, b_trans=True, out_dtype=pl.FP32),
                        [sb * Q_PAD, 0],
                    )
            for sb in pl.range(ctx_blocks):
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="softmax"):
                    valid = pl.min(BLOCK, ctx_len - sb * BLOCK)
                    s_valid = pl.slice(
                        scores, [Q_PAD, BLOCK], [sb * Q_PAD, 0], valid_shape=[Q_PAD, valid]
                    )
                    s_pad = pl.fillpad(s_valid, pad_value=pl.PadValue.min)
                    s_scaled = pl.mul(s_pad, ATTN_SCALE)
                    m = pl.row_max(s_scaled)
                    e = pl.exp(pl.row_expand_sub(s_scaled, m))
                    e16 = pl.cast(e, target_type=pl.BF16, mode="rint")
                    total = pl.row_sum(pl.cast(e16, target_type=pl.FP32))
                    probs[sb * Q_PAD : sb * Q_PAD + Q_PAD, :] = e16
                    cur_m = pl.assemble(cur_m, m, [sb * Q_PAD, 0])
                    cur_l = pl.assemble(cur_l, total, [sb * Q_PAD, 0])
            for sb in pl.range(ctx_blocks):
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="pv"):
                    page = pl.read(block_table, [b * MAX_BLOCKS + sb])
                    row = (page * KV_HEADS + g) * BLOCK
                    tmp_o[sb * Q_PAD : (sb + 1) * Q_PAD, :] = pl.matmul(
                        probs[sb * Q_PAD : (sb + 1) * Q_PAD, :],
                        v_cache[row : row + BLOCK, :],
                        out_dtype=pl.FP32,
                    )
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="merge"):
                oi = tmp_o[0:Q_PAD, :]
                mi = cur_m[0:Q_PAD, :]
                li = cur_l[0:Q_PAD, :]
                for sb in pl.range(1, ctx_blocks):
                    base = sb * Q_PAD
                    o_new = tmp_o[base : base + Q_PAD, :]
                    m_new = cur_m[base : base + Q_PAD, :]
                    l_new = cur_l[base : base + Q_PAD, :]
                    m_next = pl.maximum(mi, m_new)
                    alpha = pl.exp(pl.sub(mi, m_next))
                    beta = pl.exp(pl.sub(m_new, m_next))
                    li = pl.add(pl.mul(alpha, li), pl.mul(beta, l_new))
                    oi = pl.add(pl.row_expand_mul(oi, alpha), pl.row_expand_mul(o_new, beta))
                    mi = m_next
                ctx = pl.row_expand_div(oi, li)
                ctx16 = pl.cast(ctx, target_type=pl.BF16, mode="rint")
                flat = pl.reshape(
                    pl.slice(ctx16, [Q_PER_KV, HEAD_DIM], [0, 0]), [1, Q_PER_KV * HEAD_DIM]
                )
                attn = pl.assemble(attn, flat, [b, g * Q_PER_KV * HEAD_DIM])

    proj = pl.create_tensor([BATCH, HIDDEN], dtype=pl.FP32)
    proj = project(attn, wo, proj)
    for n0 in pl.parallel(0, HIDDEN, N_CHUNK):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="residual"):
            r = pl.cast(hidden[:, n0 : n0 + N_CHUNK], target_type=pl.FP32)
            s = pl.add(proj[:, n0 : n0 + N_CHUNK], r)
            out[:, n0 : n0 + N_CHUNK] = pl.cast(s, target_type=pl.BF16, mode="rint")
    return out


def golden(tensors):
    import torch

    bf = lambda z: z.to(torch.bfloat16)  # noqa: E731
    x = tensors["hidden"].float()
    n = bf(x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS) * tensors["gamma"]).float()
    q = n @ tensors["wq"].float()
    k = n @ tensors["wk"].float()
    v = n @ tensors["wv"].float()

    def rope(z, c, s):
        lo, hi = z[..., :HALF], z[..., HALF:]
        return torch.cat([lo * c[:HALF] - hi * s[:HALF], hi * c[HALF:] + lo * s[HALF:]], -1)

    kc = tensors["k_cache"].view(POOL, KV_HEADS, BLOCK, HEAD_DIM)
    vc = tensors["v_cache"].view(POOL, KV_HEADS, BLOCK, HEAD_DIM)
    attn = torch.zeros(BATCH, HEADS * HEAD_DIM)
    for b in range(BATCH):
        length = int(tensors["seq_lens"][b])
        pos = length - 1
        c, s = tensors["cos"][pos], tensors["sin"][pos]
        table = tensors["block_table"].view(BATCH, MAX_BLOCKS)[b].long()
        kc[table[pos // BLOCK], :, pos % BLOCK] = bf(rope(k[b].view(KV_HEADS, HEAD_DIM), c, s))
        vc[table[pos // BLOCK], :, pos % BLOCK] = bf(v[b].view(KV_HEADS, HEAD_DIM))
        qb = bf(rope(q[b].view(HEADS, HEAD_DIM), c, s)).float()
        for h in range(HEADS):
            g = h // Q_PER_KV
            kk = kc[table, g].reshape(-1, HEAD_DIM)[:length].float()
            vv = vc[table, g].reshape(-1, HEAD_DIM)[:length].float()
            p = torch.softmax(qb[h] @ kk.T * ATTN_SCALE, -1)
            attn[b, h * HEAD_DIM : (h + 1) * HEAD_DIM] = p @ vv
    tensors["out"][:] = bf(bf(attn).float() @ tensors["wo"].float() + x)


def build_tensor_specs():
    import torch
    from golden import TensorSpec

    def xavier(rows, cols):
        return lambda: (torch.rand(rows, cols) - 0.5) / rows**0.5

    def table():
        return torch.randperm(POOL)[: BATCH * MAX_BLOCKS].to(torch.int32)

    def angles():
        f = 1.0 / 10000 ** (torch.arange(HALF) / HALF)
        a = torch.outer(torch.arange(MAX_SEQ).float(), f)
        return torch.cat([a, a], -1)

    cache = [POOL * KV_HEADS * BLOCK, HEAD_DIM]
    return [
        TensorSpec(
            "hidden",
            [BATCH, HIDDEN],
            torch.bfloat16,
            init_value=lambda: torch.rand(BATCH, HIDDEN) - 0.5,
        ),
        TensorSpec(
            "gamma", [1, HIDDEN], torch.float32, init_value=lambda: torch.rand(1, HIDDEN) + 0.5
        ),
        TensorSpec(
            "wq",
            [HIDDEN, HEADS * HEAD_DIM],
            torch.bfloat16,
            init_value=xavier(HIDDEN, HEADS * HEAD_DIM),
        ),
        TensorSpec("wk", [HIDDEN, KV_DIM], torch.bfloat16, init_value=xavier(HIDDEN, KV_DIM)),
        TensorSpec("wv", [HIDDEN, KV_DIM], torch.bfloat16, init_value=xavier(HIDDEN, KV_DIM)),
        TensorSpec(
            "wo",
            [HEADS * HEAD_DIM, HIDDEN],
            torch.bfloat16,
            init_value=xavier(HEADS * HEAD_DIM, HIDDEN),
        ),
        TensorSpec(
            "cos", [MAX_SEQ, HEAD_DIM], torch.float32, init_value=lambda: torch.cos(angles())
        ),
        TensorSpec(
            "sin", [MAX_SEQ, HEAD_DIM], torch.float32, init_value=lambda: torch.sin(angles())
        ),
        TensorSpec(
            "seq_lens",
            [BATCH],
            torch.int32,
            init_value=torch.tensor([1, 17, 64], dtype=torch.int32),
        ),
        TensorSpec("block_table", [BATCH * MAX_BLOCKS], torch.int32, init_value=table),
        TensorSpec(
            "k_cache",
            cache,
            torch.bfloat16,
            init_value=lambda: torch.rand(*cache) - 0.5,
            is_output=True,
        ),
        TensorSpec(
            "v_cache",
            cache,
            torch.bfloat16,
            init_value=lambda: torch.rand(*cache) - 0.5,
            is_output=True,
        ),
        TensorSpec("out", [BATCH, HIDDEN], torch.bfloat16, is_output=True),
    ]


if __name__ == "__main__":
    from golden import ratio_allclose, run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument(
        "-p", "--platform", type=str, default="a2a3", choices=["a2a3", "a2a3sim", "a5", "a5sim"]
    )
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--enable-l2-swimlane", nargs="?", const=1, default=0, type=int)
    args = parser.parse_args()
    loose = ratio_allclose(atol=4e-3, rtol=2e-2, max_error_ratio=0.005)
    result = run_jit(
        fn=decode_attention,
        specs=build_tensor_specs(),
        golden_fn=golden,
        compile_cfg=dict(dump_passes=True),
        runtime_cfg={
            "platform": args.platform,
            "device_id": args.device,
            "enable_l2_swimlane": args.enable_l2_swimlane,
        },
        rtol=3e-3,
        atol=3e-3,
        compare_fn={"out": loose, "k_cache": loose, "v_cache": loose},
    )
    if not result.passed:
        if result.error:
            print(f"Result: {result.error}")
        raise SystemExit(1)
