"""Programs in the explicit form, as they are written for `golden.run`: both back ends against Torch."""

from __future__ import annotations

import pytest
import torch

import tilewright.language as pl
from tilewright.golden import TensorSpec, ratio_allclose, run

F32, BF16 = torch.float32, torch.bfloat16


@pytest.fixture(params=["interpreter", "native"])
def judge(request):
    """Run a program on specs by one back end: outputs poisoned, memory guarded, twice the same bits."""

    def judged(program, specs, golden, **options):
        config = {"backend": request.param, "log_level": "quiet"}
        result = run(
            program, specs, golden, runtime_cfg=config, seed=4, strict=True, repeats=2, **options
        )
        assert result.passed, result.error

    return judged


def small_integers(*shape: int) -> torch.Tensor:
    """Sums and products of these are exact."""
    return torch.randint(-8, 9, shape).float()


# hello world: one region that adds one


def build_hello(rows: int, cols: int):
    @pl.program
    class HelloWorld:
        """Adds one to every element."""

        @pl.function(type=pl.FunctionType.Opaque)
        def add_one(
            self,
            x: pl.Tensor[[rows, cols], pl.FP32],
            y: pl.Out[pl.Tensor[[rows, cols], pl.FP32]],
        ) -> pl.Tensor[[rows, cols], pl.FP32]:
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="add_one"):
                tile = pl.slice(x, [rows, cols], [0, 0])
                y = pl.assemble(y, pl.add(tile, 1.0), [0, 0])
            return y

    return HelloWorld


@pytest.mark.parametrize("rows", [16, 48])
def test_hello_world(judge, rows):
    program = build_hello(rows, 64)
    assert (program.__name__, program.__doc__) == ("HelloWorld", "Adds one to every element.")
    specs = [
        TensorSpec("x", [rows, 64], F32, torch.randn),
        TensorSpec("y", [rows, 64], F32, is_output=True),
    ]

    def golden(values):
        values["y"][:] = values["x"] + 1

    judge(program, specs, golden, rtol=0, atol=0)


# a product whose arms load their own operands


def build_matmul(m: int, k: int, n: int, m_tile: int = 32, k_tile: int = 64, n_tile: int = 64):
    @pl.program
    class Matmul:
        @pl.function(type=pl.FunctionType.Opaque)
        def matmul(
            self,
            a: pl.Tensor[[m, k], pl.BF16],
            b: pl.Tensor[[k, n], pl.BF16],
            c: pl.Out[pl.Tensor[[m, n], pl.FP32]],
        ) -> pl.Tensor[[m, n], pl.FP32]:
            for mb in pl.parallel(0, m // m_tile):
                for nb in pl.parallel(0, n // n_tile):
                    with pl.at(level=pl.Level.CORE_GROUP, name_hint="matmul"):
                        m0 = mb * m_tile
                        n0 = nb * n_tile
                        acc = pl.create_tensor([m_tile, n_tile], dtype=pl.FP32)
                        for kb in pl.pipeline(0, k // k_tile, stage=2):
                            if kb == 0:
                                tile_a = pl.slice(a, [m_tile, k_tile], [m0, 0])
                                tile_b = pl.slice(b, [k_tile, n_tile], [0, n0])
                                acc = pl.matmul(tile_a, tile_b, out_dtype=pl.FP32)
                            else:
                                k0 = kb * k_tile
                                tile_a = pl.slice(a, [m_tile, k_tile], [m0, k0])
                                tile_b = pl.slice(b, [k_tile, n_tile], [k0, n0])
                                acc = pl.matmul_acc(acc, tile_a, tile_b)
                        c = pl.assemble(c, acc, [m0, n0])
            return c

    return Matmul


def matmul_specs(m: int, k: int, n: int) -> list[TensorSpec]:
    return [
        TensorSpec("a", [m, k], BF16, lambda: small_integers(m, k)),
        TensorSpec("b", [k, n], BF16, lambda: small_integers(k, n)),
        TensorSpec("c", [m, n], F32, is_output=True),
    ]


def matmul_golden(values):
    values["c"][:] = values["a"].float() @ values["b"].float()


def test_matmul_with_loads_in_both_arms(judge):
    judge(build_matmul(64, 256, 128), matmul_specs(64, 256, 128), matmul_golden, rtol=0, atol=0)


# the same with the memories of a device spelt out


def build_tile_matmul(n: int):
    @pl.program
    class TileMatmul:
        @pl.function(type=pl.FunctionType.InCore)
        def tile_matmul(
            self,
            a: pl.Tensor[[n, n], pl.BF16],
            b: pl.Tensor[[n, n], pl.BF16],
            c: pl.Out[pl.Tensor[[n, n], pl.FP32]],
        ) -> pl.Tensor[[n, n], pl.FP32]:
            a_l1: pl.Tile[[n, n], pl.BF16, pl.MemorySpace.Mat] = pl.load(
                a, offsets=[0, 0], shapes=[n, n], target_memory=pl.MemorySpace.Mat
            )
            b_l1 = pl.load(b, [0, 0], [n, n], target_memory=pl.MemorySpace.Mat, transpose=True)
            a_l0 = pl.move(a_l1, target_memory=pl.MemorySpace.Left)
            b_l0 = pl.move(b_l1, target_memory=pl.MemorySpace.Right)
            acc: pl.Tile[[n, n], pl.FP32] = pl.matmul(a_l0, b_l0)
            return pl.store(acc, [0, 0], c)

        @pl.function(type=pl.FunctionType.Orchestration)
        def main(
            self,
            a: pl.Tensor[[n, n], pl.BF16],
            b: pl.Tensor[[n, n], pl.BF16],
            c: pl.Out[pl.Tensor[[n, n], pl.FP32]],
        ) -> pl.Tensor[[n, n], pl.FP32]:
            c = self.tile_matmul(a, b, c)
            return c

    return TileMatmul


def test_matmul_of_tiles_moved_between_memories(judge):
    def golden(values):
        values["c"][:] = values["a"].float() @ values["b"].float().T

    judge(build_tile_matmul(64), matmul_specs(64, 64, 64), golden, rtol=0, atol=0)


# a product and element-wise work on it


def build_gemm_eltwise(m: int, k: int, n: int, n_tile: int):
    @pl.program
    class GemmEltwise:
        @pl.function(type=pl.FunctionType.Opaque)
        def gemm_eltwise(
            self,
            x: pl.Tensor[[m, k], pl.BF16],
            w: pl.Tensor[[k, n], pl.BF16],
            bias: pl.Tensor[[1, n], pl.FP32],
            residual: pl.Tensor[[m, n], pl.FP32],
            y: pl.Out[pl.Tensor[[m, n], pl.BF16]],
        ) -> pl.Tensor[[m, n], pl.BF16]:
            for n0 in pl.parallel(0, n, n_tile):
                product = pl.create_tensor([m, n_tile], dtype=pl.FP32)
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="gemm"):
                    product[:, :] = pl.matmul(x, w[:, n0 : n0 + n_tile], out_dtype=pl.FP32)
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="eltwise"):
                    shifted = pl.add(product, bias[:, n0 : n0 + n_tile])
                    positive = pl.maximum(shifted, 0.0)
                    total = pl.add(positive, residual[:, n0 : n0 + n_tile])
                    y[:, n0 : n0 + n_tile] = pl.cast(total, target_type=pl.BF16, mode="rint")
            return y

    return GemmEltwise


def test_gemm_followed_by_bias_relu_and_residual(judge):
    m, k, n = 32, 128, 96
    specs = [
        TensorSpec("x", [m, k], BF16, lambda: small_integers(m, k)),
        TensorSpec("w", [k, n], BF16, lambda: small_integers(k, n)),
        TensorSpec("bias", [1, n], F32, torch.randn),
        TensorSpec("residual", [m, n], F32, torch.randn),
        TensorSpec("y", [m, n], BF16, is_output=True),
    ]

    def golden(values):
        product = values["x"].float() @ values["w"].float()
        total = (product + values["bias"]).clamp(min=0) + values["residual"]
        values["y"][:] = total.bfloat16()

    judge(build_gemm_eltwise(m, k, n, 32), specs, golden, rtol=0, atol=0)


# softmax and layer norm, row tile by row tile


def build_softmax(rows: int, cols: int, tile: int):
    @pl.program
    class Softmax:
        @pl.function(type=pl.FunctionType.Opaque)
        def softmax(
            self,
            x: pl.Tensor[[rows, cols], pl.FP32],
            y: pl.Out[pl.Tensor[[rows, cols], pl.FP32]],
        ) -> pl.Tensor[[rows, cols], pl.FP32]:
            for r in pl.parallel(0, rows, tile):
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="softmax"):
                    part = pl.slice(x, [tile, cols], [r, 0])
                    powers = pl.exp(pl.row_expand_sub(part, pl.row_max(part)))
                    normed = pl.row_expand_div(powers, pl.row_sum(powers))
                    y = pl.assemble(y, normed, [r, 0])
            return y

    return Softmax


def test_softmax(judge):
    specs = [
        TensorSpec("x", [64, 200], F32, torch.randn),
        TensorSpec("y", [64, 200], F32, is_output=True),
    ]

    def golden(values):
        values["y"][:] = torch.softmax(values["x"].double(), -1).float()

    judge(build_softmax(64, 200, 16), specs, golden)


def build_layer_norm(rows: int, cols: int, tile: int, eps: float = 1e-5):
    inverse = 1.0 / cols

    @pl.program
    class LayerNorm:
        @pl.function(type=pl.FunctionType.Opaque)
        def layer_norm(
            self,
            x: pl.Tensor[[rows, cols], pl.FP32],
            gamma: pl.Tensor[[1, cols], pl.FP32],
            beta: pl.Tensor[[1, cols], pl.FP32],
            y: pl.Out[pl.Tensor[[rows, cols], pl.FP32]],
        ) -> pl.Tensor[[rows, cols], pl.FP32]:
            for r in pl.parallel(0, rows, tile):
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="layer_norm"):
                    part = x[r : r + tile, :]
                    mean = pl.mul(pl.row_sum(part), inverse)
                    centred = pl.row_expand_sub(part, mean)
                    variance = pl.mul(pl.row_sum(pl.mul(centred, centred)), inverse)
                    std = pl.sqrt(pl.add(variance, eps))
                    normed = pl.row_expand_div(centred, std)
                    scaled = pl.col_expand_mul(normed, gamma)
                    y[r : r + tile, :] = pl.add(scaled, pl.col_expand(scaled, beta))
            return y

    return LayerNorm


def test_layer_norm(judge):
    specs = [
        TensorSpec("x", [32, 256], F32, torch.randn),
        TensorSpec("gamma", [1, 256], F32, torch.randn),
        TensorSpec("beta", [1, 256], F32, torch.randn),
        TensorSpec("y", [32, 256], F32, is_output=True),
    ]

    def golden(values):
        x, gamma, beta = (values[n].double() for n in ("x", "gamma", "beta"))
        normed = torch.nn.functional.layer_norm(x, [256], gamma[0], beta[0], 1e-5)
        values["y"][:] = normed.float()

    judge(build_layer_norm(32, 256, 8), specs, golden)


# RMS norm in two walks over column chunks, starting from a fresh tensor times zero


def build_rms_norm(rows: int, cols: int, tile: int, chunk: int, eps: float = 1e-6):
    blocks = cols // chunk

    @pl.program
    class RmsNorm:
        @pl.function(type=pl.FunctionType.Opaque)
        def rms_norm(
            self,
            x: pl.Tensor[[rows, cols], pl.FP32],
            gamma: pl.Tensor[[1, cols], pl.FP32],
            y: pl.Out[pl.Tensor[[rows, cols], pl.FP32]],
        ) -> pl.Tensor[[rows, cols], pl.FP32]:
            for r in pl.parallel(0, rows, tile):
                with pl.at(level=pl.Level.CORE_GROUP, name_hint="rms_norm"):
                    squares = pl.create_tensor([1, tile], dtype=pl.FP32)
                    squares = pl.mul(squares, 0.0)
                    for c in pl.range(blocks):
                        part = pl.slice(x, [tile, chunk], [r, c * chunk])
                        sums = pl.row_sum(pl.mul(part, part))
                        squares = pl.add(squares, pl.reshape(sums, [1, tile]))
                    mean = pl.add(pl.mul(squares, 1.0 / cols), eps)
                    inv_rms = pl.reshape(pl.recip(pl.sqrt(mean)), [tile, 1])
                    for c in pl.range(blocks):
                        c0 = c * chunk
                        part = pl.slice(x, [tile, chunk], [r, c0])
                        weight = pl.slice(gamma, [1, chunk], [0, c0])
                        normed = pl.col_expand_mul(pl.row_expand_mul(part, inv_rms), weight)
                        y = pl.assemble(y, normed, [r, c0])
            return y

    return RmsNorm


def test_rms_norm_by_columns(judge):
    specs = [
        TensorSpec("x", [32, 256], F32, torch.randn),
        TensorSpec("gamma", [1, 256], F32, torch.randn),
        TensorSpec("y", [32, 256], F32, is_output=True),
    ]

    def golden(values):
        x = values["x"].double()
        rms = (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        values["y"][:] = (x / rms * values["gamma"]).float()

    judge(build_rms_norm(32, 256, 16, 64), specs, golden)


# a graph of small vector kernels: f = (a + b + 1) * (a + b + 2) + (a + b)


def build_vector_dag(n: int):
    @pl.program
    class VectorDag:
        @pl.function(type=pl.FunctionType.InCore)
        def kernel_add(
            self,
            a: pl.Tensor[[n, n], pl.FP32],
            b: pl.Tensor[[n, n], pl.FP32],
            out: pl.Out[pl.Tensor[[n, n], pl.FP32]],
        ) -> pl.Tensor[[n, n], pl.FP32]:
            a_tile = pl.load(a, [0, 0], [n, n])
            b_tile = pl.load(b, [0, 0], [n, n])
            total = pl.add(a_tile, b_tile)
            out_new = pl.store(total, [0, 0], out)
            return out_new

        @pl.function(type=pl.FunctionType.InCore)
        def kernel_add_scalar(
            self,
            a: pl.Tensor[[n, n], pl.FP32],
            scalar: pl.Scalar[pl.FP32],
            out: pl.Out[pl.Tensor[[n, n], pl.FP32]],
        ) -> pl.Tensor[[n, n], pl.FP32]:
            x: pl.Tile[[n, n], pl.FP32] = pl.load(a, [0, 0], [n, n])
            return pl.store(pl.add(x, scalar), [0, 0], out)

        @pl.function(type=pl.FunctionType.AIV)
        def kernel_mul(
            self,
            a: pl.Tensor[[n, n], pl.FP32],
            b: pl.Tensor[[n, n], pl.FP32],
            out: pl.Out[pl.Tensor[[n, n], pl.FP32]],
        ) -> pl.Tensor[[n, n], pl.FP32]:
            return pl.store(
                pl.mul(pl.load(a, [0, 0], [n, n]), pl.load(b, [0, 0], [n, n])), [0, 0], out
            )

        @pl.function(type=pl.FunctionType.Orchestration)
        def orch(
            self, a: pl.Tensor[[n, n], pl.FP32], b: pl.Tensor[[n, n], pl.FP32]
        ) -> pl.Tensor[[n, n], pl.FP32]:
            c: pl.Tensor[[n, n], pl.FP32] = pl.create_tensor([n, n], dtype=pl.FP32)
            d = pl.create_tensor([n, n], dtype=pl.FP32)
            e = pl.create_tensor([n, n], dtype=pl.FP32)
            g = pl.create_tensor([n, n], dtype=pl.FP32)
            f = pl.create_tensor([n, n], dtype=pl.FP32)
            c = self.kernel_add(a, b, c)
            d = self.kernel_add_scalar(c, 1.0, d)
            e = self.kernel_add_scalar(c, 2.0, e)
            g = self.kernel_mul(d, e, g)
            f = self.kernel_add(g, c, f)
            return f

    return VectorDag


def test_a_graph_of_incore_functions_returns_its_result(judge):
    specs = [
        TensorSpec("a", [32, 32], F32, 2.0),
        TensorSpec("b", [32, 32], F32, torch.randn),
        TensorSpec("f", [32, 32], F32, is_output=True),
    ]

    def golden(values):
        c = values["a"] + values["b"]
        values["f"][:] = (c + 1) * (c + 2) + c

    judge(build_vector_dag(32), specs, golden, rtol=0, atol=0)


# attention of one head, from functions of four types


def build_attention(tokens: int, dim: int, tile: int):
    scale = dim**-0.5

    @pl.inline
    def softmax_rows(scores: pl.Tensor):
        powers = pl.exp(pl.row_expand_sub(scores, pl.row_max(scores)))
        return powers, pl.row_sum(powers)

    @pl.program
    class Attention:
        @pl.function(type=pl.FunctionType.InCore)
        def scores(
            self,
            q: pl.Tensor[[tile, dim], pl.BF16],
            k: pl.Tensor[[tokens, dim], pl.BF16],
        ) -> pl.Tile[[tile, tokens], pl.FP32]:
            return pl.mul(pl.matmul(q, k, b_trans=True), scale)

        @pl.function(type=pl.FunctionType.Inline)
        def weighted(self, powers: pl.Tensor, total: pl.Tensor, v: pl.Tensor):
            weights = pl.cast(powers, target_type=pl.BF16, mode="rint")
            return pl.row_expand_div(pl.matmul(weights, v), total)

        @pl.function(type=pl.FunctionType.Opaque)
        def one_tile(
            self,
            q: pl.Tensor[[tile, dim], pl.BF16],
            k: pl.Tensor[[tokens, dim], pl.BF16],
            v: pl.Tensor[[tokens, dim], pl.BF16],
            o: pl.Out[pl.Tensor[[tile, dim], pl.FP32]],
        ) -> pl.Tensor[[tile, dim], pl.FP32]:
            s = self.scores(q, k)
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="softmax"):
                powers, total = softmax_rows(s)
                result = self.weighted(powers, total, v)
                o[:, :] = result
            return o

        @pl.function(type=pl.FunctionType.Orchestration)
        def attention(
            self,
            q: pl.Tensor[[tokens, dim], pl.BF16],
            k: pl.Tensor[[tokens, dim], pl.BF16],
            v: pl.Tensor[[tokens, dim], pl.BF16],
            o: pl.Out[pl.Tensor[[tokens, dim], pl.FP32]],
        ):
            for t0 in pl.parallel(0, tokens, tile):
                window = pl.slice(o, [tile, dim], [t0, 0])
                part = pl.slice(q, [tile, dim], [t0, 0])
                self.one_tile(part, k, v, window)
            return o

    return Attention


def test_attention_from_functions_of_four_types(judge):
    tokens, dim = 64, 32
    specs = [TensorSpec(n, [tokens, dim], BF16, torch.randn) for n in ("q", "k", "v")]
    specs.append(TensorSpec("o", [tokens, dim], F32, is_output=True))

    def golden(values):
        q, k, v = (values[n].double() for n in ("q", "k", "v"))
        values["o"][:] = (torch.softmax(q @ k.T * dim**-0.5, -1) @ v).float()

    close = {"o": ratio_allclose(atol=2e-2, rtol=2e-2, max_error_ratio=0)}
    judge(build_attention(tokens, dim, 16), specs, golden, compare_fn=close)
