"""GEMM + bias/relu/residual as a program of two InCore kernels and an Orchestration function with tuple results."""

import pypto.language as pl

M, K, N = 128, 256, 256
TM, TN = 64, 128


def build_program(m=M, k=K, n=N, tm=TM, tn=TN):
    MAT = pl.MemorySpace.Mat
    ACC_DTYPE = pl.FP32

    @pl.program
    class GemmEltwise:
        @pl.function(type=pl.FunctionType.InCore)
        def gemm_tile(
            self,
            a: pl.Tensor[[m, k], pl.FP16],
            b: pl.Tensor[[k, n], pl.FP16],
            m0: pl.Scalar[pl.INDEX],
            n0: pl.Scalar[pl.INDEX],
            c: pl.Out[pl.Tensor[[m, n], pl.FP32]],
        ) -> pl.Tensor[[m, n], pl.FP32]:
            l1_a = pl.load(a, [m0, 0], [tm, k], target_memory=MAT)
            l1_b = pl.load(b, [0, n0], [k, tn], target_memory=pl.MemorySpace.Mat)
            l0_a = pl.move(l1_a, target_memory=pl.MemorySpace.Left)
            l0_b = pl.move(l1_b, target_memory=pl.MemorySpace.Right)
            acc: pl.Tile[[tm, tn], pl.FP32] = pl.matmul(lhs=l0_a, rhs=l0_b)
            out = pl.store(acc, offsets=[m0, n0], output_tensor=c)
            return out

        @pl.function(type=pl.FunctionType.InCore)
        def eltwise(
            self,
            c: pl.Tensor[[m, n], pl.FP32],
            bias: pl.Tensor[[1, n], pl.FP32],
            r: pl.Tensor[[m, n], pl.FP32],
            m0: pl.Scalar[pl.INDEX],
            y: pl.Out[pl.Tensor[[m, n], pl.FP32]],
            rowmax: pl.Out[pl.Tensor[[m, 1], pl.FP32]],
        ) -> tuple[pl.Tensor[[m, n], pl.FP32], pl.Tensor[[m, 1], pl.FP32]]:
            t = pl.load(tensor=c, offsets=[m0, 0], shapes=[tm, n])
            b = pl.load(bias, [0, 0], [1, n])
            t = pl.tile.col_expand_add(t, b)
            t = pl.tile.relu(t)
            t = pl.tile.add(t, pl.load(r, offsets=[m0, 0], shapes=[tm, n]))
            tmp = pl.create_tile([tm, n], dtype=pl.FP32, target_memory=pl.MemorySpace.Vec)
            mx = pl.tile.row_max(t, tmp)
            y_out = pl.store(t, [m0, 0], y)
            m_out = pl.tile.store(mx, [m0, 0], rowmax)
            return y_out, m_out

        @pl.function(type=pl.FunctionType.Orchestration)
        def main(
            self,
            a: pl.Tensor[[m, k], pl.FP16],
            b: pl.Tensor[[k, n], pl.FP16],
            bias: pl.Tensor[[1, n], pl.FP32],
            r: pl.Tensor[[m, n], pl.FP32],
            y: pl.Out[pl.Tensor[[m, n], pl.FP32]],
            rowmax: pl.Out[pl.Tensor[[m, 1], pl.FP32]],
        ) -> tuple[pl.Tensor[[m, n], pl.FP32], pl.Tensor[[m, 1], pl.FP32]]:
            c = pl.create_tensor([m, n], dtype=ACC_DTYPE)
            for m0 in pl.range(0, m, tm):
                for n0 in pl.range(0, n, tn):
                    c = self.gemm_tile(a, b, m0, n0, c)
                y, rowmax = self.eltwise(c, bias, r, m0, y, rowmax)
            return y, rowmax

    return GemmEltwise


def golden(tensors):
    import torch

    c = tensors["a"].float() @ tensors["b"].float() + tensors["bias"]
    y = torch.relu(c) + tensors["r"]
    tensors["y"][:] = y
    tensors["rowmax"][:] = y.max(dim=1, keepdim=True).values


if __name__ == "__main__":
    import argparse
    import torch
    from golden import RunResult, TensorSpec, run

    p = argparse.ArgumentParser()
    p.add_argument("-p", "--platform", default="a2a3sim")
    p.add_argument("-d", "--device", type=int, default=0)
    p.add_argument("--runtime-dir", type=str, default=None)
    p.add_argument("--golden-data", type=str, default=None)
    p.add_argument("--compile-only", action="store_true")
    a = p.parse_args()
    res: RunResult = run(
        program=build_program(),
        specs=[
            TensorSpec("a", [M, K], torch.float16, init_value=torch.randn),
            TensorSpec("b", [K, N], torch.float16, init_value=torch.randn),
            TensorSpec("bias", [1, N], torch.float32, init_value=torch.randn),
            TensorSpec("r", [M, N], torch.float32, init_value=torch.ones),
            TensorSpec("y", [M, N], torch.float32, is_output=True),
            TensorSpec("rowmax", [M, 1], torch.float32, is_output=True),
        ],
        golden_fn=golden,
        golden_data=a.golden_data,
        compile_only=a.compile_only,
        runtime_dir=a.runtime_dir,
        compile_cfg={"dump_passes": False},
        runtime_cfg={"platform": a.platform, "device_id": a.device},
        rtol=1e-3,
        atol=1e-3,
    )
    if not res.passed:
        print(res.error or "unknown")
        raise SystemExit(1)
    print(f"done in {res.execution_time:.2f}s -> {res.work_dir}")
