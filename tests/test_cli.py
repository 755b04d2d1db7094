"""The command line: what it prints, and the status it leaves with."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from golden_kernels import PythonKernel
from typer.testing import CliRunner

from tilewright.cli import check as check_module
from tilewright.cli.app import app, main
from tilewright.cli.console import seconds, size
from tilewright.cli.show import changes
from tilewright.errors import KernelError
from tilewright.models.deepseek_v4.registry import KERNELS, Entry, Inputs

DEMO_CHECK = ["check", "prefill_qkv_proj_rope", "--preset", "demo", "--no-baseline"]


def invoke(*arguments):
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def stand_in(monkeypatch):
    """Every kernel is its FP32 reference, after `spoil(outputs)`."""
    asked = []

    def install(spoil=lambda outputs: None):
        def build(entry, cfg):
            def operator(*arguments):
                names = [s.name for s in entry.specs(cfg, Inputs(1, start_pos=0))]
                values = dict(zip(names, arguments, strict=True))
                outputs = entry.reference(values, cfg, torch.float32)
                spoil(outputs)
                for name, tensor in outputs.items():
                    values[name].copy_(tensor)

            kernel = PythonKernel(operator)
            asked.append((entry.name, cfg.name, kernel.options))
            return kernel

        monkeypatch.setattr(Entry, "build", build)
        return asked

    return install


def test_check_prints_every_output_the_times_and_the_seed(stand_in):
    stand_in()
    result = invoke("check", "prefill", "--preset", "demo", "--start-pos", "128", "--seed", "5")
    assert result.exit_code == 0
    for word in (
        "pass",
        "q ",
        "kv",
        "qr_scale",
        "128 x 4 x 128",
        "seed 5",
        "start_pos 128",
        "compile",
        "run",
    ):
        assert word in result.output
    assert "FP32 Torch" in result.output
    assert "PASS" in result.output


def test_one_wrong_element_fails_the_check_and_is_shown(stand_in):
    def spoil(outputs):
        outputs["kv"][2, 40] += 1

    stand_in(spoil)
    result = invoke(*DEMO_CHECK, "--tokens", "7")
    assert result.exit_code == 1
    assert "FAIL" in result.output
    assert "[2, 40]" in result.output
    assert "1 (0.112%)" in result.output


def test_options_reach_the_kernel_and_its_inputs(stand_in):
    asked = stand_in()
    result = invoke(*DEMO_CHECK, "--backend", "interpreter", "--tokens", "3", "--rope", "yarn")
    assert result.exit_code == 0
    assert asked[0][2]["backend"] == "interpreter"
    assert "3 x 128" in result.output
    assert "rope yarn" in result.output


def test_check_all_runs_every_kernel_on_both_back_ends(stand_in):
    asked = stand_in()
    result = invoke("check", "all", "--preset", "demo", "--no-baseline", "--tokens", "4")
    assert result.exit_code == 0
    ran = {(name, options["backend"]) for name, _, options in asked}
    assert ran == {(name, backend) for name in KERNELS for backend in ("native", "interpreter")}
    assert "all passed" in result.output


def test_check_all_fails_if_one_kernel_does(stand_in):
    stand_in(lambda outputs: outputs["qr"].zero_())
    result = invoke("check", "all", "--preset", "demo", "--backend", "native", "--no-baseline")
    assert result.exit_code == 1
    assert "failed" in result.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["check", "attention"], "prefill_qkv_proj_rope"),
        ([*DEMO_CHECK, "--start-pos", "-1"], "wanted 0 to 3968"),
        ([*DEMO_CHECK, "--start-pos", "3969"], "wanted 0 to 3968"),
        ([*DEMO_CHECK, "--max-seq", "64"], "128 tokens do not fit"),
        ([*DEMO_CHECK, "--tokens", "0"], "--tokens"),
        ([*DEMO_CHECK, "--preset", "huge"], "'huge' is not one of"),
        (["check", "decode", "--preset", "demo", "--start-pos", "4000"], "wanted 0 to 3968"),
        (["show", "attention"], "prefill_qkv_proj_rope"),
    ],
)
def test_a_bad_option_is_refused_with_what_was_wanted(arguments, complaint):
    result = invoke(*arguments)
    assert result.exit_code == 2
    text = " ".join(word for word in result.output.split() if word != "│")
    assert complaint in text


def test_a_mistake_in_a_kernel_is_printed_without_a_traceback(monkeypatch, capsys):
    def fail(*_):
        raise KernelError("matmul needs one K, got 128 and 256", help="slice both alike")

    monkeypatch.setattr(check_module, "run_one", fail)
    with pytest.raises(SystemExit) as left:
        main(["check", "prefill"])
    assert left.value.code == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: matmul needs one K")
    assert "Traceback" not in complaint


def test_doctor_names_the_cpu_and_what_a_product_is_made_of():
    result = invoke("doctor")
    assert result.exit_code == 0
    for word in ("CPU", "caches", "INT8 product", "BF16 product", "llvmlite"):
        assert word in result.output


def test_importing_the_command_line_loads_neither_torch_nor_llvm():
    probe = (
        "import sys, tilewright.cli.app; "
        "print([m for m in ('torch', 'llvmlite', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_durations_and_sizes_have_a_unit_that_suits_them():
    assert [seconds(v) for v in (12e-6, 0.0149, 1.2)] == ["12 us", "14.9 ms", "1.20 s"]
    assert [size(v) for v in (48 << 10, 32 << 20)] == ["48 KiB", "32 MiB"]


def test_a_diff_shows_only_what_a_pass_changed():
    assert changes("a\nb", "a\nb", "x", "y") == "y changed nothing"
    assert changes("a\nb", "a\nc", "x", "y").splitlines()[-2:] == ["-b", "+c"]


# -- the kernels themselves ------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["interpreter", "native"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_passes_its_check(kernel, backend):
    options = ["--preset", "demo", "--backend", backend, "--tokens", "7", "--no-baseline"]
    result = invoke("check", kernel, "--start-pos", "4089", "--rope", "yarn", *options)
    assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.parametrize("start_pos", [0, 128, 1048576 - 128])
def test_prefill_at_full_size_passes_wherever_it_starts(start_pos):
    result = invoke("check", "prefill", "--start-pos", str(start_pos), "--no-baseline")
    assert result.exit_code == 0, result.output


def test_a_kernel_file_runs_its_own_check():
    command = [sys.executable, "-m", "tilewright.models.deepseek_v4.prefill_qkv_proj_rope"]
    options = ["--preset", "demo", "--start-pos", "128", "--tokens", "3", "--no-baseline"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "start_pos 128" in done.stdout
    assert "PASS" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["func prefill_qkv_proj_rope", "row_sum", '"attn_norm"']),
        (["--spans"], ["# steps.py:", "# prefill_qkv_proj_rope.py:"]),
        (["--stage", "lowered"], ["matmul_packed"]),
        (["--after", "tile_matmul", "--diff"], ["+++ after tile_matmul", "pack"]),
        (["--stage", "llvm"], ["define", "target triple"]),
        (["--stage", "asm"], [".text", "ret"]),
    ],
)
def test_show_prints_the_program_at_each_stage(options, words):
    result = invoke("show", "prefill", "--tokens", "3", *options)
    assert result.exit_code == 0
    for word in words:
        assert word in result.output


def test_show_refuses_a_pass_that_does_not_exist_with_those_that_do():
    result = invoke("show", "prefill", "--tokens", "1", "--after", "magic")
    assert result.exit_code == 2
    assert "tile_matmul" in result.output


def test_the_cache_is_shown_and_cleared(monkeypatch, tmp_path):
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "kernels"))
    from tilewright.runtime.cache import DiskCache, Entry

    assert f"{tmp_path}/kernels: 0 programs, 0 KiB" in invoke("cache", "info").output
    assert DiskCache(tmp_path / "kernels").put("a" * 64, Entry({}, bytes(3000)))
    assert "1 program, 3 KiB of 256 MiB" in invoke("cache", "info").output
    assert "1 program, 3 KiB" in invoke("doctor").output
    assert invoke("cache", "clear").output.startswith("removed 1 program, 3 KiB")
    assert list((tmp_path / "kernels").iterdir()) == []
    monkeypatch.setenv("TILEWRIGHT_CACHE", "0")
    assert "switched off by TILEWRIGHT_CACHE" in invoke("cache", "info").output


def test_a_folder_that_cannot_be_trusted_is_shown_and_not_cleared(monkeypatch, tmp_path):
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(0o777)
    (tmp_path / f"{'a' * 64}.kernel").write_text("another's")
    assert "others may write" in invoke("cache", "info").output
    assert invoke("cache", "clear").exit_code == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("verb", "defaults"),
    [
        (["check"], ["flash, or that of the checkpoint", "native; all: native", "its first"]),
        (["accuracy"], ["flash, or what config.json says", "plain, or the layer's"]),
        (["bench"], ["all cores", "where they are installed"]),
        (["checkpoint", "make"], ["1GiB"]),
    ],
)
def test_help_says_the_defaults_and_has_examples(verb, defaults):
    result = CliRunner().invoke(app, [*verb, "--help"], terminal_width=240, env={"COLUMNS": "240"})
    assert result.exit_code == 0
    words = " ".join(result.output.split())
    for default in defaults:
        assert default in words
    assert words.count(f" tilewright {' '.join(verb)} ") > 1, "no examples"


@pytest.mark.parametrize("verb", [["accuracy"], ["bench"]])
def test_a_file_that_could_not_be_written_is_refused_before_the_work(verb, tmp_path):
    (tmp_path / "file").write_text("")
    for file, found in (
        (tmp_path / "file" / "a.json", "cannot be made"),
        (tmp_path, "is a folder"),
    ):
        result = CliRunner().invoke(app, [*verb, "--json", str(file)], env={"COLUMNS": "400"})
        assert result.exit_code == 2
        assert found in result.output
