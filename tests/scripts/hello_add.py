"""The smallest script: two tensors, one region, one golden."""

import pypto.language as pl
import torch

ROWS, COLS = 32, 64


@pl.jit
def hello_add(
    a: pl.Tensor[[ROWS, COLS], pl.FP32],
    b: pl.Tensor[[ROWS, COLS], pl.FP32],
    c: pl.Out[pl.Tensor[[ROWS, COLS], pl.FP32]],
):
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="add"):
        c[:, :] = pl.add(a, b)
    return c


def golden_add(tensors):
    tensors["c"][:] = tensors["a"] + tensors["b"]


def build_specs():
    from golden import TensorSpec

    return [
        TensorSpec("a", [ROWS, COLS], torch.float32, init_value=torch.randn),
        TensorSpec("b", [ROWS, COLS], torch.float32, init_value=2.0),
        TensorSpec("c", [ROWS, COLS], torch.float32, is_output=True),
    ]


if __name__ == "__main__":
    import argparse

    from golden import run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument(
        "-p", "--platform", default="a2a3", choices=["a2a3", "a2a3sim", "a5", "a5sim"]
    )
    parser.add_argument("-d", "--device", type=int, default=0)
    args = parser.parse_args()

    result = run_jit(
        hello_add,
        specs=build_specs(),
        golden_fn=golden_add,
        runtime_cfg={"platform": args.platform, "device_id": args.device},
    )
    if not result.passed:
        if result.error:
            print(result.error)
        raise SystemExit(1)
