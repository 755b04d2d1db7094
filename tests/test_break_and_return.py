"""break, continue and early return: the answer is Python's, and both back ends give it."""

from __future__ import annotations

import pytest
import torch
from both_ways import agree, counts, ramp

import tilewright.language as pl
from tilewright.errors import KernelError

CORE = pl.Level.CORE_GROUP


# break and continue


@pl.jit
def sum_odd_until(n: pl.Scalar[pl.INDEX], stop: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    total, trips, last = 0, 0, -1
    for i in pl.range(n):
        trips = trips + 1
        if i == stop:
            break
        if i % 2 == 0:
            continue
        total = total + i
        last = i
    pl.write(y, [0], pl.cast(total, pl.INT64))
    pl.write(y, [1], pl.cast(trips, pl.INT64))
    pl.write(y, [2], pl.cast(last, pl.INT64))


@pytest.mark.parametrize(("n", "stop"), [(0, 3), (10, 7), (10, 0), (10, 99), (5, 4)])
def test_break_and_continue_in_a_counted_loop(n: int, stop: int):
    (y,) = agree(sum_odd_until, n, stop, counts(3))
    total, trips, last = 0, 0, -1
    for i in range(n):
        trips += 1
        if i == stop:
            break
        if i % 2 == 0:
            continue
        total, last = total + i, i
    assert y.tolist() == [total, trips, last]


@pl.jit
def bounds_and_break(
    start: pl.Scalar[pl.INDEX],
    stop: pl.Scalar[pl.INDEX],
    step: pl.Scalar[pl.INDEX],
    last: pl.Scalar[pl.INDEX],
    y: pl.Out[pl.Tensor],
):
    seen, trips = -100, 0
    for i in pl.range(start, stop, step):
        seen = i
        trips = trips + 1
        if i == last:
            break
    pl.write(y, [0], pl.cast(seen, pl.INT64))
    pl.write(y, [1], pl.cast(trips, pl.INT64))


@pytest.mark.parametrize("bounds", [(0, 5, 1), (5, 0, 1), (10, 0, -3), (-7, 8, 5), (3, 3, 2)])
@pytest.mark.parametrize("last", [4, 3, 1000])
def test_a_loop_with_a_break_counts_as_python_does(bounds: tuple[int, int, int], last: int):
    (y,) = agree(bounds_and_break, *bounds, last, counts(2))
    seen, trips = -100, 0
    for i in range(*bounds):
        seen, trips = i, trips + 1
        if i == last:
            break
    assert y.tolist() == [seen, trips]


def test_a_step_of_zero_is_an_error_in_a_loop_with_a_break_too():
    for backend in ("native", "interpreter"):
        with pytest.raises(KernelError, match="step"):
            bounds_and_break.run(0, 5, 0, 1, counts(2), backend=backend)


@pl.jit
def nested_jumps(n: pl.Scalar[pl.INDEX], m: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    total = 0
    for i in pl.range(n):
        for j in pl.range(n):
            if j > i:
                break
            if (i + j) % 3 == 0:
                if j == m:
                    total = total + 1000
                    continue
                elif i == m:  # noqa: RET507
                    total = total + 100
                    break
                kind = 1
            else:
                kind = 2
            total = total + kind
        if total > 3000:
            break
        total = total + 7
    pl.write(y, [0], pl.cast(total, pl.INT64))


@pytest.mark.parametrize("n", [0, 1, 4, 9])
@pytest.mark.parametrize("m", [0, 1, 3])
def test_jumps_belong_to_the_innermost_loop(n: int, m: int):
    (y,) = agree(nested_jumps, n, m, counts(1))
    total = 0
    for i in range(n):
        for j in range(n):
            if j > i:
                break
            if (i + j) % 3 == 0:
                if j == m:
                    total += 1000
                    continue
                if i == m:
                    total += 100
                    break
                kind = 1
            else:
                kind = 2
            total += kind
        if total > 3000:
            break
        total += 7
    assert y.item() == total


@pl.jit
def while_with_jumps(n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    i, total = 0, 0
    while True:
        i = i + 1
        if i % 3 == 0:
            continue
        if i > n:
            break
        total = total + i
    pl.write(y, [0], pl.cast(total, pl.INT64))
    pl.write(y, [1], pl.cast(i, pl.INT64))


@pytest.mark.parametrize("n", [-1, 0, 5, 12])
def test_while_true_ends_by_break(n: int):
    (y,) = agree(while_with_jumps, n, counts(2))
    i = total = 0
    while True:
        i += 1
        if i % 3 == 0:
            continue
        if i > n:
            break
        total += i
    assert y.tolist() == [total, i]


@pl.jit
def after_a_break_nobody_asks(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    at = 0
    while pl.read(x, [at]) > 0.0:
        at = at + 1
        if at == 5:
            break
    pl.write(y, [0], pl.cast(at, pl.INT64))


def test_the_condition_is_not_looked_at_after_a_break():
    (_, y) = agree(after_a_break_nobody_asks, ramp(5), counts(1))
    assert y.item() == 5


@pl.jit
def blocks_and_break(x: pl.Tensor, limit: pl.Scalar[pl.FP32], y: pl.Out[pl.Tensor]):
    for r in pl.parallel(2):
        with pl.at(level=CORE):
            acc = pl.full([1, 33], dtype=pl.FP32, value=0.0)
            for k in pl.pipeline(4, stage=2):
                row = x[4 * r + k : 4 * r + k + 1, :]
                if row[0, 0] < 0.0:
                    continue
                acc = pl.add(acc, row)
                if acc[0, 0] > limit:
                    acc = pl.neg(acc)
                    break
                acc = pl.add(acc, 0.5)
            y[r : r + 1, :] = acc


@pytest.mark.parametrize("limit", [0.0, 40.0, 1e6])
def test_blocks_are_merged_where_a_turn_ends_early(limit: float):
    x = ramp(8, 33)
    x[1, 0] = -1
    (_, y) = agree(blocks_and_break, x, limit, torch.zeros(2, 33))
    for r in range(2):
        acc = torch.zeros(33)
        for k in range(4):
            row = x[4 * r + k]
            if row[0] < 0:
                continue
            acc = acc + row
            if acc[0] > limit:
                acc = -acc
                break
            acc = acc + 0.5
        assert torch.equal(y[r], acc)


@pl.jit
def break_out_of_a_region(x: pl.Tensor, n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    done = 0
    for i in pl.range(6):
        with pl.at(level=CORE):
            row = x[i : i + 1, :]
            if row[0, 0] == 100.0:
                continue
            y[i : i + 1, :] = pl.mul(row, 2.0)
            if i == n:
                break
        done = done + 1
    pl.write(y, [5, 0], pl.cast(done, pl.FP32))


@pytest.mark.parametrize("n", [0, 3, 9])
def test_a_jump_leaves_the_region_it_stands_in(n: int):
    x = ramp(6, 16)
    x[1, 0] = 100
    (_, y) = agree(break_out_of_a_region, x, n, torch.zeros(6, 16))
    want, done = torch.zeros(6, 16), 0
    for i in range(6):
        if x[i, 0] == 100:
            continue
        want[i] = x[i] * 2
        if i == n:
            break
        done += 1
    want[5, 0] = done
    assert torch.equal(y, want)


@pl.jit
def product_until(a: pl.Tensor, b: pl.Tensor, n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    acc = pl.create_tensor([8, 16], dtype=pl.FP32)
    with pl.at(level=CORE):
        rows = pl.slice(a, [8, 16], [0, 0], valid_shape=[n + 1, 16])
        for k in pl.pipeline(4, stage=2):
            if k == n:
                break
            left, right = a[:, k * 16 : k * 16 + 16], b[k * 16 : k * 16 + 16, :]
            if k == 0:
                acc = pl.matmul(left, right)
            else:
                acc = pl.matmul_acc(acc, left, right)
            rows = pl.slice(a, [8, 16], [0, k * 16], valid_shape=[k + 2, 16])
        y[0:8, :] = acc
        y[8:16, :] = rows


@pytest.mark.parametrize("n", [0, 1, 3, 4])
def test_an_accumulator_and_a_valid_region_survive_a_break(n: int):
    a, b = ramp(8, 64) % 5, ramp(64, 16) % 7
    *_, y = agree(product_until, a, b, n, torch.zeros(16, 16))
    assert torch.equal(y[:8], a[:, : 16 * n] @ b[: 16 * n])
    last, rows = max(n - 1, 0), n + 1
    assert torch.equal(y[8 : 8 + rows], a[:rows, 16 * last : 16 * last + 16])
    assert not y[8 + rows :].any()


STOP = True


@pl.jit
def constant_break(y: pl.Out[pl.Tensor]):
    k = 0
    for i in pl.range(10):
        k = i + 1
        if STOP:
            break
        k = k + 100
    pl.write(y, [0], pl.cast(k, pl.INT64))


def test_a_break_under_a_constant_condition():
    assert agree(constant_break, counts(1))[0].item() == 1


# early return

FAST = True


@pl.jit
def early(x: pl.Tensor, y: pl.Out[pl.Tensor], z: pl.Out[pl.Tensor]):
    if FAST:
        with pl.at(level=CORE):
            y[:, :] = pl.add(x, 1.0)
        return y
    with pl.at(level=CORE):
        z[:, :] = pl.add(x, 2.0)
    return z


def test_an_early_return_under_a_constant_condition_ends_the_kernel(monkeypatch):
    x = ramp(4, 16)
    _, y, z = agree(early, x, torch.zeros(4, 16), torch.zeros(4, 16))
    assert torch.equal(y, x + 1)
    assert not z.any()
    monkeypatch.setitem(globals(), "FAST", False)
    _, y, z = agree(early, x, torch.zeros(4, 16), torch.zeros(4, 16))
    assert not y.any()
    assert torch.equal(z, x + 2)


@pl.jit.inline
def from_inside_a_region(x: pl.Tensor):
    with pl.at(level=CORE):
        v = pl.add(x, 1.0)
        if FAST:
            return pl.mul(v, 2.0)
    return x


@pl.jit
def uses_a_region(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    for r in pl.parallel(2):
        part = pl.slice(x, [2, 16], [r * 2, 0])
        v = from_inside_a_region(part)
        with pl.at(level=CORE):
            y[r * 2 : r * 2 + 2, :] = v


def test_a_region_that_returns_hands_its_value_out():
    x = ramp(4, 16)
    assert torch.equal(agree(uses_a_region, x, torch.zeros(4, 16))[1], (x + 1) * 2)


@pl.jit.inline
def chosen(a: pl.Tensor, b: pl.Tensor, first: pl.Scalar[pl.BOOL]):
    if first:
        return pl.add(a, 1.0)
    elif FAST:  # noqa: RET505
        return b
    return a


@pl.jit
def uses_chosen(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        p = chosen(x, w, True)
        q = chosen(x, w, False)
        y[:, :] = pl.sub(p, q)


def test_an_inline_kernel_may_return_early_with_any_value():
    x, w = ramp(4, 16), ramp(4, 16) * 3
    (_, _, y) = agree(uses_chosen, x, w, torch.zeros(4, 16))
    assert torch.equal(y, x + 1 - w)
