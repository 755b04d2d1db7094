"""Narrow dtypes: FP8 cache rows and products, bytes unpacked by bit operators, BOOL and INT64 results, top-p."""

import pypto.language as pl

R, C = 12, 128
F8 = pl.FP8E4M3FN


@pl.jit
def fp8_cache(
    x: pl.Tensor[[R, C], pl.BF16],
    slots: pl.Tensor[[R], pl.INT32],
    cache: pl.InOut[pl.Tensor[[32, C], pl.FP8E4M3FN]],
    back: pl.Out[pl.Tensor[[R, C], pl.BF16]],
    padded: pl.Out[pl.Tensor[[16, C], pl.FP8E4M3FN]],
    first: pl.Out[pl.Tensor[[R, 1], pl.FP32]],
):
    tmp = pl.create_tensor([16, C], dtype=pl.FP8E4M3FN)
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="to8"):
        v = pl.slice(x, [16, C], [0, 0], valid_shape=[R, C])
        q = pl.cast(pl.cast(v, target_type=pl.FP32), target_type=F8, mode="rint")
        tmp[:, :] = pl.fillpad(q, pad_value=pl.PadValue.zero)
    for r in pl.range(R):
        s = pl.cast(pl.read(slots, [r]), pl.INDEX)
        if s >= 0:
            with pl.at(level=pl.Level.CORE_GROUP, name_hint="put"):
                cache[s : s + 1, :] = tmp[r : r + 1, :]
    for r in pl.parallel(R):
        s = slots[r]
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="get"):
            acc = pl.full([1, C], dtype=pl.BF16, value=0.0)
            if s >= 0:
                acc = pl.cast(cache[s : s + 1, :], target_type=pl.BF16)
            back[r : r + 1, :] = acc
            pl.write(first, [r, 0], pl.cast(pl.read(tmp, [r, 0]), pl.FP32))
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="pad"):
        padded[:, :] = pl.concat(tmp[:, 0:64], tmp[:, 64:C])


@pl.jit
def fp8_matmul(
    x: pl.Tensor[[16, 256], pl.FP8E4M3FN],
    xs: pl.Tensor[[16, 2], pl.FP32],
    w: pl.Tensor[[64, 256], pl.FP8E4M3FN],
    ws: pl.Tensor[[1, 2], pl.FP32],
    y: pl.Out[pl.Tensor[[16, 64], pl.BF16]],
):
    with pl.at(level=pl.Level.CORE_GROUP, name_hint="fp8mm"):
        acc = pl.full([16, 64], dtype=pl.FP32, value=0.0)
        for kb in pl.pipeline(2, stage=2):
            a = pl.cast(x[:, kb * 128 : kb * 128 + 128], target_type=pl.BF16)
            b = pl.cast(w[:, kb * 128 : kb * 128 + 128], target_type=pl.BF16)
            p = pl.matmul(a, b, b_trans=True, out_dtype=pl.FP32)
            p = pl.row_expand_mul(p, xs[:, kb : kb + 1])
            acc = pl.add(acc, pl.mul(p, pl.read(ws, [0, kb])))
        y[:, :] = pl.cast(acc, target_type=pl.BF16, mode="rint")


@pl.jit
def bytes_and_bools(
    x: pl.Tensor[[R, C], pl.UINT8],
    on: pl.Tensor[[R], pl.BOOL],
    y: pl.Out[pl.Tensor[[R, C], pl.INT32]],
    n: pl.Out[pl.Tensor[[R, 1], pl.INT32]],
    flag: pl.Out[pl.Tensor[[R], pl.BOOL]],
    wide: pl.Out[pl.Tensor[[R, C], pl.INT64]],
):
    for r in pl.parallel(R):
        with pl.at(level=pl.Level.CORE_GROUP, name_hint="bytes"):
            b = pl.cast(x[r : r + 1, :], target_type=pl.INT32)
            lo = pl.ands(b, 15)
            hi = pl.shrs(b, 4)
            v = pl.sub(pl.or_(pl.shls(lo, 4), hi), 128)
            if on[r]:
                y[r : r + 1, :] = v
            else:
                y[r : r + 1, :] = pl.neg(v)
            cnt = pl.row_sum(
                pl.cast(
                    pl.cmps(pl.cast(v, target_type=pl.FP32), 0.0, cmp_type=4), target_type=pl.INT32
                )
            )
            n[r : r + 1, :] = cnt
            pl.write(flag, [r], pl.read(cnt, [0, 0]) > 64)
            wide[r : r + 1, :] = pl.cast(v, target_type=pl.INT64)


@pl.jit
def top_p(
    logits: pl.Tensor[[R, 512], pl.FP32],
    p: pl.Scalar[pl.FP32],
    temp: pl.Tensor[[R], pl.FP32],
    probs: pl.Out[pl.Tensor[[R, 64], pl.FP32]],
    ids: pl.Out[pl.Tensor[[R, 64], pl.INT32]],
    keep: pl.Out[pl.Tensor[[R], pl.INT32]],
):
    """The 64 best of each row, their probabilities among all, and how many of them reach p together."""
    for r in pl.spmd(R, name_hint="top_p"):
        t = pl.read(temp, [r])
        x = pl.mul(logits[r : r + 1, :], 1.0 / t)
        m = pl.row_max(x)
        den = pl.row_sum(pl.row_expand_expdif(x, m))
        st = pl.sort32(x, pl.arange(0, [1, 512], dtype=pl.UINT32))
        st = pl.mrgsort(st, block_len=64)
        a = pl.slice(st, [1, 256], [0, 0])
        b = pl.slice(st, [1, 256], [0, 256])
        c = pl.slice(st, [1, 256], [0, 512])
        d = pl.slice(st, [1, 256], [0, 768])
        st = pl.mrgsort(a, b, c, d)
        best = pl.gather(st[:, 0:128], mask_pattern=pl.tile.MaskPattern.P0101)
        bi = pl.gather(st[:, 0:128], mask_pattern=pl.tile.MaskPattern.P1010, output_dtype=pl.INT32)
        pr = pl.row_expand_div(pl.exp(pl.row_expand_sub(best, m)), den)
        probs[r : r + 1, :] = pr
        ids[r : r + 1, :] = bi
        total = pl.const(0.0, pl.FP32)
        k = 0
        for j in pl.range(64):
            total = total + pl.read(pr, [0, j])
            k = k + 1
            if total >= p:
                break
        pl.write(keep, [r], pl.cast(k, pl.INT32))


def g_cache(t):
    import torch

    q = t["x"].float().to(torch.float8_e4m3fn)
    for r, s in enumerate(t["slots"].tolist()):
        if s >= 0:
            t["cache"].view(torch.uint8)[s] = q.view(torch.uint8)[r]
            t["back"][r] = q[r].bfloat16()
        t["first"][r, 0] = q[r, 0].float()
    t["padded"].view(torch.uint8)[:R] = q.view(torch.uint8)


def g_mm(t):
    x, w = t["x"].float(), t["w"].float()
    t["y"][:] = sum(
        (x[:, k * 128 : k * 128 + 128] @ w[:, k * 128 : k * 128 + 128].T)
        * t["xs"][:, k : k + 1]
        * t["ws"][0, k]
        for k in range(2)
    ).bfloat16()


def g_bytes(t):
    import torch

    b = t["x"].int()
    v = (((b & 15) << 4) | (b >> 4)) - 128
    t["y"][:] = torch.where(t["on"][:, None], v, -v)
    t["n"][:] = (v > 0).sum(-1, keepdim=True)
    t["flag"][:] = (v > 0).sum(-1) > 64
    t["wide"][:] = v


def g_topp(t):

    pr = (t["logits"] / t["temp"][:, None]).softmax(-1)
    v, i = pr.sort(-1, descending=True)
    t["probs"][:], t["ids"][:] = v[:, :64], i[:, :64]
    t["keep"][:] = (v[:, :64].cumsum(-1) < float(t["p"])).sum(-1).clamp_max(63) + 1


def build_cases():
    import torch
    from golden import ScalarSpec, TensorSpec

    def f8(*s):
        return lambda: torch.randn(*s).to(torch.float8_e4m3fn)

    S, r = TensorSpec, torch.randn
    cache = [
        S("x", [R, C], torch.bfloat16, init_value=r),
        S(
            "slots",
            [R],
            torch.int32,
            init_value=lambda: torch.where(torch.arange(R) == 3, -1, torch.randperm(32)[:R]).int(),
        ),
        S("cache", [32, C], torch.float8_e4m3fn, init_value=f8(32, C), is_output=True),
        S("back", [R, C], torch.bfloat16, is_output=True),
        S("padded", [16, C], torch.float8_e4m3fn, is_output=True),
        S("first", [R, 1], torch.float32, is_output=True),
    ]
    mm = [
        S("x", [16, 256], torch.float8_e4m3fn, init_value=f8(16, 256)),
        S("xs", [16, 2], torch.float32, init_value=torch.rand),
        S("w", [64, 256], torch.float8_e4m3fn, init_value=f8(64, 256)),
        S("ws", [1, 2], torch.float32, init_value=torch.rand),
        S("y", [16, 64], torch.bfloat16, is_output=True),
    ]
    by = [
        S(
            "x",
            [R, C],
            torch.uint8,
            init_value=lambda: torch.randint(0, 256, (R, C), dtype=torch.uint8),
        ),
        S("on", [R], torch.bool, init_value=lambda: torch.rand(R) > 0.5),
        S("y", [R, C], torch.int32, is_output=True),
        S("n", [R, 1], torch.int32, is_output=True),
        S("flag", [R], torch.bool, is_output=True),
        S("wide", [R, C], torch.int64, is_output=True),
    ]
    tp = [
        S("logits", [R, 512], torch.float32, init_value=lambda: r(R, 512) * 3),
        ScalarSpec("p", torch.float32, 0.9),
        S("temp", [R], torch.float32, init_value=lambda: torch.rand(R) + 0.5),
        S("probs", [R, 64], torch.float32, is_output=True),
        S("ids", [R, 64], torch.int32, is_output=True),
        S("keep", [R], torch.int32, is_output=True),
    ]
    return [
        (fp8_cache, cache, g_cache, None),
        (fp8_matmul, mm, g_mm, None),
        (bytes_and_bools, by, g_bytes, None),
        (top_p, tp, g_topp, None),
    ]


if __name__ == "__main__":
    import argparse
    from golden import run_jit

    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--platform", type=str, default="a2a3")
    parser.add_argument("-d", "--device", type=int, default=0)
    parser.add_argument("--enable-l2-swimlane", action="store_true", default=False)
    args = parser.parse_args()

    cases = build_cases()
    for fn, specs, golden, compare in cases:
        result = run_jit(
            fn=fn,
            specs=specs,
            golden_fn=golden,
            runtime_cfg=dict(platform=args.platform, device_id=args.device),
            rtol=1e-2,
            atol=1e-2,
            compare_fn=compare,
        )
        if not result.passed:
            print(result.error)
            raise SystemExit(1)
