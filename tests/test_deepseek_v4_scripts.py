"""Stages of a DeepSeek-V4 decode layer and the layer of them all, as authors of a kernel library write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_scripts import tilewright

SCRIPTS = Path(__file__).parent / "scripts" / "deepseek_v4"
CHEAP = ("compressor_ratio128", "experts_atomic", "hc_pre_syncall", "lm_head_lanes", "narrow_types")
# What `decode_layer` imports from (csa_attention, hc_pre, hc_post, moe, o_proj) runs there.
NATIVE = (
    "compressor_ratio128",  # state and paged cache carried in InOut tensors, positions per sequence
    "decode_layer",  # six files spliced into one entry of 41 parameters
    "experts_atomic",  # tokens added up atomically in the order of experts
    "gate",  # a branch on the layer's number: hash table or top-k
    "hc_pre_syncall",  # a barrier among the blocks of a launch
    "indexer",  # top-512 of 8192 by four sorted parts
    "lm_head",  # vocabulary chunks by block number, then argmax
    "lm_head_lanes",  # two lanes, dynamic rows
    "mtp",  # the draft head, and a scalar walk over requests that ends at the first wrong draft
    "narrow_types",  # FP8 in memory, bytes taken apart by bits, BOOL and INT64 results
    "prefill_compressor",  # packed requests, overlapping windows, a state that goes on in the next call
    "prefill_attn_swa",  # a while loop over pages, dynamic tokens and blocks
)


@pytest.mark.parametrize(("backend", "names"), [("native", NATIVE), ("interpreter", CHEAP)])
def test_every_stage_agrees_with_its_golden(tmp_path, backend, names):
    report = tmp_path / "all.json"
    scripts = [SCRIPTS / f"{name}.py" for name in names]
    options = ["--backend", backend, "--seed", 0, "--jobs", 2, "--json", report]
    done = tilewright("run", *scripts, *options)
    outcomes = json.loads(report.read_text(encoding="utf-8"))["scripts"]
    assert {Path(s["script"]).stem: s["status"] for s in outcomes} == dict.fromkeys(
        names, "pass"
    ), done.stdout
