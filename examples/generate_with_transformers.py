"""Generate tokens with a small random DeepSeek-V4 from Hugging Face, as it is and with our attention front end.

`python examples/generate_with_transformers.py` needs `pip install 'tilewright[hf]'` and no download. Heads
are those of FLASH (512 channels, 64 of them turned by RoPE); the rest is small, so it shows where the time
goes rather than how fast the model is. `--hidden-size 4096 --heads 64 --q-lora-rank 1024` is a FLASH layer.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.models.deepseek_v4 import DeepseekV4Config, DeepseekV4ForCausalLM

from tilewright.integrations import transformers as integration

LAYERS = ("sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention")
FRONT_END = ("q_a_proj", "q_a_norm", "q_b_proj", "q_b_norm", "kv_proj", "kv_norm")


def random_model(hidden_size: int, heads: int, q_lora_rank: int) -> Any:
    """One layer of each type in BF16, never trained."""
    torch.manual_seed(0)
    config = DeepseekV4Config(
        vocab_size=1024,
        hidden_size=hidden_size,
        moe_intermediate_size=128,
        num_hidden_layers=len(LAYERS),
        layer_types=list(LAYERS),
        num_attention_heads=heads,
        q_lora_rank=q_lora_rank,
        n_routed_experts=8,
        num_experts_per_tok=2,
        num_hash_layers=0,
        o_groups=2,
        o_lora_rank=128,
        index_n_heads=4,
        rope_parameters={
            "rope_type": "yarn",
            "factor": 16.0,
            "beta_fast": 32,
            "beta_slow": 1,
            "original_max_position_embeddings": 65536,
        },
    )
    return DeepseekV4ForCausalLM(config).to(torch.bfloat16).eval()


@contextmanager
def stopwatch(model: Any) -> Iterator[dict[str, float]]:
    """Seconds spent in each part of the model while this lasts.

    Theirs counts six modules as the front end, and RoPE as attention; ours is one operator, RoPE included.
    """
    seconds: dict[str, float] = defaultdict(float)
    hooks: list[Any] = []

    def time_module(module: Any, part: str) -> None:
        started: list[float] = []
        before = module.register_forward_pre_hook(lambda *_: started.append(time.perf_counter()))
        after = module.register_forward_hook(lambda *_: add(part, started.pop()))
        hooks.extend((before, after))

    def add(part: str, since: float) -> None:
        seconds[part] += time.perf_counter() - since

    def timed(*args: Any) -> Any:
        since = time.perf_counter()
        try:
            return operator(*args)
        finally:
            add("front end", since)

    for layer in model.model.layers:
        time_module(layer.self_attn, "attention")
        time_module(layer.mlp, "experts")
        for name in FRONT_END:
            time_module(getattr(layer.self_attn, name), "front end")
    time_module(model, "whole model")
    operator, integration.attention_front_end = integration.attention_front_end, timed
    try:
        yield seconds
    finally:
        integration.attention_front_end = operator
        for hook in hooks:
            hook.remove()


def generate(
    model: Any, prompt: torch.Tensor, new_tokens: int
) -> tuple[list[int], dict[str, float]]:
    """The tokens that follow the prompt, and milliseconds of each part for all of them."""
    options = {
        "max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0,
    }  # fmt: skip
    mask = torch.ones_like(prompt)
    model.generate(prompt, attention_mask=mask, **options)  # packs, compiles, warms up
    with stopwatch(model) as seconds:
        made = model.generate(prompt, attention_mask=mask, **options)
    parts = {part: 1e3 * s for part, s in seconds.items()}
    parts["attention"] -= parts["front end"]
    parts["the rest"] = 2 * parts["whole model"] - sum(parts.values())
    return made[0, prompt.shape[1] :].tolist(), parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--q-lora-rank", type=int, default=256)
    parser.add_argument("--prompt", type=int, default=64, help="tokens before the first new one")
    parser.add_argument("--new-tokens", type=int, default=16)
    args = parser.parse_args()

    model = random_model(args.hidden_size, args.heads, args.q_lora_rank)
    prompt = torch.randint(0, 1024, (1, args.prompt))
    tokens, times = {}, {}
    with torch.no_grad():
        wanted = model(prompt).logits.float()
        tokens["theirs"], times["theirs"] = generate(model, prompt, args.new_tokens)
        integration.patch(model)
        got = model(prompt).logits.float()
        tokens["ours"], times["ours"] = generate(model, prompt, args.new_tokens)
        integration.unpatch(model)

    for who, made in tokens.items():
        print(f"{who:8}", *made)
    error = float((got - wanted).norm() / wanted.norm())
    print(f"logits of the prompt differ by {100 * error:.2f} % of their norm\n")
    print(f"{'milliseconds':16}{'theirs':>10}{'ours':>10}")
    for part in ("front end", "attention", "experts", "the rest", "whole model"):
        print(f"{part:16}{times['theirs'][part]:10.1f}{times['ours'][part]:10.1f}")


if __name__ == "__main__":
    main()
