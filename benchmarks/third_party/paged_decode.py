"""Decode attention over a paged cache, 16 requests of up to 4096 tokens, a scope for every step."""

import pypto.language as pl

BATCH, HEADS, HEAD_DIM = 16, 16, 128
PAGE, CONTEXT = 128, 4096
PAGES = CONTEXT // PAGE
POOL = BATCH * PAGES
SCALE = HEAD_DIM**-0.5


@pl.jit
def paged_decode(
    q: pl.Tensor[[BATCH * HEADS, HEAD_DIM], pl.BF16],
    k_cache: pl.Tensor[[POOL * PAGE, HEAD_DIM], pl.BF16],
    v_cache: pl.Tensor[[POOL * PAGE, HEAD_DIM], pl.BF16],
    block_table: pl.Tensor[[BATCH, PAGES], pl.INT32],
    lengths: pl.Tensor[[BATCH], pl.INT32],
    y: pl.Out[pl.Tensor[[BATCH * HEADS, HEAD_DIM], pl.FP32]],
):
    for b in pl.parallel(BATCH):
        row = b * HEADS
        length = pl.read(lengths, [b])
        total = pl.create_tensor([HEADS, HEAD_DIM], dtype=pl.FP32)
        most = pl.create_tensor([HEADS, 1], dtype=pl.FP32)
        weight = pl.create_tensor([HEADS, 1], dtype=pl.FP32)
        scores = pl.create_tensor([HEADS, PAGE], dtype=pl.FP32)
        probs = pl.create_tensor([HEADS, PAGE], dtype=pl.BF16)
        page_most = pl.create_tensor([HEADS, 1], dtype=pl.FP32)
        page_weight = pl.create_tensor([HEADS, 1], dtype=pl.FP32)
        page_total = pl.create_tensor([HEADS, HEAD_DIM], dtype=pl.FP32)
        for p in pl.range((length + PAGE - 1) // PAGE):
            at = pl.cast(pl.read(block_table, [b, p]), pl.INDEX) * PAGE
            valid = pl.min(PAGE, length - p * PAGE)
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="qk"):
                qi = q[row : row + HEADS, :]
                kj = k_cache[at : at + PAGE, :]
                scores[:, :] = pl.matmul(qi, kj, b_trans=True, out_dtype=pl.FP32)
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="softmax"):
                s = pl.slice(scores, [HEADS, PAGE], [0, 0], valid_shape=[HEADS, valid])
                s = pl.fillpad(pl.mul(s, SCALE), pad_value=pl.PadValue.min)
                m = pl.row_max(s)
                e = pl.exp(pl.row_expand_sub(s, m))
                e16 = pl.cast(e, target_type=pl.BF16, mode="rint")
                probs[:, :] = e16
                page_most[:, :] = m
                page_weight[:, :] = pl.row_sum(pl.cast(e16, target_type=pl.FP32))
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="pv"):
                pj = probs[:, :]
                vj = v_cache[at : at + PAGE, :]
                page_total[:, :] = pl.matmul(pj, vj, out_dtype=pl.FP32)
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="update"):
                if p == 0:
                    most[:, :] = page_most[:, :]
                    weight[:, :] = page_weight[:, :]
                    total[:, :] = page_total[:, :]
                else:
                    old, new = most[:, :], page_most[:, :]
                    m = pl.maximum(old, new)
                    alpha = pl.exp(pl.sub(old, m))
                    beta = pl.exp(pl.sub(new, m))
                    kept = pl.row_expand_mul(total[:, :], alpha)
                    added = pl.row_expand_mul(page_total[:, :], beta)
                    old_weight = pl.mul(alpha, weight[:, :])
                    new_weight = pl.mul(beta, page_weight[:, :])
                    most[:, :] = m
                    weight[:, :] = pl.add(old_weight, new_weight)
                    total[:, :] = pl.add(kept, added)
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="divide"):
            y[row : row + HEADS, :] = pl.row_expand_div(total[:, :], weight[:, :])
    return y


def golden(v):
    import torch

    for b in range(BATCH):
        pages = v["block_table"][b].long()
        n = int(v["lengths"][b])
        k = v["k_cache"].view(POOL, PAGE, HEAD_DIM)[pages].reshape(-1, HEAD_DIM)[:n].float()
        w = v["v_cache"].view(POOL, PAGE, HEAD_DIM)[pages].reshape(-1, HEAD_DIM)[:n].float()
        rows = slice(b * HEADS, b * HEADS + HEADS)
        v["y"][rows] = torch.softmax(v["q"][rows].float() @ k.T * SCALE, -1) @ w


def specs():
    import torch
    from golden import TensorSpec

    def table():
        return torch.randperm(POOL).view(BATCH, PAGES).int()

    def lengths():
        return torch.tensor([CONTEXT - 100 * (b % 3) for b in range(BATCH)], dtype=torch.int32)

    return [
        TensorSpec("q", [BATCH * HEADS, HEAD_DIM], torch.bfloat16, torch.randn),
        TensorSpec("k_cache", [POOL * PAGE, HEAD_DIM], torch.bfloat16, torch.randn),
        TensorSpec("v_cache", [POOL * PAGE, HEAD_DIM], torch.bfloat16, torch.randn),
        TensorSpec("block_table", [BATCH, PAGES], torch.int32, table),
        TensorSpec("lengths", [BATCH], torch.int32, lengths),
        TensorSpec("y", [BATCH * HEADS, HEAD_DIM], torch.float32, is_output=True),
    ]


if __name__ == "__main__":
    from golden import ratio_allclose, run_jit

    close = ratio_allclose(atol=1e-3, rtol=1e-2)
    result = run_jit(paged_decode, specs(), golden, compare_fn={"y": close})
    raise SystemExit(not result.passed)
