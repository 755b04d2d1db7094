"""Control flow in machine code: loops, carried values, branches, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from both_ways import agree, agree_on_text, guarded, ramp, share_even_small

import tilewright.language as pl
from tilewright.errors import KernelError

CORE = pl.Level.CORE_GROUP
THREADS = (1, 2, 3, 5)


# Loops


@pl.jit
def counted(
    start: pl.Scalar[pl.INDEX],
    stop: pl.Scalar[pl.INDEX],
    step: pl.Scalar[pl.INDEX],
    y: pl.Out[pl.Tensor],
):
    total, trips, last = 0, 0, -100
    for i in pl.range(start, stop, step):
        total = total + i * i
        trips = trips + 1
        last = i
    pl.write(y, [0], pl.cast(total, pl.INT64))
    pl.write(y, [1], pl.cast(trips, pl.INT64))
    pl.write(y, [2], pl.cast(last, pl.INT64))


@pytest.mark.parametrize(
    "bounds",
    [
        (0, 5, 1),
        (5, 0, 1),
        (3, 3, 1),
        (1, 10, 4),
        (10, 0, -3),
        (0, 10, -3),
        (-7, 8, 5),
        (4, -4, -1),
    ],
)
def test_a_loop_with_run_time_bounds_counts_as_python_does(bounds: tuple[int, int, int]):
    y = torch.zeros(3, dtype=torch.int64)
    (got,) = agree(counted, *bounds, y)
    assert got[1].item() == len(range(*bounds))


def test_a_step_of_zero_is_an_error_not_an_endless_loop():
    for backend in ("native", "interpreter"):
        with pytest.raises(KernelError, match="step"):
            counted.run(0, 5, 0, torch.zeros(3, dtype=torch.int64), backend=backend)


@pl.jit
def nested(x: pl.Tensor, n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor]):
    for a in pl.parallel(0, 4, 2):
        for b in pl.range(n):
            for c in pl.pipeline(2, stage=2):
                with pl.at(level=CORE):
                    row = a + c
                    part = x[row : row + 1, :]
                    scaled = pl.mul(part, 2.0)
                    y[row : row + 1, b * 4 : b * 4 + 4] = scaled[:, b * 4 : b * 4 + 4]


@pytest.mark.parametrize("n", [0, 1, 5])
def test_nested_loops_reach_what_they_should(n: int):
    agree(nested, ramp(4, 20), n, torch.zeros(4, 20), threads=THREADS)


# Carried values


@pl.jit
def carried_tiles(x: pl.Tensor, n: pl.Scalar[pl.INDEX], y: pl.Out[pl.Tensor], z: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        a = pl.mul(x[0:3, :], 1.0)
        b = pl.add(x[3:6, :], 0.5)
        c = pl.full([3, 1], dtype=pl.FP32, value=0.0)
        for _i in pl.range(n):
            a, b = b, a
            c = pl.add(c, pl.row_max(a))
            b = pl.add(b, c)
        y[0:3, :] = a
        y[3:6, :] = b
        z[:, :] = c


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_carried_tiles_swap_without_losing_one(n: int):
    agree(carried_tiles, ramp(6, 19), n, torch.zeros(6, 19), torch.zeros(3, 1))


@pl.jit
def three_in_a_ring(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        a, b, c = x[0:1, :], x[1:2, :], x[2:3, :]
        for _i in pl.range(4):
            a, b, c = b, c, a
        y[0:1, :] = a
        y[1:2, :] = b
        y[2:3, :] = c


def test_three_carried_tiles_go_round():
    agree(three_in_a_ring, ramp(3, 33), torch.zeros(3, 33))


@pl.jit
def base_stays(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        base = pl.mul(x[:, :], 2.0)
        for i in pl.range(4):
            changed = pl.assemble(base, pl.full([1, 1], dtype=pl.FP32, value=-1.0), [0, i])
            y[i : i + 1, :] = changed


def test_a_tile_from_outside_a_loop_is_the_same_in_every_turn():
    agree(base_stays, ramp(1, 8), torch.zeros(4, 8))


@pl.jit
def start_stays(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
    for i in pl.parallel(4):
        with pl.at(level=CORE):
            start = pl.full([3, 16], dtype=pl.INT32, value=1)
            for j in pl.range(2):
                y[i * 6 + j * 3 : i * 6 + j * 3 + 3, :] = pl.matmul_acc(
                    start, x[i * 3 : i * 3 + 3, :], w[:, :]
                )


def test_an_accumulator_from_outside_a_loop_starts_every_turn_anew():
    x, w = (
        torch.randint(-9, 9, (12, 8)).to(torch.int8),
        torch.randint(-9, 9, (8, 16)).to(torch.int8),
    )
    agree(start_stays, x, w, torch.zeros(24, 16, dtype=torch.int32), threads=THREADS)


@pl.jit
def shared_start(x: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        base = pl.mul(x[:, :], 2.0)
    for i in pl.parallel(8):
        with pl.at(level=CORE):
            mine = pl.assemble(base, pl.full([1, 1], dtype=pl.FP32, value=-1.0), [0, i])
            y[i : i + 1, :] = mine


def test_iterations_do_not_change_a_tile_that_they_share():
    agree(shared_start, ramp(1, 64), torch.zeros(8, 64), threads=THREADS)


@pl.jit
def accumulate(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
    acc = pl.create_tensor([7, 24], dtype=pl.INT32)
    with pl.at(level=CORE):
        for k in pl.pipeline(0, 96, 32, stage=2):
            if k == 0:
                acc = pl.matmul(x[:, k : k + 32], w[k : k + 32, :])
            else:
                acc = pl.matmul_acc(acc, x[:, k : k + 32], w[k : k + 32, :])
        y[:, :] = acc


def test_matmul_first_then_matmul_acc_is_one_product():
    x, w = (
        torch.randint(-128, 128, (7, 96)).to(torch.int8),
        torch.randint(-128, 128, (96, 24)).to(torch.int8),
    )
    (_, _, y) = agree(accumulate, x, w, torch.zeros(7, 24, dtype=torch.int32))
    assert torch.equal(y, (x.int() @ w.int()))


def test_a_loop_that_never_runs_leaves_the_accumulator_alone():
    """The step goes down while the bounds go up."""
    agree_on_text(
        """
        func f(%a: tensor<2x4, INT8>, %b: tensor<4x3, INT8>, out %y: tensor<2x3, INT32>) {
          %five = full {dtype = INT32, shape = [2, 3], value = 5} : tile<2x3, INT32>
          for %i in range(0, 4, -1) carry (%acc = %five) -> (%r) {
            %first = s.eq %i, 0 : BOOL
            %x = load %a[0, 0] valid [2, 4] {shape = [2, 4]} : tile<2x4, INT8>
            %w = load %b[0, 0] valid [4, 3] {shape = [4, 3]} : tile<4x3, INT8>
            if %first -> (%n: tile<2x3, INT32>) {
              %p = matmul %x, %w, 2, 4, 3 : tile<2x3, INT32>
              yield %p
            } else {
              %q = matmul_acc %acc, %x, %w, 2, 4, 3 : tile<2x3, INT32>
              yield %q
            }
            yield %n
          }
          store %r to %y[0, 0] valid [2, 3] {shape = [2, 3]}
          return
        }
        """,
        torch.ones(2, 4, dtype=torch.int8),
        torch.ones(4, 3, dtype=torch.int8),
        torch.zeros(2, 3, dtype=torch.int32),
    )


# Branches


@pl.jit
def branches(x: pl.Tensor, n: pl.Scalar[pl.INDEX], s: pl.Scalar[pl.FP32], y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE):
        a = x[:, :]
        k = 0
        if n > 2 and s < 0.5:
            a = pl.neg(a)
            k = 1
        elif n < 0 or not s >= 0.0:
            a = pl.mul(a, 10.0)
        else:
            k = n
        if k == 1:
            b = pl.add(a, 1.0)
        else:
            b = pl.sub(a, 1.0)
        y[:, k : k + 6] = pl.add(a, b)


@pytest.mark.parametrize("n", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize("s", [0.0, 0.75, -1.0, float("nan")])
def test_branches_on_run_time_values_take_the_right_arm(n: int, s: float):
    agree(branches, ramp(3, 6), n, s, torch.zeros(3, 9))


@pl.jit
def branch_around_a_loop(x: pl.Tensor, flags: pl.Tensor, y: pl.Out[pl.Tensor]):
    for i in pl.range(6):
        k = pl.read(flags, [i])
        if k > 0:
            for j in pl.parallel(4):
                with pl.at(level=CORE):
                    y[j * 4 : j * 4 + 4, :] = pl.add(
                        y[j * 4 : j * 4 + 4, :], x[j * 4 : j * 4 + 4, :]
                    )
        pl.write(flags, [i], k + pl.read(flags, [5 - i]))


def test_threads_agree_on_scalars_read_from_memory():
    flags = torch.tensor([0, 1, 0, 0, 2, 0], dtype=torch.int32)
    for _ in range(20):
        agree(branch_around_a_loop, ramp(16, 16), flags, torch.zeros(16, 16), threads=(2, 5))


# Threads


@pl.jit
def phases(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor], s: pl.Out[pl.Tensor]):
    t = pl.create_tensor([48, 40], dtype=pl.FP32)
    for i in pl.parallel(0, 48, 4):
        with pl.at(level=CORE):
            t[i : i + 4, :] = pl.matmul(x[i : i + 4, :], w[:, :])
    with pl.at(level=CORE):
        top = pl.col_max(t[:, :])
        s[0:1, :] = top
    for n in pl.range(2):
        for i in pl.spmd(6):
            rows = pl.div(t[i * 8 : i * 8 + 8, :], 3.0)
            y[i * 8 : i * 8 + 8, :] = pl.sub(rows, top)
        with pl.at(level=CORE):
            t[:, :] = pl.add(y[:, :], pl.row_sum(t[:, :]))
            s[n + 1 : n + 2, :] = pl.col_sum(t[:, :])


def run_natively(kernel: pl.Kernel, args: tuple, threads: int) -> list[torch.Tensor]:
    special = kernel.specialize(*args, backend="native")
    share_even_small(special.executable)
    got = guarded(args)
    kernel.run(*got.args, backend="native", threads=threads)
    assert got.complaints() == []
    return [x for x in got.args if isinstance(x, torch.Tensor)]


def phase_inputs() -> tuple:
    generator = torch.Generator().manual_seed(1)
    x, w = (torch.randn(shape, generator=generator).bfloat16() for shape in ((48, 64), (64, 40)))
    return x, w, torch.zeros(48, 40), torch.zeros(3, 40)


def test_every_number_of_threads_gives_the_same_bits():
    args = phase_inputs()
    agree(phases, *args, bound=1e-2)
    first = run_natively(phases, args, 1)
    for threads in THREADS:
        for _ in range(3):
            assert all(map(torch.equal, run_natively(phases, args, threads), first))


def test_calls_from_several_python_threads_do_not_meet():
    args = phase_inputs()
    first = run_natively(phases, args, 1)

    def call(number: int) -> list[str]:
        runs = (run_natively(phases, args, 1 + number % 3) for _ in range(5))
        return [
            f"thread {number} has other bits"
            for got in runs
            if not all(map(torch.equal, got, first))
        ]

    with ThreadPoolExecutor(5) as callers:
        wrong = [complaint for found in callers.map(call, range(5)) for complaint in found]
    assert wrong == []
