"""Any number of tokens: launches, task ids, prefetch, split-K atomics, RoPE by an index `j ^ 1`."""

import argparse

import pypto.language as pl

from config import DEMO as M

T_DYN = pl.dynamic("T_DYN")
MAX_T = 64
D = M.hidden_size
Q_LORA = M.q_lora_rank
H = 16
HEAD_DIM = M.head_dim
ROPE_DIM = M.qk_rope_head_dim
NOPE_DIM = HEAD_DIM - ROPE_DIM
EPS = M.rms_norm_eps
T_TILE = 8
M_TILE = 64
K_TILE = 128
KSPLIT = 4
N_TILE = 32
K_PER = D // KSPLIT

assert D % (KSPLIT * K_TILE) == 0
assert Q_LORA % N_TILE == 0


@pl.jit.inline(auto_scope=False)
def rms(
    x: pl.Tensor[[T_DYN, D], pl.BF16],
    w: pl.Tensor[[D], pl.BF16],
    y: pl.Tensor[[T_DYN, D], pl.BF16],
):
    t_dim = pl.tensor.dim(x, 0)
    w2 = pl.reshape(w, [1, D])
    with pl.spmd(
        (t_dim + T_TILE - 1) // T_TILE, name_hint="rms", allow_early_resolve=True
    ) as rms_tid:
        blk = pl.tile.get_block_idx()
        t0 = blk * T_TILE
        rows = pl.min(T_TILE, t_dim - t0)
        sq = pl.full([T_TILE, 1], dtype=pl.FP32, value=0.0)
        for k0 in pl.pipeline(0, D, 512, stage=2):
            xc = pl.cast(
                pl.slice(x, [T_TILE, 512], [t0, k0], valid_shape=[rows, 512]), target_type=pl.FP32
            )
            sq = pl.add(sq, pl.row_sum(pl.mul(xc, xc)))
        inv = pl.rsqrt(pl.add(pl.mul(sq, 1.0 / D), EPS), high_precision=True)
        for k0 in pl.pipeline(0, D, 512, stage=2):
            xc = pl.cast(
                pl.slice(x, [T_TILE, 512], [t0, k0], valid_shape=[rows, 512]), target_type=pl.FP32
            )
            wk = pl.cast(w2[:, k0 : k0 + 512], target_type=pl.FP32)
            yk = pl.cast(
                pl.col_expand_mul(pl.row_expand_mul(xc, inv), wk), target_type=pl.BF16, mode="rint"
            )
            y[t0 : t0 + T_TILE, k0 : k0 + 512] = yk
    return y, rms_tid


@pl.jit.inline(auto_scope=False)
def qa_splitk(
    y: pl.Tensor[[T_DYN, D], pl.BF16],
    wq_a: pl.Tensor[[D, Q_LORA], pl.BF16],
    qa: pl.Tensor[[T_DYN, Q_LORA], pl.FP32],
    dep: pl.Scalar[pl.TASK_ID],
):
    t_dim = pl.tensor.dim(y, 0)
    tids = pl.array.create(KSPLIT, pl.TASK_ID)
    for ks in pl.range(KSPLIT):
        with pl.spmd(Q_LORA // N_TILE, name_hint="qa_splitk", deps=[dep]) as tid:
            n0 = pl.tile.get_block_idx() * N_TILE
            for m0 in pl.range(0, t_dim, M_TILE):
                mv = pl.min(M_TILE, t_dim - m0)
                acc = pl.create_tensor([M_TILE, N_TILE], dtype=pl.FP32)
                for kb in pl.pipeline(K_PER // K_TILE, stage=2):
                    k0 = ks * K_PER + kb * K_TILE
                    a = pl.slice(y, [M_TILE, K_TILE], [m0, k0], valid_shape=[mv, K_TILE])
                    b = wq_a[k0 : k0 + K_TILE, n0 : n0 + N_TILE]
                    if kb == 0:
                        acc = pl.matmul(a, b, out_dtype=pl.FP32)
                    else:
                        acc = pl.matmul_acc(acc, a, b)
                accv = pl.set_validshape(acc, mv, N_TILE)
                qa = pl.assemble(qa, accv, [m0, n0], atomic=pl.AtomicType.Add)
        tids[ks] = tid
    pl.system.task_dummy(deps=[tids[0], tids[1], tids[2], tids[3]])
    return qa


@pl.jit.inline(auto_scope=False)
def qb_rope(
    qa: pl.Tensor[[T_DYN, Q_LORA], pl.FP32],
    wq_b: pl.Tensor[[Q_LORA, H * HEAD_DIM], pl.BF16],
    cos: pl.Tensor[[M.max_position_embeddings, ROPE_DIM], pl.FP32],
    sin: pl.Tensor[[M.max_position_embeddings, ROPE_DIM], pl.FP32],
    positions: pl.Tensor[[T_DYN], pl.INT32],
    q: pl.Tensor[[T_DYN, H, HEAD_DIM], pl.BF16],
):
    t_dim = pl.tensor.dim(qa, 0)
    q2 = pl.reshape(q, [t_dim, H * HEAD_DIM])
    for t_blk in pl.parallel(0, (t_dim + 15) // 16):
        t0 = t_blk * 16
        tv = pl.min(16, t_dim - t0)
        for h in pl.parallel(H):
            with pl.at(
                level=pl.Level.CORE_GROUP,
                name_hint="qb_rope",
                optimizations=[pl.split(pl.SplitMode.UP_DOWN, slot_num=2)],
            ):
                a = pl.cast(
                    pl.slice(qa, [16, Q_LORA], [t0, 0], valid_shape=[tv, Q_LORA]),
                    target_type=pl.BF16,
                    mode="rint",
                )
                w = wq_b[:, h * HEAD_DIM : (h + 1) * HEAD_DIM]
                qh = pl.matmul(a, w, out_dtype=pl.FP32)
                inv = pl.rsqrt(pl.add(pl.mul(pl.row_sum(pl.mul(qh, qh)), 1.0 / HEAD_DIM), EPS))
                qn = pl.row_expand_mul(qh, inv)
                nope = pl.set_validshape(
                    pl.cast(qn[:, 0:NOPE_DIM], target_type=pl.BF16, mode="rint"), tv, NOPE_DIM
                )
                q2[t0 : t0 + 16, h * HEAD_DIM : h * HEAD_DIM + NOPE_DIM] = nope
                tail = qn[:, NOPE_DIM:]
                c = pl.create_tensor([16, ROPE_DIM], dtype=pl.FP32)
                s = pl.create_tensor([16, ROPE_DIM], dtype=pl.FP32)
                for i in pl.range(tv):
                    p = pl.read(positions, [t0 + i])
                    c[i : i + 1, :] = cos[p : p + 1, :]
                    s[i : i + 1, :] = sin[p : p + 1, :]
                j = pl.arange(0, [1, ROPE_DIM], dtype=pl.INT32)
                jx = pl.xor(j, 1)
                idx = pl.col_expand(pl.full([16, ROPE_DIM], dtype=pl.INT32, value=0), jx)
                sw = pl.gather(tail, dim=-1, index=idx)
                sign = pl.sub(pl.mul(pl.cast(pl.and_(j, 1), target_type=pl.FP32), 2.0), 1.0)
                r = pl.add(pl.mul(tail, c), pl.mul(pl.col_expand_mul(sw, sign), s))
                r16 = pl.set_validshape(pl.cast(r, target_type=pl.BF16, mode="rint"), tv, ROPE_DIM)
                q2[t0 : t0 + 16, h * HEAD_DIM + NOPE_DIM : h * HEAD_DIM + HEAD_DIM] = r16
    return q


@pl.jit(auto_scope=False)
def dyn_qkv(
    x: pl.Tensor[[T_DYN, D], pl.BF16],
    w: pl.Tensor[[D], pl.BF16],
    wq_a: pl.Tensor[[D, Q_LORA], pl.BF16],
    wq_b: pl.Tensor[[Q_LORA, H * HEAD_DIM], pl.BF16],
    cos: pl.Tensor[[M.max_position_embeddings, ROPE_DIM], pl.FP32],
    sin: pl.Tensor[[M.max_position_embeddings, ROPE_DIM], pl.FP32],
    positions: pl.Tensor[[T_DYN], pl.INT32],
    q: pl.Out[pl.Tensor[[T_DYN, H, HEAD_DIM], pl.BF16]],
):
    x.bind_dynamic(0, T_DYN)
    t_dim = pl.tensor.dim(x, 0)
    ctx = pl.prefetch.make_context()
    pl.prefetch.async_prefetch(wq_a, ctx)
    with pl.scope(mode=pl.ScopeMode.MANUAL):
        y = pl.create_tensor([t_dim, D], dtype=pl.BF16)
        y, rms_tid = rms(x, w, y)
        qa = pl.create_tensor([t_dim, Q_LORA], dtype=pl.FP32, init_value=0.0)
        qa = qa_splitk(y, wq_a, qa, rms_tid)
        q = qb_rope(qa, wq_b, cos, sin, positions, q)
    return q


def golden(tensors):
    import torch

    x = tensors["x"].float()
    t = x.shape[0]
    y = (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * tensors["w"].float()).to(
        torch.bfloat16
    )
    qa = (y.float() @ tensors["wq_a"].float()).to(torch.bfloat16)
    q = (qa.float() @ tensors["wq_b"].float()).view(t, H, HEAD_DIM)
    q = q * torch.rsqrt(q.square().mean(-1, keepdim=True) + EPS)
    pos = tensors["positions"].long()
    c, s = tensors["cos"][pos][:, None], tensors["sin"][pos][:, None]
    r = q[..., NOPE_DIM:]
    sw = torch.stack([-r[..., 1::2], r[..., 0::2]], -1).flatten(-2)
    tensors["q"][:] = torch.cat([q[..., :NOPE_DIM], r * c + sw * s], -1).to(torch.bfloat16)


def specs(t):
    import torch
    from golden import TensorSpec

    P = M.max_position_embeddings
    ang = torch.outer(
        torch.arange(P).float(), 1.0 / 10000 ** (torch.arange(0, ROPE_DIM, 2) / ROPE_DIM)
    ).repeat_interleave(2, 1)
    return [
        TensorSpec("x", [t, D], torch.bfloat16, init_value=torch.randn),
        TensorSpec("w", [D], torch.bfloat16, init_value=torch.rand),
        TensorSpec(
            "wq_a", [D, Q_LORA], torch.bfloat16, init_value=lambda: torch.randn(D, Q_LORA) / 64
        ),
        TensorSpec(
            "wq_b",
            [Q_LORA, H * HEAD_DIM],
            torch.bfloat16,
            init_value=lambda: torch.randn(Q_LORA, H * HEAD_DIM) / 32,
        ),
        TensorSpec("cos", [P, ROPE_DIM], torch.float32, init_value=ang.cos()),
        TensorSpec("sin", [P, ROPE_DIM], torch.float32, init_value=ang.sin()),
        TensorSpec("positions", [t], torch.int32, init_value=lambda: torch.randint(0, P, (t,))),
        TensorSpec("q", [t, H, HEAD_DIM], torch.bfloat16, is_output=True),
    ]


if __name__ == "__main__":
    from golden import ratio_allclose, run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--platform", default="a2a3")
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--tokens", type=int, nargs="*", default=[64, 13, 1])
    args = parser.parse_args()
    for n in args.tokens:
        res = run_jit(
            fn=dyn_qkv,
            specs=specs(n),
            golden_fn=golden,
            runtime_cfg=dict(
                platform=args.platform, device_id=args.device, enable_chip_swimlane=False
            ),
            rtol=1e-2,
            atol=1e-2,
            compare_fn={"q": ratio_allclose(atol=2e-2, rtol=1e-2, max_error_ratio=0.01)},
        )
        if not res.passed:
            raise SystemExit(res.error)
