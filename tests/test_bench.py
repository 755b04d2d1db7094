"""`tilewright bench`: what is counted and reported is right; how fast anything is, is not tested."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import weakref
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import typer
from llvmlite import ir
from typer.testing import CliRunner

from tilewright.bench import engines, peaks, plot, run
from tilewright.bench.measure import Timing, in_turns
from tilewright.bench.peaks import Peaks
from tilewright.bench.peers import Plain, TorchBest, TorchEager, Unavailable, torch_threads
from tilewright.bench.problem import OUTPUTS, Problems
from tilewright.bench.results import Report, Result, Row
from tilewright.bench.roofline import roof, work_of
from tilewright.cli import bench as verb
from tilewright.cli.app import app
from tilewright.codegen.llvm.microkernel import choose
from tilewright.dtypes import INT8
from tilewright.errors import ArgumentValueError
from tilewright.machine import host
from tilewright.models.deepseek_v4.config import DEMO, FLASH
from tilewright.models.deepseek_v4.registry import KERNELS, find
from tilewright.runtime import engine, threads
from tilewright.runtime.memory import Pages

GOPS = {"INT8": 1000.0, "BF16": 500.0, "FP32": 250.0}
ROUND = Peaks(2, GOPS, dict.fromkeys(GOPS, "given"), 40.0)


def problem(tokens, kernel="prefill"):
    return Problems(find(kernel), DEMO, seed=0).of(tokens)


class Clock:
    """Time that passes only when a call says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def takes(self, seconds):
        def call():
            self.now += seconds

        return call


# -- the roofline ----------------------------------------------------------------------------------


def test_the_work_of_flash_is_what_the_design_says():
    work = work_of(FLASH, 128)
    assert work.int8_ops == 2 * 128 * 1024 * 32768
    assert work.bf16_ops == 2 * 128 * 4096 * 1536
    assert work.weight_bytes == 33_554_432 + 12_582_912


def test_a_large_call_is_bound_by_the_sum_of_both_products():
    limit = roof(work_of(FLASH, 128), ROUND, read=1e-3)
    assert limit.bound_by == "products"
    assert limit.seconds == pytest.approx(8.589934592 / 1000 + 1.610612736 / 500)


def test_a_small_call_is_bound_by_reading_its_weights():
    limit = roof(work_of(FLASH, 1), ROUND, read=1e-3)
    assert (limit.bound_by, limit.seconds) == ("memory", 1e-3)


def test_the_better_of_two_measurements_is_taken_figure_by_figure():
    before = replace(ROUND, way=dict.fromkeys(GOPS, "before"))
    after = replace(
        ROUND,
        gops={"INT8": 900.0, "BF16": 600.0, "FP32": 250.0},
        way=dict.fromkeys(GOPS, "after"),
        memory_gbs=50.0,
    )
    best = before.best(after)
    assert (best.gops["INT8"], best.way["INT8"]) == (1000.0, "before")
    assert (best.gops["BF16"], best.way["BF16"]) == (600.0, "after")
    assert best.memory_gbs == 50.0


# -- peaks -----------------------------------------------------------------------------------------


def test_the_register_loop_multiplies_as_often_as_it_is_counted():
    """Every accumulator lane grows by the same number each turn when all bytes are ones."""
    kernel, rows, columns, turns = choose(INT8, host()), 4, 3, 5
    if host().vector_registers == 16:
        columns = 2
    module = ir.Module("registers")
    peaks.emit_registers(module, kernel, rows, columns)
    code = engine.load(str(module), ["worker"])
    work = Pages(peaks.LINE + 2 * peaks.SLICE)
    ctypes.memset(work.address, 1, peaks.LINE + 2 * peaks.SLICE)
    work.words(0, 1)[0] = turns
    threads.team(code["worker"], work.address, 2)
    for tid in range(2):
        at = work.address + peaks.LINE + tid * peaks.SLICE + 2048
        for i in range(rows * columns):
            lanes = (ctypes.c_int32 * kernel.isa.part).from_address(at + i * peaks.LINE)
            assert set(lanes) == {turns * kernel.k_group * (0x0101 if kernel.widens else 1)}


@pytest.mark.parametrize("streams", peaks.STREAMS)
def test_the_reader_reads_every_byte_once_a_pass(streams):
    nbytes, team, passes = 2 * max(peaks.STREAMS) * 8 * peaks.LINE * 3, 2, 4
    buffer = Pages(nbytes)
    words = (ctypes.c_int32 * (nbytes // 4)).from_address(buffer.address)
    module = ir.Module("read")
    peaks.emit_reader(module, streams)
    code = engine.load(str(module), ["worker"])
    data = (ctypes.c_uint64 * (4 + 8 * team))(buffer.address, nbytes, passes)
    for i in (0, 17, len(words) // 2 - 1, len(words) // 2, len(words) - 1):
        words[i] = 1000 + i
        threads.team(code["worker"], ctypes.addressof(data), team)
        sums = [
            ctypes.c_int32.from_address(ctypes.addressof(data) + 32 + 64 * t) for t in range(team)
        ]
        reader = 0 if i < len(words) // 2 else 1
        assert [s.value for s in sums] == [passes * words[i] * (t == reader) for t in range(team)]
        words[i] = 0


def test_a_reader_keeps_its_buffer_and_every_copy_of_the_weights_has_one():
    buffer = peaks.Buffer(10_000, 2)
    pages, read = weakref.ref(buffer.pages), buffer.reader(1)
    assert buffer.nbytes >= 10_000
    del buffer
    gc.collect()
    assert pages() is not None
    read()
    del read
    gc.collect()
    assert pages() is None
    for calls in run._readers(10_000, 2, copies=3).values():
        assert len({call.func.__self__.pages.address for call in calls}) == 3


def test_every_product_has_a_peak_and_says_what_reached_it(monkeypatch):
    monkeypatch.setattr(peaks, "PATIENCE", 0.002)
    monkeypatch.setattr(peaks, "FAR", 1)
    found = peaks.measure(1, replace(host(), l3=1 << 20))
    assert set(found.gops) == {"INT8", "BF16", "FP32"}
    assert all(rate > 0 for rate in found.gops.values())
    assert "registers" in found.way["INT8"] or "tile" in found.way["INT8"]
    assert found.memory_gbs > 0


# -- timing ----------------------------------------------------------------------------------------


def test_ways_take_turns_and_each_round_begins_with_the_next():
    clock, order = Clock(), []

    def way(name, seconds):
        step = clock.takes(seconds)
        return [lambda: (order.append(name), step())]

    timings = in_turns({"a": way("a", 0.2), "b": way("b", 0.3)}, 2, cold=False, clock=clock)
    # One call to settle and two timed: both are longer than a burst.
    assert order == [*"aaa", *"bbb", *"bbb", *"aaa"]
    assert timings["a"].samples == pytest.approx([0.2] * 4)
    assert timings["b"].median == pytest.approx(0.3)


def test_cold_calls_rotate_through_the_copies_and_only_the_first_is_not_timed():
    clock, order = Clock(), []
    copies = [lambda i=i: (order.append(i), clock.takes(0.04)()) for i in range(3)]
    timings = in_turns({"ours": copies}, 2, cold=True, clock=clock)
    assert order == [0, 1, 2, 0, 1, 2, 0, 1]
    assert len(timings["ours"].samples) == 6


def test_percentiles_lie_between_neighbours_in_proportion():
    timing = Timing((4.0, 1.0, 3.0, 2.0, 5.0))
    assert timing.median == 3.0
    assert timing.percentile(0.1) == pytest.approx(1.4)
    assert timing.percentile(0.9) == pytest.approx(4.6)
    assert Timing((7.0,)).percentile(0.9) == 7.0


# -- outputs are judged before anything is timed ---------------------------------------------------


BENCHED = [name for name, e in KERNELS.items() if e.query == "int8" and not e.cached]


@pytest.mark.parametrize("kernel", BENCHED)
def test_outputs_are_judged_in_parts_as_they_would_be_whole(kernel):
    several = problem(131, kernel)
    outputs = several.entry.reference(several.values, DEMO, torch.float32)
    assert several.judge(outputs).passed
    outputs["q"][130, 3, 7] += 1.0
    outputs["kv"][129, 5] = float("nan")
    verdict = several.judge(outputs)
    assert not verdict.passed
    assert verdict.within["q"] == pytest.approx(1 - 1 / (131 * 4 * 128), abs=1e-12)
    assert verdict.within["kv"] == pytest.approx(1 - 1 / (131 * 128), abs=1e-12)
    assert several.judge(outputs, rows=128).passed


def test_eager_torch_gives_the_operator_and_each_copy_reads_its_own_weights():
    small = problem(3)
    copies = small.weights(2)
    copies[1]["wkv"].zero_()
    first, second = TorchEager().build(small, copies)
    within = small.judge(first()).within
    assert min(within.values()) > 0.97  # it rounds to BF16 between the products and the norms
    assert first()["kv"].any()
    assert not second()["kv"].any()


def test_a_plain_module_without_the_bf16_rounding_passes_every_check():
    class Wide(Plain):
        def down(self, x_norm):
            return x_norm.float() @ self.wq_a.float(), x_norm.float() @ self.wkv.float()

    small = problem(8)
    outputs = dict(zip(OUTPUTS, Wide(small, small.weights(1)[0])(small.values["x"]), strict=True))
    assert small.judge(outputs).passed


@pytest.mark.slow
@pytest.mark.parametrize("peer", [p for p in engines.PEERS if p != "torch_eager"])
def test_every_peer_that_runs_here_gives_the_operator_with_each_copy_of_the_weights(peer):
    small = problem(8, "decode")
    copies = small.weights(2)
    copies[1]["wq_b"].zero_()
    try:
        first, second = engines.PEERS[peer]().build(small, copies)
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert min(small.judge(first()).within.values()) > 0.95
    assert first()["q"].any()
    assert not second()["q"].any()


def test_a_package_that_is_not_there_is_a_reason_and_not_an_error():
    with pytest.raises(Unavailable, match="not installed"):
        engines.need("tilewright_no_such_package")


def test_without_a_cxx_compiler_the_compiled_peers_say_so(monkeypatch):
    import torch._inductor.cpp_builder as builder
    from torch._inductor.exc import InvalidCxxCompiler

    def missing(*_):
        raise InvalidCxxCompiler

    monkeypatch.setattr(builder, "get_cpp_compiler", missing)
    for peer in (engines.PEERS["torch_compile"], TorchBest):
        with pytest.raises(Unavailable, match="C\\+\\+ compiler"):
            peer().build(problem(1), [])


def test_threads_of_torch_are_given_back():
    before = torch.get_num_threads()
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


# -- the whole verb --------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Peaks are given and bursts are single calls; the kernels and Torch run for real."""

    def given(count, machine=None):
        return replace(ROUND, threads=count)

    monkeypatch.setattr(peaks, "measure", given)
    monkeypatch.setattr("tilewright.bench.measure.BURST", 0.0)
    monkeypatch.setattr("tilewright.bench.measure.SETTLE", 0.0)


def invoke(*arguments):
    result = CliRunner().invoke(app, ["bench", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_bench_writes_a_row_for_every_size_and_thread_count(quick, tmp_path):
    file, picture = tmp_path / "new" / "rows.json", tmp_path / "plot.html"
    result = invoke(
        *("decode", "--preset", "demo", "--tokens", "1,5", "--threads", "1,2", "--rounds", "1"),
        *("--peers", "torch_eager,zentorch", "--unbound", "--json", file, "--plot", picture),
    )
    assert result.exit_code == 0, result.output
    record = json.loads(file.read_text())
    rows = record["rows"]
    assert [(r["tokens"], r["threads"], r["bound"]) for r in rows] == [
        (t, n, bound) for t in (1, 5) for n in (1, 2) for bound in (True, False)
    ]
    assert {p["threads"] for p in record["machine"]["peaks"]} == {1, 2}
    for row in rows:
        assert (row["kernel"], row["preset"]) == ("qkv_proj_rope", "demo")
        assert row["within_tolerance"] == 1.0
        assert row["passed"]
        assert row["p10_us"] <= row["median_us"] <= row["p90_us"]
        assert row["roofline_share"] == pytest.approx(row["roofline_us"] / row["median_us"])
        assert row["roofline_us"] >= row["read_us"] > 0
        eager = row["peers"]["torch_eager"]
        assert row["vs_torch_eager"] == pytest.approx(eager["median_us"] / row["median_us"])
        assert 0.97 < eager["within_tolerance"]["q"] <= 1
        assert row["vs_torch_best"] is None
        if "skipped" in row["peers"]["zentorch"]:
            assert row["vs_zentorch"] is None
    assert picture.read_text().count("<svg") == 2


def test_bench_says_where_a_kernel_is_wrong_and_leaves_with_status_1(quick, monkeypatch):
    def wrong(problem, weights, count):
        def call():
            outputs = problem.entry.reference(problem.values, DEMO, torch.float32)
            outputs["q"][0] = 0
            return outputs

        return call

    monkeypatch.setattr(run, "_bound", wrong)
    asked = ("--preset", "demo", "--tokens", "2", "--rounds", "1", "--peers", "none")
    result = invoke(*asked)
    assert result.exit_code == 1
    assert "FAIL" in result.output


def test_copies_that_do_not_agree_to_the_bit_fail():
    small = problem(2)
    right = small.entry.reference(small.values, DEMO, torch.float32)
    other = {**right, "kv": right["kv"].clone()}
    other["kv"][1, 3] = torch.nextafter(right["kv"][1, 3], torch.tensor(9.0).bfloat16())
    assert run._judge_ours(small, [lambda: right, lambda: right]).passed
    assert not run._judge_ours(small, [lambda: right, lambda: other]).passed


def test_cold_takes_as_many_copies_as_no_cache_can_hold():
    machine = replace(host(), l3=32 << 20)
    work = work_of(FLASH, 1)
    copies = run.copies_for(work, machine)
    assert copies * work.weight_bytes >= 3 * machine.l3
    assert run.copies_for(work, replace(machine, l3=1 << 20)) == 2
    with pytest.raises(ArgumentValueError, match="larger preset"):
        run.copies_for(work_of(DEMO, 1), machine)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--tokens", "1,x"), "numbers of 1 or more"),
        (("--tokens", "0"), "numbers of 1 or more"),
        (("--peers", "torch_ager"), "torch_ager"),
        (("--plot", "plot.pdf"), ".html"),
        (("--cold",), "larger preset"),
        (("no_such_kernel",), "no_such_kernel"),
        (("prefill_bf16",), "has no INT8 product"),
        (("cached",), "writes a cache too"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_with_status_2(quick, arguments, complaint):
    result = invoke(*arguments, "--preset", "demo")
    assert result.exit_code == 2
    assert complaint in result.output


def test_numbers_are_taken_once_and_in_order():
    assert verb.counts("8, 1,8", "--tokens") == (8, 1)
    with pytest.raises(typer.BadParameter):
        verb.counts("-1", "--tokens")


# -- the picture -----------------------------------------------------------------------------------


def row(tokens, ours, peer, bound=True):
    return Row(
        kernel="prefill_qkv_proj_rope",
        preset="flash",
        tokens=tokens,
        threads=2,
        bound=bound,
        cold=False,
        ours=Result(Timing((ours,)), {"q": 1.0, "kv": 1.0}),
        peers={"torch_<b>": Result(Timing((peer,)), {"q": 0.9}), "gone": Result(skipped="why")},
        roofline_us=100.0,
        bound_by="products",
        read=Timing((50e-6,)),
        ops=1,
        weight_bytes=1,
    )


def test_the_chart_has_a_line_for_everyone_who_was_measured():
    report = Report({}, (row(8, 200e-6, 400e-6), row(1, 100e-6, 800e-6)))
    (chart,) = plot.charts(report)
    lines = {line.name: line.points for line in chart.lines}
    assert set(lines) == {"tilewright", "torch_<b>"}
    assert lines["tilewright"] == ((1, pytest.approx(1.0)), (8, pytest.approx(0.5)))
    assert lines["torch_<b>"] == ((1, pytest.approx(0.125)), (8, pytest.approx(0.25)))


def test_the_page_needs_nothing_from_elsewhere_and_escapes_names():
    machine = {"cpu": "A & B", "name": "x", "peaks": []}
    text = plot.page(Report(machine, (row(1, 1e-4, 2e-4),)))
    assert "A &amp; B" in text
    assert "torch_&lt;b&gt;" in text
    assert "http" not in text
    assert "<script" not in text


def test_names_of_lines_that_end_together_do_not_cover_each_other():
    heights = plot.label_heights([100.0, 101.0, 40.0, 100.5])
    assert heights[2] == 40.0
    assert all(b - a >= plot.LABEL_GAP for a, b in pairwise(sorted(heights)))
    assert heights[0] < heights[3] < heights[1]


def test_a_png_without_matplotlib_is_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = invoke("--preset", "demo", "--plot", "plot.png")
    assert result.exit_code == 2
    assert "matplotlib" in result.output
    assert "peaks" not in result.output
