"""Checkpoints that Transformers saves, or that its config could: ours is what its own modules compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers.models.deepseek_v4")

from test_transformers import KV_ERROR, Q_ERROR, TYPES, error, one_thread, small_model
from transformers.models.deepseek_v4 import DeepseekV4Config, DeepseekV4ForCausalLM
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as theirs

from tilewright.models.deepseek_v4.config import Config
from tilewright.models.deepseek_v4.module import QKVProjRope
from tilewright.models.deepseek_v4.reference import rope_frequencies
from tilewright.models.deepseek_v4.weights import open_checkpoint
from tilewright.models.deepseek_v4.weights.config_json import read_config

assert one_thread  # a fixture for every test of this file too


def wanted(folder: Path, number: int, x: torch.Tensor, positions: torch.Tensor) -> Any:
    """q [B, S, H, HEAD_DIM] and kv [B, S, HEAD_DIM] by the modules of the saved model, FP64 but for the angles."""
    model = DeepseekV4ForCausalLM.from_pretrained(folder, dtype=torch.float32).double()
    block = model.model.layers[number]
    layer = block.self_attn
    hidden = block.input_layernorm(x.double())
    angles = model.model.rotary_emb(hidden, positions, layer_type=layer.rope_layer_type)
    q = layer.q_b_proj(layer.q_a_norm(layer.q_a_proj(hidden)))
    q = layer.q_b_norm(q.unflatten(-1, (-1, layer.head_dim)).transpose(1, 2))
    kv = layer.kv_norm(layer.kv_proj(hidden)).unsqueeze(1)
    turned = [theirs.apply_rotary_pos_emb(t, *angles).transpose(1, 2) for t in (q, kv)]
    return turned[0], turned[1].squeeze(2)


@pytest.mark.parametrize(
    ("dtype", "original", "shard"),
    [
        (
            torch.float32,
            True,
            "300KB",
        ),  # the names of the release, which is what it saves by default
        (torch.bfloat16, False, "5GB"),
        (torch.float16, False, "300KB"),
    ],
)
@torch.no_grad()
def test_a_model_that_transformers_saved_is_read_layer_by_layer(
    tmp_path: Path, dtype: torch.dtype, original: bool, shard: str
):
    model = small_model(dtype, rms_norm_eps=1e-3, rope_theta=5e4, compress_rope_theta=1e6)
    model.save_pretrained(tmp_path, max_shard_size=shard, save_original_format=original)
    found = open_checkpoint(tmp_path)
    x = torch.randn(2, 9, 256).bfloat16()
    for number in range(len(TYPES)):
        layer = found.layer(number)
        assert layer.rope is not None
        module = QKVProjRope(found.cfg, layer.arguments("int8"), layer.rope)
        # Nearby: their angles are in FP32.
        got = module(x, start_pos=300)
        q, kv = wanted(tmp_path, number, x, torch.arange(300, 309)[None])
        assert error(got.q.double(), q) < Q_ERROR
        assert error(got.kv.double(), kv) < KV_ERROR


@pytest.mark.parametrize(
    "changes",
    [
        {"factor": 40},
        {"original_max_position_embeddings": 4096, "beta_fast": 16, "beta_slow": 2},
        {"original_max_position_embeddings": 4},  # nothing turns once, and the ramp runs backwards
        {"original_max_position_embeddings": 7},
    ],
)
def test_frequencies_are_theirs_whatever_yarn_is_told(tmp_path: Path, changes: dict[str, float]):
    yarn = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 65536}
    config = DeepseekV4Config(rope_parameters=yarn | changes)
    config.save_pretrained(tmp_path)
    cfg: Config = read_config(tmp_path).cfg
    rotary: Any = theirs.DeepseekV4RotaryEmbedding(config)
    torch.testing.assert_close(rope_frequencies(cfg, "plain").float(), rotary.main_inv_freq)
    torch.testing.assert_close(rope_frequencies(cfg, "yarn").float(), rotary.compress_inv_freq)
