"""DeepSeek-V4 MoE on one device: W8A8 routed experts (dispatch, SwiGLU, combine) and the shared one."""

import pypto.language as pl

from config import (
    FLASH as M,
    DECODE_BATCH,
    DECODE_SEQ,
    INT8_AMAX_EPS,
    INT8_SCALE_MAX,
    EP_WORLD_SIZE,
)

B = DECODE_BATCH
S = DECODE_SEQ
T = B * S
D = M.hidden_size
INTER = M.moe_intermediate_size
N_LOCAL = M.n_routed_experts // EP_WORLD_SIZE
TOPK = M.num_experts_per_tok
LIMIT = M.swiglu_limit
RECV_MAX = 64
RECV_TILE = 16
W1_N = 256
W1_K = 512
W2_N = 256
W2_K = 512
QT = 512


@pl.jit.inline
def quant_rows(src: pl.Tensor, dst: pl.Tensor, scale: pl.Tensor):
    """Per-token symmetric INT8."""
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="quant_x"):
        amax = pl.full([1, T], dtype=pl.FP32, value=INT8_AMAX_EPS)
        for k0 in pl.range(0, D, QT):
            xf = pl.cast(src[:, k0 : k0 + QT], target_type=pl.FP32)
            amax = pl.maximum(amax, pl.reshape(pl.row_max(pl.abs(xf)), [1, T]))
        qs = pl.div(pl.full([1, T], dtype=pl.FP32, value=INT8_SCALE_MAX), amax)
        scale[:, :] = pl.reshape(pl.recip(qs), [T, 1])
        qs_col = pl.reshape(qs, [T, 1])
        for k0 in pl.range(0, D, QT):
            xf = pl.cast(src[:, k0 : k0 + QT], target_type=pl.FP32)
            xi = pl.cast(pl.row_expand_mul(xf, qs_col), target_type=pl.INT32, mode="rint")
            xh = pl.cast(xi, target_type=pl.FP16, mode="round")
            dst[:, k0 : k0 + QT] = pl.cast(xh, target_type=pl.INT8, mode="trunc")
    return dst, scale


@pl.jit.inline
def dispatch(
    x_i8: pl.Tensor[[T, D], pl.INT8],
    x_scale: pl.Tensor[[T, 1], pl.FP32],
    indices: pl.Tensor[[T, TOPK], pl.INT32],
    weights: pl.Tensor[[T, TOPK], pl.FP32],
    expert_base: pl.Scalar[pl.INT32],
    recv_x: pl.Tensor[[N_LOCAL, RECV_MAX, D], pl.INT8],
    recv_scale: pl.Tensor[[N_LOCAL, RECV_MAX], pl.FP32],
    recv_w: pl.Tensor[[N_LOCAL, RECV_MAX], pl.FP32],
    recv_tok: pl.Tensor[[N_LOCAL, RECV_MAX], pl.INT32],
    recv_count: pl.Tensor[[N_LOCAL, 1], pl.INT32],
):
    recv_flat = pl.reshape(recv_x, [N_LOCAL * RECV_MAX, D])
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="dispatch"):
        for e in pl.range(N_LOCAL):
            pl.write(recv_count, [e, 0], pl.cast(0, pl.INT32))
        for t in pl.range(T):
            for k in pl.range(TOPK):
                eid = pl.read(indices, [t, k]) - expert_base
                if eid >= 0:
                    if eid < N_LOCAL:
                        slot = pl.read(recv_count, [eid, 0])
                        if slot < RECV_MAX:
                            row = eid * RECV_MAX + slot
                            recv_flat[row : row + 1, :] = x_i8[t : t + 1, :]
                            pl.write(recv_scale, [eid, slot], pl.read(x_scale, [t, 0]))
                            pl.write(recv_w, [eid, slot], pl.read(weights, [t, k]))
                            pl.write(recv_tok, [eid, slot], pl.cast(t, pl.INT32))
                            pl.write(recv_count, [eid, 0], pl.cast(slot + 1, pl.INT32))
    return recv_x, recv_scale, recv_w, recv_tok, recv_count


@pl.jit.inline
def experts(
    recv_x: pl.Tensor[[N_LOCAL, RECV_MAX, D], pl.INT8],
    recv_scale: pl.Tensor[[N_LOCAL, RECV_MAX], pl.FP32],
    recv_w: pl.Tensor[[N_LOCAL, RECV_MAX], pl.FP32],
    recv_count: pl.Tensor[[N_LOCAL, 1], pl.INT32],
    w1: pl.Tensor[[N_LOCAL, INTER, D], pl.INT8],
    w1_scale: pl.Tensor[[N_LOCAL, INTER], pl.FP32],
    w3: pl.Tensor[[N_LOCAL, INTER, D], pl.INT8],
    w3_scale: pl.Tensor[[N_LOCAL, INTER], pl.FP32],
    w2: pl.Tensor[[N_LOCAL, D, INTER], pl.INT8],
    w2_scale: pl.Tensor[[N_LOCAL, D], pl.FP32],
    recv_y: pl.Tensor[[N_LOCAL, RECV_MAX, D], pl.BF16],
):
    for e in pl.parallel(0, N_LOCAL, 1):
        n_rows = pl.read(recv_count, [e, 0])
        n_tiles = (n_rows + RECV_TILE - 1) // RECV_TILE
        for tb in pl.range(n_tiles):
            t0 = tb * RECV_TILE
            valid = pl.min(RECV_TILE, n_rows - t0)
            xs_row = recv_scale[e : e + 1, t0 : t0 + RECV_TILE]
            h_tile = pl.create_tensor([RECV_TILE, INTER], dtype=pl.BF16)
            h_i8 = pl.create_tensor([RECV_TILE, INTER], dtype=pl.INT8)
            h_scale = pl.create_tensor([RECV_TILE, 1], dtype=pl.FP32)
            for nb in pl.parallel(INTER // W1_N):
                n0 = nb * W1_N
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="exp_gate_up"):
                    x0 = pl.slice(
                        recv_x, [1, RECV_TILE, W1_K], [e, t0, 0], valid_shape=[1, valid, W1_K]
                    )
                    x0_2d = pl.reshape(x0, [RECV_TILE, W1_K])
                    g0 = pl.reshape(pl.slice(w1, [1, W1_N, W1_K], [e, n0, 0]), [W1_N, W1_K])
                    u0 = pl.reshape(pl.slice(w3, [1, W1_N, W1_K], [e, n0, 0]), [W1_N, W1_K])
                    g_acc = pl.matmul(x0_2d, g0, out_dtype=pl.INT32, b_trans=True)
                    u_acc = pl.matmul(x0_2d, u0, out_dtype=pl.INT32, b_trans=True)
                    for kb in pl.range(1, D // W1_K):
                        k0 = kb * W1_K
                        xk = pl.reshape(
                            pl.slice(
                                recv_x,
                                [1, RECV_TILE, W1_K],
                                [e, t0, k0],
                                valid_shape=[1, valid, W1_K],
                            ),
                            [RECV_TILE, W1_K],
                        )
                        gk = w1[e, n0 : n0 + W1_N, k0 : k0 + W1_K]
                        uk = w3[e, n0 : n0 + W1_N, k0 : k0 + W1_K]
                        g_acc = pl.matmul_acc(g_acc, xk, gk, b_trans=True)
                        u_acc = pl.matmul_acc(u_acc, xk, uk, b_trans=True)
                    xs = pl.reshape(xs_row, [RECV_TILE, 1])
                    gf = pl.cast(g_acc, target_type=pl.FP32, mode="none")
                    uf = pl.cast(u_acc, target_type=pl.FP32, mode="none")
                    gf = pl.col_expand_mul(
                        pl.row_expand_mul(gf, xs), w1_scale[e : e + 1, n0 : n0 + W1_N]
                    )
                    uf = pl.col_expand_mul(
                        pl.row_expand_mul(uf, xs), w3_scale[e : e + 1, n0 : n0 + W1_N]
                    )
                    gf = pl.minimum(gf, LIMIT)
                    uf = pl.maximum(pl.minimum(uf, LIMIT), -LIMIT)
                    sig = pl.recip(pl.add(pl.exp(pl.neg(gf)), 1.0))
                    act = pl.mul(pl.mul(gf, sig), uf)
                    rw = pl.reshape(recv_w[e : e + 1, t0 : t0 + RECV_TILE], [RECV_TILE, 1])
                    act = pl.row_expand_mul(act, rw)
                    act = pl.set_validshape(act, valid, W1_N)
                    act = pl.fillpad(act, pad_value=pl.PadValue.zero)
                    h_tile[:, n0 : n0 + W1_N] = pl.cast(act, target_type=pl.BF16, mode="rint")
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="exp_h_quant"):
                amax = pl.full([1, RECV_TILE], dtype=pl.FP32, value=INT8_AMAX_EPS)
                for k0 in pl.range(0, INTER, QT):
                    hf = pl.cast(h_tile[:, k0 : k0 + QT], target_type=pl.FP32)
                    amax = pl.maximum(
                        amax, pl.reshape(pl.row_max(pl.maximum(hf, pl.neg(hf))), [1, RECV_TILE])
                    )
                qs = pl.div(pl.full([1, RECV_TILE], dtype=pl.FP32, value=INT8_SCALE_MAX), amax)
                h_scale[:, :] = pl.reshape(pl.recip(qs), [RECV_TILE, 1])
                for k0 in pl.range(0, INTER, QT):
                    hf = pl.cast(h_tile[:, k0 : k0 + QT], target_type=pl.FP32)
                    hq = pl.row_expand_mul(hf, pl.reshape(qs, [RECV_TILE, 1]))
                    hi = pl.cast(hq, target_type=pl.INT32, mode="rint")
                    h_i8[:, k0 : k0 + QT] = pl.cast(
                        pl.cast(hi, target_type=pl.FP16, mode="round"),
                        target_type=pl.INT8,
                        mode="trunc",
                    )
            for nb in pl.parallel(D // W2_N):
                n0 = nb * W2_N
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="exp_w2"):
                    y_acc = pl.create_tensor([RECV_TILE, W2_N], dtype=pl.INT32)
                    for kb in pl.pipeline(INTER // W2_K, stage=2):
                        k0 = kb * W2_K
                        hk = h_i8[:, k0 : k0 + W2_K]
                        wk = w2[e, n0 : n0 + W2_N, k0 : k0 + W2_K]
                        if kb == 0:
                            y_acc = pl.matmul(hk, wk, out_dtype=pl.INT32, b_trans=True)
                        else:
                            y_acc = pl.matmul_acc(y_acc, hk, wk, b_trans=True)
                    yf = pl.row_expand_mul(
                        pl.cast(y_acc, target_type=pl.FP32, mode="none"), h_scale[:, :]
                    )
                    yf = pl.col_expand_mul(yf, w2_scale[e : e + 1, n0 : n0 + W2_N])
                    y16 = pl.set_validshape(
                        pl.cast(yf, target_type=pl.BF16, mode="rint"), valid, W2_N
                    )
                    recv_y[e, t0 : t0 + RECV_TILE, n0 : n0 + W2_N] = y16
    return recv_y


@pl.jit.inline
def combine(
    recv_y: pl.Tensor[[N_LOCAL, RECV_MAX, D], pl.BF16],
    recv_tok: pl.Tensor[[N_LOCAL, RECV_MAX], pl.INT32],
    recv_count: pl.Tensor[[N_LOCAL, 1], pl.INT32],
    y: pl.Tensor[[T, D], pl.FP32],
):
    y_rows = pl.reshape(recv_y, [N_LOCAL * RECV_MAX, D])
    for e in pl.range(N_LOCAL):
        n = pl.read(recv_count, [e, 0])
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="combine"):
            for r in pl.range(n):
                tok = pl.read(recv_tok, [e, r])
                part = pl.cast(
                    y_rows[e * RECV_MAX + r : e * RECV_MAX + r + 1, :], target_type=pl.FP32
                )
                y = pl.assemble(y, part, [tok, 0], atomic=pl.AtomicType.Add)
    return y


@pl.jit.inline
def shared_expert(
    x: pl.Tensor[[T, D], pl.BF16],
    sw1: pl.Tensor[[D, INTER], pl.BF16],
    sw3: pl.Tensor[[D, INTER], pl.BF16],
    sw2: pl.Tensor[[INTER, D], pl.BF16],
    sh: pl.Tensor[[T, D], pl.FP32],
):
    act = pl.create_tensor([T, INTER], dtype=pl.BF16)
    for n0 in pl.parallel(0, INTER, W1_N):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="sh_gate_up"):
            ga = pl.full([T, W1_N], dtype=pl.FP32, value=0.0)
            ua = pl.full([T, W1_N], dtype=pl.FP32, value=0.0)
            for k0 in pl.range(0, D, W1_K):
                xk = x[:, k0 : k0 + W1_K]
                ga = pl.matmul_acc(ga, xk, sw1[k0 : k0 + W1_K, n0 : n0 + W1_N])
                ua = pl.matmul_acc(ua, xk, sw3[k0 : k0 + W1_K, n0 : n0 + W1_N])
            ga = pl.minimum(ga, LIMIT)
            ua = pl.minimum(pl.maximum(ua, -LIMIT), LIMIT)
            s = pl.div(ga, pl.add(pl.exp(pl.neg(ga)), 1.0))
            act[:, n0 : n0 + W1_N] = pl.cast(pl.mul(s, ua), target_type=pl.BF16, mode="rint")
    for n0 in pl.parallel(0, D, W2_N):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="sh_down"):
            acc = pl.matmul(act[:, 0:W2_K], sw2[0:W2_K, n0 : n0 + W2_N], out_dtype=pl.FP32)
            for k0 in pl.range(W2_K, INTER, W2_K):
                acc = pl.matmul_acc(
                    acc, act[:, k0 : k0 + W2_K], sw2[k0 : k0 + W2_K, n0 : n0 + W2_N]
                )
            sh = pl.assemble(sh, acc, [0, n0])
    return sh


@pl.jit
def moe_test(
    x_norm: pl.Tensor[[T, D], pl.BF16],
    indices: pl.Tensor[[T, TOPK], pl.INT32],
    weights: pl.Tensor[[T, TOPK], pl.FP32],
    w1: pl.Tensor[[N_LOCAL, INTER, D], pl.INT8],
    w1_scale: pl.Tensor[[N_LOCAL, INTER], pl.FP32],
    w3: pl.Tensor[[N_LOCAL, INTER, D], pl.INT8],
    w3_scale: pl.Tensor[[N_LOCAL, INTER], pl.FP32],
    w2: pl.Tensor[[N_LOCAL, D, INTER], pl.INT8],
    w2_scale: pl.Tensor[[N_LOCAL, D], pl.FP32],
    sw1: pl.Tensor[[D, INTER], pl.BF16],
    sw3: pl.Tensor[[D, INTER], pl.BF16],
    sw2: pl.Tensor[[INTER, D], pl.BF16],
    ffn_out: pl.Out[pl.Tensor[[T, D], pl.BF16]],
    expert_base: pl.Scalar[pl.INT32],
):
    x_i8 = pl.create_tensor([T, D], dtype=pl.INT8)
    x_scale = pl.create_tensor([T, 1], dtype=pl.FP32)
    x_i8, x_scale = quant_rows(x_norm, x_i8, x_scale)
    recv_x = pl.create_tensor([N_LOCAL, RECV_MAX, D], dtype=pl.INT8)
    recv_scale = pl.create_tensor([N_LOCAL, RECV_MAX], dtype=pl.FP32)
    recv_w = pl.create_tensor([N_LOCAL, RECV_MAX], dtype=pl.FP32)
    recv_tok = pl.create_tensor([N_LOCAL, RECV_MAX], dtype=pl.INT32)
    recv_count = pl.create_tensor([N_LOCAL, 1], dtype=pl.INT32)
    recv_x, recv_scale, recv_w, recv_tok, recv_count = dispatch(
        x_i8,
        x_scale,
        indices,
        weights,
        expert_base,
        recv_x,
        recv_scale,
        recv_w,
        recv_tok,
        recv_count,
    )
    recv_y = pl.create_tensor([N_LOCAL, RECV_MAX, D], dtype=pl.BF16)
    recv_y = experts(
        recv_x, recv_scale, recv_w, recv_count, w1, w1_scale, w3, w3_scale, w2, w2_scale, recv_y
    )
    acc = pl.create_tensor([T, D], dtype=pl.FP32, init_value=0.0)
    acc = shared_expert(x_norm, sw1, sw3, sw2, acc)
    acc = combine(recv_y, recv_tok, recv_count, acc)
    for t0 in pl.parallel(0, T, 16):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="ffn_out"):
            ffn_out[t0 : t0 + 16, :] = pl.cast(
                acc[t0 : t0 + 16, :], target_type=pl.BF16, mode="rint"
            )
    return ffn_out


def golden_moe(tensors):
    import torch

    x = tensors["x_norm"].float()
    qs = INT8_SCALE_MAX / x.abs().amax(-1, keepdim=True).clamp_min(INT8_AMAX_EPS)
    xi = torch.round(x * qs)
    base = int(tensors["expert_base"])
    g = (x @ tensors["sw1"].float()).clamp(max=LIMIT)
    u = (x @ tensors["sw3"].float()).clamp(-LIMIT, LIMIT)
    a = (torch.nn.functional.silu(g) * u).to(torch.bfloat16).float()
    y = a @ tensors["sw2"].float()
    for e in range(N_LOCAL):
        tok, k = torch.where(tensors["indices"] == base + e)
        if not len(tok):
            continue
        xe = xi[tok]
        g = (xe @ tensors["w1"][e].float().T) / qs[tok] * tensors["w1_scale"][e]
        u = (xe @ tensors["w3"][e].float().T) / qs[tok] * tensors["w3_scale"][e]
        h = torch.nn.functional.silu(g.clamp(max=LIMIT)) * u.clamp(-LIMIT, LIMIT)
        h = (h * tensors["weights"][tok, k][:, None]).to(torch.bfloat16).float()
        hs = INT8_SCALE_MAX / h.abs().amax(-1, keepdim=True).clamp_min(INT8_AMAX_EPS)
        ye = (torch.round(h * hs) @ tensors["w2"][e].float().T) / hs * tensors["w2_scale"][e]
        y.index_add_(0, tok, ye.to(torch.bfloat16).float())
    tensors["ffn_out"][:] = y.to(torch.bfloat16)


def build_tensor_specs():
    import torch
    from golden import ScalarSpec, TensorSpec

    def w(*shape):
        return lambda: torch.randint(-127, 128, shape, dtype=torch.int8)

    def sc(n, k):
        return lambda: torch.rand(N_LOCAL, n) * 2 / (127 * k**0.5)

    def idx():
        return torch.stack([torch.randperm(2 * N_LOCAL)[:TOPK] for _ in range(T)]).int() + 32 - 8

    return [
        TensorSpec("x_norm", [T, D], torch.bfloat16, init_value=torch.randn),
        TensorSpec("indices", [T, TOPK], torch.int32, init_value=idx),
        TensorSpec("weights", [T, TOPK], torch.float32, init_value=torch.rand),
        TensorSpec("w1", [N_LOCAL, INTER, D], torch.int8, init_value=w(N_LOCAL, INTER, D)),
        TensorSpec("w1_scale", [N_LOCAL, INTER], torch.float32, init_value=sc(INTER, D)),
        TensorSpec("w3", [N_LOCAL, INTER, D], torch.int8, init_value=w(N_LOCAL, INTER, D)),
        TensorSpec("w3_scale", [N_LOCAL, INTER], torch.float32, init_value=sc(INTER, D)),
        TensorSpec("w2", [N_LOCAL, D, INTER], torch.int8, init_value=w(N_LOCAL, D, INTER)),
        TensorSpec("w2_scale", [N_LOCAL, D], torch.float32, init_value=sc(D, INTER)),
        TensorSpec(
            "sw1", [D, INTER], torch.bfloat16, init_value=lambda: torch.randn(D, INTER) / D**0.5
        ),
        TensorSpec(
            "sw3", [D, INTER], torch.bfloat16, init_value=lambda: torch.randn(D, INTER) / D**0.5
        ),
        TensorSpec(
            "sw2", [INTER, D], torch.bfloat16, init_value=lambda: torch.randn(INTER, D) / INTER**0.5
        ),
        TensorSpec("ffn_out", [T, D], torch.bfloat16, is_output=True),
        ScalarSpec("expert_base", torch.int32, 32),
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
        fn=moe_test,
        specs=build_tensor_specs(),
        golden_fn=golden_moe,
        runtime_cfg=dict(
            platform=args.platform,
            device_id=args.device,
            enable_l2_swimlane=args.enable_l2_swimlane,
        ),
        rtol=1e-3,
        atol=1e-3,
        compare_fn={"ffn_out": ratio_allclose(atol=3e-2, rtol=2e-2, max_error_ratio=0.01)},
    )
    if not result.passed:
        if result.error:
            print(result.error)
        raise SystemExit(1)
