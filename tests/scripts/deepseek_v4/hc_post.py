"""DeepSeek-V4 hyper-connections, post: y[h] = post[h] * x + sum_k comb[k, h] * residual[k]."""

import pypto.language as pl

from config import FLASH as M, DECODE_BATCH, DECODE_SEQ

B = DECODE_BATCH
S = DECODE_SEQ
T = B * S
D = M.hidden_size
HC_MULT = M.hc_mult
D_TILE = 1024
T_TILE = 4


@pl.jit.inline
def hc_post(
    x: pl.Tensor[[B, S, D], pl.BF16],
    residual: pl.Tensor[[B, S, HC_MULT, D], pl.BF16],
    post: pl.Tensor[[B, S, HC_MULT], pl.FP32],
    comb: pl.Tensor[[B, S, HC_MULT, HC_MULT], pl.FP32],
    y: pl.Tensor[[B, S, HC_MULT, D], pl.BF16],
):
    x2 = pl.reshape(x, [T, D])
    res2 = pl.reshape(residual, [T * HC_MULT, D])
    post2 = pl.reshape(post, [T, HC_MULT])
    comb2 = pl.reshape(comb, [T * HC_MULT, HC_MULT])
    y2 = pl.reshape(y, [T * HC_MULT, D])
    for tb in pl.parallel(0, T, T_TILE, chunk=2):
        with pl.at(
            level=pl.Level.CORE_GROUP,
            optimizations=[pl.auto_chunk, pl.split(pl.SplitMode.LEFT_RIGHT)],
            name_hint="hc_post",
        ):
            for ti in pl.range(T_TILE):
                t = tb + ti
                for out_h in pl.range(HC_MULT):
                    post_s = pl.read(post2, [t, out_h])
                    c0 = pl.read(comb2, [t * HC_MULT, out_h])
                    c1 = pl.read(comb2, [t * HC_MULT + 1, out_h])
                    c2 = pl.read(comb2, [t * HC_MULT + 2, out_h])
                    c3 = pl.read(comb2, [t * HC_MULT + 3, out_h])
                    for d0 in pl.range(0, D, D_TILE):
                        row = pl.cast(x2[t : t + 1, d0 : d0 + D_TILE], target_type=pl.FP32)
                        o = pl.mul(row, post_s)
                        rr = pl.cast(
                            pl.slice(res2, [HC_MULT, D_TILE], [t * HC_MULT, d0]),
                            target_type=pl.FP32,
                        )
                        o = pl.add(o, pl.mul(rr[0:1, :], c0))
                        o = pl.add(o, pl.mul(rr[1:2, :], c1))
                        o = pl.add(o, pl.mul(rr[2:3, :], c2))
                        o = pl.add(o, pl.mul(rr[3:4, :], c3))
                        y2 = pl.assemble(
                            y2,
                            pl.cast(o, target_type=pl.BF16, mode="rint"),
                            [t * HC_MULT + out_h, d0],
                        )
    return y


@pl.jit
def hc_post_test(
    x: pl.Tensor[[B, S, D], pl.BF16],
    residual: pl.Tensor[[B, S, HC_MULT, D], pl.BF16],
    post: pl.Tensor[[B, S, HC_MULT], pl.FP32],
    comb: pl.Tensor[[B, S, HC_MULT, HC_MULT], pl.FP32],
    y: pl.Out[pl.Tensor[[B, S, HC_MULT, D], pl.BF16]],
):
    y = hc_post(x, residual, post, comb, y)
    return y


def golden_hc_post(tensors):
    import torch

    x, r = tensors["x"].float(), tensors["residual"].float()
    y = tensors["post"].unsqueeze(-1) * x.unsqueeze(-2)
    y = y + torch.einsum("bskh,bskd->bshd", tensors["comb"], r)
    tensors["y"][:] = y.to(torch.bfloat16)


def build_tensor_specs():
    import torch
    from golden import TensorSpec

    return [
        TensorSpec("x", [B, S, D], torch.bfloat16, init_value=torch.randn),
        TensorSpec("residual", [B, S, HC_MULT, D], torch.bfloat16, init_value=torch.randn),
        TensorSpec("post", [B, S, HC_MULT], torch.float32, init_value=torch.rand),
        TensorSpec("comb", [B, S, HC_MULT, HC_MULT], torch.float32, init_value=torch.rand),
        TensorSpec("y", [B, S, HC_MULT, D], torch.bfloat16, is_output=True),
    ]


if __name__ == "__main__":
    import argparse
    from golden import ratio_allclose, run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument(
        "-p", "--platform", type=str, default="a2a3", choices=["a2a3", "a2a3sim", "a5", "a5sim"]
    )
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--enable-l2-swimlane", action="store_true", default=False)
    args = parser.parse_args()

    result = run_jit(
        fn=hc_post_test,
        specs=build_tensor_specs(),
        golden_fn=golden_hc_post,
        runtime_cfg=dict(
            platform=args.platform,
            device_id=args.device,
            enable_l2_swimlane=args.enable_l2_swimlane,
        ),
        rtol=1e-3,
        atol=1e-3,
        compare_fn={"y": ratio_allclose(atol=1e-2, rtol=1e-2)},
    )
    if not result.passed:
        if result.error:
            print(result.error)
        raise SystemExit(1)
