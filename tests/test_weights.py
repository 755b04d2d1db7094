"""Weights out of checkpoints: every layout and number format gives what was stored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import SHARDED, configure, dequantized, edit, renamed, tensors_of, written

from tilewright.golden import ScalarSpec
from tilewright.models.deepseek_v4.config import DEMO, PRESETS
from tilewright.models.deepseek_v4.reference import prefill_reference
from tilewright.models.deepseek_v4.specs import prefill_specs
from tilewright.models.deepseek_v4.weights import from_state_dict, layer, open_checkpoint
from tilewright.models.deepseek_v4.weights.config_json import config_json, read_config
from tilewright.models.deepseek_v4.weights.layouts import LAYOUTS
from tilewright.models.deepseek_v4.weights.quantize import quantize_fp8
from tilewright.models.deepseek_v4.weights.synthetic import original

NAMES = {
    "release": ("layers.{}.attn.{}.weight", ("wq_a", "wq_b", "wkv"), "scale"),
    "hf": (
        "model.layers.{}.self_attn.{}.weight",
        ("q_a_proj", "q_b_proj", "kv_proj"),
        "weight_scale_inv",
    ),
}


def stored_values(folder: Path, layout: str, stored: str, number: int) -> list[torch.Tensor]:
    """wq_a, wq_b, wkv as the files have them, FP64 [out, in], read without our reader."""
    tensors = tensors_of(folder)
    pattern, names, scale = NAMES[layout]
    found = []
    for name in names:
        full = pattern.format(number, name)
        if stored == "bf16":
            assert tensors[full].dtype == torch.bfloat16
            found.append(tensors[full].double())
        else:
            assert tensors[full].dtype == torch.float8_e4m3fn
            found.append(dequantized(tensors, full, full.replace("weight", scale)))
    return found


@pytest.mark.parametrize("shard_bytes", [1 << 30, SHARDED])
@pytest.mark.parametrize("stored", ["fp8", "bf16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layer_is_read_as_it_is_stored(tmp_path, layout, stored, shard_bytes):
    folder = written(tmp_path / "c", layout, stored, shard_bytes=shard_bytes)
    assert (folder / "model.safetensors.index.json").exists() == (shard_bytes == SHARDED)
    found = open_checkpoint(folder)
    assert found.cfg is DEMO
    assert found.layers == (0, 1, 2)
    wq_a, wq_b, wkv = stored_values(folder, layout, stored, 1)
    arguments = found.layer(1).arguments("bf16")
    for name, values in (("wq_a", wq_a), ("wq_b", wq_b), ("wkv", wkv)):
        assert arguments[name].is_contiguous()
        assert torch.equal(arguments[name], values.t().bfloat16()), name
    for name in ("attn_norm", "q_norm", "kv_norm"):
        assert torch.equal(arguments[name][0], original(DEMO, 1, name, seed=5))


def test_wq_b_is_quantised_by_column_of_the_kernel_with_one_rounding_and_one_division(tmp_path):
    folder = written(tmp_path / "c")
    arguments = open_checkpoint(folder).layer(2).arguments("int8")
    weight = stored_values(folder, "release", "fp8", 2)[1].float()  # [out, in]
    amax = weight.abs().amax(1)
    inv_scale = torch.full_like(amax, 127.0) / amax
    wanted = torch.round(weight * inv_scale[:, None]).to(torch.int8)
    assert torch.equal(arguments["wq_b"], wanted.t())
    assert arguments["wq_b"].is_contiguous()
    assert arguments["wq_b_scale"].shape == (DEMO.q_width // 128, 128)
    assert torch.equal(arguments["wq_b_scale"].flatten(), 1 / inv_scale)
    assert wanted.abs().amax(1).eq(127).all(), "every column uses its whole range"


def test_the_two_layouts_hold_the_same_weights(tmp_path):
    release = open_checkpoint(written(tmp_path / "r", "release")).layer(0).arguments("int8")
    hf = open_checkpoint(written(tmp_path / "h", "hf")).layer(0).arguments("int8")
    assert release.keys() == hf.keys()
    assert all(torch.equal(release[name], hf[name]) for name in release)


@pytest.mark.parametrize(
    "names",
    [
        {"layers.": "model.layers."},  # a release's names in a whole model
        {"attn.kv_norm": "attn.norm"},  # what Transformers makes of them when it saves
        {".scale": ".weight_scale_inv"},
    ],
)
def test_other_spellings_of_the_release_are_read_too(tmp_path, names):
    wanted = open_checkpoint(written(tmp_path / "a")).layer(1).arguments("int8")
    folder = renamed(written(tmp_path / "b"), names)
    got = open_checkpoint(folder).layer(1).arguments("int8")
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_block_scales_may_be_floats_or_bare_bytes(tmp_path, dtype):
    def change(tensors):
        for name, tensor in tensors.items():
            if name.endswith("scale"):
                byte = dtype == torch.uint8
                tensors[name] = tensor.view(torch.uint8) if byte else tensor.to(dtype)

    wanted = open_checkpoint(written(tmp_path / "a")).layer(1).arguments("int8")
    got = open_checkpoint(edit(written(tmp_path / "b"), change)).layer(1).arguments("int8")
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_wide_weights_and_gains_may_be_of_any_float(tmp_path, dtype):
    folder = edit(
        written(tmp_path / "c", "hf", "bf16"),
        lambda tensors: tensors.update({n: t.to(dtype) for n, t in tensors.items()}),
    )
    wanted = tensors_of(folder)
    got = open_checkpoint(folder).layer(0).arguments("bf16")
    name = "model.layers.0.self_attn.q_b_proj.weight"
    assert torch.equal(got["wq_b"], wanted[name].bfloat16().t())
    gain = wanted["model.layers.0.self_attn.kv_norm.weight"]
    assert got["kv_norm"].dtype == torch.float32
    assert torch.equal(got["kv_norm"][0], gain.float())


def test_a_state_dict_is_a_checkpoint_too(tmp_path):
    folder = written(tmp_path / "c", "hf", "bf16")
    state = {name.removeprefix("model."): t for name, t in tensors_of(folder).items()}
    found = from_state_dict(state, DEMO, ("plain", "yarn", "yarn"))
    assert found.layers == (0, 1, 2)
    assert found.layer(1).rope == "yarn"
    wanted = open_checkpoint(folder).layer(1).arguments("int8")
    got = found.layer(1).arguments("int8")
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_weights_are_views_of_the_file_and_the_file_is_safe_from_them(tmp_path):
    folder = written(tmp_path / "c", stored="bf16")
    before = (folder / "model.safetensors").read_bytes()
    found = open_checkpoint(folder)
    one, two = (found.layer(0).matrices["wq_b"].weight for _ in range(2))
    assert one.data_ptr() == two.data_ptr(), "a copy was made"
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(folder / "model.safetensors") in maps.read_text()
    one.zero_()
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_layer_needs_only_the_files_that_it_is_in(tmp_path):
    folder = written(tmp_path / "c", shard_bytes=SHARDED)
    wanted = open_checkpoint(folder).layer(0).arguments("int8")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {shard for name, shard in index.items() if name.startswith("layers.0.")}
    others = set(index.values()) - needed
    assert others
    for shard in others:
        (folder / shard).unlink()
    got = open_checkpoint(folder).layer(0).arguments("int8")
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_one_file_of_a_folder_is_a_checkpoint_with_the_config_beside_it(tmp_path):
    folder = written(tmp_path / "c")
    (folder / "model.safetensors").rename(folder / "mine.safetensors")
    assert open_checkpoint(folder / "mine.safetensors").layers == (0, 1, 2)
    assert open_checkpoint(folder).layers == (0, 1, 2)


def test_without_a_config_a_preset_serves_and_nothing_says_which_rope(tmp_path):
    folder = written(tmp_path / "c")
    (folder / "config.json").unlink()
    found = open_checkpoint(folder, DEMO)
    assert found.cfg is DEMO
    assert found.layer(1).rope is None


def test_the_reader_says_how_far_it_is(tmp_path):
    heard = []
    read = open_checkpoint(written(tmp_path / "c")).layer(
        0, lambda what, done, total: heard.append((what, done, total))
    )
    read.arguments("int8", lambda what, done, total: heard.append((what, done, total)))
    for what in ("reading", "converting"):
        steps = [(done, total) for step, done, total in heard if step == what]
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1] == 128 * 256 + 512 * 128 + 128 * 256


def test_the_program_on_the_page_binds_a_layer_to_a_kernel(tmp_path):
    folder = written(tmp_path / "c")
    page = (Path(__file__).parents[1] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    program = page.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(program.replace('"DeepSeek-V4-Flash"', repr(str(folder))), names)
    specs = prefill_specs(DEMO, 5, 7, 64, rope=names["layer"].rope)
    values = {
        s.name: s.to_python() if isinstance(s, ScalarSpec) else s.create_tensor() for s in specs
    }
    free = {name: value for name, value in values.items() if name not in names["weights"]}
    names["kernel"](**free)
    wanted = prefill_reference({**values, **names["weights"]}, DEMO)
    error = (free["q"].double() - wanted["q"].double()).norm() / wanted["q"].double().norm()
    assert error < 1e-3


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(128, 128), (200, 130), (300, 64), (1, 1)])
def test_fp8_blocks_have_the_least_power_of_two_that_holds_them(shape):
    x = torch.randn(shape) * torch.logspace(-6, 4, shape[0])[:, None]
    codes, scale = quantize_fp8(x)
    assert codes.dtype == torch.float8_e4m3fn
    assert scale.dtype == torch.float8_e8m0fnu
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            block = x[128 * i : 128 * (i + 1), 128 * j : 128 * (j + 1)]
            s, amax = scale[i, j].item(), block.abs().max().item()
            assert s / 2 * 448 < amax <= s * 448
            back = codes[128 * i : 128 * (i + 1), 128 * j : 128 * (j + 1)].float() * s
            # Half a step: 3 bits behind the leading one, and 2**-9 the least there is.
            bound = torch.maximum(block.abs() * 2**-4, torch.tensor(s * 2**-10))
            assert bool(((back - block).abs() <= bound).all())


def test_a_block_of_zeros_and_one_of_exactly_448_have_scale_1():
    codes, scale = quantize_fp8(torch.cat([torch.zeros(128, 128), torch.full((128, 128), -448.0)]))
    assert scale.float().flatten().tolist() == [1, 1]
    assert codes.float().unique().tolist() == [-448, 0]


@pytest.mark.parametrize("block", [(128, 128), (64, 96)])
def test_rows_are_widened_in_parts_that_are_whole_blocks(monkeypatch, block):
    monkeypatch.setattr(layer, "ROWS_AT_ONCE", 128)
    x = torch.randn(330, 130)
    codes, scale = quantize_fp8(x, block)
    matrix = layer.Matrix(codes, "F8_E4M3", scale, block)
    assert [first % block[0] for first, _ in matrix.parts()] == [0] * len(list(matrix.parts()))
    wanted = codes.double()
    for i in range(330):
        for j in range(130):
            wanted[i, j] *= scale[i // block[0], j // block[1]].double()
    assert torch.equal(matrix.values().double(), wanted)


# -- config.json -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("preset", PRESETS)
def test_what_we_write_into_config_json_we_read(tmp_path, preset, layout):
    cfg = PRESETS[preset]
    data = config_json(cfg, LAYOUTS[layout], [0, 4, 128, 0], fp8=True)
    (tmp_path / "config.json").write_text(json.dumps(data))
    model = read_config(tmp_path)
    assert model.cfg is cfg
    assert model.ropes == ("plain", "yarn", "yarn", "plain")
    assert model.block == (128, 128)


def test_a_layer_has_the_rope_that_its_compress_ratio_asks_for(tmp_path):
    folder = written(tmp_path / "c")
    configure(folder, compress_ratios=[128, 0, 4, 0])  # one more: the release's prediction layer
    assert [open_checkpoint(folder).layer(n).rope for n in range(3)] == ["yarn", "plain", "yarn"]
    types = ["sliding_attention", "heavily_compressed_attention", "compressed_sparse_attention"]
    configure(folder, layer_types=types)  # where there are both, the newer field counts
    assert [open_checkpoint(folder).layer(n).rope for n in range(3)] == ["plain", "yarn", "yarn"]


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"rope_theta": 5000}, {"rope_theta": 5000.0}),
        ({"compress_rope_theta": 1e6}, {"compress_rope_theta": 1e6}),
        ({"rope_scaling": None}, {"rope_factor": 1.0}),
        ({"qk_rope_head_dim": None, "partial_rotary_factor": 0.5}, {"rope_dim": 64}),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 99}},
            {
                "rope_factor": 4.0,
                "original_max_positions": 99,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
            },
        ),
    ],
)
def test_a_config_of_its_own_is_taken_as_it_is(tmp_path, fields, wanted):
    cfg = open_checkpoint(configure(written(tmp_path / "c"), **fields)).cfg
    assert cfg.name == "checkpoint"
    assert {name: getattr(cfg, name) for name in wanted} == wanted


# -- full size -------------------------------------------------------------------------------------

ROUND_TRIP = r"""
import re, sys, torch
from pathlib import Path
from tilewright.models.deepseek_v4.config import FLASH
from tilewright.models.deepseek_v4.weights import make_checkpoint, open_checkpoint, plan_checkpoint
from tilewright.models.deepseek_v4.weights.layouts import LAYOUTS
from tilewright.models.deepseek_v4.weights.synthetic import original

folder = Path(sys.argv[1]) / "flash"
make_checkpoint(plan_checkpoint(FLASH, LAYOUTS["release"], "fp8", 1, 0, 20_000_000), folder)
found = open_checkpoint(folder, FLASH)
arguments = found.layer(0).arguments("int8")
weight = original(FLASH, 0, "wq_b", 0)
norm, lost = weight.norm().item(), 0.0
for first in range(0, 32768, 4096):
    columns = slice(first, first + 4096)
    back = arguments["wq_b"][:, columns].float() * arguments["wq_b_scale"].flatten()[columns]
    lost += (back.t() - weight[columns]).square().sum().item()
# Not ru_maxrss, which remembers the process that started this one.
status = Path("/proc/self/status")
peak = re.search(r"VmHWM:\s*(\d+)", status.read_text())[1] if status.exists() else 0
print(lost ** 0.5 / norm, peak)
"""


@pytest.mark.slow
def test_a_layer_of_flash_goes_into_a_sharded_checkpoint_and_out_within_2_gb(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ROUND_TRIP, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lost, kilobytes = map(float, done.stdout.split())
    assert 0.02 < lost < 0.03  # what three bits behind the leading one cost
    assert kilobytes < 2e6
