"""W8A8 experts: tokens in tiles of 16 rows, K in steps of 128, gate and up, SwiGLU, quantise, down."""

import pypto.language as pl

EXPERTS, ROWS, D, F = 4, 64, 2048, 1024
T_TILE, N_TILE, K_TILE = 16, 128, 128
QUANT_TILE = 512
INT8_MAX, AMAX_FLOOR = 127.0, 1e-4


@pl.jit.inline
def projected(
    x: pl.Tensor,
    x_scale: pl.Tensor,
    w: pl.Tensor,
    w_scale: pl.Tensor,
    row: pl.Scalar[pl.INDEX],
    k_row: pl.Scalar[pl.INDEX],
    n0: pl.Scalar[pl.INDEX],
    out: pl.Tensor,
):
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="product"):
        acc = pl.create_tensor([T_TILE, N_TILE], dtype=pl.INT32)
        for kb in pl.pipeline(x.shape[1] // K_TILE, stage=2):
            k0 = kb * K_TILE
            a = x[row : row + T_TILE, k0 : k0 + K_TILE]
            b = w[k_row + k0 : k_row + k0 + K_TILE, n0 : n0 + N_TILE]
            if kb == 0:
                acc = pl.matmul(a, b, out_dtype=pl.INT32)
            else:
                acc = pl.matmul_acc(acc, a, b)
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="dequant"):
        f = pl.cast(acc, target_type=pl.FP32, mode="none")
        f = pl.row_expand_mul(f, x_scale[row : row + T_TILE, :])
        f = pl.col_expand_mul(f, w_scale[:, n0 : n0 + N_TILE])
        out[row : row + T_TILE, n0 : n0 + N_TILE] = f
    return out


@pl.jit
def expert_ffn(
    x: pl.Tensor[[EXPERTS * ROWS, D], pl.INT8],
    x_scale: pl.Tensor[[EXPERTS * ROWS, 1], pl.FP32],
    w_gate: pl.Tensor[[EXPERTS * D, F], pl.INT8],
    w_up: pl.Tensor[[EXPERTS * D, F], pl.INT8],
    w_down: pl.Tensor[[EXPERTS * F, D], pl.INT8],
    gate_scale: pl.Tensor[[EXPERTS, F], pl.FP32],
    up_scale: pl.Tensor[[EXPERTS, F], pl.FP32],
    down_scale: pl.Tensor[[EXPERTS, D], pl.FP32],
    y: pl.Out[pl.Tensor[[EXPERTS * ROWS, D], pl.FP32]],
):
    gate = pl.create_tensor([EXPERTS * ROWS, F], dtype=pl.FP32)
    up = pl.create_tensor([EXPERTS * ROWS, F], dtype=pl.FP32)
    h = pl.create_tensor([EXPERTS * ROWS, F], dtype=pl.FP32)
    codes = pl.create_tensor([EXPERTS * ROWS, F], dtype=pl.INT8)
    h_scale = pl.create_tensor([EXPERTS * ROWS, 1], dtype=pl.FP32)
    for e in pl.parallel(EXPERTS):
        gs = gate_scale[e : e + 1, :]
        us = up_scale[e : e + 1, :]
        ds = down_scale[e : e + 1, :]
        for t0 in pl.parallel(0, ROWS, T_TILE):
            row = e * ROWS + t0
            for n0 in pl.parallel(0, F, N_TILE):
                gate = projected(x, x_scale, w_gate, gs, row, e * D, n0, gate)
                up = projected(x, x_scale, w_up, us, row, e * D, n0, up)
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="swiglu"):
                    g = gate[row : row + T_TILE, n0 : n0 + N_TILE]
                    u = up[row : row + T_TILE, n0 : n0 + N_TILE]
                    sig = pl.recip(pl.add(pl.exp(pl.neg(g)), 1.0))
                    h[row : row + T_TILE, n0 : n0 + N_TILE] = pl.mul(pl.mul(g, sig), u)
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="quant"):
                amax = pl.full([T_TILE, 1], dtype=pl.FP32, value=AMAX_FLOOR)
                for c0 in pl.range(0, F, QUANT_TILE):
                    part = h[row : row + T_TILE, c0 : c0 + QUANT_TILE]
                    amax = pl.maximum(amax, pl.row_max(pl.maximum(part, pl.neg(part))))
                inv = pl.div(pl.full([T_TILE, 1], dtype=pl.FP32, value=INT8_MAX), amax)
                h_scale[row : row + T_TILE, :] = pl.recip(inv)
                for c0 in pl.range(0, F, QUANT_TILE):
                    part = h[row : row + T_TILE, c0 : c0 + QUANT_TILE]
                    i32 = pl.cast(pl.row_expand_mul(part, inv), target_type=pl.INT32, mode="rint")
                    half = pl.cast(i32, target_type=pl.FP16, mode="round")
                    i8 = pl.cast(half, target_type=pl.INT8, mode="trunc")
                    codes[row : row + T_TILE, c0 : c0 + QUANT_TILE] = i8
            for n0 in pl.parallel(0, D, N_TILE):
                y = projected(codes, h_scale, w_down, ds, row, e * F, n0, y)
    return y


def golden(v):
    import torch

    for e in range(EXPERTS):
        rows = slice(e * ROWS, e * ROWS + ROWS)
        x = v["x"][rows].double() * v["x_scale"][rows]
        g = x @ v["w_gate"][e * D : e * D + D].double() * v["gate_scale"][e]
        u = x @ v["w_up"][e * D : e * D + D].double() * v["up_scale"][e]
        h = torch.nn.functional.silu(g) * u
        inv = INT8_MAX / h.abs().amax(-1, keepdim=True).clamp(min=AMAX_FLOOR)
        codes = torch.round(h * inv)
        v["y"][rows] = (
            (codes / inv) @ v["w_down"][e * F : e * F + F].double() * v["down_scale"][e]
        ).float()


def specs():
    import torch
    from golden import TensorSpec

    def codes(*shape):
        return lambda: torch.randint(-127, 128, shape, dtype=torch.int8)

    def scales(*shape):
        return lambda: torch.rand(shape) * 1e-3 + 1e-4

    rows = EXPERTS * ROWS
    return [
        TensorSpec("x", [rows, D], torch.int8, codes(rows, D)),
        TensorSpec("x_scale", [rows, 1], torch.float32, scales(rows, 1)),
        TensorSpec("w_gate", [EXPERTS * D, F], torch.int8, codes(EXPERTS * D, F)),
        TensorSpec("w_up", [EXPERTS * D, F], torch.int8, codes(EXPERTS * D, F)),
        TensorSpec("w_down", [EXPERTS * F, D], torch.int8, codes(EXPERTS * F, D)),
        TensorSpec("gate_scale", [EXPERTS, F], torch.float32, scales(EXPERTS, F)),
        TensorSpec("up_scale", [EXPERTS, F], torch.float32, scales(EXPERTS, F)),
        TensorSpec("down_scale", [EXPERTS, D], torch.float32, scales(EXPERTS, D)),
        TensorSpec("y", [rows, D], torch.float32, is_output=True),
    ]


if __name__ == "__main__":
    from golden import ratio_allclose, run_jit

    close = ratio_allclose(atol=1e-3, rtol=1e-2, max_error_ratio=0.01)
    result = run_jit(expert_ffn, specs(), golden, compare_fn={"y": close})
    raise SystemExit(not result.passed)
