"""Decode attention over a paged cache: block table, context lengths, GQA, online softmax with a masked last page."""

import argparse
import sys

import pypto.language as pl

BATCH, Q_HEADS, KV_HEADS, HD = 6, 16, 2, 64
GROUP = Q_HEADS // KV_HEADS
PAGE, MAX_PAGES = 32, 8
POOL = BATCH * MAX_PAGES + 3
SCALE = HD**-0.5
Q_PAD = 16


@pl.jit
def paged_attention(
    q: pl.Tensor[[BATCH, Q_HEADS * HD], pl.BF16],
    k_cache: pl.Tensor[[POOL, PAGE, KV_HEADS, HD], pl.BF16],
    v_cache: pl.Tensor[[POOL, PAGE, KV_HEADS, HD], pl.BF16],
    block_table: pl.Tensor[[BATCH, MAX_PAGES], pl.INT32],
    ctx_lens: pl.Tensor[[BATCH], pl.INT32],
    out: pl.Out[pl.Tensor[[BATCH, Q_HEADS * HD], pl.BF16]],
):
    k_flat = pl.reshape(k_cache, [POOL * PAGE, KV_HEADS * HD])
    v_flat = pl.reshape(v_cache, [POOL * PAGE, KV_HEADS * HD])
    q_rows = pl.reshape(q, [BATCH * Q_HEADS, HD])
    o_rows = pl.reshape(out, [BATCH * Q_HEADS, HD])
    for b in pl.parallel(BATCH):
        ctx = ctx_lens[b]
        pages = (ctx + PAGE - 1) // PAGE
        for kvh in pl.parallel(KV_HEADS):
            r0 = b * Q_HEADS + kvh * GROUP
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="attn"):
                q_blk = pl.slice(q_rows, [Q_PAD, HD], [r0, 0], valid_shape=[GROUP, HD])
                q_blk = pl.fillpad(q_blk, pad_value=pl.PadValue.zero)
                mi = pl.full([Q_PAD, 1], dtype=pl.FP32, value=-1.0e30)
                li = pl.full([Q_PAD, 1], dtype=pl.FP32, value=0.0)
                oi = pl.full([Q_PAD, HD], dtype=pl.FP32, value=0.0)
                for p in pl.range(pages):
                    page = pl.cast(pl.read(block_table, [b, p]), pl.INDEX)
                    row = page * PAGE
                    valid = pl.min(PAGE, ctx - p * PAGE)
                    kt = pl.slice(k_flat, [PAGE, HD], [row, kvh * HD])
                    s = pl.mul(pl.matmul(q_blk, kt, b_trans=True, out_dtype=pl.FP32), SCALE)
                    s = pl.fillpad(pl.set_validshape(s, Q_PAD, valid), pad_value=pl.PadValue.min)
                    mj = pl.maximum(mi, pl.row_max(s))
                    pexp = pl.exp(pl.row_expand_sub(s, mj))
                    pb = pl.cast(pexp, target_type=pl.BF16, mode="rint")
                    corr = pl.exp(pl.sub(mi, mj))
                    li = pl.add(pl.mul(li, corr), pl.row_sum(pl.cast(pb, target_type=pl.FP32)))
                    vt = v_flat[row : row + PAGE, kvh * HD : (kvh + 1) * HD]
                    oi = pl.add(pl.row_expand_mul(oi, corr), pl.matmul(pb, vt, out_dtype=pl.FP32))
                    mi = mj
                res = pl.cast(pl.row_expand_div(oi, li), target_type=pl.BF16, mode="rint")
                o_rows = pl.assemble(o_rows, pl.slice(res, [GROUP, HD], [0, 0]), [r0, 0])
    return out


def golden_attention(t):
    import torch

    for b in range(BATCH):
        n = int(t["ctx_lens"][b])
        pages = t["block_table"][b, : -(-n // PAGE)].long()
        k = t["k_cache"][pages].reshape(-1, KV_HEADS, HD)[:n].float().repeat_interleave(GROUP, 1)
        v = t["v_cache"][pages].reshape(-1, KV_HEADS, HD)[:n].float().repeat_interleave(GROUP, 1)
        qb = t["q"][b].view(Q_HEADS, HD).float()
        p = torch.softmax(torch.einsum("hd,nhd->hn", qb, k) * SCALE, -1)
        t["out"][b] = torch.einsum("hn,nhd->hd", p, v).reshape(-1).to(torch.bfloat16)


def build_specs():
    import torch
    from golden import TensorSpec

    def table():
        return torch.randperm(POOL)[: BATCH * MAX_PAGES].view(BATCH, MAX_PAGES).to(torch.int32)

    lens = torch.tensor([1, 31, 32, 33, 200, 256], dtype=torch.int32)
    return [
        TensorSpec("q", [BATCH, Q_HEADS * HD], torch.bfloat16, torch.randn),
        TensorSpec("k_cache", [POOL, PAGE, KV_HEADS, HD], torch.bfloat16, torch.randn),
        TensorSpec("v_cache", [POOL, PAGE, KV_HEADS, HD], torch.bfloat16, torch.randn),
        TensorSpec("block_table", [BATCH, MAX_PAGES], torch.int32, table),
        TensorSpec("ctx_lens", [BATCH], torch.int32, lens),
        TensorSpec("out", [BATCH, Q_HEADS * HD], torch.bfloat16, is_output=True),
    ]


if __name__ == "__main__":
    from golden import ratio_allclose, run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--platform", type=str, default="a2a3")
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--enable-l2-swimlane", nargs="?", const=1, type=int, default=0)
    args = parser.parse_args()
    result = run_jit(
        fn=paged_attention,
        specs=build_specs(),
        golden_fn=golden_attention,
        compare_fn={"out": ratio_allclose(atol=5e-3, rtol=1e-2, max_error_ratio=0.001)},
        runtime_cfg=dict(
            platform=args.platform,
            device_id=args.device,
            enable_l2_swimlane=args.enable_l2_swimlane,
        ),
    )
    if not result.passed:
        print(result.error)
        sys.exit(1)
