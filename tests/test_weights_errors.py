"""Broken checkpoints: what is said names the file, the tensor, what was found and what was wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import SHARDED, configure, edit, renamed, tensors_of, written

from tilewright.errors import CheckpointError
from tilewright.models.deepseek_v4.config import DEMO, FLASH
from tilewright.models.deepseek_v4.weights import from_state_dict, open_checkpoint
from tilewright.models.deepseek_v4.weights.config_json import config_json
from tilewright.models.deepseek_v4.weights.layouts import LAYOUTS

WQ_A, WQ_B = "layers.1.attn.wq_a.weight", "layers.1.attn.wq_b.weight"


def complaint(path, layer=1, preset=None):
    """The error of opening a checkpoint and reading a layer; it must offer a remedy."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, preset).layer(layer)
    assert caught.value.help
    return caught.value


def put(name, make):
    """A change of one tensor."""

    def change(tensors):
        tensors[name] = make(tensors[name])

    return change


def poked(at, value):
    """The tensor with the byte at a place replaced."""

    def make(tensor):
        other = tensor.clone()
        other.view(torch.uint8).flatten()[at] = value
        return other

    return make


def with_nan(tensor):
    other = tensor.clone()
    other.flatten()[300] = float("nan")
    return other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            put(WQ_A, lambda t: t.view(torch.int8)),
            f"model.safetensors: {WQ_A}: found I8 [128, 256],"
            " wanted BF16 or F16 or F32 or F8_E4M3 [128, 256]",
        ),
        (
            put(WQ_A, lambda t: t.float().to(torch.float8_e5m2)),
            f"model.safetensors: {WQ_A}: found F8_E5M2 [128, 256],"
            " wanted BF16 or F16 or F32 or F8_E4M3 [128, 256]",
        ),
        (
            put(WQ_B, lambda t: t.t()),
            f"model.safetensors: {WQ_B}: found F8_E4M3 [128, 512],"
            " wanted BF16 or F16 or F32 or F8_E4M3 [512, 128]",
        ),
        (
            put("layers.1.attn_norm.weight", lambda t: t[:100]),
            "model.safetensors: layers.1.attn_norm.weight: found F32 [100],"
            " wanted BF16 or F16 or F32 [256]",
        ),
        (
            put("layers.1.attn.q_norm.weight", lambda t: t.to(torch.float8_e4m3fn)),
            "model.safetensors: layers.1.attn.q_norm.weight: found F8_E4M3 [128],"
            " wanted BF16 or F16 or F32 [128]",
        ),
        (
            put("layers.1.attn.wq_a.scale", lambda t: t.reshape(2, 1)),
            "model.safetensors: layers.1.attn.wq_a.scale: found F8_E8M0 [2, 1],"
            " wanted F8_E8M0 or U8 or F32 or BF16 [1, 2]",
        ),
        (
            lambda tensors: tensors.pop("layers.1.attn.wq_a.scale"),
            "model.safetensors: layers.1.attn.wq_a.scale: found no such tensor,"
            f" wanted the block scales [1, 2] of {WQ_A}, which is F8_E4M3",
        ),
        (
            put(WQ_A, lambda t: t.bfloat16()),
            "model.safetensors: layers.1.attn.wq_a.scale: found block scales beside a weight in"
            " BF16, wanted no scales, or the weight in F8_E4M3",
        ),
        (
            lambda tensors: tensors.pop("layers.1.attn.kv_norm.weight"),
            "model.safetensors: layers.1.attn.kv_norm.weight: found no such tensor,"
            " wanted it, of shape [128]",
        ),
        (
            put("layers.1.attn.wq_b.scale", poked(2, 0xFF)),
            "model.safetensors: layers.1.attn.wq_b.scale: found nan (byte 0xFF) at [2, 0],"
            " 1 in all, wanted scales above 0 and finite",
        ),
        (
            put("layers.1.attn.wq_b.scale", lambda t: -t.float()),
            "found -",
        ),
        (
            put("layers.1.attn.wq_a.scale", lambda t: torch.full((1, 2), float("inf"))),
            "model.safetensors: layers.1.attn.wq_a.scale: found inf at [0, 0], 2 in all,"
            " wanted scales above 0 and finite",
        ),
        (
            put(WQ_A, poked(256 * 7 + 3, 0x7F)),
            f"model.safetensors: {WQ_A}: found nan at [7, 3], 1 in all of these rows,"
            " wanted finite numbers",
        ),
        (
            put("layers.1.attn_norm.weight", lambda t: t.log().where(t > 1, torch.inf)),
            "model.safetensors: layers.1.attn_norm.weight: found inf at ",
        ),
    ],
)
def test_what_is_wrong_with_a_tensor_is_said_with_its_file_and_name(tmp_path, change, message):
    folder = edit(written(tmp_path / "c"), change)
    error = complaint(folder)
    assert message in error.message
    assert f"in layer 1 of {folder}" in str(error)
    open_checkpoint(folder).layer(0)  # the others are as they were


def test_a_nan_in_a_wide_weight_is_found_wherever_it_is(tmp_path, monkeypatch):
    from tilewright.models.deepseek_v4.weights import layer

    monkeypatch.setattr(layer, "ROWS_AT_ONCE", 128)  # the second part of 512 rows
    folder = edit(
        written(tmp_path / "c", stored="bf16"),
        put(WQ_B, lambda t: torch.cat([t[:256], with_nan(t[256:])])),
    )
    assert f"{WQ_B}: found nan at [258, 44]" in complaint(folder).message


def test_weights_that_are_large_but_finite_are_no_mistake(tmp_path):
    folder = edit(
        written(tmp_path / "c", stored="bf16"), put(WQ_A, lambda t: torch.full_like(t, 3e38))
    )
    open_checkpoint(folder).layer(1)


@pytest.mark.parametrize(
    ("there", "too"),
    [
        ("layers.1.attn.wq_a.scale", "layers.1.attn.wq_a.weight_scale_inv"),
        ("layers.1.attn.kv_norm.weight", "layers.1.attn.norm.weight"),
    ],
)
def test_two_tensors_for_one_thing_are_refused(tmp_path, there, too):
    def change(tensors):
        tensors[too] = tensors[there].clone()

    error = complaint(edit(written(tmp_path / "c"), change))
    assert error.message == f"model.safetensors: {too}: found it beside {there}, wanted one of them"


def test_everything_that_is_wrong_is_said_at_once(tmp_path):
    def change(tensors):
        del tensors["layers.1.attn.kv_norm.weight"]
        del tensors["layers.1.attn.wq_b.scale"]
        tensors[WQ_A] = tensors[WQ_A][:64].contiguous()

    folder = edit(written(tmp_path / "c"), change)
    error = complaint(folder)
    assert error.message == f"3 problems in layer 1 of {folder}"
    for word in ("kv_norm.weight: found no such", "wq_b.scale: found no such", "[64, 256]"):
        assert sum(word in note for note in error.notes) == 1


@pytest.mark.parametrize("length", [0, 5, 1000, -1])
def test_a_file_that_ends_too_early_is_refused(tmp_path, length):
    folder = written(tmp_path / "c")
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:length])
    size = len(data[:length])
    message = complaint(folder).message
    assert message.startswith(f"model.safetensors: found {size} bytes that end too early")
    assert message.endswith("wanted a whole safetensors file")


def test_an_index_may_name_a_shard_that_is_missing_or_cut_but_not_for_the_layer_asked_for(tmp_path):
    folder = written(tmp_path / "c", shard_bytes=SHARDED)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    (folder / index[WQ_B]).unlink()
    message = complaint(folder).message
    assert message == (
        f"{index[WQ_B]}: found no such file, wanted the file, model.safetensors.index.json names it"
    )
    (folder / index[WQ_B]).write_bytes(b"\x08")
    assert "found 1 bytes that end too early" in complaint(folder).message


def test_an_index_that_names_a_tensor_which_its_shard_lacks(tmp_path):
    folder = written(tmp_path / "c", shard_bytes=SHARDED)
    index = folder / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    other = next(s for s in data["weight_map"].values() if s != data["weight_map"][WQ_A])
    data["weight_map"][WQ_A] = other
    index.write_text(json.dumps(data))
    assert f"{other}: {WQ_A}: found no such tensor, wanted it there" in complaint(folder).message


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", 7, "a/b.safetensors"])
def test_an_index_cannot_point_out_of_its_folder(tmp_path, shard):
    folder = written(tmp_path / "c")
    index = {"weight_map": {WQ_A: shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"{WQ_A}: found {shard!r}, wanted the name of a file" in complaint(folder).message


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"weight_map": 3}', "{}"])
def test_an_index_that_is_none(tmp_path, text):
    folder = written(tmp_path / "c")
    (folder / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in complaint(folder).message


def test_a_tensor_in_two_files_without_an_index(tmp_path):
    folder = written(tmp_path / "c")
    (folder / "copy.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert "found a tensor that copy.safetensors has too" in str(complaint(folder))


def test_folders_without_a_checkpoint(tmp_path):
    assert "found no such folder" in complaint(tmp_path / "nowhere").message
    assert "wanted model.safetensors.index.json or *.safetensors" in complaint(tmp_path).message
    folder = renamed(written(tmp_path / "c"), {"layers": "blocks"})
    message = complaint(folder).message
    assert "found blocks.0.attn.kv_norm.weight, " in message
    assert "wanted names like layers.0.attn.wq_a.weight or model.layers.0.self_attn" in message
    with pytest.raises(CheckpointError, match=r"names: found none"):
        from_state_dict({}, DEMO)


@pytest.mark.parametrize("layer", [3, 61])
def test_a_layer_that_there_is_not(tmp_path, layer):
    error = complaint(written(tmp_path / "c"), layer)
    assert error.message == f"layer {layer}: found layers 0 to 2, wanted one of them"


def test_layers_beyond_those_of_config_json_are_not_of_the_model(tmp_path):
    folder = configure(written(tmp_path / "c"), num_hidden_layers=2)
    assert complaint(folder, 2).message == "layer 2: found layers 0 to 1, wanted one of them"
    del_layer = edit(folder, lambda tensors: [tensors.pop(n) for n in list(tensors) if ".0." in n])
    assert complaint(del_layer, 0).message == "layer 0: found layers 1, wanted one of them"


# -- config.json -----------------------------------------------------------------------------------


def test_a_config_that_disagrees_with_the_preset_is_refused_field_by_field(tmp_path):
    error = complaint(written(tmp_path / "c"), preset=FLASH)
    assert "config.json: hidden_size: found 256, wanted 4096 (preset flash)" in error.notes
    assert any("q_lora_rank: found 128, wanted 1024" in note for note in error.notes)


def test_a_config_that_disagrees_with_the_tensors_is_refused_with_every_tensor(tmp_path):
    folder = configure(written(tmp_path / "c"), hidden_size=512)
    error = complaint(folder)
    assert error.message == f"5 problems in layer 1 of {folder}"
    assert any("found F8_E4M3 [128, 256], wanted" in note for note in error.notes)


def nested(**changes: dict[str, Any]) -> dict[str, Any]:
    """RoPE as Transformers nests it, with fields of `main` or `compress` changed."""
    parameters = config_json(DEMO, LAYOUTS["hf"], [0], fp8=False)["rope_parameters"]
    return {
        "rope_parameters": {
            kind: given | changes.get(kind, {}) for kind, given in parameters.items()
        }
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "deepseek_v3"}, "model_type: found 'deepseek_v3', wanted 'deepseek_v4'"),
        ({"hidden_size": None}, "hidden_size: found nothing, wanted a whole number above 0"),
        ({"hidden_size": "256"}, "hidden_size: found '256', wanted a whole number above 0"),
        ({"q_lora_rank": 128.5}, "q_lora_rank: found 128.5, wanted a whole number above 0"),
        ({"head_dim": True}, "head_dim: found True, wanted a whole number above 0"),
        ({"head_dim": -128}, "head_dim: found -128, wanted a whole number above 0"),
        ({"rms_norm_eps": 0}, "rms_norm_eps: found 0, wanted a number above 0"),
        ({"rope_theta": float("nan")}, "rope_theta: found nan, wanted a number above 0"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps: found inf, wanted a number above 0"),
        ({"q_lora_rank": 100}, "q_lora_rank: found 100, wanted a multiple of 64"),
        ({"qk_rope_head_dim": 31}, "qk_rope_head_dim: found 31, wanted an even number below 128"),
        (
            {"qk_rope_head_dim": None},
            "qk_rope_head_dim: found neither, wanted it, or partial_rotary_factor",
        ),
        (
            {"compress_ratios": None},
            "layer_types: found neither, wanted it, or compress_ratios: an entry for each layer",
        ),
        ({"compress_ratios": [0, 4, 7]}, "compress_ratios: found 7, wanted 0, 4, 128"),
        ({"compress_ratios": [0, 4]}, "compress_ratios: found 2 entries, wanted 3"),
        ({"layer_types": ["full"] * 3}, "layer_types: found 'full', wanted sliding_attention, "),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}},
            "rope_type: found 'linear', wanted 'yarn' or 'default'",
        ),
        ({"rope_scaling": 16}, "rope_parameters: found 16, wanted an object"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 16.0}},
            "original_max_position_embeddings: found nothing",
        ),
        (
            {
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 16,
                    "original_max_position_embeddings": 65536,
                    "attention_factor": 1.27,
                }
            },
            "attention_factor: found 1.27, wanted 1: cos and sin are not scaled",
        ),
        (
            nested(compress={"attention_factor": None}),
            "rope_parameters.compress.attention_factor: found nothing: Transformers would compute one,"
            " wanted 1: cos and sin are not scaled",
        ),
        (
            nested(main={"rope_type": "yarn"}),
            "rope_parameters.main.rope_type: found 'yarn', wanted 'default'",
        ),
        (
            nested(compress={"partial_rotary_factor": 0.5}),
            "rope_parameters.compress.partial_rotary_factor: found 0.5, wanted 0.25: 32 of 128",
        ),
        (
            {"quantization_config": {"weight_block_size": [128]}},
            "weight_block_size: found [128], wanted two whole numbers",
        ),
    ],
)
def test_a_field_of_config_json_that_is_missing_or_odd(tmp_path, fields, message):
    error = complaint(configure(written(tmp_path / "c"), **fields))
    assert f"config.json: {message}" in str(error) or message in str(error)
    assert "config.json" in str(error)


def test_a_checkpoint_without_config_json_wants_a_preset(tmp_path):
    folder = written(tmp_path / "c")
    (folder / "config.json").unlink()
    error = complaint(folder)
    assert error.message == "config.json: found no such file, wanted the model's figures"
    assert "preset" in error.help


def test_tensors_named_in_messages_are_those_of_the_layout_found(tmp_path):
    folder = edit(
        written(tmp_path / "c", "hf"),
        lambda tensors: tensors.pop("model.layers.1.self_attn.q_a_proj.weight_scale_inv"),
    )
    found = complaint(folder).message
    assert "model.layers.1.self_attn.q_a_proj." in found
    assert len(tensors_of(folder)) == 26


def test_the_page_shows_what_is_really_said(tmp_path):
    def change(tensors):
        del tensors["layers.1.attn.kv_norm.weight"]
        tensors[WQ_B] = tensors[WQ_B].float().to(torch.float8_e5m2)

    folder = edit(written(tmp_path / "c"), change)
    page = (Path(__file__).parents[1] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    shown = page.split("```text\n")[1].split("```")[0]
    assert str(complaint(folder)).replace(str(folder), "DIR") == shown.rstrip()


def test_a_file_that_holds_no_tensors_is_called_a_file(tmp_path):
    folder = written(tmp_path / "c")
    error = complaint(folder / "config.json")
    assert "config.json: found a file that is neither, wanted" in error.message
    assert not error.notes, "the path stands in the message"
