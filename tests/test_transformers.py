"""Hugging Face's DeepSeek-V4 with our front end: close to theirs in every way of calling it, and taken out again.

Where a model makes choices (experts, entries of the compressed past), any rounding may turn one round and the
logits jump; in these models every expert and every entry is chosen, so that errors are those of arithmetic.
"""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from ir_programs import same_bits

from tilewright.errors import ArgumentError, ArgumentValueError

pytest.importorskip("transformers.models.deepseek_v4")

from transformers import DynamicCache
from transformers.models.deepseek_v4 import DeepseekV4Config, DeepseekV4ForCausalLM
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as theirs

from tilewright.integrations.transformers import _front_end, attention_layers, patch, unpatch

TYPES = ("sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention")
# Relative to the norm of theirs in FP32. BF16 weights and tokens: 2**-9 of each number at most, half of that on
# average. INT8: a code is 127th of the largest in its row, half a code at most and 0.29 on average; with rows
# whose largest is 3.5 deviations 0.8 % for the tokens and as much for the weights, 1.1 % together.
KV_ERROR, LATENT_ERROR, Q_ERROR = 0.005, 0.005, 0.015
LOGIT_ERROR = (
    0.02  # three layers whose front ends add their noise, most of it removed by the softmax
)


def small_model(dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Three layers, one of each type, heads of FLASH (512 channels, 64 of them turned), random gains."""
    torch.manual_seed(0)
    options = {
        "vocab_size": 128,
        "hidden_size": 256,
        "moe_intermediate_size": 64,
        "num_hidden_layers": len(TYPES),
        "layer_types": list(TYPES),
        "num_attention_heads": 4,
        "q_lora_rank": 128,
        "n_routed_experts": 4,
        "num_experts_per_tok": 4,
        "num_hash_layers": 0,
        "o_groups": 2,
        "o_lora_rank": 64,
        "index_n_heads": 4,
        "index_topk": 64,
        "sliding_window": 16,
        "compress_rates": {TYPES[1]: 4, TYPES[2]: 8},
        "hc_mult": 2,
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 16.0,
            "beta_fast": 32,
            "beta_slow": 1,
            "original_max_position_embeddings": 65536,
        },
    }
    model = DeepseekV4ForCausalLM(DeepseekV4Config(**{**options, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return model.to(dtype)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Layers as small as these gain nothing from a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model() -> Iterator[Any]:
    with torch.no_grad():
        yield small_model()


def tokens(batch: int = 2, length: int = 40) -> torch.Tensor:
    return torch.randint(0, 128, (batch, length), generator=torch.Generator().manual_seed(1))


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    assert got.dtype == wanted.dtype
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


# One layer


@pytest.mark.parametrize("number", range(len(TYPES)), ids=TYPES)
def test_the_front_end_of_a_layer_is_theirs_at_any_position(model: Any, number: int):
    """Both kinds of RoPE, at positions where they differ."""
    layer = model.model.layers[number].self_attn
    hidden = torch.randn(2, 9, 256)
    positions = torch.randint(0, 1 << 20, (2, 9))
    cos, sin = model.model.rotary_emb(hidden, positions, layer_type=layer.rope_layer_type)
    latent = layer.q_a_norm(layer.q_a_proj(hidden))
    q = layer.q_b_norm(layer.q_b_proj(latent).view(2, 9, 4, 512).transpose(1, 2))
    kv = layer.kv_norm(layer.kv_proj(hidden)).view(2, 1, 9, 512)
    got = _front_end(layer, hidden, cos, sin)
    assert error(got[0], theirs.apply_rotary_pos_emb(q, cos, sin)) < Q_ERROR
    assert error(got[1], theirs.apply_rotary_pos_emb(kv, cos, sin)) < KV_ERROR
    assert error(got[2], latent) < LATENT_ERROR
    other = "compress" if layer.rope_layer_type == "main" else "main"
    wrong = model.model.rotary_emb(hidden, positions, layer_type=other)
    assert error(got[1], theirs.apply_rotary_pos_emb(kv, *wrong)) > 0.1


# The whole model


def prefill(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).logits


def in_pieces(model: Any, ids: torch.Tensor, pieces: list[int]) -> torch.Tensor:
    """The logits of all tokens, given so many at a time, with the cache between."""
    cache = DynamicCache(config=model.config)
    ends = list(itertools.accumulate(pieces))
    assert ends[-1] == ids.shape[1]
    made = [
        model(ids[:, end - n : end], past_key_values=cache, use_cache=True).logits
        for n, end in zip(pieces, ends, strict=True)
    ]
    return torch.cat(made, 1)


WAYS = {
    "prefill": prefill,
    "chunked prefill": lambda model, ids: in_pieces(model, ids, [16, 7, 17]),
    "decode": lambda model, ids: in_pieces(model, ids, [21] + [1] * 19),
}


@pytest.mark.parametrize("way", WAYS)
def test_logits_agree_with_theirs(model: Any, way: str):
    ids = tokens()
    wanted = WAYS[way](model, ids)
    assert patch(model) == 3
    got = WAYS[way](model, ids)
    assert 0 < error(got, wanted) < LOGIT_ERROR


def test_a_bf16_model_is_as_close_to_the_truth_as_theirs():
    ids = tokens()
    with torch.no_grad():
        model = small_model(torch.bfloat16)
        truth = copy.deepcopy(model).float()(ids).logits
        without = error(model(ids).logits.float(), truth)
        patch(model)
        within = error(model(ids).logits.float(), truth)
    assert within < max(LOGIT_ERROR, 1.5 * without)


def test_a_padded_batch_and_generate(model: Any):
    """A prompt padded on the left, whose positions start behind the padding, and the tokens that follow."""
    ids = tokens(2, 24)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    wanted = model(ids, attention_mask=mask, position_ids=positions).logits[mask.bool()]
    patch(model)
    got = model(ids, attention_mask=mask, position_ids=positions).logits[mask.bool()]
    assert error(got, wanted) < LOGIT_ERROR
    made = model.generate(ids, attention_mask=mask, **options)
    assert made.shape == (2, 27)
    following = (
        model(made[:, :-1]).logits[1, 23:].argmax(-1)
    )  # the row without padding, all at once
    assert following.equal(made[1, 24:])


def test_unpatch_restores_every_bit(model: Any):
    ids = tokens()
    wanted, state = model(ids).logits, {k: v.clone() for k, v in model.state_dict().items()}
    attributes = [set(vars(layer)) for _, layer in attention_layers(model)]
    patch(model)
    model(ids)
    assert model.state_dict().keys() == state.keys()
    assert unpatch(model) == 3
    assert same_bits(model(ids).logits, wanted)
    assert all(same_bits(v, state[k]) for k, v in model.state_dict().items())
    assert [set(vars(layer)) for _, layer in attention_layers(model)] == attributes
    assert unpatch(model) == 0


def test_changed_weights_are_used(model: Any):
    ids = tokens()
    patch(model)
    before = model(ids).logits
    layer = model.model.layers[1].self_attn
    for weight in (layer.q_b_proj.weight, layer.kv_proj.weight, layer.q_a_proj.weight):
        weight.copy_(weight.roll(1, 0))
        assert not same_bits(model(ids).logits, before)
        before = model(ids).logits
    unpatch(model)
    assert error(before, model(ids).logits) < LOGIT_ERROR


# What is refused


def test_a_model_that_cannot_be_patched_is_left_alone(model: Any):
    with pytest.raises(ArgumentError, match="has no DeepSeek-V4 attention layer"):
        patch(torch.nn.Linear(2, 2))
    patch(model)
    with pytest.raises(ArgumentError, match=r"self_attn is patched already, by tilewright"):
        patch(model)
    unpatch(model)
    last = model.model.layers[2].self_attn
    last.kv_proj = torch.nn.Sequential(last.kv_proj)
    with pytest.raises(ArgumentError, match=r"layers\.2\.self_attn\.kv_proj is Sequential"):
        patch(model)
    last.kv_proj = last.kv_proj[0]
    assert patch(model) == 3
    with pytest.raises(ArgumentError, match="q_lora_rank is 96, wanted a multiple of 64"):
        patch(small_model(q_lora_rank=96))


def test_a_gradient_is_refused_and_not_left_out():
    model = small_model()
    patch(model)
    logits = model(tokens(1, 8)).logits
    with pytest.raises(ArgumentValueError, match="gradient through the attention front end"):
        logits.sum().backward()


def test_a_patched_model_can_be_pickled_and_copied(model: Any):
    ids = tokens(1, 12)
    patch(model)
    wanted = model(ids).logits
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert same_bits(other(ids).logits, wanted)
        other.model.layers[0].self_attn.kv_proj.weight.neg_()
        assert not torch.equal(other(ids).logits, wanted), (
            "it computes with the layers that it came from"
        )
        assert unpatch(other) == len(TYPES)
    assert same_bits(model(ids).logits, wanted)


def test_a_patched_layer_has_no_graph_break(model: Any):
    """By the eager back end, which only follows the calls."""
    patch(model)
    layer = model.model.layers[0].self_attn
    hidden = torch.randn(1, 9, 256)
    positions = torch.arange(9)[None]
    angles = {"main": model.model.rotary_emb(hidden, positions, layer_type="main")}
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    got, _ = compiled(hidden, angles, positions, None)
    wanted, _ = layer(hidden, angles, positions, None)
    assert same_bits(got, wanted)
