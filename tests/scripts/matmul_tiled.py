"""A product in tiles of M and N, K in slices, as one writes it for a matrix unit."""

import argparse

import pypto.language as pl
import torch
from pypto.language import BF16, FP32

M, K, N = 64, 256, 96
M_TILE, K_TILE, N_TILE = 32, 64, 32
K_BLOCKS = K // K_TILE


@pl.jit.inline
def block_product(
    x: pl.Tensor[[M, K], BF16], w: pl.Tensor[[K, N], BF16], y: pl.Tensor[[M, N], FP32],
    m0: pl.Scalar[pl.INDEX], n0: pl.Scalar[pl.INDEX],
):  # fmt: skip
    acc = pl.create_tensor([M_TILE, N_TILE], dtype=FP32)
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="product"):
        for kb in pl.pipeline(K_BLOCKS, stage=2):
            a = x[m0 : m0 + M_TILE, kb * K_TILE : kb * K_TILE + K_TILE]
            b = w[kb * K_TILE : kb * K_TILE + K_TILE, n0 : n0 + N_TILE]
            if kb == 0:
                acc = pl.matmul(a, b, out_dtype=FP32)
            else:
                acc = pl.matmul_acc(acc, a, b)
        y[m0 : m0 + M_TILE, n0 : n0 + N_TILE] = acc
    return y


@pl.jit
def matmul_tiled(
    x: pl.Tensor[[M, K], BF16], w: pl.Tensor[[K, N], BF16], y: pl.Out[pl.Tensor[[M, N], FP32]]
):
    for m0 in pl.parallel(0, M, M_TILE):
        for n0 in pl.parallel(0, N, N_TILE):
            block_product(x, w, y, m0, n0)
    return y


def golden_matmul(values):
    values["y"][:] = values["x"].float() @ values["w"].float()


def main():
    from golden import RunResult, TensorSpec, ratio_allclose, run_jit

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-p", "--platform", default="a2a3")
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--compile-only", action="store_true")
    args = parser.parse_args()
    result: RunResult = run_jit(
        fn=matmul_tiled,
        specs=[
            TensorSpec("x", [M, K], torch.bfloat16, init_value=lambda: torch.randn(M, K) * 0.1),
            TensorSpec("w", [K, N], torch.bfloat16, init_value=lambda: torch.randn(K, N) * 0.1),
            TensorSpec("y", [M, N], torch.float32, is_output=True),
        ],
        golden_fn=golden_matmul,
        runtime_cfg=dict(platform=args.platform, device_id=args.device),
        compare_fn={"y": ratio_allclose(atol=1e-4, rtol=1e-3)},
        compile_only=args.compile_only,
    )
    return 0 if result.passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
