"""Two drafts of the spring in one file: settings for a device in one RunConfig, flat and in parts."""

import argparse

import pypto.language as pl

ROWS, COLS, ROW_CHUNK = 64, 128, 16
N, BLOCK = 1024, 256


def build_hello_world_program(rows: int = ROWS, cols: int = COLS, row_chunk: int = ROW_CHUNK):
    @pl.program
    class HelloWorldProgram:
        @pl.function(type=pl.FunctionType.Opaque)
        def hello_world(
            self,
            x: pl.Tensor[[rows, cols], pl.FP32],
            y: pl.Out[pl.Tensor[[rows, cols], pl.FP32]],
        ) -> pl.Tensor[[rows, cols], pl.FP32]:
            with pl.auto_incore():
                for r in pl.parallel(0, rows, 1, chunk=row_chunk, chunk_policy="leading_full"):
                    tile_y = pl.add(pl.slice(x, [1, cols], [r, 0]), 1.0)
                    y = pl.assemble(y, tile_y, [r, 0])
            return y

    return HelloWorldProgram


def build_vector_add_program(n: int = N, block: int = BLOCK):
    @pl.program
    class VectorAdd:
        @pl.function(type=pl.FunctionType.InCore)
        def kernel_add(
            self,
            a: pl.Tensor[[1, n], pl.FP32],
            b: pl.Tensor[[1, n], pl.FP32],
            off: pl.Scalar[pl.INDEX],
            factor: pl.Scalar[pl.FP32],
            out: pl.Out[pl.Tensor[[1, n], pl.FP32]],
        ) -> pl.Tensor[[1, n], pl.FP32]:
            ta = pl.load(a, [0, off], [1, block], target_memory=pl.MemorySpace.Vec)
            tb = pl.tile.muls(pl.load(b, [0, off], [1, block]), factor)
            return pl.store(pl.add(ta, tb), [0, off], out)

        @pl.function(type=pl.FunctionType.Orchestration)
        def main(
            self,
            a: pl.Tensor[[1, n], pl.FP32],
            b: pl.Tensor[[1, n], pl.FP32],
            factor: pl.Scalar[pl.FP32],
            out: pl.Out[pl.Tensor[[1, n], pl.FP32]],
        ) -> pl.Tensor[[1, n], pl.FP32]:
            for i in pl.range(n // block):
                out = self.kernel_add(a, b, i * block, factor, out)
            return out

    return VectorAdd


def golden_hello_world(tensors, params):
    tensors["y"][:] = tensors["x"] + 1.0


def golden_vector_add(tensors):
    tensors["out"][:] = tensors["a"] + tensors["b"] * tensors["factor"]


def run_flat(platform: str, device_id: int):
    """March: pypto.runtime, a golden of two arguments, the device in the RunConfig."""
    import torch
    from pypto import ir
    from pypto.backend import BackendType
    from pypto.ir.pass_manager import OptimizationStrategy
    from pypto.runtime import RunConfig, TensorSpec, run

    a5 = platform.startswith("a5")
    return run(
        program=ir.compile(build_hello_world_program(), strategy=OptimizationStrategy.Default),
        tensor_specs=[
            TensorSpec("x", [ROWS, COLS], torch.float32, init_value=torch.randn),
            TensorSpec("y", [ROWS, COLS], torch.float32, is_output=True),
        ],
        golden=golden_hello_world,
        config=RunConfig(
            platform=platform,
            device_id=device_id,
            rtol=1e-5,
            atol=1e-5,
            strategy=OptimizationStrategy.Default,
            dump_passes=True,
            backend_type=BackendType.Ascend950 if a5 else BackendType.Ascend910B,
        ),
    )


def run_in_parts(platform: str, device_id: int):
    """April: golden.RunConfig with what goes to the compiler and to the device apart."""
    import torch
    from golden import RunConfig, ScalarSpec, run
    from golden.tensor_spec import TensorSpec
    from pypto import ir

    return run(
        program=ir.compile(build_vector_add_program(), dump_passes=False),
        tensor_specs=[
            TensorSpec("a", [1, N], torch.float32, init_value=torch.randn),
            TensorSpec("b", [1, N], torch.float32, init_value=2),
            ScalarSpec("factor", torch.float32, 0.5),
            TensorSpec("out", [1, N], torch.float32, is_output=True),
        ],
        golden_fn=golden_vector_add,
        config=RunConfig(
            rtol=1e-5,
            atol=1e-5,
            compile=dict(dump_passes=True),
            runtime=dict(platform=platform, device_id=device_id, runtime_profiling=True),
        ),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--platform", default="a2a3", choices=["a2a3", "a2a3sim", "a5"])
    parser.add_argument("-d", "--device", type=int, default=0)
    args = parser.parse_args()
    for how in (run_flat, run_in_parts):
        result = how(args.platform, args.device)
        if not result.passed:
            print(f"Result: {result.error}")
            raise SystemExit(1)
