"""Scripts as authors of a kernel library write them: factories, tables of configurations, whole layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_scripts import tilewright

SCRIPTS = Path(__file__).parent / "scripts" / "library"
RUNS = {
    "decode_attention_block": 1,
    "gemm_table": 7,
    "moe_swiglu": 1,
    "spring_drafts": 2,
    "w8a8_split_k": 4,
}


@pytest.mark.parametrize(
    ("backend", "names"),
    [("native", list(RUNS)), ("interpreter", ["moe_swiglu", "spring_drafts", "w8a8_split_k"])],
)
def test_every_script_of_the_library_agrees_with_its_goldens(tmp_path, backend, names):
    report = tmp_path / "all.json"
    scripts = [SCRIPTS / f"{name}.py" for name in names]
    done = tilewright("run", *scripts, "--backend", backend, "--seed", 0, "--json", report)
    outcomes = json.loads(report.read_text(encoding="utf-8"))["scripts"]
    got = {Path(s["script"]).stem: (s["status"], len(s["runs"])) for s in outcomes}
    assert got == {name: ("pass", RUNS[name]) for name in names}, done.stdout
