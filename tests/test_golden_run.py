"""The harness: stages, roles, replay, poison and guards."""

from __future__ import annotations

import pytest
import torch
from golden_kernels import PythonKernel

import tilewright.language as pl
from tilewright.golden import RunConfig, ScalarSpec, TensorSpec, close, run, run_jit


def double(x, y):
    y.copy_(x * 2)


def doubled(values):
    values["y"].copy_(values["x"] * 2)


def specs(shape=(4, 8)):
    return [
        TensorSpec("x", shape, torch.float32, torch.randn),
        TensorSpec("y", shape, torch.float32, is_output=True),
    ]


def test_a_right_kernel_passes_and_says_so_stage_by_stage(capsys):
    result = run_jit(PythonKernel(double), specs(), golden_fn=doubled)
    assert result.passed
    assert str(result).startswith("PASS (")
    printed = [line.split(" (")[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == [
        "[RUN] compile ...",
        "[RUN] compile done",
        "[RUN] generate inputs ...",
        "[RUN] generate inputs done",
        "[RUN] compute golden ...",
        "[RUN] compute golden done",
        "[RUN] runtime ...",
        "[RUN] runtime done",
        "[RUN] validate ...",
        "[RUN]   'y' PASS  shape=(4, 8) dtype=torch.float32",
        "[RUN] validate done",
        "[RUN] PASS",
    ]


def test_a_wrong_element_is_named_with_both_values_and_there_is_no_final_pass(capsys):
    def wrong(x, y):
        y.copy_(x * 2)
        y[1, 3] += 1

    result = run_jit(PythonKernel(wrong), specs(), golden_fn=doubled)
    assert not result.passed
    assert result.error.startswith("Output(s) does not match golden: ['y']")
    (report,) = result.outputs
    assert report.worst.index == (1, 3)
    assert report.worst.actual - report.worst.expected == pytest.approx(1)
    assert report.share == 1 / 32
    assert "[RUN]   'y' FAIL" in (out := capsys.readouterr().out)
    assert "[RUN] PASS" not in out


def test_without_a_golden_nothing_is_compared_and_the_run_says_so(capsys):
    assert run_jit(PythonKernel(lambda x, y: None), specs()).passed
    assert "validation skipped" in capsys.readouterr().out


def test_compile_only_stops_before_the_kernel_runs():
    kernel = PythonKernel(double)
    assert run_jit(kernel, specs(), golden_fn=doubled, compile_only=True).passed
    assert (kernel.specialized, kernel.calls) == (1, 0)


def test_runtime_dir_with_compile_only_is_a_failed_result(tmp_path):
    result = run_jit(PythonKernel(double), specs(), compile_only=True, runtime_dir=tmp_path)
    assert result.error == "runtime_dir is incompatible with compile_only"


def test_a_finished_build_is_not_compiled_again(tmp_path):
    kernel = PythonKernel(double)
    assert run_jit(kernel, specs(), golden_fn=doubled, runtime_dir=tmp_path).passed
    assert kernel.specialized == 0


@pytest.mark.parametrize("option", ["runtime_cfg", "compile_cfg"])
def test_an_unknown_setting_is_a_type_error_that_lists_the_known_ones(option):
    with pytest.raises(TypeError, match=r"unknown keys \['platfrom'\].*platform"):
        run_jit(PythonKernel(double), specs(), **{option: {"platfrom": "a2a3"}})


def test_settings_of_the_original_are_labels_and_ours_reach_the_kernel():
    kernel = PythonKernel(double)
    cfg = {
        "platform": "a2a3",
        "device_id": 0,
        "enable_l2_swimlane": 1,
        "backend": "native",
        "threads": 2,
    }
    assert run_jit(kernel, specs(), golden_fn=doubled, runtime_cfg=cfg).passed
    assert kernel.options == {"backend": "native", "threads": 2}


def test_what_was_asked_of_a_device_is_answered_in_a_line_each(capsys):
    cfg = {"platform": "a5sim", "device_id": 2, "enable_l2_swimlane": 0, "enable_pmu": True}
    run_jit(PythonKernel(double), specs(), golden_fn=doubled, runtime_cfg=cfg)
    assert capsys.readouterr().out.splitlines()[:2] == [
        "[RUN]   platform a5sim, device_id 2: this CPU stands in for it",
        "[RUN]   enable_pmu: no trace is written, tilewright makes none yet",
    ]


def test_the_golden_is_safe_from_a_kernel_that_spoils_its_inputs():
    def spoil(x, y):
        x.zero_()
        y.zero_()

    assert not run_jit(PythonKernel(spoil), specs(), golden_fn=doubled).passed


def test_the_kernel_is_safe_from_a_golden_that_spoils_its_inputs():
    def spoiling(values):
        doubled(values)
        values["x"].zero_()

    assert run_jit(PythonKernel(double), specs(), golden_fn=spoiling).passed


def test_an_in_out_starts_from_its_initial_value_on_both_sides_and_in_every_repeat():
    state = [TensorSpec("state", (3,), torch.int32, torch.arange(3), is_output=True)]

    def count(state):
        state += 1

    def counted(values):
        values["state"] += 1

    assert run_jit(PythonKernel(count), state, golden_fn=counted, strict=True, repeats=3).passed


def test_scalars_reach_kernel_and_golden_as_python_numbers():
    def fill(n, y):
        assert type(n) is int
        y.fill_(n)

    def filled(values):
        assert type(values["n"]) is int
        values["y"].fill_(values["n"])

    both = [ScalarSpec("n", torch.int32, 7), TensorSpec("y", (2,), torch.int32, is_output=True)]
    assert run_jit(PythonKernel(fill), both, golden_fn=filled).passed


def test_the_same_seed_gives_the_same_inputs_and_is_printed(capsys):
    seen = []
    for _ in range(2):
        run_jit(PythonKernel(lambda x, y: seen.append(x.clone())), specs(), seed=3)
    assert torch.equal(*seen)
    assert "seed 3" in capsys.readouterr().out


def test_a_saved_run_replays_without_generating_or_computing(tmp_path, capsys):
    saved = run_jit(
        PythonKernel(double), specs(), golden_fn=doubled, save_data=True, work_dir=tmp_path
    )
    assert saved.work_dir == tmp_path

    def never(values):
        raise AssertionError("the golden was computed")

    seen = []

    def record(x, y):
        seen.append(x.clone())
        double(x, y)

    data = tmp_path / "data"
    assert run_jit(PythonKernel(record), specs(), golden_fn=never, golden_data=data).passed
    assert torch.equal(seen[0], torch.load(data / "in" / "x.pt"))
    assert "cache hit" in capsys.readouterr().out


def test_a_replay_lists_the_files_it_lacks(tmp_path):
    result = run_jit(PythonKernel(double), specs(), golden_data=tmp_path)
    assert not result.passed
    assert "in/x.pt" in result.error
    assert "out/y.pt" in result.error


def test_a_replayed_scalar_of_another_dtype_is_an_error(tmp_path):
    one = [ScalarSpec("n", torch.int32, 1), *specs()]
    run_jit(
        PythonKernel(lambda n, x, y: double(x, y)),
        one,
        golden_fn=doubled,
        save_data=True,
        work_dir=tmp_path,
    )
    other = [ScalarSpec("n", torch.int64, 1), *specs()]
    with pytest.raises(ValueError, match=r"n\.pt holds .* torch\.int32"):
        run_jit(PythonKernel(double), other, golden_data=tmp_path / "data")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16])
@pytest.mark.parametrize("hole", [(0, 0), (1, 5), (3, 7)])
def test_strict_finds_an_element_that_is_never_written(dtype, hole):
    def leave_a_hole(y):
        before = y[hole].clone()
        y.fill_(0x4D)  # the poison itself, so that only the second run can tell
        y[hole] = before

    out = [TensorSpec("y", (4, 8), dtype, is_output=True)]
    result = run_jit(
        PythonKernel(leave_a_hole),
        out,
        golden_fn=lambda v: v["y"].fill_(0x4D),
        strict=True,
        repeats=1,
    )
    assert not result.passed
    assert "'y'" in result.error


@pytest.mark.parametrize(("offset", "side"), [(-1, "before"), (4, "after")])
def test_strict_finds_a_write_outside_the_output(offset, side):
    def overhang(y):
        y.fill_(1)
        first = y.storage_offset() + offset
        torch.as_strided(y, (1,), (1,), first).fill_(1)

    out = [TensorSpec("y", (4,), torch.float32, is_output=True)]
    result = run_jit(PythonKernel(overhang), out, golden_fn=lambda v: v["y"].fill_(1), strict=True)
    assert not result.passed
    assert f"bytes {side} its start" in result.error


def test_strict_finds_a_kernel_that_writes_to_an_input():
    def spoil(x, y):
        double(x, y)
        x[0, 0] += 1

    result = run_jit(PythonKernel(spoil), specs(), golden_fn=doubled, strict=True)
    assert result.error == "'x': the kernel wrote to this input"


def test_a_policy_given_another_output_expects_what_follows_from_it():
    def halves(code, value):
        code.fill_(3)  # the golden says 2
        value.fill_(1.5)

    def golden(values):
        values["code"].fill_(2)
        values["value"].fill_(1.0)

    two = [
        TensorSpec("code", (4,), torch.int8, is_output=True),
        TensorSpec("value", (4,), torch.float32, is_output=True),
    ]
    from_code = close(rtol=1e-6).given(
        "code", derive=lambda case: (case.actual["code"] / 2, "from the code emitted")
    )
    lenient = {"code": close(atol=1), "value": from_code}
    result = run_jit(PythonKernel(halves), two, golden_fn=golden, compare_fn=lenient)
    assert result.passed
    assert result.outputs[1].notes == ("from the code emitted",)
    strict = {"code": close(atol=0.5), "value": from_code}
    result = run_jit(PythonKernel(halves), two, golden_fn=golden, compare_fn=strict)
    assert [report.passed for report in result.outputs] == [False, False]


def test_a_bench_times_what_comes_after_the_warm_up(monkeypatch, capsys):
    for name, value in (("", "1"), ("_ROUNDS", "5"), ("_WARMUP", "2")):
        monkeypatch.setenv(f"PYPTO_BENCH{name}", value)
    kernel = PythonKernel(double)
    result = run_jit(kernel, specs(), golden_fn=doubled)
    assert (kernel.calls, len(result.bench.warm)) == (1 + 2 + 5, 5)
    assert "median of 5 calls" in capsys.readouterr().out


def test_a_seed_from_outside_serves_runs_that_name_none(monkeypatch, capsys):
    monkeypatch.setenv("TILEWRIGHT_SEED", "11")
    assert run_jit(PythonKernel(double), specs(), golden_fn=doubled).seed == 11
    assert run_jit(PythonKernel(double), specs(), golden_fn=doubled, seed=4).seed == 4
    printed = capsys.readouterr().out
    assert "seed 11" in printed
    assert "seed 4" in printed


def test_run_without_a_program_says_what_it_wants():
    with pytest.raises(TypeError, match=r"(?s)@pl\.program.*run_jit"):
        run(double, specs())


def test_a_failing_kernel_is_not_a_result_but_an_exception():
    def fail(x, y):
        raise IndexError("row 9 of 4")

    with pytest.raises(IndexError, match="row 9"):
        run_jit(PythonKernel(fail), specs(), golden_fn=doubled)


@pl.jit
def sums_and_doubles(x: pl.Tensor[[4, 8], pl.FP32]):
    doubled = pl.create_tensor([4, 8], dtype=pl.FP32)
    with pl.at(level=pl.Level.CORE_GROUP):
        doubled[:, :] = pl.mul(x, 2.0)
    return pl.row_sum(doubled), doubled


def returning(*outputs: tuple[str, list[int]]) -> list[TensorSpec]:
    made = [TensorSpec(name, shape, torch.float32, is_output=True) for name, shape in outputs]
    return [TensorSpec("x", [4, 8], torch.float32, torch.ones), *made]


@pytest.mark.parametrize("strict", [False, True])
def test_results_of_a_kernel_in_return_style_are_judged_by_the_specs_that_follow(strict):
    def golden(values):
        values["sums"][:] = 16
        values["doubled"][:] = 2

    specs = returning(("sums", [4, 1]), ("doubled", [4, 8]))
    assert run_jit(sums_and_doubles, specs, golden, strict=strict, repeats=1).passed

    def wrong(values):
        golden(values)
        values["doubled"][3, 7] = 3

    result = run_jit(sums_and_doubles, specs, wrong, strict=strict)
    assert "['doubled']" in str(result.error)


def test_results_that_the_specs_do_not_foresee_are_named():
    with pytest.raises(
        ValueError, match=r"takes 1 arguments and returns 2, wanted sums \[4, 1\]\n"
    ):
        run_jit(sums_and_doubles, returning(("sums", [4, 1])))
    with pytest.raises(ValueError, match=r"returns \[4, 1\] torch.float32 for 'doubled', wanted"):
        run_jit(sums_and_doubles, returning(("doubled", [4, 8]), ("sums", [4, 1])))


def test_a_golden_of_an_older_draft_takes_tensors_and_params():
    def golden(tensors, params):
        assert not params
        tensors["y"][:] = tensors["x"] * 2

    config = RunConfig(platform="a2a3sim", rtol=1e-6, strategy="Default", backend_type="910B")
    assert run(PythonKernel(double), specs(), golden=golden, config=config).passed
    assert run(program=PythonKernel(double), tensor_specs=specs(), golden=doubled).passed


def test_settings_of_an_older_draft_are_those_of_a_run(capsys):
    def nearly(x, y):
        y.copy_(x * 2.01)

    devices = {"platform": "a2a3sim", "device_id": 3, "runtime_profiling": True}
    loose = RunConfig(rtol=0.1, atol=0.1, compile={"dump_passes": True}, runtime=devices)
    given = {"tensor_specs": specs(), "golden_fn": doubled}
    assert run_jit(PythonKernel(nearly), **given, config=loose).passed
    printed = capsys.readouterr().out
    assert "platform a2a3sim, device_id 3: this CPU stands in for it" in printed
    assert "runtime_profiling: no trace is written" in printed
    assert not run_jit(PythonKernel(nearly), **given, config=loose, rtol=0, atol=0).passed
    only = run_jit(PythonKernel(nearly), specs(), doubled, config=RunConfig(codegen_only=True))
    assert only.passed
    assert not only.outputs


def test_a_setting_of_another_device_is_said_to_do_nothing_and_a_slip_is_refused(capsys):
    assert RunConfig(pto_isa_commit="3186c381").keywords() == RunConfig().keywords()
    assert "pto_isa_commit: RunConfig takes it, it does nothing here" in capsys.readouterr().out
    with pytest.raises(TypeError, match=r"no 'rtoll'(?s:.*)did you mean rtol\?"):
        RunConfig(rtoll=1e-3)
    with pytest.raises(TypeError, match="config is a dict, wanted a RunConfig"):
        run(PythonKernel(double), specs(), doubled, config={"rtol": 1e-3})
