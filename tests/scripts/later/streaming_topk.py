"""A program class: scores of a query block, then the best columns of each row, chunk after chunk."""

import argparse

import pypto.language as pl


def build_streaming_topk(rows=6, cols=2048, dim=64, chunk=512, keep=64):
    pairs = 2 * keep
    chunks = cols // chunk

    @pl.program
    class StreamingTopK:
        @pl.function(type=pl.FunctionType.InCore)
        def scores(
            self,
            q: pl.Tensor[[rows, dim], pl.BF16],
            k: pl.Tensor[[cols, dim], pl.BF16],
            c: pl.Scalar[pl.INDEX],
            out: pl.Out[pl.Tensor[[rows, cols], pl.FP32]],
        ) -> pl.Tensor[[rows, cols], pl.FP32]:
            q_mat = pl.load(
                q, [0, 0], [16, dim], valid_shapes=[rows, dim], target_memory=pl.MemorySpace.Mat
            )
            k_mat = pl.load(
                k, [c * chunk, 0], [chunk, dim], target_memory=pl.MemorySpace.Mat, transpose=True
            )
            q_left = pl.move(q_mat, target_memory=pl.MemorySpace.Left)
            k_right = pl.move(k_mat, target_memory=pl.MemorySpace.Right)
            s: pl.Tile[[16, chunk], pl.FP32] = pl.tile.matmul(q_left, k_right)
            s = pl.tile.set_validshape(s, rows, chunk)
            result: pl.Tensor[[rows, cols], pl.FP32] = pl.store(s, [0, c * chunk], out)
            return result

        @pl.function(type=pl.FunctionType.InCore)
        def best_of_row(
            self,
            scores: pl.Tensor[[rows, cols], pl.FP32],
            lens: pl.Tensor[[rows], pl.INT32],
            values: pl.Out[pl.Tensor[[rows, keep], pl.FP32]],
            index: pl.Out[pl.Tensor[[rows, keep], pl.INT32]],
        ) -> tuple[pl.Tensor[[rows, keep], pl.FP32], pl.Tensor[[rows, keep], pl.INT32]]:
            r = pl.tile.get_block_idx()
            n = pl.read(lens, [r])
            best = pl.full([1, pairs], dtype=pl.FP32, value=-3.0e38)
            c = 0
            while c * chunk < n:
                exists = pl.min(chunk, n - c * chunk)
                part = pl.load(scores, [r, c * chunk], [1, chunk], valid_shape=[1, exists])
                part = pl.fillpad(part, pad_value=pl.PadValue.min)
                ids = pl.tile.ci(pl.cast(c * chunk, pl.UINT32), [1, chunk], dtype=pl.UINT32)
                runs = pl.tile.sort32(part, ids)
                runs = pl.tile.mrgsort(runs, block_len=64)
                runs = pl.tile.mrgsort(runs, block_len=256)
                merged = pl.tile.mrgsort(best, runs, exhausted=False)
                best = pl.tile.slice(merged, [1, pairs], [0, 0])
                c = c + 1
            values = pl.store(
                pl.tile.gather_mask(best, mask_pattern=pl.tile.MaskPattern.P0101), [r, 0], values
            )
            index = pl.store(
                pl.tile.gather_mask(
                    best, mask_pattern=pl.tile.MaskPattern.P1010, output_dtype=pl.INT32
                ),
                [r, 0],
                index,
            )
            return values, index

        @pl.function(type=pl.FunctionType.Orchestration)
        def main(
            self,
            q: pl.Tensor[[rows, dim], pl.BF16],
            k: pl.Tensor[[cols, dim], pl.BF16],
            lens: pl.Tensor[[rows], pl.INT32],
            values: pl.Out[pl.Tensor[[rows, keep], pl.FP32]],
            index: pl.Out[pl.Tensor[[rows, keep], pl.INT32]],
        ) -> tuple[pl.Tensor[[rows, keep], pl.FP32], pl.Tensor[[rows, keep], pl.INT32]]:
            scores: pl.Tensor[[rows, cols], pl.FP32] = pl.create_tensor([rows, cols], dtype=pl.FP32)
            with pl.manual_scope():
                last = None
                for c in pl.range(chunks):
                    scores, last = pl.submit(self.scores, q, k, c, scores, deps=[last])
            with pl.spmd(core_num=rows, sync_start=False):
                best_values, best_index = self.best_of_row(scores, lens, values, index)
            return best_values, best_index

    return StreamingTopK


def golden_topk(tensors):
    import torch

    scores = tensors["q"].float() @ tensors["k"].float().T
    for r, n in enumerate(tensors["lens"].tolist()):
        values, index = torch.topk(scores[r, :n], tensors["values"].shape[1])
        tensors["values"][r] = values
        tensors["index"][r] = index.to(torch.int32)


def build_tensor_specs(rows=6, cols=2048, dim=64, keep=64):
    import torch
    from golden import TensorSpec

    def init_lens():
        return torch.tensor([cols, 64, 513, 512, 1000, 1537], dtype=torch.int32)

    return [
        TensorSpec("q", [rows, dim], torch.bfloat16, init_value=torch.randn),
        TensorSpec("k", [cols, dim], torch.bfloat16, init_value=torch.randn),
        TensorSpec("lens", [rows], torch.int32, init_value=init_lens),
        TensorSpec("values", [rows, keep], torch.float32, is_output=True),
        TensorSpec("index", [rows, keep], torch.int32, is_output=True),
    ]


if __name__ == "__main__":
    from golden import run, topk_pair_compare

    parser = argparse.ArgumentParser()
    parser.add_argument(
        "-p", "--platform", type=str, default="a2a3", choices=["a2a3", "a2a3sim", "a5", "a5sim"]
    )
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--enable-chip-swimlane", action="store_true", default=False)
    args = parser.parse_args()
    result = run(
        program=build_streaming_topk(),
        specs=build_tensor_specs(),
        golden_fn=golden_topk,
        rtol=1e-4,
        atol=1e-4,
        compile_cfg=dict(dump_passes=False),
        runtime_cfg=dict(
            platform=args.platform,
            device_id=args.device,
            enable_chip_swimlane=args.enable_chip_swimlane,
        ),
        compare_fn={"index": topk_pair_compare("values")},
    )
    if not result.passed:
        if result.error:
            print(result.error)
        raise SystemExit(1)
