"""Scripts as authors of an NPU kernel library write attention, run unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_scripts import tilewright

SCRIPTS = Path(__file__).parent / "scripts" / "attention"


@pytest.mark.parametrize("backend", ["native", "interpreter"])
def test_every_kernel_of_an_attention_layer_agrees_with_its_golden(tmp_path, backend):
    report = tmp_path / "all.json"
    done = tilewright("run", SCRIPTS, "--backend", backend, "--seed", 0, "--json", report)
    outcomes = json.loads(report.read_text(encoding="utf-8"))["scripts"]
    assert {Path(s["script"]).stem: s["status"] for s in outcomes} == {
        "config": "not a program",
        "decode_compressor_ratio4": "pass",
        "decode_indexer": "pass",
        "decode_sparse_attn": "pass",
        "dynamic_qkv_proj_rope": "pass",
    }, done.stdout
    tokens = [len(s["runs"]) for s in outcomes if s["script"].endswith("dynamic_qkv_proj_rope.py")]
    assert tokens == [3]
