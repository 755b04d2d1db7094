"""LayerNorm with an affine step; the device's profiling flags are taken from the command line."""

import argparse
import sys

import pypto.language as pl
import torch

ROWS, DIM, TILE = 32, 192, 8
EPS = 1e-5


@pl.jit.inline
def normalize(x: pl.Tensor, weight: pl.Tensor, bias: pl.Tensor, y: pl.Tensor):
    for r0 in pl.range(0, ROWS, TILE):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="layer_norm"):
            rows = x[r0 : r0 + TILE, :]
            mean = pl.mul(pl.row_sum(rows), 1.0 / DIM)
            centred = pl.row_expand_sub(rows, mean)
            var = pl.mul(pl.row_sum(pl.mul(centred, centred)), 1.0 / DIM)
            unit = pl.row_expand_mul(centred, pl.recip(pl.sqrt(pl.add(var, EPS))))
            gained = pl.col_expand_mul(unit, weight)
            y[r0 : r0 + TILE, :] = pl.add(gained, pl.col_expand(gained, bias))
    return y


@pl.jit
def layer_norm(
    x: pl.Tensor[[ROWS, DIM], pl.FP32],
    weight: pl.Tensor[[1, DIM], pl.FP32],
    bias: pl.Tensor[[1, DIM], pl.FP32],
    y: pl.Out[pl.Tensor[[ROWS, DIM], pl.FP32]],
):
    y = normalize(x, weight, bias, y)
    return y


def golden_layer_norm(tensors):
    weight, bias = tensors["weight"][0], tensors["bias"][0]
    made = torch.nn.functional.layer_norm(tensors["x"], (DIM,), weight, bias, EPS)
    tensors["y"][:] = made


def build_tensor_specs():
    from golden import TensorSpec

    return [
        TensorSpec("x", [ROWS, DIM], torch.float32, init_value=torch.randn),
        TensorSpec("weight", [1, DIM], torch.float32, init_value=torch.rand),
        TensorSpec("bias", [1, DIM], torch.float32, init_value=torch.rand),
        TensorSpec("y", [ROWS, DIM], torch.float32, is_output=True),
    ]


if __name__ == "__main__":
    from golden import run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--platform", type=str, default="a2a3")
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--enable-l2-swimlane", action="store_true", default=False)
    parser.add_argument("--log-level", default="info")
    args = parser.parse_args()
    result = run_jit(
        fn=layer_norm,
        specs=build_tensor_specs(),
        golden_fn=golden_layer_norm,
        compile_cfg={"dump_passes": True},
        runtime_cfg={
            "platform": args.platform,
            "device_id": args.device,
            "enable_l2_swimlane": args.enable_l2_swimlane,
            "log_level": args.log_level,
        },
        rtol=1e-4,
        atol=1e-4,
    )
    if not result.passed:
        print(result.error)
        sys.exit(1)
