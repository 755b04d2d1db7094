"""The attention front end of Hugging Face's DeepSeek-V4 by our kernel: `patch(model)`, `unpatch(model)`.

Written against transformers 5.23. The front end of a layer is q_a_proj, q_a_norm, q_b_proj, the norm of each
head and RoPE, and kv_proj, kv_norm and RoPE. What stays theirs: the norm before attention (the compressor
reads its result too), the cache, the compressors, attention itself and the output projections.

What differs from theirs is precision. Tokens and the weights of q_a_proj and kv_proj are taken as BF16,
q_b_proj as INT8 with a scale a row, its input as INT8 with a scale a token; everything between the roundings
is FP32. cos and sin are those that the model computes, hence any RoPE that it is configured for.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tilewright.errors import ArgumentError
from tilewright.models.deepseek_v4.config import KV_TILE, Q_LORA_TILE, SCALE_BLOCK
from tilewright.models.deepseek_v4.ops import attention_front_end, front_end_packs

# What a layer must have, so that another version of the package is refused and not misread.
PARTS = (
    "q_a_proj",
    "q_a_norm",
    "q_b_proj",
    "q_b_norm",
    "kv_proj",
    "kv_norm",
    "o_a_proj",
    "o_b_proj",
)
MARK = "_tilewright_patched"


def patch(model: nn.Module) -> int:
    """Let our kernel compute the front end of every DeepSeek-V4 attention layer; gives their number.

    The model's parameters stay where they are and are packed on the first call, and again after they change;
    nothing is added to its state_dict. For inference: a backward pass through a patched layer raises.
    Raises ArgumentError, and changes nothing, for a model without such layers, one that is patched already,
    one on another device, and sizes that the kernel does not take.
    """
    layers = list(attention_layers(model))
    if not layers:
        raise ArgumentError(
            f"{type(model).__name__} has no DeepSeek-V4 attention layer",
            help="give the model from transformers' AutoModelForCausalLM",
        )
    for name, layer in layers:
        _check(name, layer)
    for _, layer in layers:
        # Beside the class's own method: a module keeps plain attributes out of its state. A bound method
        # would be pickled as a name that the layer does not have.
        layer.forward = partial(_forward, layer)
        setattr(layer, MARK, True)
    return len(layers)


def unpatch(model: nn.Module) -> int:
    """Undo `patch`; gives the number of layers that were patched, 0 for a model that was not. Packed weights go."""
    patched = [layer for _, layer in attention_layers(model) if hasattr(layer, MARK)]
    for layer in patched:
        del layer.forward
        delattr(layer, MARK)
        front_end_packs.forget(layer.q_a_proj.weight)
    return len(patched)


def attention_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every DeepSeek-V4 attention layer with its name in the model."""
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4Attention

    for name, module in model.named_modules():
        if isinstance(module, DeepseekV4Attention):
            yield name, module


def _check(name: str, layer: Any) -> None:
    missing = [part for part in PARTS if not hasattr(layer, part)]
    if missing:
        raise ArgumentError(
            f"{name} has no {missing[0]}: this version of transformers is another than the one known here",
            help="pip install 'transformers==5.23.*'",
        )
    if "forward" in vars(layer):
        who = "tilewright" if hasattr(layer, MARK) else "something else"
        raise ArgumentError(f"{name} is patched already, by {who}", help="unpatch it first")
    for part in ("q_a_proj", "q_b_proj", "kv_proj"):
        linear = getattr(layer, part)
        if type(linear) is not nn.Linear or linear.bias is not None:
            raise ArgumentError(
                f"{name}.{part} is {linear!r}; the kernel takes a plain Linear without bias",
                help="patch the model before it is quantised or given adapters",
            )
        if linear.weight.device.type != "cpu":
            raise ArgumentError(
                f"{name}.{part} is on {linear.weight.device}; kernels run on the CPU",
                help="model.cpu()",
            )
    widths = (
        ("q_lora_rank", layer.q_a_proj.out_features, Q_LORA_TILE),
        ("head_dim", layer.head_dim, KV_TILE),
        ("the width of q", layer.q_b_proj.out_features, SCALE_BLOCK),
    )
    for what, found, block in widths:
        if found % block:
            raise ArgumentError(f"{name}: {what} is {found}, wanted a multiple of {block}")


def _front_end(layer: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    """q [B, H, S, HEAD_DIM], kv [B, 1, S, HEAD_DIM] and the latent [B, S, Q_LORA], as theirs."""
    B, S, D = hidden.shape
    half = cos.shape[-1]
    q, kv, latent = attention_front_end(
        hidden.reshape(B * S, D).to(torch.bfloat16),
        # One row of angles may serve the whole batch.
        cos.float().expand(B, S, half).reshape(B * S, half),
        sin.float().expand(B, S, half).reshape(B * S, half),
        layer.q_a_proj.weight,
        layer.q_a_norm.weight,
        layer.q_b_proj.weight,
        layer.kv_proj.weight,
        layer.kv_norm.weight,
        layer.q_a_norm.variance_epsilon,
    )
    return (
        q.to(hidden.dtype).view(B, S, -1, layer.head_dim).transpose(1, 2),
        kv.to(hidden.dtype).view(B, 1, S, layer.head_dim),
        latent.to(hidden.dtype).view(B, S, -1),
    )


def _forward(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: dict[str, tuple[Tensor, Tensor]],
    position_ids: Tensor,
    attention_mask: Tensor | None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """`DeepseekV4Attention.forward` with another front end; `self` is a layer of theirs."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.deepseek_v4 import modeling_deepseek_v4 as theirs

    cos, sin = position_embeddings[self.rope_layer_type]
    q, kv, latent = _front_end(self, hidden_states, cos, sin)
    if past_key_values is not None:
        kv, _ = past_key_values.update(kv, kv, self.layer_idx)

    if self.compressor is not None:  # entries of the compressed past, behind the window's
        window = kv.shape[2]
        more, bias = self.compressor(
            hidden_states, latent, position_ids, past_key_values, self.layer_idx
        )
        kv = torch.cat([kv, more], dim=2)
        attention_mask = _widened(attention_mask, bias, window, kv.shape[2])

    attend = ALL_ATTENTION_FUNCTIONS.get_interface(
        self.config._attn_implementation, theirs.eager_attention_forward
    )
    mixed, weights = attend(
        self,
        q,
        kv,
        kv,
        attention_mask,
        dropout=self.attention_dropout if self.training else 0.0,
        scaling=self.scaling,
        sliding_window=self.sliding_window,
        s_aux=self.sinks,
        **kwargs,
    )
    # Values are keys, so they were turned: turn the sum back by the query's own angle. mixed [B, S, H, HEAD_DIM]
    heads_first = mixed.transpose(1, 2)
    mixed = theirs.apply_rotary_pos_emb(heads_first, cos, -sin).transpose(1, 2)
    groups = mixed.reshape(*hidden_states.shape[:-1], self.config.o_groups, -1)
    return self.o_b_proj(self.o_a_proj(groups).flatten(2)), weights


def _widened(mask: Any, bias: Tensor | None, window: int, width: int) -> Any:
    """The mask of the window [B, 1, S, window], with what may be seen of the compressed entries behind it."""
    if not isinstance(mask, Tensor) or width <= mask.shape[-1]:
        return mask
    if bias is None:
        return nn.functional.pad(mask, (0, width - mask.shape[-1]))
    return torch.cat([mask, bias.to(mask.dtype)], dim=-1)
