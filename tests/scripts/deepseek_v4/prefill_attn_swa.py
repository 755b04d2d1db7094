"""DeepSeek-V4 prefill, sliding-window attention with sinks: dynamic token count, paged write and read."""

import pypto.language as pl

from config import FLASH as M, BLOCK_SIZE

T_DYN = pl.dynamic("T")
NBLK_DYN = pl.dynamic("NUM_BLOCKS")

H = M.num_attention_heads
HEAD_DIM = M.head_dim
ROPE_DIM = M.qk_rope_head_dim
NOPE_DIM = M.nope_head_dim
WIN = M.sliding_window
SCALE = M.softmax_scale
NEG_BIG = -1.0e30

Q_TILE = 8
KV_TILE = 64
H_TILE = 16


@pl.jit.inline
def write_kv(
    kv: pl.Tensor[[T_DYN, HEAD_DIM], pl.BF16],
    slot_mapping: pl.Tensor[[T_DYN], pl.INT64],
    cache: pl.Tensor[[NBLK_DYN, BLOCK_SIZE, 1, HEAD_DIM], pl.BF16],
):
    t_dim = pl.tensor.dim(kv, 0)
    n_blk = pl.tensor.dim(cache, 0)
    cache_flat = pl.reshape(cache, [n_blk * BLOCK_SIZE, HEAD_DIM])
    for t0 in pl.parallel(0, t_dim, 16):
        rows = pl.min(16, t_dim - t0)
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="kv_write"):
            for i in pl.range(rows):
                slot = pl.read(slot_mapping, [t0 + i])
                if slot >= 0:
                    dst = pl.cast(slot, pl.INDEX)
                    cache_flat[dst : dst + 1, :] = kv[t0 + i : t0 + i + 1, :]
    return cache


@pl.jit(auto_scope=False)
def prefill_attention_swa(
    q: pl.Tensor[[T_DYN, H, HEAD_DIM], pl.BF16],
    kv: pl.Tensor[[T_DYN, HEAD_DIM], pl.BF16],
    slot_mapping: pl.Tensor[[T_DYN], pl.INT64],
    kv_cache: pl.InOut[pl.Tensor[[NBLK_DYN, BLOCK_SIZE, 1, HEAD_DIM], pl.BF16]],
    block_table: pl.Tensor[[1, 64], pl.INT32],
    attn_sink: pl.Tensor[[H], pl.FP32],
    o: pl.Out[pl.Tensor[[T_DYN, H, HEAD_DIM], pl.BF16]],
    start_pos: pl.Scalar[pl.INT32],
):
    q.bind_dynamic(0, T_DYN)
    kv.bind_dynamic(0, T_DYN)
    slot_mapping.bind_dynamic(0, T_DYN)
    o.bind_dynamic(0, T_DYN)
    kv_cache.bind_dynamic(0, NBLK_DYN)
    t_dim = pl.tensor.dim(q, 0)
    n_blk = pl.tensor.dim(kv_cache, 0)
    kv_cache = write_kv(kv, slot_mapping, kv_cache)
    q_flat = pl.reshape(q, [t_dim * H, HEAD_DIM])
    o_flat = pl.reshape(o, [t_dim * H, HEAD_DIM])
    cache_flat = pl.reshape(kv_cache, [n_blk * BLOCK_SIZE, HEAD_DIM])
    sink_2d = pl.reshape(attn_sink, [H, 1])
    win_rows = pl.create_tensor([t_dim * WIN, HEAD_DIM], dtype=pl.BF16)

    with pl.manual_scope():
        for t in pl.parallel(0, t_dim, 1):
            pos = start_pos + t
            first = pl.max(0, pos - WIN + 1)
            n_win = pos + 1 - first
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="win_gather") as gather_tid:
                # whole runs of rows inside one block
                done = 0
                while done < n_win:
                    p = first + done
                    in_blk = p % BLOCK_SIZE
                    run = pl.min(BLOCK_SIZE - in_blk, n_win - done)
                    blk = pl.cast(pl.read(block_table, [0, p // BLOCK_SIZE]), pl.INDEX)
                    piece = pl.slice(
                        cache_flat,
                        [WIN, HEAD_DIM],
                        [blk * BLOCK_SIZE + in_blk, 0],
                        valid_shape=[run, HEAD_DIM],
                    )
                    win_rows = pl.assemble(win_rows, piece, [t * WIN + done, 0])
                    done = done + run
            for h0 in pl.parallel(0, H, H_TILE):
                with pl.at(
                    level=pl.Level.CORE_GROUP,
                    name_hint="swa",
                    deps=[gather_tid],
                    optimizations=[pl.split(pl.SplitMode.UP_DOWN)],
                ):
                    qt = q_flat[t * H + h0 : t * H + h0 + H_TILE, :]
                    m_i = sink_2d[h0 : h0 + H_TILE, :]
                    l_i = pl.full([H_TILE, 1], dtype=pl.FP32, value=1.0)
                    acc = pl.full([H_TILE, HEAD_DIM], dtype=pl.FP32, value=0.0)
                    for kb in pl.range(0, n_win, KV_TILE):
                        cnt = pl.min(KV_TILE, n_win - kb)
                        kt = pl.slice(
                            win_rows,
                            [KV_TILE, HEAD_DIM],
                            [t * WIN + kb, 0],
                            valid_shape=[cnt, HEAD_DIM],
                        )
                        s_raw = pl.matmul(qt, kt, b_trans=True, out_dtype=pl.FP32)
                        s_sc = pl.mul(s_raw, SCALE)
                        s_sc = pl.fillpad(
                            pl.set_validshape(s_sc, H_TILE, cnt), pad_value=pl.PadValue.min
                        )
                        m_new = pl.maximum(m_i, pl.row_max(s_sc))
                        alpha = pl.exp(pl.sub(m_i, m_new))
                        p_t = pl.row_expand_expdif(s_sc, m_new)
                        l_i = pl.add(pl.mul(l_i, alpha), pl.row_sum(p_t))
                        p_b = pl.cast(p_t, target_type=pl.BF16, mode="rint")
                        acc = pl.matmul_acc(pl.row_expand_mul(acc, alpha), p_b, kt)
                        m_i = m_new
                    out_t = pl.row_expand_div(acc, l_i)
                    o_flat[t * H + h0 : t * H + h0 + H_TILE, :] = pl.cast(
                        out_t, target_type=pl.BF16, mode="rint"
                    )
    return o, kv_cache


def golden_swa(tensors):
    import torch

    q, kv = tensors["q"].float(), tensors["kv"]
    t_dim = q.shape[0]
    cache = tensors["kv_cache"].view(-1, HEAD_DIM)
    for t in range(t_dim):
        slot = int(tensors["slot_mapping"][t])
        if slot >= 0:
            cache[slot] = kv[t]
    table = tensors["block_table"][0].long()
    start = int(tensors["start_pos"])
    for t in range(t_dim):
        pos = start + t
        p = torch.arange(max(0, pos - WIN + 1), pos + 1)
        k = cache[table[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE].float()
        s = torch.cat([q[t] @ k.T * SCALE, tensors["attn_sink"][:, None]], -1).softmax(-1)
        tensors["o"][t] = (s[:, :-1] @ k).to(torch.bfloat16)


def build_tensor_specs(tokens, start_pos, num_blocks=66):
    import torch
    from golden import ScalarSpec, TensorSpec

    table = torch.randperm(num_blocks)[:64].to(torch.int32)

    def slots():
        p = torch.arange(start_pos, start_pos + tokens)
        return table.long()[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE

    return [
        TensorSpec("q", [tokens, H, HEAD_DIM], torch.bfloat16, init_value=torch.randn),
        TensorSpec("kv", [tokens, HEAD_DIM], torch.bfloat16, init_value=torch.randn),
        TensorSpec("slot_mapping", [tokens], torch.int64, init_value=slots),
        TensorSpec(
            "kv_cache",
            [num_blocks, BLOCK_SIZE, 1, HEAD_DIM],
            torch.bfloat16,
            init_value=torch.randn,
            is_output=True,
        ),
        TensorSpec("block_table", [1, 64], torch.int32, init_value=table.view(1, 64)),
        TensorSpec("attn_sink", [H], torch.float32, init_value=torch.randn),
        TensorSpec("o", [tokens, H, HEAD_DIM], torch.bfloat16, is_output=True),
        ScalarSpec("start_pos", torch.int32, start_pos),
    ]


if __name__ == "__main__":
    import argparse
    from golden import ratio_allclose, run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--platform", type=str, default="a2a3")
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--enable-l2-swimlane", action="store_true")
    args = parser.parse_args()
    for tokens, start in ((5, 0), (37, 1000)):
        result = run_jit(
            fn=prefill_attention_swa,
            specs=build_tensor_specs(tokens, start),
            golden_fn=golden_swa,
            runtime_cfg=dict(
                platform=args.platform,
                device_id=args.device,
                enable_l2_swimlane=args.enable_l2_swimlane,
            ),
            rtol=1e-2,
            atol=1e-2,
            compare_fn={"o": ratio_allclose(atol=1e-2, rtol=1e-2)},
        )
        if not result.passed:
            print(result.error)
            raise SystemExit(1)
