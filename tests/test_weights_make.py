"""Synthetic checkpoints and the verbs that make, show and check them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from checkpoints import SHARDED, configure, edit, tensors_of, written
from safetensors import safe_open
from test_cli import invoke

from tilewright.cli.app import main
from tilewright.cli.checkpoint import nbytes
from tilewright.errors import CheckpointError
from tilewright.models.deepseek_v4.config import DEMO, FLASH
from tilewright.models.deepseek_v4.weights import make_checkpoint, plan_checkpoint, synthetic
from tilewright.models.deepseek_v4.weights.layouts import LAYOUTS, RELEASE
from tilewright.models.deepseek_v4.weights.synthetic import original


@pytest.mark.parametrize("stored", ["fp8", "bf16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_plan_says_how_many_tensors_and_bytes_there_will_be(tmp_path, layout, stored):
    plan = plan_checkpoint(DEMO, LAYOUTS[layout], stored, 2, shard_bytes=SHARDED)
    make_checkpoint(plan, tmp_path / "c")
    tensors = tensors_of(tmp_path / "c")
    assert len(tensors) == plan.tensors
    assert sum(t.nbytes for t in tensors.values()) == plan.nbytes
    files = sorted((tmp_path / "c").glob("*.safetensors"))
    assert len(files) == plan.shards > 1
    index = json.loads((tmp_path / "c" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == plan.nbytes
    for file in files:
        with safe_open(file, framework="pt") as handle:
            names = list(handle.keys())
            assert {index["weight_map"][name] for name in names} == {file.name}
            assert sum(tensors[name].nbytes for name in names) <= SHARDED


def test_a_flash_layer_in_fp8_is_what_the_release_says_it_is():
    plan = plan_checkpoint(FLASH, RELEASE, "fp8", 43)
    weights = 1024 * 4096 + 32768 * 1024 + 512 * 4096
    gains = 4096 + 1024 + 512
    assert plan.nbytes == 43 * (weights + weights // 128**2 + 4 * gains)
    assert plan.tensors == 43 * 9


def test_weights_depend_on_seed_layer_and_role_alone(tmp_path):
    one = tensors_of(written(tmp_path / "a", stored="bf16", layers=1, seed=1))
    two = tensors_of(written(tmp_path / "b", stored="bf16", layers=2, seed=1))
    other = tensors_of(written(tmp_path / "c", stored="bf16", layers=1, seed=2))
    name = "layers.0.attn.wq_b.weight"
    assert torch.equal(one[name], two[name])
    assert not torch.equal(one[name], other[name])
    assert not torch.equal(two[name], two[name.replace("0", "1")])
    spread = original(DEMO, 0, "wq_b", 1).std(1) * DEMO.q_lora_rank**0.5
    assert spread.min() < 0.7
    assert spread.max() > 1.3


def test_a_checkpoint_that_fails_half_way_leaves_nothing_behind(tmp_path, monkeypatch):
    whole, calls = synthetic.save_file, []

    def fail_on_the_second(tensors, file, metadata):
        calls.append(file)
        if len(calls) == 2:
            raise OSError("No space left on device")
        whole(tensors, file, metadata)

    monkeypatch.setattr(synthetic, "save_file", fail_on_the_second)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path / "c", shard_bytes=SHARDED)
    assert calls[0].parent.parent.parent == tmp_path, "the first file was written beside the goal"
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over_or_onto_a_full_disk(tmp_path, monkeypatch):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="found something there already"):
        written(tmp_path / "c")
    monkeypatch.setattr(synthetic.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(CheckpointError, match=r"found 0\.0 GB free, wanted"):
        written(tmp_path / "deep" / "d")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("text", "count"),
    [("1000", 1000), ("2GiB", 2 << 30), ("500MB", 500_000_000), ("3 kb", 3000), ("7m", 7_000_000)],
)
def test_a_shard_size_is_read_with_its_unit(text, count):
    assert nbytes(text) == count


# -- the verbs -------------------------------------------------------------------------------------


def test_make_says_the_size_first_and_show_lists_what_was_made(tmp_path):
    folder = str(tmp_path / "c")
    options = ["--preset", "demo", "--layout", "hf", "--layers", "2", "--shard-size", "150kB"]
    made = invoke("checkpoint", "make", folder, *options)
    assert made.exit_code == 0
    first, second = made.output.splitlines()[:2]
    assert first == "18 tensors of 2 layers, 0.3 MB in 2 files"
    assert second == f"wrote {folder}"
    shown = invoke("checkpoint", "show", folder, "--preset", "demo")
    assert shown.exit_code == 0
    rows = [line.split() for line in shown.output.splitlines()]
    assert f"{folder}: hf layout, demo" in shown.output
    assert rows[3][:7] == ["0", "plain", "F8_E4M3", "F8_E4M3", "F8_E4M3", "0.1", "MB"]
    assert rows[4][:2] == ["1", "yarn"]
    assert rows[4][-1] == "complete"
    one = invoke("checkpoint", "show", folder, "--layer", "1")
    assert "model.layers.1.self_attn.kv_proj.weight_scale_inv" in one.output
    assert "512 x 128" in one.output


def test_show_says_what_is_missing_and_leaves_with_1(tmp_path):
    folder = edit(written(tmp_path / "c"), lambda t: t.pop("layers.1.attn.wq_b.scale"))
    shown = invoke("checkpoint", "show", str(folder))
    assert shown.exit_code == 1
    assert "1 wrong" in shown.output
    assert shown.output.count("complete") == 2
    assert "layers.1.attn.wq_b.scale: found no such tensor" in shown.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["checkpoint", "show", "nowhere"],
        ["check", "prefill", "--checkpoint", "nowhere"],
        ["accuracy", "--checkpoint", "nowhere"],
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_an_error_without_a_traceback(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: nowhere: found no such folder")
    assert "Traceback" not in complaint


@pytest.mark.parametrize("backend", ["native", "interpreter"])
@pytest.mark.parametrize("kernel", ["prefill", "decode", "prefill_bf16", "decode_bf16"])
def test_every_kernel_passes_its_check_on_a_checkpoint(tmp_path, kernel, backend):
    folder = written(tmp_path / "c", "hf" if backend == "native" else "release")
    options = ["--checkpoint", str(folder), "--layer", "1", "--tokens", "7", "--no-baseline"]
    result = invoke("check", kernel, *options, "--backend", backend)
    assert result.exit_code == 0, result.output
    assert f"layer 1 of {folder}" in result.output
    assert "rope yarn" in result.output
    assert "demo" in result.output


def test_the_kernel_gets_the_weights_of_the_layer_that_was_asked_for(tmp_path, monkeypatch):
    from tilewright.cli.check import Request, prepare

    folder = written(tmp_path / "c", stored="bf16")
    configure(folder, rope_theta=777.0)
    request = Request("prefill", None, "native", None, 3, None, None, 0, None, False, folder, 2)
    ready = prepare(request)
    specs = {spec.name: spec for spec in ready.specs}
    wanted = tensors_of(folder)["layers.2.attn.wkv.weight"].t()
    assert torch.equal(specs["wkv"].create_tensor(), wanted)
    assert (ready.cfg.rope_theta, ready.rope, ready.layer) == (777.0, "yarn", 2)
    assert ready.cfg.max_positions == specs["rope_cos"].shape[0] == 4096


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["check", "prefill", "--layer", "1"], "--layer wants a --checkpoint"),
        (["accuracy", "--layer", "1"], "--layer wants a --checkpoint"),
        (["check", "prefill", "--checkpoint", "C", "--rope", "yarn"], "layer 0 has plain RoPE"),
        (["accuracy", "--checkpoint", "C", "--rope", "yarn"], "layer 0 has plain RoPE"),
        (["accuracy", "--preset", "demo", "--start-pos", "4090"], "wanted 0 to 3968"),
        (["checkpoint", "make", "C", "--shard-size", "many"], "wanted a size like 500MB"),
        (["checkpoint", "make", "C", "--layers", "0"], "--layers"),
    ],
)
def test_a_bad_option_is_refused_with_what_was_wanted(tmp_path, options, complaint):
    folder = str(written(tmp_path / "c"))
    result = invoke(*[folder if word == "C" else word for word in options])
    assert result.exit_code == 2
    text = " ".join(word for word in result.output.split() if word != "│")
    assert complaint in text
