"""Row softmax twice: two-pass with dynamic rows and a tail, online over column chunks, in one file."""

import pypto.language as pl

COLS = 1000
C_TILE = 128
R_TILE = 16
N_CHUNK = (COLS + C_TILE - 1) // C_TILE
T = pl.dynamic("T")


@pl.jit
def softmax_two_pass(
    x: pl.Tensor[[T, COLS], pl.FP32],
    y: pl.Out[pl.Tensor[[T, COLS], pl.FP32]],
):
    x.bind_dynamic(0, T)
    y.bind_dynamic(0, T)
    t_dim = pl.tensor.dim(x, 0)
    for t0 in pl.parallel(0, t_dim, R_TILE):
        rows = pl.min(R_TILE, t_dim - t0)
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="softmax"):
            tile = pl.slice(x, [R_TILE, COLS], [t0, 0], valid_shape=[rows, COLS])
            m = pl.row_max(tile)
            e = pl.row_expand_expdif(tile, m)
            s = pl.row_sum(e)
            y = pl.assemble(y, pl.row_expand_div(e, s), [t0, 0])
    return y


@pl.jit
def softmax_online(
    x: pl.Tensor[[T, COLS], pl.FP32],
    y: pl.Out[pl.Tensor[[T, COLS], pl.FP32]],
):
    x.bind_dynamic(0, T)
    y.bind_dynamic(0, T)
    t_dim = pl.dim(x, 0)
    blocks = (t_dim + R_TILE - 1) // R_TILE
    for b in pl.spmd(blocks, name_hint="online"):
        t0 = b * R_TILE
        rows = pl.min(R_TILE, t_dim - t0)
        m = pl.full([R_TILE, 1], dtype=pl.FP32, value=-3.0e38)
        norm = pl.full([R_TILE, 1], dtype=pl.FP32, value=0.0)
        for cb in pl.range(N_CHUNK):
            c0 = cb * C_TILE
            cols = pl.min(C_TILE, COLS - c0)
            part = pl.slice(x, [R_TILE, C_TILE], [t0, c0], valid_shape=[rows, cols])
            part = pl.fillpad(part, pad_value=pl.PadValue.min)
            m_new = pl.maximum(m, pl.row_max(part))
            alpha = pl.exp(pl.sub(m, m_new))
            norm = pl.add(pl.mul(norm, alpha), pl.row_sum(pl.exp(pl.row_expand_sub(part, m_new))))
            m = m_new
        inv = pl.recip(norm)
        for cb in pl.pipeline(0, N_CHUNK, 1, stage=2):
            c0 = cb * C_TILE
            cols = pl.min(C_TILE, COLS - c0)
            part = pl.slice(x, [R_TILE, C_TILE], [t0, c0], valid_shape=[rows, cols])
            p = pl.row_expand_mul(pl.exp(pl.row_expand_sub(part, m)), inv)
            y = pl.assemble(y, p, [t0, c0])
    return y


def golden_softmax(tensors):
    import torch

    tensors["y"][:] = torch.softmax(tensors["x"], dim=-1)


if __name__ == "__main__":
    import argparse
    import sys
    import torch
    from golden import TensorSpec, run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--platform", default="a2a3")
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 37, 5])
    args = parser.parse_args()
    failed = False
    for fn in (softmax_two_pass, softmax_online):
        for n in args.tokens:
            specs = [
                TensorSpec("x", [n, COLS], torch.float32, init_value=torch.randn(n, COLS) * 4),
                TensorSpec("y", [n, COLS], torch.float32, is_output=True),
            ]
            result = run_jit(
                fn=fn,
                specs=specs,
                golden_fn=golden_softmax,
                runtime_cfg=dict(platform=args.platform, device_id=args.device),
                rtol=1e-4,
                atol=1e-6,
            )
            if not result.passed:
                print(result.error)
                failed = True
    sys.exit(1 if failed else 0)
