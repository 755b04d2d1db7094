"""Cross entropy with a target read as a scalar, log-sum-exp over vocabulary tiles, a mean at the end."""

import argparse
import sys
import pypto.language as pl
import torch

TOKENS, VOCAB, V_TILE, T_TILE = 64, 2000, 512, 8
V_BLOCKS = -(-VOCAB // V_TILE)


@pl.jit.inline
def lse_rows(logits: pl.Tensor[[TOKENS, VOCAB], pl.BF16], lse: pl.Tensor[[TOKENS, 1], pl.FP32]):
    for t0 in pl.parallel(0, TOKENS, T_TILE):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="lse"):
            run_max = pl.full([T_TILE, 1], dtype=pl.FP32, value=-1e30)
            run_sum = pl.full([T_TILE, 1], dtype=pl.FP32, value=0.0)
            for vb in pl.range(V_BLOCKS):
                v0 = vb * V_TILE
                raw = pl.slice(
                    logits,
                    [T_TILE, V_TILE],
                    [t0, v0],
                    valid_shape=[T_TILE, pl.min(V_TILE, VOCAB - v0)],
                )
                blk = pl.fillpad(pl.cast(raw, target_type=pl.FP32), pl.PadValue.min)
                new_max = pl.maximum(run_max, pl.row_max(blk))
                scaled = pl.mul(run_sum, pl.exp(pl.sub(run_max, new_max)))
                run_sum = pl.add(scaled, pl.row_sum(pl.exp(pl.row_expand_sub(blk, new_max))))
                run_max = new_max
            lse[t0 : t0 + T_TILE, :] = pl.add(pl.log(run_sum), run_max)
    return lse


@pl.jit
def cross_entropy(
    logits: pl.Tensor[[TOKENS, VOCAB], pl.BF16],
    target: pl.Tensor[[TOKENS], pl.INT64],
    ignore_index: pl.Scalar[pl.INT32],
    loss: pl.Out[pl.Tensor[[TOKENS, 1], pl.FP32]],
    mean: pl.Out[pl.Tensor[[1, 1], pl.FP32]],
):
    lse = pl.create_tensor([TOKENS, 1], dtype=pl.FP32)
    lse = lse_rows(logits, lse)
    total = 0.0
    count = 0
    for t in pl.range(TOKENS):
        tgt = target[t]
        if tgt != ignore_index:
            picked = pl.cast(pl.read(logits, [t, tgt]), pl.FP32)
            item = pl.read(lse, [t, 0]) - picked
            pl.write(loss, [t, 0], item)
            total = total + item
            count = count + 1
        else:
            pl.write(loss, [t, 0], 0.0)
    if count > 0:
        pl.write(mean, [0, 0], total / pl.cast(count, pl.FP32))
    return loss, mean


def golden(t):
    lg = t["logits"].float()
    t["loss"][:, 0] = torch.nn.functional.cross_entropy(
        lg, t["target"], reduction="none", ignore_index=t["ignore_index"]
    )
    t["mean"].fill_(
        torch.nn.functional.cross_entropy(lg, t["target"], ignore_index=t["ignore_index"])
    )


def init_target():
    t = torch.randint(0, VOCAB, (TOKENS,))
    t[::7] = -100
    return t


if __name__ == "__main__":
    from golden import ScalarSpec, TensorSpec, run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--platform", default="a2a3")
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--enable-l2-swimlane", action="store_true")
    args = parser.parse_args()
    result = run_jit(
        fn=cross_entropy,
        specs=[
            TensorSpec(
                "logits",
                [TOKENS, VOCAB],
                torch.bfloat16,
                init_value=lambda: torch.randn(TOKENS, VOCAB) * 3,
            ),
            TensorSpec("target", [TOKENS], torch.int64, init_value=init_target),
            ScalarSpec("ignore_index", torch.int32, -100),
            TensorSpec("loss", [TOKENS, 1], torch.float32, is_output=True),
            TensorSpec("mean", [1, 1], torch.float32, is_output=True),
        ],
        golden_fn=golden,
        rtol=1e-4,
        atol=1e-4,
        runtime_cfg=dict(
            platform=args.platform,
            device_id=args.device,
            enable_l2_swimlane=args.enable_l2_swimlane,
        ),
    )
    if not result.passed:
        print(f"Result: {result.error}")
        sys.exit(1)
