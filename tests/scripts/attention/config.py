"""Sizes of a small model with the attention of DeepSeek-V4."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    name: str
    hidden_size: int
    num_attention_heads: int
    head_dim: int
    qk_rope_head_dim: int
    q_lora_rank: int
    o_lora_rank: int
    o_groups: int
    sliding_window: int
    index_n_heads: int
    index_head_dim: int
    index_topk: int
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-6

    @property
    def nope_head_dim(self):
        return self.head_dim - self.qk_rope_head_dim


DEMO = ModelConfig("demo", 1024, 16, 512, 64, 256, 256, 4, 128, 16, 128, 128)
DECODE_BATCH = 16
DECODE_SEQ = 2
INT8_SCALE_MAX = 127.0
INT8_AMAX_EPS = 1e-4
FP32_NEG_INF = -3.4028234663852886e38
BLOCK_SIZE = 128
