"""Decode attention over a paged cache: one block of a launch for each pair of heads of a request."""

import argparse

import pypto.language as pl
import torch
from golden import ScalarSpec, TensorSpec, ratio_allclose, run_jit

BATCH_DYN = pl.dynamic("BATCH_DYN")
HEADS, HEAD_DIM = 4, 64
PAGE, PAGES_PER_REQUEST, PAGES = 16, 8, 64
H_TILE = 2
GROUPS = HEADS // H_TILE
PAD = 16  # rows of a query tile; only H_TILE of them exist


@pl.jit.inline
def attend(
    q: pl.Tensor,
    kv: pl.Tensor[[PAGES * PAGE, HEAD_DIM], pl.BF16],
    table: pl.Tensor[[BATCH_DYN, PAGES_PER_REQUEST], pl.INT32],
    lens: pl.Tensor[[BATCH_DYN], pl.INT32],
    scale: pl.Scalar[pl.FP32],
    o: pl.Tensor,
):
    block = pl.tile.get_block_idx()
    b = block // GROUPS
    row = b * HEADS + (block % GROUPS) * H_TILE
    n = lens[b]
    q_tile = pl.slice(q, [PAD, HEAD_DIM], [row, 0], valid_shape=[H_TILE, HEAD_DIM])
    best = pl.full([PAD, 1], dtype=pl.FP32, value=-3.0e38)
    total = pl.full([PAD, 1], dtype=pl.FP32, value=0.0)
    acc = pl.full([PAD, HEAD_DIM], dtype=pl.FP32, value=0.0)
    for j in pl.pipeline(0, (n + PAGE - 1) // PAGE, 1, stage=2):
        page = pl.cast(pl.read(table, [b, j]), pl.INDEX)
        if page >= 0:
            valid = pl.min(PAGE, n - j * PAGE)
            kt = pl.slice(kv, [PAGE, HEAD_DIM], [page * PAGE, 0], valid_shape=[valid, HEAD_DIM])
            s = pl.mul(pl.matmul(q_tile, kt, b_trans=True, out_dtype=pl.FP32), scale)
            s = pl.fillpad(pl.set_validshape(s, PAD, valid), pad_value=pl.PadValue.min)
            new = pl.maximum(best, pl.row_max(s))
            shrink = pl.exp(pl.sub(best, new))
            p = pl.exp(pl.row_expand_sub(s, new))
            total = pl.add(pl.mul(total, shrink), pl.row_sum(p))
            pv = pl.matmul(pl.cast(p, target_type=pl.BF16, mode="rint"), kt, out_dtype=pl.FP32)
            acc = pl.add(pl.row_expand_mul(acc, shrink), pv)
            best = new
    done = pl.set_validshape(pl.row_expand_div(acc, total), H_TILE, HEAD_DIM)
    o = pl.assemble(o, done, [row, 0])
    return o


@pl.jit
def paged_decode(
    q: pl.Tensor[[BATCH_DYN, HEADS, HEAD_DIM], pl.BF16],
    cache: pl.Tensor[[PAGES, PAGE, HEAD_DIM], pl.BF16],
    table: pl.Tensor[[BATCH_DYN, PAGES_PER_REQUEST], pl.INT32],
    lens: pl.Tensor[[BATCH_DYN], pl.INT32],
    scale: pl.Scalar[pl.FP32],
    o: pl.Out[pl.Tensor[[BATCH_DYN, HEADS, HEAD_DIM], pl.FP32]],
):
    batch = pl.tensor.dim(q, 0)
    q_rows = pl.reshape(q, [batch * HEADS, HEAD_DIM])
    o_rows = pl.reshape(o, [batch * HEADS, HEAD_DIM])
    kv = pl.reshape(cache, [PAGES * PAGE, HEAD_DIM])
    with pl.spmd(batch * GROUPS, name_hint="paged_decode", allow_early_resolve=True):
        o_rows = attend(q=q_rows, kv=kv, table=table, lens=lens, o=o_rows, scale=scale)
    return o


def golden_paged_decode(tensors):
    rows = tensors["cache"].float()
    for b, n in enumerate(tensors["lens"].tolist()):
        pages = tensors["table"][b, : -(-n // PAGE)].tolist()
        places = [(p, s) for j, p in enumerate(pages) for s in range(min(PAGE, n - j * PAGE))]
        kv = torch.stack([rows[p, s] for p, s in places if p >= 0])
        scores = tensors["q"][b].float() @ kv.T * tensors["scale"]
        tensors["o"][b] = torch.softmax(scores, dim=-1) @ kv


def build_tensor_specs(batch):
    def init_table():
        table = torch.randperm(PAGES)[: batch * PAGES_PER_REQUEST].to(torch.int32)
        table[1] = -1  # a page that was dropped
        return table.reshape(batch, PAGES_PER_REQUEST)

    def init_lens():
        return torch.tensor([77, 1, 128, 16, 33, 100][:batch], dtype=torch.int32)

    return [
        TensorSpec("q", [batch, HEADS, HEAD_DIM], torch.bfloat16, init_value=torch.randn),
        TensorSpec("cache", [PAGES, PAGE, HEAD_DIM], torch.bfloat16, init_value=torch.randn),
        TensorSpec("table", [batch, PAGES_PER_REQUEST], torch.int32, init_value=init_table),
        TensorSpec("lens", [batch], torch.int32, init_value=init_lens),
        ScalarSpec("scale", torch.float32, HEAD_DIM**-0.5),
        TensorSpec("o", [batch, HEADS, HEAD_DIM], torch.float32, is_output=True),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "-p", "--platform", type=str, default="a2a3", choices=["a2a3", "a2a3sim", "a5", "a5sim"]
    )
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--enable-l2-swimlane", action="store_true", default=False)
    args = parser.parse_args()
    for batch in (args.batch, 3):
        result = run_jit(
            fn=paged_decode,
            specs=build_tensor_specs(batch),
            golden_fn=golden_paged_decode,
            runtime_cfg=dict(
                platform=args.platform,
                device_id=args.device,
                enable_l2_swimlane=args.enable_l2_swimlane,
            ),
            compare_fn={"o": ratio_allclose(atol=1e-2, rtol=1e-2, max_error_ratio=0.0)},
        )
        if not result.passed:
            if result.error:
                print(result.error)
            raise SystemExit(1)
