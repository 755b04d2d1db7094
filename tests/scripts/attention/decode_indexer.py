"""DeepSeek-V4 decode indexer: W8A8 query, weights, INT8 scores over a compressed cache, top-k."""

import pypto.language as pl

from config import DEMO as M, DECODE_SEQ, INT8_SCALE_MAX, INT8_AMAX_EPS, FP32_NEG_INF

B = 4
S = DECODE_SEQ
T = B * S
D = M.hidden_size
Q_LORA = M.q_lora_rank
IDX_N_HEADS = M.index_n_heads
IDX_HEAD_DIM = M.index_head_dim
ROPE_DIM = M.qk_rope_head_dim
NOPE = IDX_HEAD_DIM - ROPE_DIM
TOPK = M.index_topk
RATIO = 4
MAX_CACHE = 2048
SOFTMAX_SCALE = IDX_HEAD_DIM**-0.5
WEIGHT_SCALE = SOFTMAX_SCALE * IDX_N_HEADS**-0.5

QB_N = 512
QB_K = 256
SC_TILE = 128
HEAD_TILE = 16
CACHE_TILE = 64
SORT_LEN = MAX_CACHE

assert T % 8 == 0
assert SORT_LEN == 32 * 4**3


@pl.jit.inline
def idx_query(
    qr: pl.Tensor[[T, Q_LORA], pl.INT8],
    qr_scale: pl.Tensor[[T, 1], pl.FP32],
    wq_b: pl.Tensor[[Q_LORA, IDX_N_HEADS * IDX_HEAD_DIM], pl.INT8],
    wq_b_scale: pl.Tensor[[1, IDX_N_HEADS * IDX_HEAD_DIM], pl.FP32],
    cos: pl.Tensor[[T, ROPE_DIM], pl.FP32],
    sin: pl.Tensor[[T, ROPE_DIM], pl.FP32],
    hadamard: pl.Tensor[[IDX_HEAD_DIM, IDX_HEAD_DIM], pl.BF16],
    q_i8: pl.Tensor[[T * IDX_N_HEADS, IDX_HEAD_DIM], pl.INT8],
    q_scale: pl.Tensor[[T * IDX_N_HEADS, 1], pl.FP32],
):
    qf = pl.create_tensor([T, IDX_N_HEADS * IDX_HEAD_DIM], dtype=pl.FP32)
    for nb in pl.parallel(0, IDX_N_HEADS * IDX_HEAD_DIM, QB_N):
        with pl.at(
            level=pl.Level.CORE_GROUP,
            name_hint="idx_qb",
            optimizations=[pl.split(pl.SplitMode.UP_DOWN)],
        ):
            acc = pl.create_tensor([T, QB_N], dtype=pl.INT32)
            for kb in pl.pipeline(Q_LORA // QB_K, stage=2):
                a = qr[:, kb * QB_K : (kb + 1) * QB_K]
                w = wq_b[kb * QB_K : (kb + 1) * QB_K, nb : nb + QB_N]
                if kb == 0:
                    acc = pl.matmul(a, w, out_dtype=pl.INT32)
                else:
                    acc = pl.matmul_acc(acc, a, w)
            f = pl.cast(acc, target_type=pl.FP32, mode="none")
            f = pl.row_expand_mul(f, qr_scale[:, :])
            f = pl.col_expand_mul(f, wq_b_scale[:, nb : nb + QB_N])
            qf[:, nb : nb + QB_N] = f
    q_rows = pl.reshape(qf, [T * IDX_N_HEADS, IDX_HEAD_DIM])
    for t in pl.parallel(T):
        for hb in pl.range(0, IDX_N_HEADS, HEAD_TILE):
            r0 = t * IDX_N_HEADS + hb
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="idx_rope"):
                tail = q_rows[r0 : r0 + HEAD_TILE, NOPE:IDX_HEAD_DIM]
                swap_i = pl.arange(0, [1, ROPE_DIM], dtype=pl.INT32)
                # j ^ 1 == j + 1 - 2 * (j % 2)
                half_f = pl.cast(swap_i, target_type=pl.FP32)
                fl = pl.cast(
                    pl.cast(pl.mul(half_f, 0.5), target_type=pl.INT32, mode="floor"),
                    target_type=pl.FP32,
                )
                parity = pl.sub(half_f, pl.mul(fl, 2.0))
                idx_f = pl.sub(pl.add(half_f, 1.0), pl.mul(parity, 2.0))
                sign = pl.sub(pl.mul(parity, 2.0), 1.0)
                idx_row = pl.cast(idx_f, target_type=pl.INT32, mode="rint")
                idx = pl.col_expand(
                    pl.full([HEAD_TILE, ROPE_DIM], dtype=pl.INT32, value=0), idx_row
                )
                swapped = pl.gather(tail, dim=-1, index=idx)
                c = cos[t : t + 1, :]
                s = pl.mul(sin[t : t + 1, :], sign)
                roped = pl.add(pl.col_expand_mul(tail, c), pl.col_expand_mul(swapped, s))
                q_rows[r0 : r0 + HEAD_TILE, NOPE:IDX_HEAD_DIM] = roped
    for rb in pl.parallel(0, T * IDX_N_HEADS, 64):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="hadamard_quant"):
            q16 = pl.cast(q_rows[rb : rb + 64, :], target_type=pl.BF16, mode="rint")
            qh = pl.mul(pl.matmul(q16, hadamard, out_dtype=pl.FP32), IDX_HEAD_DIM**-0.5)
            amax = pl.maximum(pl.row_max(pl.abs(qh)), INT8_AMAX_EPS)
            qs = pl.div(pl.full([64, 1], dtype=pl.FP32, value=INT8_SCALE_MAX), amax)
            q_scale[rb : rb + 64, :] = pl.recip(qs)
            qi = pl.cast(pl.row_expand_mul(qh, qs), target_type=pl.INT32, mode="rint")
            q_i8[rb : rb + 64, :] = pl.cast(
                pl.cast(qi, target_type=pl.FP16, mode="round"), target_type=pl.INT8, mode="trunc"
            )
    return q_i8, q_scale


@pl.jit.inline
def idx_weights(
    x: pl.Tensor[[T, D], pl.BF16],
    w_proj: pl.Tensor[[D, IDX_N_HEADS], pl.BF16],
    weights: pl.Tensor[[T, IDX_N_HEADS], pl.FP32],
):
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="idx_weights"):
        acc = pl.matmul(x[:, 0:512], w_proj[0:512, :], out_dtype=pl.FP32)
        for kb in pl.range(1, D // 512):
            acc = pl.matmul_acc(
                acc, x[:, kb * 512 : kb * 512 + 512], w_proj[kb * 512 : kb * 512 + 512, :]
            )
        weights[:, :] = pl.mul(acc, WEIGHT_SCALE)
    return weights


@pl.jit
def indexer(
    x: pl.Tensor[[T, D], pl.BF16],
    qr: pl.Tensor[[T, Q_LORA], pl.INT8],
    qr_scale: pl.Tensor[[T, 1], pl.FP32],
    wq_b: pl.Tensor[[Q_LORA, IDX_N_HEADS * IDX_HEAD_DIM], pl.INT8],
    wq_b_scale: pl.Tensor[[1, IDX_N_HEADS * IDX_HEAD_DIM], pl.FP32],
    w_proj: pl.Tensor[[D, IDX_N_HEADS], pl.BF16],
    cos: pl.Tensor[[T, ROPE_DIM], pl.FP32],
    sin: pl.Tensor[[T, ROPE_DIM], pl.FP32],
    hadamard: pl.Tensor[[IDX_HEAD_DIM, IDX_HEAD_DIM], pl.BF16],
    k_cache: pl.Tensor[[B, MAX_CACHE, IDX_HEAD_DIM], pl.INT8],
    k_scale: pl.Tensor[[B, MAX_CACHE], pl.FP32],
    seq_lens: pl.Tensor[[B], pl.INT32],
    topk_vals: pl.Out[pl.Tensor[[T, TOPK], pl.FP32]],
    topk_idxs: pl.Out[pl.Tensor[[T, TOPK], pl.INT32]],
):
    q_i8 = pl.create_tensor([T * IDX_N_HEADS, IDX_HEAD_DIM], dtype=pl.INT8)
    q_scale = pl.create_tensor([T * IDX_N_HEADS, 1], dtype=pl.FP32)
    q_i8, q_scale = idx_query(qr, qr_scale, wq_b, wq_b_scale, cos, sin, hadamard, q_i8, q_scale)
    weights = pl.create_tensor([T, IDX_N_HEADS], dtype=pl.FP32)
    weights = idx_weights(x, w_proj, weights)
    k_flat = pl.reshape(k_cache, [B * MAX_CACHE, IDX_HEAD_DIM])
    scale_row = pl.reshape(q_scale, [T, IDX_N_HEADS])
    score = pl.create_tensor([T, SORT_LEN], dtype=pl.FP32)
    for b in pl.parallel(B):
        n_comp = pl.read(seq_lens, [b]) // RATIO
        n_blocks = (n_comp + SC_TILE - 1) // SC_TILE
        for s in pl.range(S):
            t = b * S + s
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="score_init"):
                score[t : t + 1, :] = pl.full([1, SORT_LEN], dtype=pl.FP32, value=FP32_NEG_INF)
            for cb in pl.range(n_blocks):
                c0 = cb * SC_TILE
                valid = pl.min(SC_TILE, n_comp - c0)
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="score"):
                    kt = pl.slice(
                        k_flat,
                        [SC_TILE, IDX_HEAD_DIM],
                        [b * MAX_CACHE + c0, 0],
                        valid_shape=[valid, IDX_HEAD_DIM],
                    )
                    qt = q_i8[t * IDX_N_HEADS : (t + 1) * IDX_N_HEADS, :]
                    dots = pl.cast(
                        pl.matmul(qt, kt, b_trans=True, out_dtype=pl.INT32),
                        target_type=pl.FP32,
                        mode="none",
                    )
                    relu = pl.maximum(dots, 0.0)
                    hw = pl.mul(weights[t : t + 1, :], scale_row[t : t + 1, :])
                    ws = pl.row_expand_mul(relu, pl.reshape(hw, [IDX_N_HEADS, 1]))
                    sc = pl.mul(pl.col_sum(ws), k_scale[b : b + 1, c0 : c0 + SC_TILE])
                    sc_v = pl.set_validshape(sc, 1, valid)
                    score[t : t + 1, c0 : c0 + SC_TILE] = pl.fillpad(
                        sc_v, pad_value=pl.PadValue.min
                    )
    for t in pl.parallel(T):
        n_comp = pl.read(seq_lens, [t // S]) // RATIO
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="topk"):
            row = score[t : t + 1, :]
            idx0 = pl.arange(0, [1, SORT_LEN], dtype=pl.UINT32)
            sorted_p = pl.sort32(row, idx0)
            sorted_p = pl.mrgsort(sorted_p, block_len=64)
            sorted_p = pl.mrgsort(sorted_p, block_len=256)
            sorted_p = pl.mrgsort(sorted_p, block_len=1024)
            top = sorted_p[:, 0 : 2 * TOPK]
            vals = pl.gather(top, mask_pattern=pl.tile.MaskPattern.P0101)
            idxs = pl.gather(top, mask_pattern=pl.tile.MaskPattern.P1010, output_dtype=pl.INT32)
            topk_vals[t : t + 1, :] = pl.full([1, TOPK], dtype=pl.FP32, value=FP32_NEG_INF)
            topk_idxs[t : t + 1, :] = pl.full([1, TOPK], dtype=pl.INT32, value=-1)
            keep = pl.min(TOPK, n_comp)
            topk_vals = pl.assemble(topk_vals, pl.set_validshape(vals, 1, keep), [t, 0])
            topk_idxs = pl.assemble(topk_idxs, pl.set_validshape(idxs, 1, keep), [t, 0])
    return topk_vals, topk_idxs


def golden_indexer(tensors):
    import torch

    q = (
        (tensors["qr"].float() @ tensors["wq_b"].float())
        * tensors["qr_scale"]
        * tensors["wq_b_scale"]
    )
    q = q.view(T, IDX_N_HEADS, IDX_HEAD_DIM)
    r = q[..., NOPE:]
    sw = torch.stack([-r[..., 1::2], r[..., 0::2]], -1).flatten(-2)
    r = r * tensors["cos"][:, None] + sw * tensors["sin"][:, None]
    q = torch.cat([q[..., :NOPE], r], -1).to(torch.bfloat16).float()
    q = (q @ tensors["hadamard"].float()) * IDX_HEAD_DIM**-0.5
    qs = INT8_SCALE_MAX / q.abs().amax(-1, keepdim=True).clamp_min(INT8_AMAX_EPS)
    qi = torch.round(q * qs)
    w = (tensors["x"].float() @ tensors["w_proj"].float()) * WEIGHT_SCALE
    w = w / qs.squeeze(-1)
    tensors["topk_vals"].fill_(FP32_NEG_INF)
    tensors["topk_idxs"].fill_(-1)
    for t in range(T):
        b = t // S
        n = int(tensors["seq_lens"][b]) // RATIO
        dots = torch.relu(qi[t] @ tensors["k_cache"][b, :n].float().T)
        sc = (dots * w[t][:, None]).sum(0) * tensors["k_scale"][b, :n]
        k = min(TOPK, n)
        v, i = torch.sort(sc, descending=True, stable=True)
        tensors["topk_vals"][t, :k] = v[:k]
        tensors["topk_idxs"][t, :k] = i[:k].int()


def build_tensor_specs():
    import torch
    from golden import TensorSpec

    def had():
        h = torch.ones(1, 1)
        while h.shape[0] < IDX_HEAD_DIM:
            h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
        return h

    NH = IDX_N_HEADS * IDX_HEAD_DIM
    ang = torch.outer(
        torch.arange(T).float() + 1000, 1.0 / 10000 ** (torch.arange(0, ROPE_DIM, 2) / ROPE_DIM)
    ).repeat_interleave(2, 1)
    return [
        TensorSpec("x", [T, D], torch.bfloat16, init_value=lambda: torch.rand(T, D) - 0.5),
        TensorSpec(
            "qr", [T, Q_LORA], torch.int8, init_value=lambda: torch.randint(-127, 128, (T, Q_LORA))
        ),
        TensorSpec(
            "qr_scale", [T, 1], torch.float32, init_value=lambda: torch.rand(T, 1) * 0.01 + 0.001
        ),
        TensorSpec(
            "wq_b",
            [Q_LORA, NH],
            torch.int8,
            init_value=lambda: torch.randint(-127, 128, (Q_LORA, NH)),
        ),
        TensorSpec(
            "wq_b_scale", [1, NH], torch.float32, init_value=lambda: torch.rand(1, NH) * 0.01
        ),
        TensorSpec(
            "w_proj",
            [D, IDX_N_HEADS],
            torch.bfloat16,
            init_value=lambda: torch.randn(D, IDX_N_HEADS) / 64,
        ),
        TensorSpec("cos", [T, ROPE_DIM], torch.float32, init_value=ang.cos()),
        TensorSpec("sin", [T, ROPE_DIM], torch.float32, init_value=ang.sin()),
        TensorSpec("hadamard", [IDX_HEAD_DIM, IDX_HEAD_DIM], torch.bfloat16, init_value=had),
        TensorSpec(
            "k_cache",
            [B, MAX_CACHE, IDX_HEAD_DIM],
            torch.int8,
            init_value=lambda: torch.randint(-127, 128, (B, MAX_CACHE, IDX_HEAD_DIM)),
        ),
        TensorSpec(
            "k_scale",
            [B, MAX_CACHE],
            torch.float32,
            init_value=lambda: torch.rand(B, MAX_CACHE) * 0.01 + 0.001,
        ),
        TensorSpec("seq_lens", [B], torch.int32, init_value=torch.tensor([8192, 5003, 131, 2500])),
        TensorSpec("topk_vals", [T, TOPK], torch.float32, is_output=True),
        TensorSpec("topk_idxs", [T, TOPK], torch.int32, is_output=True),
    ]


if __name__ == "__main__":
    import argparse
    from golden import ratio_allclose, run_jit, topk_pair_compare

    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--platform", type=str, default="a2a3")
    parser.add_argument("-d", "--device", type=int, default=0)
    args = parser.parse_args()
    result = run_jit(
        fn=indexer,
        specs=build_tensor_specs(),
        golden_fn=golden_indexer,
        runtime_cfg=dict(platform=args.platform, device_id=args.device),
        rtol=1e-2,
        atol=1e-2,
        compare_fn={
            "topk_vals": ratio_allclose(atol=1e-2, rtol=1e-2),
            "topk_idxs": topk_pair_compare("topk_vals"),
        },
    )
    if not result.passed:
        if result.error:
            print(result.error)
        raise SystemExit(1)
