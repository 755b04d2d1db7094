"""W8A8 product quantised per token, split-K product with atomics; the tokens are counted at run time."""

import argparse

import pypto.language as pl

T = pl.dynamic("T")
D, N = 256, 128
T_TILE, N_TILE, K_TILE = 16, 64, 128
SPLITS = 4
INT8_MAX = 127.0
AMAX_EPS = 1e-4


@pl.jit.inline
def quantize(
    x: pl.Tensor[[T, D], pl.BF16],
    codes: pl.Tensor[[T, D], pl.INT8],
    scale: pl.Tensor[[T, 1], pl.FP32],
):
    tokens = pl.tensor.dim(x, 0)
    for t0 in pl.parallel(0, tokens, T_TILE):
        rows = pl.min(T_TILE, tokens - t0)
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="quantize"):
            xf = pl.cast(
                pl.slice(x, [T_TILE, D], [t0, 0], valid_shape=[rows, D]), target_type=pl.FP32
            )
            amax = pl.maximum(pl.row_max(pl.abs(xf)), AMAX_EPS)
            inv = pl.div(pl.mul(pl.add(amax, 0.0), 0.0), amax)
            inv = pl.div(pl.add(inv, INT8_MAX), amax)
            scaled = pl.row_expand_mul(xf, inv)
            i32 = pl.cast(scaled, target_type=pl.INT32, mode="rint")
            f16 = pl.cast(i32, target_type=pl.FP16, mode="round")
            i8 = pl.cast(f16, target_type=pl.INT8, mode="trunc")
            codes = pl.assemble(codes, i8, [t0, 0])
            scale = pl.assemble(scale, pl.recip(inv), [t0, 0])
    return codes, scale


@pl.jit
def w8a8(
    x: pl.Tensor[[T, D], pl.BF16],
    w: pl.Tensor[[N, D], pl.INT8],
    w_scale: pl.Tensor[[1, N], pl.FP32],
    y: pl.Out[pl.Tensor[[T, N], pl.BF16]],
):
    tokens = pl.tensor.dim(x, 0)
    codes = pl.create_tensor([tokens, D], dtype=pl.INT8)
    scale = pl.create_tensor([tokens, 1], dtype=pl.FP32)
    codes, scale = quantize(x, codes, scale)
    for t0 in pl.parallel(0, tokens, T_TILE):
        rows = pl.min(T_TILE, tokens - t0)
        for n0 in pl.parallel(0, N, N_TILE):
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="w8a8_mm"):
                acc = pl.create_tensor([T_TILE, N_TILE], dtype=pl.INT32)
                for kb in pl.pipeline(0, D // K_TILE, stage=2):
                    k0 = kb * K_TILE
                    a = pl.slice(codes, [T_TILE, K_TILE], [t0, k0], valid_shape=[rows, K_TILE])
                    b = w[n0 : n0 + N_TILE, k0 : k0 + K_TILE]
                    if k0 == 0:
                        acc = pl.matmul(a, b, b_trans=True, out_dtype=pl.INT32)
                    else:
                        acc = pl.matmul_acc(acc, a, b, b_trans=True)
                f = pl.cast(acc, target_type=pl.FP32, mode="none")
                s = pl.slice(scale, [T_TILE, 1], [t0, 0], valid_shape=[rows, 1])
                f = pl.row_expand_mul(f, s)
                f = pl.col_expand_mul(f, w_scale[:, n0 : n0 + N_TILE])
                f = pl.set_validshape(f, rows, N_TILE)
                y[t0 : t0 + T_TILE, n0 : n0 + N_TILE] = pl.cast(f, target_type=pl.BF16, mode="rint")
    return y


@pl.jit
def split_k(
    x: pl.Tensor[[T, D], pl.BF16],
    w: pl.Tensor[[D, N], pl.BF16],
    y: pl.Out[pl.Tensor[[T, N], pl.FP32]],
    norm: pl.Out[pl.Tensor[[1, N], pl.FP32]],
):
    y.bind_dynamic(0, T)
    tokens = pl.dim(x, 0)
    blocks = (tokens + T_TILE - 1) // T_TILE
    for tb in pl.range(blocks):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="seed"):
            zero = pl.full([T_TILE, N], dtype=pl.FP32, value=0.0)
            zero = pl.set_validshape(zero, pl.min(T_TILE, tokens - tb * T_TILE), N)
            y = pl.assemble(y, zero, [tb * T_TILE, 0])
        for s in pl.spmd(SPLITS, name_hint="split"):
            k_len = D // SPLITS
            k0 = s * k_len
            rows = pl.min(T_TILE, tokens - tb * T_TILE)
            a = pl.slice(x, [T_TILE, k_len], [tb * T_TILE, k0], valid_shape=[rows, k_len])
            part = pl.matmul(a, w[k0 : k0 + k_len, :])
            part = pl.set_validshape(part, rows, N)
            y = pl.assemble(y, part, [tb * T_TILE, 0], atomic=pl.AtomicType.Add)
    total = pl.create_tensor([1, N], dtype=pl.FP32)
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="column_norms"):
        total = pl.full([1, N], dtype=pl.FP32, value=0.0)
        for tb in pl.range(blocks):
            rows = pl.min(T_TILE, tokens - tb * T_TILE)
            part = pl.slice(y, [T_TILE, N], [tb * T_TILE, 0], valid_shape=[rows, N])
            total = pl.add(total, pl.col_sum(pl.mul(part, part)))
        norm[:, :] = pl.sqrt(total)
    return y, norm


def golden_w8a8(values):
    import torch

    x = values["x"].float()
    amax = x.abs().amax(-1, keepdim=True).clamp(min=AMAX_EPS)
    codes = torch.round(x * (INT8_MAX / amax))
    acc = codes.double() @ values["w"].double().T
    values["y"][:] = (acc.float() * (amax / INT8_MAX) * values["w_scale"]).to(torch.bfloat16)


def golden_split(values):
    y = values["x"].float() @ values["w"].float()
    values["y"].copy_(y)
    values["norm"].copy_(y.norm(dim=0, keepdim=True))


def specs(which, t):
    import torch
    from golden import TensorSpec

    x = TensorSpec("x", [t, D], torch.bfloat16, init_value=torch.randn)
    if which == "w8a8":
        return [
            x,
            TensorSpec(
                "w", [N, D], torch.int8, init_value=lambda: torch.randint(-127, 128, (N, D))
            ),
            TensorSpec(
                "w_scale", [1, N], torch.float32, init_value=lambda: torch.rand(1, N) * 1e-3 + 1e-4
            ),
            TensorSpec("y", [t, N], torch.bfloat16, is_output=True),
        ]
    return [
        x,
        TensorSpec("w", [D, N], torch.bfloat16, init_value=torch.randn),
        TensorSpec("y", [t, N], torch.float32, is_output=True),
        TensorSpec("norm", [1, N], torch.float32, is_output=True),
    ]


KERNELS = {"w8a8": (w8a8, golden_w8a8), "split_k": (split_k, golden_split)}

if __name__ == "__main__":
    from golden import ratio_allclose, run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument(
        "-p", "--platform", default="a2a3", choices=["a2a3", "a2a3sim", "a5", "a5sim"]
    )
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--kernel", choices=[*KERNELS, "all"], default="all")
    args = parser.parse_args()
    for name, (kernel, golden) in KERNELS.items():
        if args.kernel not in (name, "all"):
            continue
        for tokens in (1, 37):
            result = run_jit(
                fn=kernel,
                specs=specs(name, tokens),
                golden_fn=golden,
                rtol=1e-2,
                atol=1e-2,
                runtime_cfg=dict(platform=args.platform, device_id=args.device),
                compare_fn={"y": ratio_allclose(atol=1e-2, rtol=1e-2)},
            )
            if not result.passed:
                print(result.error)
                raise SystemExit(1)
