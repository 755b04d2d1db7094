"""The scripts in benchmarks/ run, and sweeps leave everything as it was."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SWEEPS = Path(__file__).parents[1] / "benchmarks" / "sweeps"
SCRIPTS = sorted(path.stem for path in SWEEPS.glob("*.py") if path.stem != "harness")


@pytest.fixture
def harness(monkeypatch):
    """The module that sweeps share; bursts are single calls, and only the outer values are tried."""
    monkeypatch.syspath_prepend(str(SWEEPS))
    monkeypatch.setattr("tilewright.bench.measure.BURST", 0.0)
    monkeypatch.setattr("tilewright.bench.measure.SETTLE", 0.0)
    module = importlib.import_module("harness")
    whole = module.measure

    def outer(constant, values, subject, options):
        return whole(constant, sorted({values[0], constant.chosen, values[-1]}), subject, options)

    monkeypatch.setattr(module, "measure", outer)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_sweep_runs_and_its_values_give_the_same_bits(
    script, harness, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "new" / "sweeps.jsonl"
    words = ["--preset", "demo", "--tokens", "5", "--rounds", "1", "--record", str(file)]
    monkeypatch.setattr(sys, "argv", [script, *words])
    runpy.run_path(str(SWEEPS / f"{script}.py"), run_name="__main__")
    for line in file.read_text().splitlines():
        found = json.loads(line)
        assert found["machine"]["cpu"]
        assert {row["value"]: row["ratio"] for row in found["rows"]}[found["chosen"]] == 1
        assert len(found["rows"]) in (2, 3)
    assert "<- chosen" in capsys.readouterr().out


def test_a_constant_is_set_for_a_moment_only(harness, monkeypatch):
    from tilewright.codegen.llvm import microkernel

    monkeypatch.setenv("TILEWRIGHT_CACHE", "1")
    unroll = harness.Constant("tilewright.codegen.llvm.microkernel", "UNROLL")
    chosen = unroll.chosen
    with pytest.raises(ZeroDivisionError), unroll.set(8):  # noqa: PT012
        assert microkernel.UNROLL == 8
        assert os.environ["TILEWRIGHT_CACHE"] == "0"  # a key does not name the constant
        raise ZeroDivisionError
    assert chosen == microkernel.UNROLL
    assert os.environ["TILEWRIGHT_CACHE"] == "1"


def test_a_value_that_changes_a_bit_is_an_error(harness):
    unroll = harness.Constant("tilewright.codegen.llvm.microkernel", "UNROLL")

    def build():
        y = torch.full((4,), float(unroll.chosen))
        return lambda: [y]

    subject = harness.Subject("honest", build)
    with pytest.raises(RuntimeError, match="UNROLL = 2 changes bits of honest"):
        harness.measure(unroll, (1, 4), subject, harness.Options(rounds=1))


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_sweep_is_in_the_list(script):
    text = (SWEEPS.parents[1] / "docs" / "benchmarks.md").read_text()
    assert f"`{script}.py`" in text


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_bind_is_measured():
    command = [sys.executable, str(SWEEPS.parent / "bind_memory.py"), "--preset", "demo"]
    root = str(SWEEPS.parents[1])
    done = subprocess.run(
        [*command, "--tokens", "4"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    rows = [line for line in done.stdout.splitlines() if "release=" in line]
    assert len(rows) == 2
    assert all(row.count("|") == 7 for row in rows)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_beside_the_results_does_not_grow_with_the_tokens():
    """A copy of the input would be 8 MB, one of the results 23; a chunk takes less than one."""
    command = [sys.executable, str(SWEEPS.parent / "context_memory.py"), "--preset", "demo"]
    root = str(SWEEPS.parents[1])
    done = subprocess.run(
        [*command, "--tokens", "16384"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    rows = [line.split(" | ") for line in done.stdout.splitlines() if "| 16384 |" in line]
    assert len(rows) == 6
    assert all(float(row[2]) > 23 for row in rows)
    assert all(float(row[-1].strip(" |")) < 8 for row in rows)


def test_words_are_timed_alone_and_beside_an_earlier_run(tmp_path):
    script, file = SWEEPS.parent / "words.py", tmp_path / "words.json"
    for more in ([], ["--against", str(file)]):
        command = [sys.executable, str(script), "abs", "--rounds", "1", "--json", str(file), *more]
        path = os.pathsep.join([str(SWEEPS.parents[1]), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert list(json.loads(file.read_text())) == ["abs"]
    assert "before" in done.stdout
