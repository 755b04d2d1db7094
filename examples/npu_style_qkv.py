"""The prefill Q/KV projection as one writes it for an NPU: small tiles, one operator a region.

64 tokens at a time, K in slices of 128, N in tiles of 32, every step through memory. The maths is that of
`tilewright.models.deepseek_v4`; the passes merge the slices, widen the tiles and join the regions.
Run it to compare it with the kernel of the package: `python examples/npu_style_qkv.py`.
"""

import argparse
import statistics
import time
from functools import cache

import torch

import tilewright.language as pl
from tilewright.models.deepseek_v4.config import DEMO, FLASH, PRO, Config
from tilewright.models.deepseek_v4.prefill_qkv_proj_rope import build as build_flagship
from tilewright.models.deepseek_v4.specs import prefill_specs

T_TILE, K_TILE, N_TILE = 64, 128, 32
EVEN, ODD = pl.tile.MaskPattern.P0101, pl.tile.MaskPattern.P1010
CORE = pl.Level.CORE_GROUP


@cache
def build(cfg: Config, tokens: int):
    """The kernel for one configuration and a number of tokens that T_TILE divides."""
    T, D, Q_LORA, EPS = tokens, cfg.hidden_size, cfg.q_lora_rank, cfg.rms_norm_eps
    H, HEAD_DIM, ROPE = cfg.num_attention_heads, cfg.head_dim, cfg.rope_dim
    NOPE, PAIRS, MAX_SEQ = HEAD_DIM - ROPE, ROPE // 2, pl.dynamic("MAX_SEQ")

    @pl.jit
    def npu_style_qkv(
        x: pl.Tensor[[T, D], pl.BF16],
        attn_norm: pl.Tensor[[1, D], pl.FP32],
        wq_a: pl.Tensor[[D, Q_LORA], pl.BF16],
        q_norm: pl.Tensor[[1, Q_LORA], pl.FP32],
        wq_b: pl.Tensor[[Q_LORA, H * HEAD_DIM], pl.INT8],
        wq_b_scale: pl.Tensor[[H * HEAD_DIM // 128, 128], pl.FP32],
        wkv: pl.Tensor[[D, HEAD_DIM], pl.BF16],
        kv_norm: pl.Tensor[[1, HEAD_DIM], pl.FP32],
        rope_cos: pl.Tensor[[MAX_SEQ, ROPE], pl.FP32],
        rope_sin: pl.Tensor[[MAX_SEQ, ROPE], pl.FP32],
        start_pos: pl.Scalar[pl.INT32],
        q: pl.Out[pl.Tensor[[T, H, HEAD_DIM], pl.BF16]],
        kv: pl.Out[pl.Tensor[[T, HEAD_DIM], pl.BF16]],
        qr: pl.Out[pl.Tensor[[T, Q_LORA], pl.INT8]],
        qr_scale: pl.Out[pl.Tensor[[T, 1], pl.FP32]],
    ):
        q_rows = pl.reshape(q, [T, H * HEAD_DIM])
        scale_row = pl.reshape(wq_b_scale, [1, H * HEAD_DIM])
        for t0 in pl.range(0, T, T_TILE):
            x_norm = pl.create_tensor([T_TILE, D], dtype=pl.BF16)
            q_low = pl.create_tensor([T_TILE, Q_LORA], dtype=pl.FP32)
            kv_low = pl.create_tensor([T_TILE, HEAD_DIM], dtype=pl.FP32)
            latent = pl.create_tensor([T_TILE, Q_LORA], dtype=pl.BF16)
            q_acc = pl.create_tensor([T_TILE, H * HEAD_DIM], dtype=pl.INT32)
            q_full = pl.create_tensor([T_TILE, H * HEAD_DIM], dtype=pl.FP32)
            q_normed = pl.create_tensor([T_TILE, H * HEAD_DIM], dtype=pl.FP32)

            with pl.at(level=CORE, name_hint="attn_norm"):
                x_sum = pl.full([T_TILE, 1], dtype=pl.FP32, value=0.0)
                for k0 in pl.pipeline(0, D, K_TILE, stage=2):
                    x_part = pl.cast(x[t0 : t0 + T_TILE, k0 : k0 + K_TILE], target_type=pl.FP32)
                    x_sum = pl.add(x_sum, pl.row_sum(pl.mul(x_part, x_part)))
                x_inv = pl.rsqrt(pl.add(pl.mul(x_sum, 1.0 / D), EPS))
                for k0 in pl.pipeline(0, D, K_TILE, stage=2):
                    x_part = pl.cast(x[t0 : t0 + T_TILE, k0 : k0 + K_TILE], target_type=pl.FP32)
                    x_unit = pl.row_expand_mul(x_part, x_inv)
                    x_gain = pl.col_expand_mul(x_unit, attn_norm[:, k0 : k0 + K_TILE])
                    x_norm[:, k0 : k0 + K_TILE] = pl.cast(x_gain, target_type=pl.BF16, mode="rint")

            for n0 in pl.parallel(0, Q_LORA, N_TILE):
                q_sum = pl.create_tensor([T_TILE, N_TILE], dtype=pl.FP32)
                with pl.at(level=CORE, name_hint="q_down"):
                    for k0 in pl.pipeline(0, D, K_TILE, stage=2):
                        a = x_norm[:, k0 : k0 + K_TILE]
                        b = wq_a[k0 : k0 + K_TILE, n0 : n0 + N_TILE]
                        if k0 == 0:
                            q_sum = pl.matmul(a, b, out_dtype=pl.FP32)
                        else:
                            q_sum = pl.matmul_acc(q_sum, a, b)
                    q_low[:, n0 : n0 + N_TILE] = q_sum

            for n0 in pl.parallel(0, HEAD_DIM, N_TILE):
                kv_sum = pl.create_tensor([T_TILE, N_TILE], dtype=pl.FP32)
                with pl.at(level=CORE, name_hint="kv_down"):
                    for k0 in pl.pipeline(0, D, K_TILE, stage=2):
                        a = x_norm[:, k0 : k0 + K_TILE]
                        b = wkv[k0 : k0 + K_TILE, n0 : n0 + N_TILE]
                        if k0 == 0:
                            kv_sum = pl.matmul(a, b, out_dtype=pl.FP32)
                        else:
                            kv_sum = pl.matmul_acc(kv_sum, a, b)
                    kv_low[:, n0 : n0 + N_TILE] = kv_sum

            with pl.at(level=CORE, name_hint="q_norm"):
                rows = q_low[:, :]
                inv = pl.rsqrt(pl.add(pl.mul(pl.row_sum(pl.mul(rows, rows)), 1.0 / Q_LORA), EPS))
                gained = pl.col_expand_mul(pl.row_expand_mul(rows, inv), q_norm)
                latent[:, :] = pl.cast(gained, target_type=pl.BF16, mode="rint")
            with pl.at(level=CORE, name_hint="quantize"):
                values = pl.cast(latent[:, :], target_type=pl.FP32)
                amax = pl.maximum(pl.row_max(pl.abs(values)), 1e-4)
                inv_scale = pl.div(pl.full([T_TILE, 1], dtype=pl.FP32, value=127.0), amax)
                as_int = pl.cast(
                    pl.row_expand_mul(values, inv_scale), target_type=pl.INT32, mode="rint"
                )
                as_half = pl.cast(as_int, target_type=pl.FP16, mode="round")
                qr[t0 : t0 + T_TILE, :] = pl.cast(as_half, target_type=pl.INT8, mode="trunc")
                qr_scale[t0 : t0 + T_TILE, :] = pl.recip(inv_scale)

            for n0 in pl.parallel(0, H * HEAD_DIM, N_TILE):
                up = pl.create_tensor([T_TILE, N_TILE], dtype=pl.INT32)
                with pl.at(level=CORE, name_hint="q_up"):
                    for k0 in pl.pipeline(0, Q_LORA, K_TILE, stage=2):
                        a = qr[t0 : t0 + T_TILE, k0 : k0 + K_TILE]
                        b = wq_b[k0 : k0 + K_TILE, n0 : n0 + N_TILE]
                        if k0 == 0:
                            up = pl.matmul(a, b, out_dtype=pl.INT32)
                        else:
                            up = pl.matmul_acc(up, a, b)
                    q_acc[:, n0 : n0 + N_TILE] = up

            for n0 in pl.parallel(0, H * HEAD_DIM, N_TILE):
                with pl.at(level=CORE, name_hint="dequantize"):
                    by_row = pl.row_expand_mul(
                        pl.cast(q_acc[:, n0 : n0 + N_TILE], target_type=pl.FP32, mode="rint"),
                        qr_scale[t0 : t0 + T_TILE, :],
                    )
                    scaled = pl.col_expand_mul(by_row, scale_row[:, n0 : n0 + N_TILE])
                    q_full[:, n0 : n0 + N_TILE] = scaled

            for h in pl.parallel(0, H):
                with pl.at(level=CORE, name_hint="head_norm"):
                    head = q_full[:, h * HEAD_DIM : h * HEAD_DIM + HEAD_DIM]
                    mean = pl.mul(pl.row_sum(pl.mul(head, head)), 1.0 / HEAD_DIM)
                    unit = pl.row_expand_mul(head, pl.rsqrt(pl.add(mean, EPS)))
                    q_normed[:, h * HEAD_DIM : h * HEAD_DIM + HEAD_DIM] = unit
                with pl.at(level=CORE, name_hint="head_nope"):
                    plain = q_normed[:, h * HEAD_DIM : h * HEAD_DIM + NOPE]
                    q_rows[t0 : t0 + T_TILE, h * HEAD_DIM : h * HEAD_DIM + NOPE] = pl.cast(
                        plain, target_type=pl.BF16, mode="rint"
                    )
                with pl.at(level=CORE, name_hint="head_rope"):
                    tail = q_normed[:, h * HEAD_DIM + NOPE : h * HEAD_DIM + HEAD_DIM]
                    even, odd = (
                        pl.gather(tail, mask_pattern=EVEN),
                        pl.gather(tail, mask_pattern=ODD),
                    )
                    cos = rope_cos[start_pos + t0 : start_pos + t0 + T_TILE, 0:PAIRS]
                    sin = rope_sin[start_pos + t0 : start_pos + t0 + T_TILE, 0:PAIRS]
                    new_even = pl.sub(pl.mul(even, cos), pl.mul(odd, sin))
                    new_odd = pl.add(pl.mul(even, sin), pl.mul(odd, cos))
                    half = pl.tensor.scatter(new_even, mask_pattern=EVEN, dst=tail)
                    turned = pl.tensor.scatter(new_odd, mask_pattern=ODD, dst=half)
                    q_rows[t0 : t0 + T_TILE, h * HEAD_DIM + NOPE : h * HEAD_DIM + HEAD_DIM] = (
                        pl.cast(turned, target_type=pl.BF16, mode="rint")
                    )

            with pl.at(level=CORE, name_hint="kv_out"):
                kv_rows = kv_low[:, :]
                kv_mean = pl.mul(pl.row_sum(pl.mul(kv_rows, kv_rows)), 1.0 / HEAD_DIM)
                kv_unit = pl.row_expand_mul(kv_rows, pl.rsqrt(pl.add(kv_mean, EPS)))
                kv_gain = pl.col_expand_mul(kv_unit, kv_norm)
                kv[t0 : t0 + T_TILE, 0:NOPE] = pl.cast(
                    kv_gain[:, 0:NOPE], target_type=pl.BF16, mode="rint"
                )
                kv_tail = kv_gain[:, NOPE:HEAD_DIM]
                kv_even, kv_odd = (
                    pl.gather(kv_tail, mask_pattern=EVEN),
                    pl.gather(kv_tail, mask_pattern=ODD),
                )
                kv_cos = rope_cos[start_pos + t0 : start_pos + t0 + T_TILE, 0:PAIRS]
                kv_sin = rope_sin[start_pos + t0 : start_pos + t0 + T_TILE, 0:PAIRS]
                kv_new_even = pl.sub(pl.mul(kv_even, kv_cos), pl.mul(kv_odd, kv_sin))
                kv_new_odd = pl.add(pl.mul(kv_even, kv_sin), pl.mul(kv_odd, kv_cos))
                kv_half = pl.tensor.scatter(kv_new_even, mask_pattern=EVEN, dst=kv_tail)
                kv_turned = pl.tensor.scatter(kv_new_odd, mask_pattern=ODD, dst=kv_half)
                kv[t0 : t0 + T_TILE, NOPE:HEAD_DIM] = pl.cast(
                    kv_turned, target_type=pl.BF16, mode="rint"
                )

    return npu_style_qkv


def main() -> None:
    """Run both kernels on the same inputs; print how far apart their outputs and their times are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=("demo", "flash", "pro"), default="flash")
    parser.add_argument("--tokens", type=int, default=128, help="a multiple of 64")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    cfg = {"demo": DEMO, "flash": FLASH, "pro": PRO}[options.preset]
    specs = prefill_specs(cfg, options.tokens, start_pos=128, max_seq=1024)
    args = {
        s.name: s.create_tensor() if hasattr(s, "create_tensor") else s.to_python() for s in specs
    }
    weights = {name: args.pop(name) for name in ("wq_a", "wq_b", "wkv")}
    outputs = ("q", "kv", "qr", "qr_scale")
    runs, results = [], []
    for kernel in (build_flagship(cfg), build(cfg, options.tokens)):
        bound = kernel.bind(**weights)
        given = {name: torch.zeros_like(v) if name in outputs else v for name, v in args.items()}
        bound.run(**given)
        runs.append((bound, given))
        results.append(given)
    for name in outputs:
        a, b = (r[name].float() for r in results)
        print(
            f"{name:9} differs in {(a != b).float().mean():.4%} of elements, by {(a - b).abs().max():.3g} at most"
        )
    times: list[list[float]] = [[], []]
    for _ in range(options.rounds):
        for (bound, given), spent in zip(runs, times, strict=True):
            start = time.perf_counter()
            bound.run(**given)
            spent.append(time.perf_counter() - start)
    ours, npu = (statistics.median(spent) * 1e3 for spent in times)
    print(f"flagship {ours:.2f} ms, NPU style {npu:.2f} ms: {npu / ours:.2f} times")


if __name__ == "__main__":
    main()
