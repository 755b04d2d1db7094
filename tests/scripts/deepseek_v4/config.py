"""DeepSeek-V4 model and deployment sizes shared by the kernels of this folder."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class DeepSeekV4Config:
    name: str
    vocab_size: int = 4096
    hidden_size: int = 2048
    num_hidden_layers: int = 43
    num_attention_heads: int = 16
    head_dim: int = 512
    qk_rope_head_dim: int = 64
    q_lora_rank: int = 512
    o_lora_rank: int = 256
    o_groups: int = 4
    sliding_window: int = 128
    index_n_heads: int = 64
    index_head_dim: int = 128
    index_topk: int = 512
    hc_mult: int = 4
    hc_sinkhorn_iters: int = 20
    hc_eps: float = 1e-6
    n_routed_experts: int = 256
    n_shared_experts: int = 1
    num_experts_per_tok: int = 6
    moe_intermediate_size: int = 512
    num_hash_layers: int = 3
    routed_scaling_factor: float = 1.5
    swiglu_limit: float = 10.0
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    compress_rope_theta: float = 160000.0
    max_position_embeddings: int = 1048576
    compress_ratios: tuple[int, ...] = field(default=(0, 0, 4, 128))

    @property
    def nope_head_dim(self) -> int:
        return self.head_dim - self.qk_rope_head_dim

    @property
    def hc_dim(self) -> int:
        return self.hc_mult * self.hidden_size

    @property
    def mix_hc(self) -> int:
        return (2 + self.hc_mult) * self.hc_mult

    @property
    def softmax_scale(self) -> float:
        return self.head_dim**-0.5


FLASH = DeepSeekV4Config("flash, narrowed for tests")

# deployment
DECODE_BATCH = 16
DECODE_SEQ = 2
BLOCK_SIZE = 128
EP_WORLD_SIZE = 16

INT8_SCALE_MAX = 127.0
INT8_AMAX_EPS = 1e-4
FP32_NEG_INF = -3.4028234663852886e38
