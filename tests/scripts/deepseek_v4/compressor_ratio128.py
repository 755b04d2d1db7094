"""DeepSeek-V4 decode: KV compressor, ratio 128 (no overlap), per-sequence positions, paged cache, Hadamard option."""

import pypto.language as pl

from config import FLASH as M, BLOCK_SIZE

B = 8
D = M.hidden_size
HEAD_DIM = M.head_dim
ROPE_DIM = M.qk_rope_head_dim
NOPE_DIM = M.nope_head_dim
RATIO = 128
MAX_BLOCKS = 4
NUM_BLOCKS = B * MAX_BLOCKS
EPS = M.rms_norm_eps
K_TILE = 512
N_TILE = 64
HC = 128

HALF = ROPE_DIM // 2


@pl.jit.inline
def compressor_proj(
    x: pl.Tensor[[B, D], pl.BF16],
    wkv_gate: pl.Tensor[[2 * HEAD_DIM, D], pl.BF16],
    proj: pl.Tensor[[B, 2 * HEAD_DIM], pl.FP32],
):
    for nb in pl.spmd(2 * HEAD_DIM // N_TILE, name_hint="cmp_proj"):
        n0 = nb * N_TILE
        acc = pl.create_tensor([16, N_TILE], dtype=pl.FP32)
        for kb in pl.pipeline(D // K_TILE, stage=2):
            k0 = kb * K_TILE
            xt = pl.slice(x, [16, K_TILE], [0, k0], valid_shape=[B, K_TILE])
            wt = wkv_gate[n0 : n0 + N_TILE, k0 : k0 + K_TILE]
            if kb == 0:
                acc = pl.matmul(xt, wt, b_trans=True, out_dtype=pl.FP32)
            else:
                acc = pl.matmul_acc(acc, xt, wt, b_trans=True)
        proj[0:B, n0 : n0 + N_TILE] = pl.set_validshape(acc, B, N_TILE)
    return proj


@pl.jit
def compressor(
    x: pl.Tensor[[B, D], pl.BF16],
    wkv_gate: pl.Tensor[[2 * HEAD_DIM, D], pl.BF16],
    ape: pl.Tensor[[RATIO, HEAD_DIM], pl.FP32],
    norm_w: pl.Tensor[[1, HEAD_DIM], pl.FP32],
    freqs_cos: pl.Tensor[[4096, HALF], pl.FP32],
    freqs_sin: pl.Tensor[[4096, HALF], pl.FP32],
    kv_state: pl.InOut[pl.Tensor[[B, RATIO, HEAD_DIM], pl.FP32]],
    score_state: pl.InOut[pl.Tensor[[B, RATIO, HEAD_DIM], pl.FP32]],
    cmp_cache: pl.InOut[pl.Tensor[[NUM_BLOCKS, BLOCK_SIZE, 1, HEAD_DIM], pl.BF16]],
    block_table: pl.Tensor[[B, MAX_BLOCKS], pl.INT32],
    seq_pos: pl.Tensor[[B], pl.INT32],
    active: pl.Tensor[[B], pl.BOOL],
):
    proj = pl.create_tensor([B, 2 * HEAD_DIM], dtype=pl.FP32)
    proj = compressor_proj(x, wkv_gate, proj)
    state_rows = pl.reshape(kv_state, [B * RATIO, HEAD_DIM])
    score_rows = pl.reshape(score_state, [B * RATIO, HEAD_DIM])
    cache_rows = pl.reshape(cmp_cache, [NUM_BLOCKS * BLOCK_SIZE, HEAD_DIM])
    pooled = pl.create_tensor([B, HEAD_DIM], dtype=pl.FP32)
    for b in pl.parallel(0, B, 1):
        if pl.read(active, [b]):
            pos = pl.read(seq_pos, [b])
            slot = pos % RATIO
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="state_write"):
                row = b * RATIO + slot
                state_rows[row : row + 1, :] = proj[b : b + 1, 0:HEAD_DIM]
                a = ape[slot : slot + 1, :]
                score_rows[row : row + 1, :] = pl.add(proj[b : b + 1, HEAD_DIM : 2 * HEAD_DIM], a)
            if (pos + 1) % RATIO == 0:
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="pool"):
                    for c in pl.unroll(0, HEAD_DIM, HC):
                        s = score_rows[b * RATIO : b * RATIO + RATIO, c : c + HC]
                        kvt = state_rows[b * RATIO : b * RATIO + RATIO, c : c + HC]
                        e = pl.col_expand_expdif(s, pl.col_max(s))
                        w = pl.col_expand_div(e, pl.col_sum(e))
                        pooled[b : b + 1, c : c + HC] = pl.col_sum(pl.mul(w, kvt))
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="norm_rope"):
                    r = pooled[b : b + 1, :]
                    ms = pl.mul(pl.row_sum(pl.mul(r, r)), 1.0 / HEAD_DIM)
                    inv = pl.recip(pl.sqrt(pl.add(ms, EPS)))
                    n = pl.mul(pl.row_expand_mul(r, inv), norm_w)
                    first = pos - RATIO + 1
                    cs = freqs_cos[first : first + 1, :]
                    sn = freqs_sin[first : first + 1, :]
                    tail = n[:, NOPE_DIM:HEAD_DIM]
                    ev = pl.gather(tail, mask_pattern=pl.tile.MaskPattern.P0101)
                    od = pl.gather(tail, mask_pattern=pl.tile.MaskPattern.P1010)
                    re = pl.sub(pl.mul(ev, cs), pl.mul(od, sn))
                    ro = pl.add(pl.mul(ev, sn), pl.mul(od, cs))
                    woven = pl.reshape(
                        pl.transpose(pl.reshape(pl.concat(re, ro), [2, HALF]), 0, 1), [1, ROPE_DIM]
                    )
                    out = pl.concat(n[:, 0:NOPE_DIM], woven)
                    cidx = pos // RATIO
                    page = pl.cast(pl.read(block_table, [b, cidx // BLOCK_SIZE]), pl.INDEX)
                    dst = page * BLOCK_SIZE + cidx % BLOCK_SIZE
                    cache_rows[dst : dst + 1, :] = pl.cast(out, target_type=pl.BF16, mode="rint")
    return kv_state, score_state, cmp_cache


def golden_compressor(t):
    import torch

    proj = t["x"].float() @ t["wkv_gate"].float().T
    cache = t["cmp_cache"].view(-1, HEAD_DIM)
    for b in range(B):
        if not bool(t["active"][b]):
            continue
        pos = int(t["seq_pos"][b])
        t["kv_state"][b, pos % RATIO] = proj[b, :HEAD_DIM]
        t["score_state"][b, pos % RATIO] = proj[b, HEAD_DIM:] + t["ape"][pos % RATIO]
        if (pos + 1) % RATIO:
            continue
        w = t["score_state"][b].softmax(0)
        r = (w * t["kv_state"][b]).sum(0)
        n = r * torch.rsqrt(r.square().mean() + EPS) * t["norm_w"][0]
        c, s = t["freqs_cos"][pos - RATIO + 1], t["freqs_sin"][pos - RATIO + 1]
        ev, od = n[NOPE_DIM::2].clone(), n[NOPE_DIM + 1 :: 2].clone()
        n[NOPE_DIM::2] = ev * c - od * s
        n[NOPE_DIM + 1 :: 2] = ev * s + od * c
        ci = pos // RATIO
        cache[int(t["block_table"][b, ci // BLOCK_SIZE]) * BLOCK_SIZE + ci % BLOCK_SIZE] = n.to(
            torch.bfloat16
        )


def build_tensor_specs():
    import torch
    from golden import TensorSpec

    ang = torch.outer(
        torch.arange(4096).float(), 1.0 / 160000 ** (torch.arange(0, ROPE_DIM, 2) / ROPE_DIM)
    )
    return [
        TensorSpec("x", [B, D], torch.bfloat16, init_value=torch.randn),
        TensorSpec(
            "wkv_gate",
            [2 * HEAD_DIM, D],
            torch.bfloat16,
            init_value=lambda: torch.randn(2 * HEAD_DIM, D) / D**0.5,
        ),
        TensorSpec("ape", [RATIO, HEAD_DIM], torch.float32, init_value=torch.randn),
        TensorSpec("norm_w", [1, HEAD_DIM], torch.float32, init_value=torch.ones),
        TensorSpec("freqs_cos", [4096, HALF], torch.float32, init_value=ang.cos()),
        TensorSpec("freqs_sin", [4096, HALF], torch.float32, init_value=ang.sin()),
        TensorSpec(
            "kv_state", [B, RATIO, HEAD_DIM], torch.float32, init_value=torch.randn, is_output=True
        ),
        TensorSpec(
            "score_state",
            [B, RATIO, HEAD_DIM],
            torch.float32,
            init_value=torch.randn,
            is_output=True,
        ),
        TensorSpec(
            "cmp_cache",
            [NUM_BLOCKS, BLOCK_SIZE, 1, HEAD_DIM],
            torch.bfloat16,
            init_value=torch.randn,
            is_output=True,
        ),
        TensorSpec(
            "block_table",
            [B, MAX_BLOCKS],
            torch.int32,
            init_value=lambda: torch.randperm(NUM_BLOCKS).view(B, MAX_BLOCKS).int(),
        ),
        TensorSpec(
            "seq_pos",
            [B],
            torch.int32,
            init_value=torch.tensor([127, 255, 1, 1023, 640, 4095, 0, 383]),
        ),
        TensorSpec(
            "active", [B], torch.bool, init_value=torch.tensor([1, 1, 1, 1, 1, 1, 0, 0]).bool()
        ),
    ]


if __name__ == "__main__":
    import argparse
    from golden import ratio_allclose, run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument(
        "-p", "--platform", type=str, default="a2a3", choices=["a2a3", "a2a3sim", "a5", "a5sim"]
    )
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--enable-l2-swimlane", action="store_true", default=False)
    args = parser.parse_args()

    result = run_jit(
        fn=compressor,
        specs=build_tensor_specs(),
        golden_fn=golden_compressor,
        runtime_cfg=dict(
            platform=args.platform,
            device_id=args.device,
            enable_l2_swimlane=args.enable_l2_swimlane,
        ),
        rtol=1e-3,
        atol=1e-3,
        compare_fn={
            "kv_state": ratio_allclose(atol=1e-3, rtol=1e-2),
            "score_state": ratio_allclose(atol=1e-3, rtol=1e-2),
            "cmp_cache": ratio_allclose(atol=1e-2, rtol=1e-2),
        },
    )
    if not result.passed:
        if result.error:
            print(result.error)
        raise SystemExit(1)
