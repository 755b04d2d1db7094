"""A kernel of 500 lines as a library would unroll it: layers of ten products and eight scopes each.

python benchmarks/third_party/deep.py [LAYERS] > somewhere.py
"""

from __future__ import annotations

import sys

HEAD = '''"""Written by benchmarks/third_party/deep.py."""

import pypto.language as pl

LAYERS, T, D, HEADS, HEAD_DIM, F, SLOTS = {layers}, 32, 256, 4, 64, 512, 64
T_TILE, N_TILE, K_TILE, TOP = 16, 64, 128, 8
SCALE, EPS = HEAD_DIM**-0.5, 1e-6


@pl.jit
def deep(
    x: pl.Tensor[[T, D], pl.FP32],
    gamma: pl.Tensor[[LAYERS, D], pl.FP32],
    w_qkv: pl.Tensor[[LAYERS * D, 3 * D], pl.BF16],
    w_out: pl.Tensor[[LAYERS * D, D], pl.BF16],
    w_gate: pl.Tensor[[LAYERS * SLOTS, D], pl.BF16],
    w_up: pl.Tensor[[LAYERS * D, 2 * F], pl.BF16],
    w_down: pl.Tensor[[LAYERS * D, F], pl.INT8],
    down_scale: pl.Tensor[[LAYERS, D], pl.FP32],
    positions: pl.Tensor[[T_TILE, HEAD_DIM], pl.INT32],
    cosine: pl.Tensor[[T, HEAD_DIM], pl.FP32],
    sine: pl.Tensor[[T, HEAD_DIM], pl.FP32],
    chosen: pl.Out[pl.Tensor[[LAYERS * T, TOP], pl.INT32]],
    y: pl.Out[pl.Tensor[[T, D], pl.FP32]],
):
'''

LAYER = """
    # layer @
    unit@ = pl.create_tensor([T, D], dtype=pl.BF16)
    qkv@ = pl.create_tensor([T, 3 * D], dtype=pl.FP32)
    turned@ = pl.create_tensor([T, 2 * D], dtype=pl.BF16)
    values@ = pl.create_tensor([T, D], dtype=pl.BF16)
    mixed@ = pl.create_tensor([T, D], dtype=pl.BF16)
    mid@ = pl.create_tensor([T, D], dtype=pl.FP32)
    best@ = pl.create_tensor([T, 1], dtype=pl.FP32)
    act@ = pl.create_tensor([T, F], dtype=pl.FP32)
    codes@ = pl.create_tensor([T, F], dtype=pl.INT8)
    act_scale@ = pl.create_tensor([T, 1], dtype=pl.FP32)
    next@ = pl.create_tensor([T, D], dtype=pl.FP32)
    for t0 in pl.parallel(0, T, T_TILE):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="norm@"):
            rows = PREVIOUS[t0 : t0 + T_TILE, :]
            mean = pl.mul(pl.row_sum(pl.mul(rows, rows)), 1.0 / D)
            inv = pl.recip(pl.sqrt(pl.add(mean, EPS)))
            normed = pl.col_expand_mul(pl.row_expand_mul(rows, inv), gamma[@ : @ + 1, :])
            unit@[t0 : t0 + T_TILE, :] = pl.cast(normed, target_type=pl.BF16, mode="rint")
    for n0 in pl.parallel(0, D, N_TILE):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="qkv@"):
            for t0 in pl.range(0, T, T_TILE):
                q = pl.create_tensor([T_TILE, N_TILE], dtype=pl.FP32)
                k = pl.create_tensor([T_TILE, N_TILE], dtype=pl.FP32)
                v = pl.create_tensor([T_TILE, N_TILE], dtype=pl.FP32)
                for k0 in pl.pipeline(0, D, K_TILE, stage=2):
                    a = unit@[t0 : t0 + T_TILE, k0 : k0 + K_TILE]
                    wq = w_qkv[@ * D + k0 : @ * D + k0 + K_TILE, n0 : n0 + N_TILE]
                    wk = w_qkv[@ * D + k0 : @ * D + k0 + K_TILE, D + n0 : D + n0 + N_TILE]
                    wv = w_qkv[@ * D + k0 : @ * D + k0 + K_TILE, 2 * D + n0 : 2 * D + n0 + N_TILE]
                    if k0 == 0:
                        q = pl.matmul(a, wq, out_dtype=pl.FP32)
                        k = pl.matmul(a, wk, out_dtype=pl.FP32)
                        v = pl.matmul(a, wv, out_dtype=pl.FP32)
                    else:
                        q = pl.matmul_acc(q, a, wq)
                        k = pl.matmul_acc(k, a, wk)
                        v = pl.matmul_acc(v, a, wv)
                qkv@[t0 : t0 + T_TILE, n0 : n0 + N_TILE] = q
                qkv@[t0 : t0 + T_TILE, D + n0 : D + n0 + N_TILE] = k
                qkv@[t0 : t0 + T_TILE, 2 * D + n0 : 2 * D + n0 + N_TILE] = v
    for t0 in pl.parallel(0, T, T_TILE):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="rope@"):
            cos_rows = cosine[t0 : t0 + T_TILE, :]
            sin_rows = sine[t0 : t0 + T_TILE, :]
            for h in pl.range(2 * HEADS):
                part = qkv@[t0 : t0 + T_TILE, h * HEAD_DIM : h * HEAD_DIM + HEAD_DIM]
                swapped = pl.gather(part, dim=-1, index=positions)
                spun = pl.add(pl.mul(part, cos_rows), pl.mul(swapped, sin_rows))
                spun16 = pl.cast(spun, target_type=pl.BF16, mode="rint")
                turned@[t0 : t0 + T_TILE, h * HEAD_DIM : h * HEAD_DIM + HEAD_DIM] = spun16
            v_rows = qkv@[t0 : t0 + T_TILE, 2 * D : 3 * D]
            values@[t0 : t0 + T_TILE, :] = pl.cast(v_rows, target_type=pl.BF16, mode="rint")
    for h in pl.parallel(HEADS):
        c0 = h * HEAD_DIM
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="attention@"):
            for t0 in pl.range(0, T, T_TILE):
                scores = pl.matmul(
                    turned@[t0 : t0 + T_TILE, c0 : c0 + HEAD_DIM],
                    turned@[:, D + c0 : D + c0 + HEAD_DIM],
                    b_trans=True,
                    out_dtype=pl.FP32,
                )
                seen = pl.set_validshape(pl.mul(scores, SCALE), T_TILE, t0 + T_TILE)
                seen = pl.fillpad(seen, pad_value=pl.PadValue.min)
                e = pl.exp(pl.row_expand_sub(seen, pl.row_max(seen)))
                probs = pl.cast(e, target_type=pl.BF16, mode="rint")
                total = pl.row_sum(pl.cast(probs, target_type=pl.FP32))
                o = pl.matmul(probs, values@[:, c0 : c0 + HEAD_DIM], out_dtype=pl.FP32)
                o16 = pl.cast(pl.row_expand_div(o, total), target_type=pl.BF16, mode="rint")
                mixed@[t0 : t0 + T_TILE, c0 : c0 + HEAD_DIM] = o16
    for n0 in pl.parallel(0, D, N_TILE):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="out@"):
            acc = pl.create_tensor([T, N_TILE], dtype=pl.FP32)
            for k0 in pl.pipeline(0, D, K_TILE, stage=2):
                a = mixed@[:, k0 : k0 + K_TILE]
                w = w_out[@ * D + k0 : @ * D + k0 + K_TILE, n0 : n0 + N_TILE]
                if k0 == 0:
                    acc = pl.matmul(a, w, out_dtype=pl.FP32)
                else:
                    acc = pl.matmul_acc(acc, a, w)
            mid@[:, n0 : n0 + N_TILE] = pl.add(acc, PREVIOUS[:, n0 : n0 + N_TILE])
    for t0 in pl.parallel(0, T, T_TILE):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="gate@"):
            rows16 = pl.cast(mid@[t0 : t0 + T_TILE, :], target_type=pl.BF16, mode="rint")
            w = w_gate[@ * SLOTS : @ * SLOTS + SLOTS, :]
            logits = pl.matmul(rows16, w, b_trans=True, out_dtype=pl.FP32)
            ids = pl.tensor.ci(0, [1, SLOTS], dtype=pl.UINT32)
            for r in pl.range(T_TILE):
                pairs = pl.sort32(logits[r : r + 1, :], ids)
                sorted_pairs = pl.mrgsort(pairs[:, 0:64], pairs[:, 64:128])
                top = sorted_pairs[:, 0 : 2 * TOP]
                top_values = pl.gather(top, mask_pattern=pl.tile.MaskPattern.P0101)
                top_ids = pl.gather(
                    top, mask_pattern=pl.tile.MaskPattern.P1010, output_dtype=pl.INT32
                )
                chosen[@ * T + t0 + r : @ * T + t0 + r + 1, :] = top_ids
                weight = pl.recip(pl.add(pl.exp(pl.neg(pl.row_max(top_values))), 1.0))
                best@[t0 + r : t0 + r + 1, :] = weight
    for n0 in pl.parallel(0, F, N_TILE):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="up@"):
            for t0 in pl.range(0, T, T_TILE):
                g = pl.create_tensor([T_TILE, N_TILE], dtype=pl.FP32)
                u = pl.create_tensor([T_TILE, N_TILE], dtype=pl.FP32)
                for k0 in pl.pipeline(0, D, K_TILE, stage=2):
                    part = mid@[t0 : t0 + T_TILE, k0 : k0 + K_TILE]
                    a = pl.cast(part, target_type=pl.BF16, mode="rint")
                    wg = w_up[@ * D + k0 : @ * D + k0 + K_TILE, n0 : n0 + N_TILE]
                    wu = w_up[@ * D + k0 : @ * D + k0 + K_TILE, F + n0 : F + n0 + N_TILE]
                    if k0 == 0:
                        g = pl.matmul(a, wg, out_dtype=pl.FP32)
                        u = pl.matmul(a, wu, out_dtype=pl.FP32)
                    else:
                        g = pl.matmul_acc(g, a, wg)
                        u = pl.matmul_acc(u, a, wu)
                sig = pl.recip(pl.add(pl.exp(pl.neg(g)), 1.0))
                act@[t0 : t0 + T_TILE, n0 : n0 + N_TILE] = pl.mul(pl.mul(g, sig), u)
    for t0 in pl.parallel(0, T, T_TILE):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="down@"):
            rows = act@[t0 : t0 + T_TILE, :]
            amax = pl.maximum(pl.row_max(pl.abs(rows)), 1e-4)
            inv = pl.div(pl.full([T_TILE, 1], dtype=pl.FP32, value=127.0), amax)
            as_int = pl.cast(pl.row_expand_mul(rows, inv), target_type=pl.INT32, mode="rint")
            as_half = pl.cast(as_int, target_type=pl.FP16, mode="round")
            codes@[t0 : t0 + T_TILE, :] = pl.cast(as_half, target_type=pl.INT8, mode="trunc")
            act_scale@[t0 : t0 + T_TILE, :] = pl.recip(inv)
            for n0 in pl.range(0, D, N_TILE):
                w = w_down[@ * D + n0 : @ * D + n0 + N_TILE, :]
                a = codes@[t0 : t0 + T_TILE, :]
                acc32 = pl.matmul(a, w, b_trans=True, out_dtype=pl.INT32)
                f = pl.cast(acc32, target_type=pl.FP32, mode="none")
                f = pl.row_expand_mul(f, act_scale@[t0 : t0 + T_TILE, :])
                f = pl.col_expand_mul(f, down_scale[@ : @ + 1, n0 : n0 + N_TILE])
                f = pl.row_expand_mul(f, best@[t0 : t0 + T_TILE, :])
                summed = pl.add(f, mid@[t0 : t0 + T_TILE, n0 : n0 + N_TILE])
                next@[t0 : t0 + T_TILE, n0 : n0 + N_TILE] = summed
"""

TAIL = """
    for t0 in pl.parallel(0, T, T_TILE):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="result"):
            y[t0 : t0 + T_TILE, :] = PREVIOUS[t0 : t0 + T_TILE, :]
    return chosen, y


def specs():
    import torch
    from golden import TensorSpec

    def drawn(*shape):
        return lambda: torch.randn(shape) / D**0.5

    def small_codes():
        return torch.randint(-20, 21, (LAYERS * D, F), dtype=torch.int8)

    def swapped():
        return (torch.arange(HEAD_DIM) ^ 1).int().expand(T_TILE, HEAD_DIM).contiguous()

    bf16, fp32, int32 = torch.bfloat16, torch.float32, torch.int32
    return [
        TensorSpec("x", [T, D], fp32, torch.randn),
        TensorSpec("gamma", [LAYERS, D], fp32, torch.rand),
        TensorSpec("w_qkv", [LAYERS * D, 3 * D], bf16, drawn(LAYERS * D, 3 * D)),
        TensorSpec("w_out", [LAYERS * D, D], bf16, drawn(LAYERS * D, D)),
        TensorSpec("w_gate", [LAYERS * SLOTS, D], bf16, drawn(LAYERS * SLOTS, D)),
        TensorSpec("w_up", [LAYERS * D, 2 * F], bf16, drawn(LAYERS * D, 2 * F)),
        TensorSpec("w_down", [LAYERS * D, F], torch.int8, small_codes),
        TensorSpec("down_scale", [LAYERS, D], fp32, lambda: torch.rand(LAYERS, D) * 1e-2),
        TensorSpec("positions", [T_TILE, HEAD_DIM], int32, swapped),
        TensorSpec("cosine", [T, HEAD_DIM], fp32, lambda: torch.rand(T, HEAD_DIM).cos()),
        TensorSpec("sine", [T, HEAD_DIM], fp32, lambda: torch.rand(T, HEAD_DIM).sin()),
        TensorSpec("chosen", [LAYERS * T, TOP], int32, is_output=True),
        TensorSpec("y", [T, D], fp32, is_output=True),
    ]


if __name__ == "__main__":
    from golden import run_jit

    raise SystemExit(not run_jit(deep, specs()).passed)
"""


def source(layers: int = 4) -> str:
    """The script: a kernel of that many layers and the specifications of its arguments."""
    text = HEAD.format(layers=layers)
    for number in range(layers):
        previous = f"next{number - 1}" if number else "x"
        text += LAYER.replace("PREVIOUS", previous).replace("@", str(number))
    return text + TAIL.replace("PREVIOUS", f"next{layers - 1}")


if __name__ == "__main__":
    print(source(*map(int, sys.argv[1:])), end="")
