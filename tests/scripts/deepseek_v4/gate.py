"""DeepSeek-V4 MoE gate: sqrt-softplus scores, bias for selection only, or a hash table by token id."""

import pypto.language as pl

from config import FLASH as M, DECODE_BATCH, DECODE_SEQ

B = DECODE_BATCH
S = DECODE_SEQ
T = B * S
D = M.hidden_size
N_EXPERTS = M.n_routed_experts
TOPK = M.num_experts_per_tok
TOPK_PAD = 8
ROUTE_SCALE = M.routed_scaling_factor
VOCAB = M.vocab_size
N_HASH_LAYERS = M.num_hash_layers
NORM_EPS = M.rms_norm_eps

GATE_K = 512
GATE_N = 64
T_TILE = 16
SORT_PAIRS = 2 * N_EXPERTS


@pl.jit.inline
def ffn_norm(
    x: pl.Tensor[[T, D], pl.BF16],
    norm_w: pl.Tensor[[D], pl.FP32],
    x_norm: pl.Tensor[[T, D], pl.BF16],
):
    w_2d = pl.reshape(norm_w, [1, D])
    for tb in pl.spmd(T // T_TILE, name_hint="ffn_norm"):
        t0 = tb * T_TILE
        x_sq = pl.create_tensor([1, T_TILE], dtype=pl.FP32)
        x_sq = pl.mul(x_sq, 0.0)
        for kb in pl.range(0, D, GATE_K):
            c = pl.cast(pl.slice(x, [T_TILE, GATE_K], [t0, kb]), target_type=pl.FP32)
            x_sq = pl.add(x_sq, pl.reshape(pl.row_sum(pl.mul(c, c)), [1, T_TILE]))
        inv = pl.rsqrt(pl.add(pl.mul(x_sq, 1.0 / D), NORM_EPS))
        inv_t = pl.reshape(inv, [T_TILE, 1])
        for kb in pl.range(0, D, GATE_K):
            c = pl.cast(pl.slice(x, [T_TILE, GATE_K], [t0, kb]), target_type=pl.FP32)
            n = pl.col_expand_mul(pl.row_expand_mul(c, inv_t), w_2d[:, kb : kb + GATE_K])
            x_norm = pl.assemble(x_norm, pl.cast(n, target_type=pl.BF16, mode="rint"), [t0, kb])
    return x_norm


@pl.jit.inline
def gate(
    x_norm: pl.Tensor[[T, D], pl.BF16],
    gate_w: pl.Tensor[[N_EXPERTS, D], pl.FP32],
    gate_bias: pl.Tensor[[N_EXPERTS], pl.FP32],
    tid2eid: pl.Tensor[[VOCAB, TOPK], pl.INT32],
    input_ids: pl.Tensor[[B, S], pl.INT64],
    layer_id: pl.Scalar[pl.INT32],
    indices: pl.Tensor[[T, TOPK], pl.INT32],
    weights: pl.Tensor[[T, TOPK], pl.FP32],
):
    bias_2d = pl.reshape(gate_bias, [1, N_EXPERTS])
    ids_flat = pl.reshape(input_ids, [T])
    scores = pl.create_tensor([T, N_EXPERTS], dtype=pl.FP32)
    for nb in pl.parallel(N_EXPERTS // GATE_N):
        n0 = nb * GATE_N
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="gate_dot"):
            x0 = pl.cast(x_norm[:, 0:GATE_K], target_type=pl.FP32)
            w0 = gate_w[n0 : n0 + GATE_N, 0:GATE_K]
            logits = pl.matmul(x0, w0, out_dtype=pl.FP32, b_trans=True)
            for kb in pl.pipeline(1, D // GATE_K, stage=2):
                k0 = kb * GATE_K
                xk = pl.cast(x_norm[:, k0 : k0 + GATE_K], target_type=pl.FP32)
                wk = gate_w[n0 : n0 + GATE_N, k0 : k0 + GATE_K]
                logits = pl.matmul_acc(logits, xk, wk, b_trans=True)
            # softplus(x) = max(x, 0) + log(1 + exp(-|x|))
            pos = pl.maximum(logits, 0.0)
            neg_abs = pl.minimum(logits, pl.neg(logits))
            sp = pl.add(pos, pl.log(pl.add(pl.exp(neg_abs), 1.0)))
            scores[:, n0 : n0 + GATE_N] = pl.sqrt(sp)

    if layer_id < N_HASH_LAYERS:
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="gate_hash"):
            for t in pl.range(T):
                tok = pl.cast(pl.read(ids_flat, [t]), pl.INDEX)
                for k in pl.range(TOPK):
                    eid = pl.read(tid2eid, [tok, k])
                    pl.write(indices, [t, k], eid)
                    sc = pl.read(scores, [t, pl.cast(eid, pl.INDEX)])
                    pl.write(weights, [t, k], sc)
    else:
        for t in pl.parallel(0, T, 1):
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="gate_topk"):
                row = pl.slice(scores, [1, N_EXPERTS], [t, 0])
                biased = pl.add(row, bias_2d)
                idx_init = pl.tensor.arange(0, [1, N_EXPERTS], dtype=pl.UINT32)
                srt = pl.tensor.sort32(biased, idx_init)
                srt = pl.tensor.mrgsort(srt, block_len=64)
                lo = srt[:, 0 : SORT_PAIRS // 2]
                hi = srt[:, SORT_PAIRS // 2 : SORT_PAIRS]
                merged = pl.tensor.mrgsort(lo, hi)
                pairs = merged[:, 0 : 2 * TOPK_PAD]
                top_i = pl.gather(
                    pairs, mask_pattern=pl.tile.MaskPattern.P1010, output_dtype=pl.INT32
                )
                top_v = pl.gather(row, dim=-1, index=top_i)
                indices[t : t + 1, 0:TOPK] = top_i[:, 0:TOPK]
                weights[t : t + 1, 0:TOPK] = top_v[:, 0:TOPK]

    with pl.at(level=pl.Level.CORE_GROUP, name_hint="gate_norm"):
        w_valid = weights[:, :]
        denom = pl.row_sum(w_valid)
        w_norm = pl.mul(pl.row_expand_div(w_valid, denom), ROUTE_SCALE)
        weights[:, :] = w_norm
    return indices, weights


@pl.jit
def gate_test(
    x: pl.Tensor[[B, S, D], pl.BF16],
    norm_w: pl.Tensor[[D], pl.FP32],
    gate_w: pl.Tensor[[N_EXPERTS, D], pl.FP32],
    gate_bias: pl.Tensor[[N_EXPERTS], pl.FP32],
    tid2eid: pl.Tensor[[VOCAB, TOPK], pl.INT32],
    input_ids: pl.Tensor[[B, S], pl.INT64],
    x_norm: pl.Out[pl.Tensor[[T, D], pl.BF16]],
    indices: pl.Out[pl.Tensor[[T, TOPK], pl.INT32]],
    weights: pl.Out[pl.Tensor[[T, TOPK], pl.FP32]],
    layer_id: pl.Scalar[pl.INT32],
):
    x_flat = pl.reshape(x, [T, D])
    x_norm = ffn_norm(x_flat, norm_w, x_norm)
    indices, weights = gate(
        x_norm,
        gate_w,
        gate_bias,
        tid2eid,
        input_ids,
        layer_id=layer_id,
        indices=indices,
        weights=weights,
    )
    return x_norm, indices, weights


def golden_gate(tensors):
    import torch

    x = tensors["x"].float().view(T, D)
    n = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + NORM_EPS) * tensors["norm_w"]
    n = n.to(torch.bfloat16)
    tensors["x_norm"][:] = n
    s = torch.nn.functional.softplus(n.float() @ tensors["gate_w"].T).sqrt()
    if tensors["layer_id"] < N_HASH_LAYERS:
        idx = tensors["tid2eid"][tensors["input_ids"].view(-1)].long()
    else:
        idx = (s + tensors["gate_bias"]).topk(TOPK, dim=-1).indices
    w = s.gather(1, idx)
    tensors["indices"][:] = idx.to(torch.int32)
    tensors["weights"][:] = w / w.sum(-1, keepdim=True) * ROUTE_SCALE


def build_tensor_specs(layer_id):
    import torch
    from golden import ScalarSpec, TensorSpec

    return [
        TensorSpec("x", [B, S, D], torch.bfloat16, init_value=torch.randn),
        TensorSpec("norm_w", [D], torch.float32, init_value=torch.ones),
        TensorSpec(
            "gate_w",
            [N_EXPERTS, D],
            torch.float32,
            init_value=lambda: torch.randn(N_EXPERTS, D) * D**-0.5,
        ),
        TensorSpec("gate_bias", [N_EXPERTS], torch.float32, init_value=torch.randn),
        TensorSpec(
            "tid2eid",
            [VOCAB, TOPK],
            torch.int32,
            init_value=lambda: torch.randint(0, N_EXPERTS, (VOCAB, TOPK), dtype=torch.int32),
        ),
        TensorSpec(
            "input_ids", [B, S], torch.int64, init_value=lambda: torch.randint(0, VOCAB, (B, S))
        ),
        TensorSpec("x_norm", [T, D], torch.bfloat16, is_output=True),
        TensorSpec("indices", [T, TOPK], torch.int32, is_output=True),
        TensorSpec("weights", [T, TOPK], torch.float32, is_output=True),
        ScalarSpec("layer_id", torch.int32, layer_id),
    ]


if __name__ == "__main__":
    import argparse
    from golden import ratio_allclose, run_jit, topk_pair_compare

    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--platform", type=str, default="a2a3")
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--layer-id", type=int, default=None)
    parser.add_argument("--enable-l2-swimlane", action="store_true", default=False)
    args = parser.parse_args()
    for layer_id in [0, 5] if args.layer_id is None else [args.layer_id]:
        result = run_jit(
            fn=gate_test,
            specs=build_tensor_specs(layer_id),
            golden_fn=golden_gate,
            runtime_cfg=dict(
                platform=args.platform,
                device_id=args.device,
                enable_l2_swimlane=args.enable_l2_swimlane,
            ),
            rtol=1e-2,
            atol=1e-2,
            compare_fn={
                "indices": topk_pair_compare("weights"),
                "x_norm": ratio_allclose(atol=1e-2, rtol=1e-2),
            },
        )
        if not result.passed:
            if result.error:
                print(result.error)
            raise SystemExit(1)
