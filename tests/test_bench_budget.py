"""Peers are measured within a budget: their time is foretold, and what is too slow says so."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch
from test_bench import Clock, invoke, problem, row

from tilewright.bench import engines, peaks, plot
from tilewright.bench.budget import Budget, foretell
from tilewright.bench.measure import CALLS_A_ROUND, in_turns
from tilewright.bench.peers import (
    Peer,
    TorchBest,
    TorchCompile,
    TorchEager,
    Unavailable,
    torch_call,
)
from tilewright.bench.results import Report, Result
from tilewright.bench.run import Request
from tilewright.cli import bench as verb


def products(clock: Clock, each: float, fixed: float, asked: list[int]):
    """Products that take `fixed` seconds and `each` for every row."""

    def run(rows: int) -> None:
        asked.append(rows)
        clock.now += fixed + each * rows

    return run


def test_a_quick_product_is_tried_on_one_row_only():
    clock, asked = Clock(), []
    assert foretell(products(clock, 0.001, 0.0, asked), 128, 1.0, clock) == pytest.approx(0.128)
    assert asked == [1, 1]


def test_reference_code_is_found_out_before_a_whole_call_begins():
    clock, asked = Clock(), []
    assert foretell(products(clock, 0.4, 0.0, asked), 512, 4.0, clock) == pytest.approx(204.8)
    assert asked == [1, 1, 4]
    assert clock.now == pytest.approx(2.4)


def test_fixed_costs_are_not_taken_for_the_cost_of_a_row():
    clock, asked = Clock(), []
    call = foretell(products(clock, 0.001, 0.1, asked), 128, 1.0, clock)
    assert call == pytest.approx(0.228)
    assert asked == [1, 1, 4]


def test_what_the_first_call_prepares_is_not_taken_for_its_cost():
    clock, asked = Clock(), []
    plain = products(clock, 0.001, 0.0, asked)

    def prepares(rows: int) -> None:
        clock.now += 0 if asked else 0.9
        plain(rows)

    assert foretell(prepares, 128, 1.0, clock) == pytest.approx(0.128)


def test_no_more_rows_are_tried_than_there_are():
    clock, asked = Clock(), []
    assert foretell(products(clock, 0.001, 1.0, asked), 6, 0.5, clock) == pytest.approx(6.006)
    assert asked == [1]
    clock, asked = Clock(), []
    assert foretell(products(clock, 0.03, 0.1, asked), 6, 0.25, clock) == pytest.approx(0.28)
    assert asked == [1, 1, 4, 6]


def test_slow_peers_have_fewer_rounds_and_the_slowest_none():
    budget = Budget(20.0)
    assert budget.rounds(0.01, beforehand=1, rounds=7) == 7
    assert budget.rounds(1.0, beforehand=1, rounds=7) == 6
    assert budget.rounds(4.0, beforehand=1, rounds=7) == 1
    assert budget.rounds(6.0, beforehand=1, rounds=7) == 0
    assert budget.rounds(0.0, beforehand=1, rounds=7) == 7
    slowest = budget.call(beforehand=1)
    assert budget.rounds(slowest, beforehand=1, rounds=7) == 1
    assert slowest == 20 / (1 + CALLS_A_ROUND)


def test_rounds_of_a_slow_way_are_spread_over_the_others():
    clock, order = Clock(), []

    def way(name):
        return [lambda: (order.append(name), clock.takes(0.2)())]

    ways = {"quick": way("q"), "slow": way("s")}
    timings = in_turns(ways, 4, cold=False, clock=clock, fewer={"slow": 2})
    assert "".join(order).replace("qqq", "q").replace("sss", "s") == "qsqqsq"
    assert len(timings["quick"].samples) == 8
    assert len(timings["slow"].samples) == 4


@pytest.mark.parametrize("peer", [TorchEager, TorchCompile, TorchBest])
def test_products_of_a_peer_are_those_that_it_runs(peer: type[Peer]):
    small = problem(8)
    try:
        found = peer().products(small, small.weights(1)[0])
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert found is not None
    outputs: Any = found(3)
    (q_low, kv_low), q = outputs
    cfg = small.cfg
    assert (q_low.shape, kv_low.shape) == ((3, cfg.q_lora_rank), (3, cfg.head_dim))
    assert q.shape == (3, cfg.q_width)
    weight = small.values["wq_a"].float().sum(0)
    torch.testing.assert_close(q_low[0].float(), weight, rtol=0.02, atol=0.1)


# -- the whole verb --------------------------------------------------------------------------------


class Sleeper(Peer):
    """A peer that is right, and slow in proportion to the tokens."""

    name = "sleeper"
    summary = "slow on purpose"
    each = 0.02

    def products(self, problem, weights):
        return lambda rows: time.sleep(self.each * rows)

    def build(self, problem, copies):
        right = problem.entry.reference(problem.values, problem.cfg, torch.float32)

        def call(x):
            time.sleep(self.each * problem.tokens)
            return tuple(right[name] for name in ("q", "kv", "qr", "qr_scale"))

        return [torch_call(call, problem.values["x"]) for _ in copies]


@pytest.fixture
def sleeper(monkeypatch):
    monkeypatch.setitem(engines.PEERS, "sleeper", Sleeper)
    monkeypatch.setattr("tilewright.bench.measure.BURST", 0.0)
    monkeypatch.setattr("tilewright.bench.measure.SETTLE", 0.0)

    def given(count, machine=None):
        gops = dict.fromkeys(("INT8", "BF16", "FP32"), 100.0)
        return peaks.Peaks(count, gops, dict.fromkeys(gops, "given"), 40.0)

    monkeypatch.setattr(peaks, "measure", given)


ASKED = ("decode", "--preset", "demo", "--threads", "1", "--peers", "sleeper")


def test_bench_skips_what_its_budget_does_not_cover_and_says_why(sleeper, tmp_path):
    file = tmp_path / "rows.json"
    result = invoke(
        *ASKED, "--tokens", "1,8", "--rounds", "2", "--peer-budget", "0.3", "--json", file
    )
    assert result.exit_code == 0, result.output
    quick, slow = json.loads(file.read_text())["rows"]
    assert quick["vs_sleeper"] > 0
    assert quick["peers"]["sleeper"]["calls"] == 4
    assert slow["vs_sleeper"] is None
    why = slow["peers"]["sleeper"]["skipped"]
    assert "too long for --peer-budget 0.3" in why
    assert f"skipped: sleeper: {why} (T = 8)" in result.output


def test_bench_gives_a_slow_peer_fewer_rounds(sleeper, tmp_path):
    file = tmp_path / "rows.json"
    invoke(*ASKED, "--tokens", "2", "--rounds", "9", "--peer-budget", "0.5", "--json", file)
    (found,) = json.loads(file.read_text())["rows"]
    assert 2 <= found["peers"]["sleeper"]["calls"] < 18
    assert found["calls"] >= 18


def test_a_budget_of_nothing_is_refused(sleeper):
    result = invoke(*ASKED, "--peer-budget", "0")
    assert result.exit_code == 2
    assert "--peer-budget" in result.output


def test_bench_says_what_it_does_as_often_as_it_announces(sleeper, capsys, monkeypatch):
    said = []
    monkeypatch.setattr(verb, "progress", lambda steps: _Recorder(said, steps))
    invoke(*ASKED, "--tokens", "1,2", "--rounds", "1")
    steps = Request(("decode",), "demo", (1, 2), (1,), peers=("sleeper",)).steps
    assert said[0] == str(steps)
    assert len(said) == 1 + steps
    assert any("sleeper" in line for line in said)


class _Recorder:
    def __init__(self, said, steps):
        self.said = said
        said.append(str(steps))

    def __enter__(self):
        return self.said.append

    def __exit__(self, *error):
        return None


def test_progress_is_lines_where_there_is_no_terminal(capsys):
    with verb.progress(2) as say:
        say("first")
        say("second")
    assert capsys.readouterr().err == "first\nsecond\n"


def test_one_reason_for_all_rows_is_told_once():
    rows = [row(t, 1e-4, 2e-4) for t in (1, 8)]
    assert verb._skipped(rows) == ["skipped: gone: why"]
    rows[1] = row(8, 1e-4, 2e-4)
    rows[1].peers["late"] = Result(skipped="slow")
    assert verb._skipped(rows) == ["skipped: gone: why", "skipped: late: slow (T = 8)"]


def test_a_png_is_drawn_where_matplotlib_is(tmp_path):
    pytest.importorskip("matplotlib")
    machine = {"cpu": "one", "name": "x", "peaks": []}
    file = tmp_path / "new" / "plot.png"
    plot.write(Report(machine, (row(1, 1e-4, 2e-4), row(8, 2e-4, 3e-4))), file)
    data = file.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert width > 800
    assert height > 400
