"""`tilewright run`: scripts of other people, unchanged, through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

from tilewright.cli.app import main
from tilewright.errors import ArgumentValueError
from tilewright.scripts.batch import Settings, scripts_in
from tilewright.scripts.names import installed

SCRIPTS = Path(__file__).parent / "scripts"
EXAMPLES = SCRIPTS / "examples"
REPOSITORY = Path(__file__).parents[1]


def tilewright(*arguments: object, **options):
    """One command in a process of its own, as somebody at a prompt has it."""
    command = [sys.executable, "-m", "tilewright", *map(str, arguments)]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(REPOSITORY)]))
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, **options)


def refused(*arguments: object) -> int | str | None:
    """The status that a command leaves with, in this process."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return left.value.code


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(dedent(text), encoding="utf-8")
    return path


# -- one script ------------------------------------------------------------------------------------


def test_one_script_is_shown_live_with_device_words_explained():
    flags = ["-p", "a2a3", "-d", "0", "--enable-l2-swimlane"]
    done = tilewright("run", SCRIPTS / "layer_norm.py", "--seed", 3, "--", *flags)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" (")[0] for line in done.stdout.splitlines()]
    assert lines[:-1] == [
        "[RUN]   platform a2a3, device_id 0: this CPU stands in for it",
        "[RUN]   enable_l2_swimlane: no trace is written, tilewright makes none yet",
        "[RUN] compile ...",
        "[RUN] compile done",
        "[RUN] generate inputs ...",
        "[RUN]   seed 3",
        "[RUN] generate inputs done",
        "[RUN] compute golden ...",
        "[RUN] compute golden done",
        "[RUN] runtime ...",
        "[RUN] runtime done",
        "[RUN] validate ...",
        "[RUN]   'y' PASS  shape=(32, 192) dtype=torch.float32",
        "[RUN] validate done",
        "[RUN] PASS",
    ]
    assert lines[-1].startswith("pass  ")


def test_a_script_finds_its_siblings_from_any_folder(tmp_path):
    script = SCRIPTS / "rms_norm" / "rms_norm.py"
    done = tilewright("run", script, "--backend", "interpreter", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_wrong_output_fails_with_the_script_s_own_status_and_words():
    done = tilewright("run", SCRIPTS / "wrong_sign.py")
    assert done.returncode == 1
    assert "'c': 128/128 elements mismatch" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("fail  ")
    assert last.endswith("wrong_sign: Output(s) does not match golden: ['c']")


def test_what_cannot_run_is_said_in_full_before_anything_runs():
    done = tilewright("run", SCRIPTS / "three_mistakes.py")
    assert done.returncode == 1
    for place in ("three_mistakes.py:12:17", "three_mistakes.py:20:14", "three_mistakes.py:21:9"):
        assert f"{place}: error: " in done.stdout
    assert "help: did you mean pl.row_sum?" in done.stdout
    assert "this script has begun" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("unsupported  ")


def test_the_same_list_is_had_without_running(capsys):
    assert refused("lint", SCRIPTS / "three_mistakes.py") == 1
    linted = capsys.readouterr().out
    assert refused("run", SCRIPTS / "three_mistakes.py", "--dry") == 1
    assert capsys.readouterr().out == linted
    assert "3 mistakes in 1 script; nothing was run" in linted
    assert refused("lint", SCRIPTS / "hello_add.py") == 0
    assert "nothing found in 1 script" in capsys.readouterr().out


def test_anyway_runs_what_the_lint_would_keep_back():
    done = tilewright("run", SCRIPTS / "three_mistakes.py", "--anyway")
    assert done.returncode == 1
    assert "this script has begun" in done.stdout
    assert done.stderr.count(": error: ") == 3  # the front end's own list, when it compiles


def test_a_mistake_in_a_golden_is_told_at_the_golden_s_line():
    done = tilewright("run", SCRIPTS / "golden_slip.py")
    assert done.returncode == 1
    assert "golden_slip.py:15:23: error: golden_copied raised KeyError" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_script_is_main_with_its_own_arguments_path_and_source(tmp_path):
    script = write(
        tmp_path,
        "whoami.py",
        """
        import inspect, os, sys
        import __main__

        def here(): pass

        if __name__ == "__main__":
            assert __main__.__file__ == __file__ == os.path.abspath(__file__)
            assert sys.path[0] == os.path.dirname(__file__)
            assert __main__.here is here and "def here" in inspect.getsource(here)
            assert not any(name.split(".")[0] in ("pypto", "golden") for name in sys.modules)
            print(sys.argv[1:], end="")
            sys.exit(7)
        """,
    )
    done = tilewright("run", script, "--", "--seed", "x", "--", "-j")
    assert done.stdout.startswith("['--seed', 'x', '--', '-j']")
    assert done.returncode == 1
    assert "exit status 7" in done.stdout


def test_a_traceback_begins_in_the_script(tmp_path):
    script = write(
        tmp_path, "breaks.py", "def f():\n    1 / 0\n\nif __name__ == '__main__':\n    f()\n"
    )
    done = tilewright("run", script)
    assert done.returncode == 1
    trace = done.stderr.splitlines()
    assert trace[:2] == [
        "Traceback (most recent call last):",
        f'  File "{script}", line 5, in <module>',
    ]
    assert done.stdout.endswith("breaks.py:2: ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("import torch_of_another_machine", "unsupported"),
        ("from pypto.frontend import parse", "unsupported"),
        ("getattr(pl, 'word' + 'less')", "unsupported"),
        ("pl.add(1, 2)", "unsupported"),
        ("assert pl is None", "fail"),
    ],
)
def test_what_is_missing_is_told_apart_from_what_is_wrong(tmp_path, line, status):
    text = f"import pypto.language as pl\nif __name__ == '__main__':\n    {line}\n"
    done = tilewright("run", write(tmp_path, "script.py", text))
    assert done.returncode == 1
    assert done.stdout.startswith(f"{status}  ")
    assert "script.py:3: " in done.stdout
    assert "script.py" in done.stderr
    assert "line 3" in done.stderr or "script.py:3:5: error" in done.stderr


def test_one_script_alone_can_have_a_limit_too(tmp_path):
    text = "import time\nif __name__ == '__main__':\n    time.sleep(60)\n"
    done = tilewright("run", write(tmp_path, "slow.py", text), "--timeout", 1.5)
    assert done.returncode == 1
    assert "still running after 1.5 s" in done.stdout


def test_a_script_that_ignores_its_golden_fails_all_the_same(tmp_path):
    text = (SCRIPTS / "wrong_sign.py").read_text(encoding="utf-8")
    done = tilewright("run", write(tmp_path, "lax.py", text.replace("SystemExit(1)", "SystemExit")))
    assert done.returncode == 1
    assert done.stdout.endswith("the script exits with 0 all the same\n")


# -- names -----------------------------------------------------------------------------------------

IMPORTS = """
    import pypto.language as pl
    import pypto.language
    from pypto import language
    from pypto.language import tile, BF16
    from pypto.backend import BackendType, set_backend_type
    from pypto.ir import OptimizationStrategy, compile
    from pypto.ir.pass_manager import OptimizationStrategy as Strategy
    from pypto.runtime import RunConfig, ScalarSpec, TensorSpec, run
    import golden
    from golden import (
        RunResult, error_distribution, mapped_pool_ratio_allclose, ratio_allclose, ratio_reldiff,
        run_jit, topk_pair_compare, validate_golden,
    )
    from golden.spec import TensorSpec as Again
    from golden.validation import validate_golden
    import tilewright.golden, tilewright.language

    if __name__ == "__main__":
        assert pl is language is pypto.language is tilewright.language
        assert tile is pl.tile and golden is tilewright.golden
        assert Again is TensorSpec is tilewright.golden.TensorSpec
        assert RunConfig is golden.RunConfig and Strategy is OptimizationStrategy
        assert BackendType.Ascend910B != BackendType.Ascend950
        assert tilewright.language.__spec__.name == "tilewright.language"
        try:
            compile(print, dump_passes=True)
        except TypeError as reason:
            assert "ir.compile wants a @pl.program class, got print" in str(reason)
        try:
            import pypto.frontend
        except ModuleNotFoundError as reason:
            assert "tilewright stands in for pypto and has no pypto.frontend" in str(reason)
            assert "pypto.language" in str(reason)
        else:
            raise SystemExit("pypto.frontend was found")
    """


def test_the_packages_a_script_asks_for_are_ours(tmp_path):
    done = tilewright("run", write(tmp_path, "imports.py", IMPORTS))
    assert done.returncode == 0, done.stderr


def test_importing_tilewright_shadows_nothing():
    probe = (
        "import sys, tilewright, tilewright.golden, tilewright.scripts.names, tilewright.cli.app;"
        "import importlib.util as u; print(u.find_spec('pypto'), u.find_spec('golden'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["None", "None"]


def package(folder: Path, name: str, text: str = "") -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(text, encoding="utf-8")


WHICH = """
    import golden, pypto, sys
    if __name__ == "__main__":
        print("pypto", pypto.__name__, "golden", golden.__name__)
    """


def test_real_packages_are_used_where_they_are_unless_ours_are_asked_for(tmp_path, monkeypatch):
    script = write(tmp_path, "which.py", WHICH)
    package(tmp_path / "site", "pypto")
    package(tmp_path / "site", "golden")
    (tmp_path / "site" / "pypto" / "language.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    done = tilewright("run", script)
    assert "pypto pypto golden golden" in done.stdout
    assert "--ours takes tilewright" in done.stderr
    done = tilewright("run", script, "--ours")
    assert "pypto tilewright.scripts.pypto golden tilewright.golden" in done.stdout


def test_a_golden_beside_the_script_is_the_script_s_own(tmp_path):
    script = write(tmp_path, "which.py", WHICH)
    write(tmp_path, "golden.py", "")
    done = tilewright("run", script)
    assert "pypto tilewright.scripts.pypto golden golden" in done.stdout


def test_a_folder_without_code_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "pypto" / "docs").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed("pypto") is None


# -- several ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All small scripts at once: (what was printed, the JSON by file name)."""
    folder = tmp_path_factory.mktemp("several")
    options = ["--jobs", "2", "--json", folder / "all.json", "--logs", folder / "logs"]
    done = tilewright("run", f"{SCRIPTS}/*.py", SCRIPTS / "rms_norm", *options)
    stored = json.loads((folder / "all.json").read_text(encoding="utf-8"))
    return done, stored, {Path(s["script"]).stem: s for s in stored["scripts"]}, folder / "logs"


def test_every_script_gets_the_verdict_it_deserves(everything):
    done, stored, by_name, _ = everything
    assert {name: s["status"] for name, s in by_name.items()} == {
        "config": "not a program",
        "golden_slip": "fail",
        "hello_add": "pass",
        "hidden_name": "not a program",
        "layer_norm": "pass",
        "matmul_tiled": "pass",
        "rms_norm": "pass",
        "softmax": "pass",
        "steps": "not a program",
        "three_mistakes": "unsupported",
        "two_variants": "pass",
        "wrong_sign": "fail",
    }
    assert done.returncode == 1
    assert stored["passed"] is False
    assert "12 scripts: " in done.stdout
    assert "2 fail" in done.stdout


def test_kernels_of_many_styles_pass():
    """Programs and jit kernels, older and later words: each against its Torch reference."""
    done = tilewright("run", EXAMPLES, "--jobs", "2")
    assert done.returncode == 0, done.stdout
    assert "11 scripts: 10 pass, 1 not a program" in done.stdout


def test_they_pass_by_the_definition_of_the_language_too():
    some = [EXAMPLES / f"{n}.py" for n in ("ffn_int8", "gate_topk", "gemm_eltwise", "kv_update")]
    done = tilewright("run", *some, "--jobs", "2", "--backend", "interpreter")
    assert done.returncode == 0, done.stdout
    assert "4 scripts: 4 pass" in done.stdout


def test_the_json_has_times_runs_and_reasons(everything):
    _, stored, by_name, _ = everything
    softmax = by_name["softmax"]
    assert 0 < softmax["run_seconds"] < softmax["compile_seconds"] < softmax["seconds"]
    (run,) = softmax["runs"]
    assert (run["kernel"], run["passed"], run["validated"]) == ("softmax", True, True)
    assert by_name["wrong_sign"]["why"].startswith("wrong_sign: Output(s) does not match golden")
    assert by_name["wrong_sign"]["exit_status"] == 1
    assert by_name["three_mistakes"]["exit_status"] is None
    assert len(by_name["three_mistakes"]["findings"]) == 3
    assert stored["backend"] == "native"


def test_output_is_kept_in_logs_and_shown_where_something_went_wrong(everything):
    done, _, by_name, logs = everything
    assert "[RUN] PASS" in Path(by_name["softmax"]["log"]).read_text(encoding="utf-8")
    assert Path(by_name["softmax"]["log"]).parent == logs
    assert "'c': 128/128 elements mismatch" in done.stdout
    assert "'probs' PASS" not in done.stdout


def test_scripts_do_not_see_each_other_s_modules(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "config.py", f"NAME = {name!r}")
        text = f"from config import NAME\nif __name__ == '__main__':\n    assert NAME == {name!r}\n"
        write(tmp_path / name, "script.py", text)
    done = tilewright("run", tmp_path, "-v")
    assert done.returncode == 0, done.stdout
    assert "2 pass" in done.stdout
    assert "2 not a program" in done.stdout


def test_a_script_that_hangs_is_ended_with_all_it_started(tmp_path):
    alive = tmp_path / "alive"
    child = f"import time, pathlib; time.sleep(6); pathlib.Path({str(alive)!r}).touch()"
    text = f"""
        import subprocess, sys, time
        if __name__ == "__main__":
            subprocess.Popen([sys.executable, "-c", {child!r}])
            time.sleep(60)
        """
    write(tmp_path, "hangs.py", text)
    write(tmp_path, "ends.py", "if __name__ == '__main__':\n    print('done')\n")
    started = time.monotonic()
    done = tilewright("run", tmp_path, "--timeout", 4, "--json", "-")
    assert time.monotonic() - started < 30
    assert done.returncode == 1
    states = {Path(s["script"]).stem: s["status"] for s in json.loads(done.stdout)["scripts"]}
    assert states == {"ends": "pass", "hangs": "timeout"}
    time.sleep(3)
    assert not alive.exists()


def test_a_crash_is_a_failure_with_its_signal(tmp_path):
    text = "import os\nif __name__ == '__main__':\n    os.kill(os.getpid(), 11)\n"
    done = tilewright("run", write(tmp_path, "crash.py", text))
    assert done.returncode == 1
    assert "signal 11" in done.stdout


# -- the command line ------------------------------------------------------------------------------


def test_names_folders_and_globs_stand_for_files_once_each(tmp_path):
    for name in ("b.py", "a.py", "notes.txt"):
        write(tmp_path, name, "")
    a, b = tmp_path / "a.py", tmp_path / "b.py"
    assert scripts_in([str(b), str(tmp_path), f"{tmp_path}/*.py"]) == [b, a]
    with pytest.raises(ArgumentValueError, match="there is no script"):
        scripts_in([f"{tmp_path}/*.cc"])


def test_options_become_knobs_of_the_script_s_process():
    told = Settings(backend="interpreter", seed=5).environment()
    assert (told["TILEWRIGHT_BACKEND"], told["TILEWRIGHT_SEED"]) == ("interpreter", "5")


def test_a_checked_run_finds_what_a_right_result_hides(tmp_path):
    script = """
        import torch
        import pypto.language as pl

        @pl.jit
        def kernel(x: pl.Tensor[[4, 8], pl.FP32], y: pl.Out[pl.Tensor[[4, 8], pl.FP32]]):
            for i in pl.parallel(4):
                with pl.at(level=pl.Level.CORE_GROUP):
                    y[SPAN, :] = x[SPAN, :]

        if __name__ == "__main__":
            x, y = torch.rand(4, 8), torch.zeros(4, 8)
            kernel(x, y)
            assert torch.equal(x, y)
        """
    apart = write(tmp_path, "apart.py", script.replace("SPAN", "i : i + 1"))
    alike = write(tmp_path, "alike.py", script.replace("SPAN", "0:4"))
    assert tilewright("run", apart, "--check").returncode == 0
    assert tilewright("run", alike).returncode == 0
    done = tilewright("run", alike, "--check")
    assert done.returncode == 1
    assert "iteration i = 1 writes 32 elements, first y[0, 0], which iteration i = 0" in done.stderr


def test_a_script_that_overhangs_knowingly_runs_when_it_is_told_to(tmp_path):
    script = """
        import torch
        import pypto.language as pl

        @pl.jit
        def kernel(x: pl.Tensor[[8, 16], pl.FP32], y: pl.Out[pl.Tensor[[8, 16], pl.FP32]]):
            with pl.at(level=pl.Level.CORE_GROUP):
                rows = pl.add(pl.slice(x, [16, 16], [0, 0]), 1.0)
                y[:, :] = rows[0:8, :]

        if __name__ == "__main__":
            x, y = torch.rand(8, 16), torch.zeros(8, 16)
            kernel(x, y)
            assert torch.equal(x + 1, y)
        """
    overhanging = write(tmp_path, "overhanging.py", script)
    refused_run = tilewright("run", overhanging)
    assert refused_run.returncode == 1
    assert "TILEWRIGHT_BOUNDS=zeros" in refused_run.stderr
    assert tilewright("run", overhanging, "--bounds", "zeros").returncode == 0


def test_an_option_of_the_script_before_the_dashes_is_pointed_out(capsys):
    assert refused("run", SCRIPTS / "hello_add.py", "-p", "a2a3") == 2
    assert "own options go after" in capsys.readouterr().err


def test_a_missing_script_is_a_bad_option(capsys):
    assert refused("run", "nowhere.py") == 2
    assert "there is no script nowhere.py" in " ".join(capsys.readouterr().err.split())


def test_help_shows_how_it_is_used(capsys):
    assert refused("run", "--help") == 0
    text = capsys.readouterr().out
    for words in ("SCRIPT... [-- ARGS...]", "-- -p a2a3 -d 0", "not a program", "--interpreter"):
        assert words.removeprefix("--") in text
