"""Scripts as authors of a kernel library write them: factories, tables of configurations, whole layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_scripts import tilewright

SCRIPTS = Path(__file__).parent / "scripts" / "library"
RUNS = {"decode_attention_block": 1, "gemm_table": 7, "moe_swiglu": 1, "w8a8_split_k": 6}


@pytest.mark.parametrize("backend", ["native", "interpreter"])
def test_every_script_of_the_library_agrees_with_its_goldens(tmp_path, backend):
    report = tmp_path / "all.json"
    done = tilewright("run", SCRIPTS, "--backend", backend, "--seed", 0, "--json", report)
    outcomes = json.loads(report.read_text(encoding="utf-8"))["scripts"]
    assert {Path(s["script"]).stem: s["status"] for s in outcomes} == dict.fromkeys(RUNS, "pass"), (
        done.stdout
    )
    assert {Path(s["script"]).stem: len(s["runs"]) for s in outcomes} == RUNS
