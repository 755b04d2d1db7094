"""BF16 product [128, 4096] x [4096, 4096], N in steps of 64, K in steps of 128, one operator a scope."""

import pypto.language as pl

M, K, N = 128, 4096, 4096
N_TILE, K_TILE = 64, 128


@pl.jit
def gemm(
    a: pl.Tensor[[M, K], pl.BF16],
    b: pl.Tensor[[K, N], pl.BF16],
    gain: pl.Tensor[[1, N], pl.FP32],
    bias: pl.Tensor[[1, N], pl.FP32],
    y: pl.Out[pl.Tensor[[M, N], pl.BF16]],
):
    product = pl.create_tensor([M, N], dtype=pl.FP32)
    scaled = pl.create_tensor([M, N], dtype=pl.FP32)
    shifted = pl.create_tensor([M, N], dtype=pl.FP32)
    for nb in pl.spmd(N // N_TILE, name_hint="product"):
        n0 = nb * N_TILE
        acc = pl.create_tensor([M, N_TILE], dtype=pl.FP32)
        for kb in pl.pipeline(K // K_TILE, stage=2):
            left = a[:, kb * K_TILE : kb * K_TILE + K_TILE]
            right = b[kb * K_TILE : kb * K_TILE + K_TILE, n0 : n0 + N_TILE]
            if kb == 0:
                acc = pl.matmul(left, right, out_dtype=pl.FP32)
            else:
                acc = pl.matmul_acc(acc, left, right)
        product[:, n0 : n0 + N_TILE] = acc
    for nb in pl.spmd(N // N_TILE, name_hint="gain"):
        n0 = nb * N_TILE
        part = product[:, n0 : n0 + N_TILE]
        scaled[:, n0 : n0 + N_TILE] = pl.col_expand_mul(part, gain[:, n0 : n0 + N_TILE])
    for nb in pl.spmd(N // N_TILE, name_hint="bias"):
        n0 = nb * N_TILE
        part = scaled[:, n0 : n0 + N_TILE]
        shifted[:, n0 : n0 + N_TILE] = pl.add(part, bias[:, n0 : n0 + N_TILE])
    for nb in pl.spmd(N // N_TILE, name_hint="round"):
        n0 = nb * N_TILE
        part = shifted[:, n0 : n0 + N_TILE]
        y[:, n0 : n0 + N_TILE] = pl.cast(part, target_type=pl.BF16, mode="rint")
    return y


def golden(v):
    v["y"][:] = v["a"].float() @ v["b"].float() * v["gain"] + v["bias"]


def specs():
    import torch
    from golden import TensorSpec

    return [
        TensorSpec("a", [M, K], torch.bfloat16, torch.randn),
        TensorSpec("b", [K, N], torch.bfloat16, lambda: torch.randn(K, N) / K**0.5),
        TensorSpec("gain", [1, N], torch.float32, torch.rand),
        TensorSpec("bias", [1, N], torch.float32, torch.randn),
        TensorSpec("y", [M, N], torch.bfloat16, is_output=True),
    ]


if __name__ == "__main__":
    from golden import ratio_allclose, run_jit

    close = ratio_allclose(atol=1e-2, rtol=1e-2)
    result = run_jit(gemm, specs(), golden, compare_fn={"y": close})
    raise SystemExit(not result.passed)
