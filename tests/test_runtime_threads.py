"""Teams of threads: everyone runs at once, everyone sees the same, nobody hangs, not even after a
fork.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from llvmlite import ir
from native import aligned

from tilewright.codegen.llvm import abi, sync
from tilewright.codegen.llvm.types import I64, PTR, VOID, counted, index, offset
from tilewright.machine import host
from tilewright.runtime import engine, threads

ROUNDS = 300


def worker(body: Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], None]) -> engine.Library:
    """`void worker(data, tid, nthreads)` with a body emitted by the test; returns from its end."""
    module = ir.Module("team")
    fn = ir.Function(module, ir.FunctionType(VOID, [PTR, I64, I64]), "worker")
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    body(b, *fn.args)
    b.ret_void()
    return engine.load(str(module), ["worker"])


SLOTS = abi.shared_bytes(2)  # behind the shared block, 64 bytes for each thread


def slot(b: ir.IRBuilder, data: ir.Value, tid: ir.Value) -> ir.Value:
    return offset(b, data, b.add(index(SLOTS), b.shl(tid, index(6))))


def say_hello(b: ir.IRBuilder, data: ir.Value, tid: ir.Value, nthreads: ir.Value) -> None:
    b.store(b.add(nthreads, index(1000)), slot(b, data, tid), align=8)


def in_rounds(b: ir.IRBuilder, data: ir.Value, tid: ir.Value, nthreads: ir.Value) -> None:
    """Every round: write the round, wait, count in slot `tid + 8` bytes every thread that is not
    there yet, wait.
    """
    barrier = sync.barrier(b.module, host())
    with counted(b, 1, ROUNDS + 1, name="round") as rounds:
        b.store(rounds.i, slot(b, data, tid), align=8)
        b.call(barrier, [data, nthreads])
        with counted(b, 0, nthreads, name="peer") as peer:
            seen = b.load(slot(b, data, peer.i), typ=I64, align=8)
            late = b.zext(b.icmp_signed("!=", seen, rounds.i), I64)
            mine = offset(b, slot(b, data, tid), 8)
            b.store(b.add(b.load(mine, typ=I64, align=8), late), mine, align=8)
        b.call(barrier, [data, nthreads])


def draw_numbers(b: ir.IRBuilder, data: ir.Value, tid: ir.Value, nthreads: ir.Value) -> None:
    """Draw until the numbers pass 1000; sum and count what was drawn."""
    loop, work, end = (b.append_basic_block(name) for name in ("loop", "work", "end"))
    b.branch(loop)
    b.position_at_end(loop)
    number = sync.grab(b, sync.counter(b, data, 1))
    b.cbranch(b.icmp_signed("<", number, index(1000)), work, end)
    b.position_at_end(work)
    for at, more in ((0, number), (8, index(1))):
        place = offset(b, slot(b, data, tid), at)
        b.store(b.add(b.load(place, typ=I64, align=8), more), place, align=8)
    b.branch(loop)
    b.position_at_end(end)


def give_up(b: ir.IRBuilder, data: ir.Value, tid: ir.Value, nthreads: ir.Value) -> None:
    """Thread 0 gives up instead of arriving; the others store what the barrier said, plus 10."""
    with b.if_else(b.icmp_signed("==", tid, index(0))) as (first, others):
        with first:
            sync.abort(b, data)
        with others:
            came = b.call(sync.barrier(b.module, host()), [data, nthreads])
            b.store(b.add(b.zext(came, I64), index(10)), slot(b, data, tid), align=8)


def run_team(
    code: engine.Library, count: int, team: Callable[[int, int, int], None] = threads.team
) -> np.ndarray:
    """Slots [count, 8] of INT64 after the team ran."""
    data = aligned(SLOTS + 64 * count)
    team(code["worker"], data.ctypes.data, count)
    return data[SLOTS:].view(np.int64).reshape(count, 8)


pool = pytest.fixture(lambda: threads.Pool().run, name="pool")


@pytest.fixture(params=["team", "pool"])
def team(
    request: pytest.FixtureRequest, pool: Callable[[int, int, int], None]
) -> Callable[[int, int, int], None]:
    """Both providers; the first is OpenMP, for torch has loaded it."""
    import torch

    torch.zeros(1)
    return threads.team if request.param == "team" else pool


def test_torch_brings_the_openmp_library() -> None:
    import torch

    if torch.__config__.parallel_info().find("OpenMP") < 0 or not threads.loaded_openmp():
        pytest.skip("this torch does not use OpenMP")
    assert "omp" in threads.provider()


def test_every_thread_runs_once_and_knows_the_size_of_the_team(
    team: Callable[[int, int, int], None],
) -> None:
    code = worker(say_hello)
    for count in (1, 2, 3):
        slots = run_team(code, count, team)
        size = slots[0, 0] - 1000
        assert 1 <= size <= count
        assert (slots[:size, 0] == 1000 + size).all()
        assert (slots[size:, 0] == 0).all()


@pytest.mark.parametrize("count", [2, 5])
def test_behind_a_barrier_everyone_sees_what_everyone_wrote(
    team: Callable[[int, int, int], None], count: int
) -> None:
    slots = run_team(worker(in_rounds), count, team)
    size = int((slots[:, 0] != 0).sum())
    assert (slots[:size, 0] == ROUNDS).all()
    assert (slots[:, 1] == 0).all()


def test_every_number_is_drawn_once(team: Callable[[int, int, int], None]) -> None:
    slots = run_team(worker(draw_numbers), 2, team)
    assert slots[:, 0].sum() == 1000 * 999 // 2
    assert slots[:, 1].sum() == 1000


def test_an_abort_lets_the_waiting_threads_go(pool: Callable[[int, int, int], None]) -> None:
    slots = run_team(worker(give_up), 3, pool)
    assert (slots[1:, 0] == 10).all()


def test_several_python_threads_may_launch_at_once(team: Callable[[int, int, int], None]) -> None:
    code = worker(in_rounds)
    wrong: list[np.ndarray] = []

    def launch() -> None:
        for _ in range(5):
            slots = run_team(code, 2, team)
            if (slots[:, 1] != 0).any() or slots[0, 0] != ROUNDS:
                wrong.append(slots)

    callers = [threading.Thread(target=launch) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert not any(caller.is_alive() for caller in callers)
    assert wrong == []


def test_the_pool_uses_its_threads_again() -> None:
    mine = threads.Pool()
    code = worker(say_hello)
    before = threading.active_count()
    for _ in range(10):
        run_team(code, 3, mine.run)
    assert threading.active_count() == before + 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_runs_teams_of_its_own() -> None:
    code = worker(in_rounds)
    run_team(
        code, 2
    )  # the parent has had its team: an OpenMP library would now wait for threads that are gone
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a hang ends the child by a signal, which the parent sees
        slots = run_team(code, 2)
        os._exit(0 if (slots[:, 0] == ROUNDS).all() and (slots[:, 1] == 0).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (run_team(code, 2)[:, 1] == 0).all()


def test_a_team_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="a team of 0 threads"):
        threads.team(1, 0, 0)


def test_without_a_list_of_loaded_libraries_there_is_no_openmp(tmp_path: Path) -> None:
    assert threads.loaded_openmp(tmp_path / "absent") == []
    maps = tmp_path / "maps"
    maps.write_text(
        "7f00-7f01 r-xp 00000000 00:00 0 \n"
        "7f02-7f03 r-xp 00000000 00:00 12 /usr/lib/libgomp.so.1\n"
        "7f04-7f05 r-xp 00000000 00:00 13 /opt/with space/torch/lib/libgomp-a34b.so.1\n"
        "7f06-7f07 r-xp 00000000 00:00 14 /usr/lib/libc.so.6\n"
    )
    assert threads.loaded_openmp(maps) == [
        "/opt/with space/torch/lib/libgomp-a34b.so.1",
        "/usr/lib/libgomp.so.1",
    ]
