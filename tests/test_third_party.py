"""Kernels in the style of other people: the benchmark measures them, and long ones compile in time."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = Path(__file__).parent / "scripts"
MOST_SECONDS = 10.0  # of a processor, for a kernel of 500 lines


@pytest.fixture
def deep(monkeypatch):
    """The module that writes a kernel of as many layers as it is asked for."""
    monkeypatch.syspath_prepend(str(BENCHMARKS / "third_party"))
    return importlib.import_module("deep")


@pytest.fixture
def in_scripts_mode(monkeypatch):
    """`pypto` and `golden` are ours."""
    from tilewright.scripts.names import StandIns

    finder = StandIns(["pypto", "golden"])
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    yield
    for name in [n for n in sys.modules if n.split(".")[0] in ("pypto", "golden")]:
        del sys.modules[name]


def loaded(text: str, folder: Path, monkeypatch, name: str):
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module(name)


def test_the_deep_kernel_is_as_deep_as_it_says(deep):
    text = deep.source()
    kernel = text[: text.index("def specs")]
    assert kernel.count("\n") >= 500
    assert kernel.count("pl.at(") >= 30
    assert kernel.count("pl.matmul(") == 40


@pytest.mark.slow
def test_a_kernel_of_500_lines_compiles_within_10_seconds(
    deep, in_scripts_mode, tmp_path, monkeypatch
):
    monkeypatch.setenv("TILEWRIGHT_CACHE", "0")
    monkeypatch.setenv("TILEWRIGHT_VERIFY", "0")
    module = loaded(deep.source(), tmp_path, monkeypatch, "deep_of_four_layers")
    started = time.process_time()
    module.deep.specialize(*(spec.create_tensor() for spec in module.specs()))
    assert time.process_time() - started < MOST_SECONDS


@pytest.mark.slow
def test_the_deep_kernel_gives_what_the_interpreter_gives(
    deep, in_scripts_mode, tmp_path, monkeypatch
):
    import torch

    module = loaded(deep.source(1), tmp_path, monkeypatch, "deep_of_one_layer")
    torch.manual_seed(5)
    args = [spec.create_tensor() for spec in module.specs()]
    wanted = [x.clone() for x in args]
    module.deep.run(*args, threads=2)
    module.deep.run(*wanted, backend="interpreter")
    assert torch.allclose(args[-1], wanted[-1], rtol=1e-2, atol=2e-2)
    assert (args[-2] == wanted[-2]).float().mean() > 0.95  # a near tie may go either way


@pytest.mark.slow
def test_the_benchmark_prints_a_row_for_every_kernel(tmp_path):
    file = tmp_path / "rows.json"
    done = subprocess.run(
        [
            *(sys.executable, BENCHMARKS / "third_party.py", SCRIPTS / "matmul_tiled.py"),
            *("--passes", "--json", file),
        ],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    (row,) = json.loads(file.read_text())
    assert row["script"] == "matmul_tiled"
    assert sum(row["ops"].values()) > 0
    assert min(row["native"], row["interpreter"], row["at_best"]) > 0
    parts = {name: s for name, s in row["compile"].items() if name != "total"}
    assert sum(parts.values()) == pytest.approx(row["compile"]["total"])
    assert {"reading", "fuse_loops", "codegen", "llvm"} <= set(parts)
    assert f"| matmul_tiled: {row['kernel']} |" in done.stdout
