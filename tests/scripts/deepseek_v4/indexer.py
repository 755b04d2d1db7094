"""DeepSeek-V4 lightning indexer, decode: INT8 keys, ReLU scores of 64 heads, top-512 of 8192."""

import pypto.language as pl

from config import FLASH as M, FP32_NEG_INF

B = 2
S = 2
T = B * S
H = M.index_n_heads
DH = M.index_head_dim
TOPK = M.index_topk
MAX_CMP = 8192
BLK = 256
N_BLK = MAX_CMP // BLK
SORT_A = 2048
N_A = MAX_CMP // SORT_A
SCALE = DH**-0.5


@pl.jit.incore
def score_block(
    q: pl.Tensor[[T * H, DH], pl.BF16],
    k_i8: pl.Tensor[[B * MAX_CMP, DH], pl.INT8],
    k_scale: pl.Tensor[[B, MAX_CMP], pl.FP32],
    w: pl.Tensor[[T, H], pl.FP32],
    score: pl.Out[pl.Tensor[[T, MAX_CMP], pl.FP32]],
    b: pl.Scalar[pl.INDEX],
    c0: pl.Scalar[pl.INDEX],
    n_valid: pl.Scalar[pl.INDEX],
):
    k_t = pl.load(k_i8, [b * MAX_CMP + c0, 0], [BLK, DH], valid_shapes=[n_valid, DH])
    k_bf = pl.cast(pl.cast(k_t, target_type=pl.FP16), target_type=pl.FP32)
    k16 = pl.cast(k_bf, target_type=pl.BF16, mode="rint")
    ks = pl.load(k_scale, [b, c0], [1, BLK])
    for s in pl.range(S):
        t = b * S + s
        q_t = pl.load(q, [t * H, 0], [H, DH], target_memory=pl.MemorySpace.Mat)
        q_l = pl.move(q_t, target_memory=pl.MemorySpace.Left)
        logit = pl.matmul(q_l, k16, b_trans=True)
        logit = pl.mul(pl.maximum(logit, 0.0), SCALE)
        w_col = pl.reshape(pl.load(w, [t, 0], [1, H]), [H, 1])
        mix = pl.col_sum(pl.row_expand_mul(logit, w_col))
        out = pl.mul(mix, ks)
        out = pl.tile.fillpad(pl.set_validshape(out, 1, n_valid), pad_value=pl.PadValue.min)
        score = pl.store(out, [t, c0], score)
    return score


@pl.jit.inline
def topk_8192(
    score: pl.Tensor[[T, MAX_CMP], pl.FP32],
    vals: pl.Tensor[[T, TOPK], pl.FP32],
    idxs: pl.Tensor[[T, TOPK], pl.INT32],
    ctx_len: pl.Tensor[[B], pl.INT32],
):
    cand = pl.create_tensor([T, N_A * 2 * TOPK], dtype=pl.FP32)
    for t in pl.parallel(T):
        for a in pl.parallel(N_A):
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="topk_part"):
                part = score[t : t + 1, a * SORT_A : (a + 1) * SORT_A]
                ids = pl.arange(pl.cast(a * SORT_A, pl.UINT32), [1, SORT_A], dtype=pl.UINT32)
                s = pl.sort32(part, ids)
                s = pl.mrgsort(s, block_len=64)
                s = pl.mrgsort(s, block_len=256)
                s = pl.mrgsort(s, block_len=1024)
                cand[t : t + 1, a * 2 * TOPK : (a + 1) * 2 * TOPK] = s[:, 0 : 2 * TOPK]
    for t in pl.parallel(T):
        n = pl.read(ctx_len, [t // S]) // 4
        keep = pl.min(n, TOPK)
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="topk_merge"):
            row = cand[t : t + 1, :]
            m = pl.mrgsort(row[:, 0:1024], row[:, 1024:2048], row[:, 2048:3072], row[:, 3072:4096])
            top = m[:, 0 : 2 * TOPK]
            v = pl.gather(top, mask_pattern=pl.tile.MaskPattern.P0101)
            i = pl.gather(top, mask_pattern=pl.tile.MaskPattern.P1010, output_dtype=pl.INT32)
            vals[t : t + 1, :] = pl.full([1, TOPK], dtype=pl.FP32, value=FP32_NEG_INF)
            idxs[t : t + 1, :] = pl.full([1, TOPK], dtype=pl.INT32, value=-1)
            vals = pl.assemble(vals, pl.slice(v, [1, TOPK], [0, 0], valid_shape=[1, keep]), [t, 0])
            idxs = pl.assemble(idxs, pl.slice(i, [1, TOPK], [0, 0], valid_shape=[1, keep]), [t, 0])
    return vals, idxs


@pl.jit
def indexer(
    q: pl.Tensor[[T, H, DH], pl.FP32],
    hadamard: pl.Tensor[[DH, DH], pl.BF16],
    k_i8: pl.Tensor[[B, MAX_CMP, DH], pl.INT8],
    k_scale: pl.Tensor[[B, MAX_CMP], pl.FP32],
    w: pl.Tensor[[T, H], pl.FP32],
    ctx_len: pl.Tensor[[B], pl.INT32],
    topk_vals: pl.Out[pl.Tensor[[T, TOPK], pl.FP32]],
    topk_idxs: pl.Out[pl.Tensor[[T, TOPK], pl.INT32]],
):
    q_flat = pl.reshape(q, [T * H, DH])
    k_flat = pl.reshape(k_i8, [B * MAX_CMP, DH])
    q_rot = pl.create_tensor([T * H, DH], dtype=pl.BF16)
    for r0 in pl.parallel(0, T * H, 64):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="hadamard"):
            qb = pl.cast(q_flat[r0 : r0 + 64, :], target_type=pl.BF16, mode="rint")
            rot = pl.mul(pl.matmul(qb, hadamard), DH**-0.5)
            q_rot[r0 : r0 + 64, :] = pl.cast(rot, target_type=pl.BF16, mode="rint")
    score = pl.create_tensor([T, MAX_CMP], dtype=pl.FP32, init_value=FP32_NEG_INF)
    for b in pl.parallel(B):
        n_cmp = pl.read(ctx_len, [b]) // 4
        for cb in pl.range((n_cmp + BLK - 1) // BLK):
            c0 = cb * BLK
            n_valid = pl.min(BLK, n_cmp - c0)
            score = score_block(q_rot, k_flat, k_scale, w, score, b, c0, n_valid)
    topk_vals, topk_idxs = topk_8192(score, topk_vals, topk_idxs, ctx_len)
    return topk_vals, topk_idxs


def golden_indexer(t):
    import torch

    q = (
        (t["q"].to(torch.bfloat16).float() @ t["hadamard"].float() * DH**-0.5)
        .to(torch.bfloat16)
        .float()
    )
    t["topk_vals"].fill_(FP32_NEG_INF)
    t["topk_idxs"].fill_(-1)
    for i in range(T):
        n = int(t["ctx_len"][i // S]) // 4
        k = t["k_i8"][i // S, :n].float()
        s = (torch.relu(q[i] @ k.T) * SCALE * t["w"][i][:, None]).sum(0) * t["k_scale"][i // S, :n]
        v, j = s.sort(descending=True, stable=True)
        m = min(n, TOPK)
        t["topk_vals"][i, :m] = v[:m]
        t["topk_idxs"][i, :m] = j[:m].int()


def build_tensor_specs():
    import torch
    from golden import TensorSpec

    def had():
        h = torch.ones(1, 1)
        while h.shape[0] < DH:
            h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
        return h

    return [
        TensorSpec("q", [T, H, DH], torch.float32, init_value=torch.randn),
        TensorSpec("hadamard", [DH, DH], torch.bfloat16, init_value=had),
        TensorSpec(
            "k_i8",
            [B, MAX_CMP, DH],
            torch.int8,
            init_value=lambda: torch.randint(-127, 128, (B, MAX_CMP, DH)),
        ),
        TensorSpec(
            "k_scale", [B, MAX_CMP], torch.float32, init_value=lambda: torch.rand(B, MAX_CMP) / 100
        ),
        TensorSpec("w", [T, H], torch.float32, init_value=lambda: torch.randn(T, H) / 8),
        TensorSpec("ctx_len", [B], torch.int32, init_value=torch.tensor([32768, 1001])),
        TensorSpec("topk_vals", [T, TOPK], torch.float32, is_output=True),
        TensorSpec("topk_idxs", [T, TOPK], torch.int32, is_output=True),
    ]


if __name__ == "__main__":
    import argparse
    from golden import run_jit, topk_pair_compare

    parser = argparse.ArgumentParser()
    parser.add_argument(
        "-p", "--platform", type=str, default="a2a3", choices=["a2a3", "a2a3sim", "a5", "a5sim"]
    )
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--enable-l2-swimlane", action="store_true", default=False)
    args = parser.parse_args()

    result = run_jit(
        fn=indexer,
        specs=build_tensor_specs(),
        golden_fn=golden_indexer,
        runtime_cfg=dict(
            platform=args.platform,
            device_id=args.device,
            enable_l2_swimlane=args.enable_l2_swimlane,
        ),
        rtol=1e-3,
        atol=1e-3,
        compare_fn={"topk_idxs": topk_pair_compare("topk_vals")},
    )
    if not result.passed:
        if result.error:
            print(result.error)
        raise SystemExit(1)
