"""RoPE: half-split with cos/sin halves (program) and interleaved by a gather of j ^ 1 (jit)."""

import pypto.language as pl

B, H, D = 8, 16, 128
HALF = D // 2
MAX_SEQ = 256


@pl.program
class RopeHalves:
    @pl.function(type=pl.FunctionType.Opaque)
    def rope(
        self,
        x: pl.Tensor[[B * H, D], pl.FP32],
        pos: pl.Tensor[[B], pl.INT32],
        cos: pl.Tensor[[MAX_SEQ, D], pl.FP32],
        sin: pl.Tensor[[MAX_SEQ, D], pl.FP32],
        out: pl.Out[pl.Tensor[[B * H, D], pl.BF16]],
    ) -> pl.Tensor[[B * H, D], pl.BF16]:
        for b in pl.parallel(B):
            p = pl.tensor.read(pos, [b])
            cos_row = pl.slice(cos, [1, D], [p, 0])
            sin_row = pl.slice(sin, [1, D], [p, 0])
            cos_lo = pl.slice(cos_row, [1, HALF], [0, 0])
            cos_hi = pl.slice(cos_row, [1, HALF], [0, HALF])
            sin_lo = pl.slice(sin_row, [1, HALF], [0, 0])
            sin_hi = pl.slice(sin_row, [1, HALF], [0, HALF])
            with pl.incore():
                lo = pl.slice(x, [H, HALF], [b * H, 0])
                hi = pl.slice(x, [H, HALF], [b * H, HALF])
                rot_lo = pl.sub(pl.col_expand_mul(lo, cos_lo), pl.col_expand_mul(hi, sin_lo))
                rot_hi = pl.add(pl.col_expand_mul(hi, cos_hi), pl.col_expand_mul(lo, sin_hi))
                out = pl.assemble(out, pl.cast(rot_lo, target_type=pl.BF16), [b * H, 0])
                out = pl.assemble(out, pl.cast(rot_hi, target_type=pl.BF16), [b * H, HALF])
        return out


@pl.jit
def rope_interleaved(
    x: pl.Tensor[[B * H, D], pl.BF16],
    swap: pl.Tensor[[H, D], pl.INT32],
    cos: pl.Tensor[[B, D], pl.FP32],
    sin: pl.Tensor[[B, D], pl.FP32],
    out: pl.Out[pl.Tensor[[B * H, D], pl.BF16]],
):
    for b in pl.parallel(B):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="rope_pairs"):
            xf = pl.cast(x[b * H : (b + 1) * H, :], target_type=pl.FP32)
            idx = swap[:, :]
            other = pl.gather(xf, dim=-1, index=idx)
            c = cos[b : b + 1, :]
            s = sin[b : b + 1, :]
            y = pl.add(pl.col_expand_mul(xf, c), pl.col_expand_mul(other, s))
            out[b * H : (b + 1) * H, :] = pl.cast(y, target_type=pl.BF16, mode="rint")
    return out


@pl.jit
def rope_masks(
    x: pl.Tensor[[B * H, D], pl.FP32],
    cos: pl.Tensor[[1, HALF], pl.FP32],
    sin: pl.Tensor[[1, HALF], pl.FP32],
    out: pl.Out[pl.Tensor[[B * H, D], pl.FP32]],
):
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="rope_masks"):
        even = pl.gather(x[:, :], mask_pattern=pl.tile.MaskPattern.P0101)
        odd = pl.gather(x[:, :], mask_pattern=pl.tile.MaskPattern.P1010)
        re = pl.sub(pl.col_expand_mul(even, cos), pl.col_expand_mul(odd, sin))
        im = pl.add(pl.col_expand_mul(even, sin), pl.col_expand_mul(odd, cos))
        out[:, :] = pl.concat(re, im)
    return out


def tables():
    import torch

    freq = 1.0 / (10000.0 ** (torch.arange(0, D, 2).float() / D))
    angle = torch.arange(MAX_SEQ).float()[:, None] * freq[None, :]
    return angle


def golden_halves(t):
    import torch

    x = t["x"].view(B, H, D)
    p = t["pos"].long()
    c, s = t["cos"][p].view(B, 1, D), t["sin"][p].view(B, 1, D)
    lo, hi = x[..., :HALF], x[..., HALF:]
    rot = torch.cat([-hi, lo], dim=-1)
    t["out"][:] = (x * c + rot * s).view(B * H, D).to(torch.bfloat16)


def golden_pairs(t):
    import torch

    x = t["x"].float().view(B, H, D)
    other = torch.gather(x, 2, t["swap"].long().expand(B, H, D))
    t["out"][:] = (
        (x * t["cos"].view(B, 1, D) + other * t["sin"].view(B, 1, D))
        .view(B * H, D)
        .to(torch.bfloat16)
    )


def golden_masks(t):
    import torch

    e, o = t["x"][:, 0::2], t["x"][:, 1::2]
    t["out"][:] = torch.cat([e * t["cos"] - o * t["sin"], e * t["sin"] + o * t["cos"]], -1)


if __name__ == "__main__":
    import argparse
    import torch
    from golden import TensorSpec, ratio_allclose, run, run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--platform", default="a2a3")
    parser.add_argument("-d", "--device", type=int, default=0)
    args = parser.parse_args()
    cfg = dict(platform=args.platform, device_id=args.device)
    a = tables()
    TS = TensorSpec
    r1 = run(
        RopeHalves,
        [
            TS("x", [B * H, D], torch.float32, torch.randn),
            TS("pos", [B], torch.int32, lambda: torch.randint(0, MAX_SEQ, (B,), dtype=torch.int32)),
            TS("cos", [MAX_SEQ, D], torch.float32, torch.cat([a, a], 1).cos()),
            TS("sin", [MAX_SEQ, D], torch.float32, torch.cat([a, a], 1).sin()),
            TS("out", [B * H, D], torch.bfloat16, is_output=True),
        ],
        golden_fn=golden_halves,
        runtime_cfg=cfg,
        rtol=1e-2,
        atol=1e-2,
    )
    sign = torch.tensor([-1.0, 1.0]).repeat(HALF)
    a8 = a[:B].repeat_interleave(2, dim=1)
    r2 = run_jit(
        rope_interleaved,
        [
            TS("x", [B * H, D], torch.bfloat16, torch.randn),
            TS("swap", [H, D], torch.int32, (torch.arange(D) ^ 1).int().repeat(H, 1)),
            TS("cos", [B, D], torch.float32, a8.cos()),
            TS("sin", [B, D], torch.float32, a8.sin() * sign),
            TS("out", [B * H, D], torch.bfloat16, is_output=True),
        ],
        golden_fn=golden_pairs,
        runtime_cfg=cfg,
        compare_fn={"out": ratio_allclose(atol=1e-3, rtol=1e-2)},
    )
    r3 = run_jit(
        rope_masks,
        [
            TS("x", [B * H, D], torch.float32, torch.randn),
            TS("cos", [1, HALF], torch.float32, a[3:4].cos()),
            TS("sin", [1, HALF], torch.float32, a[3:4].sin()),
            TS("out", [B * H, D], torch.float32, is_output=True),
        ],
        golden_fn=golden_masks,
        runtime_cfg=cfg,
    )
    for r in (r1, r2, r3):
        print(r)
        if not r.passed:
            raise SystemExit(1)
