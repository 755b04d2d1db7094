"""A layer's attention front end from a safetensors checkpoint, as the kernels take it.

    checkpoint = open_checkpoint("DeepSeek-V4-Flash")
    layer = checkpoint.layer(2)
    arguments = layer.arguments("int8")  # attn_norm, wq_a, q_norm, wq_b, wq_b_scale, wkv, kv_norm

Start at `checkpoint`; `layouts` has the names, `config_json` the fields, `quantize` the numbers.
"""

from tilewright.models.deepseek_v4.weights.checkpoint import (
    Checkpoint,
    from_state_dict,
    open_checkpoint,
)
from tilewright.models.deepseek_v4.weights.layer import Layer
from tilewright.models.deepseek_v4.weights.synthetic import Plan, make_checkpoint, plan_checkpoint

__all__ = [
    "Checkpoint",
    "Layer",
    "Plan",
    "from_state_dict",
    "make_checkpoint",
    "open_checkpoint",
    "plan_checkpoint",
]
