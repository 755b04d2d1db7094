"""The Q/KV projection as a PyTorch module, for people who bring a Torch model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from tilewright.errors import ArgumentError, ArgumentValueError
from tilewright.models.deepseek_v4.config import SCALE_BLOCK, Config, Rope
from tilewright.models.deepseek_v4.ops import qkv_packs, qkv_proj_rope, qkv_proj_rope_cached
from tilewright.models.deepseek_v4.reference import rope_frequencies

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

    from tilewright.models.deepseek_v4.weights import Checkpoint


class Projected(NamedTuple):
    """What the module gives; `…` are the leading axes of its input."""

    q: Tensor  # […, H, HEAD_DIM] BF16
    kv: Tensor  # […, HEAD_DIM] BF16
    qr: Tensor  # […, Q_LORA] INT8, the query's latent
    qr_scale: Tensor  # […, 1] FP32


class FixedDtypes(nn.Module):
    """A module whose buffers keep the dtypes that its kernel takes when a whole model is made BF16, say."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # What all of half, bfloat16, float, to and cpu come down to.
        def moved(tensor: Tensor) -> Tensor:
            made = fn(tensor)
            return made if made.dtype == tensor.dtype else tensor.to(made.device)

        super()._apply(moved, recurse)
        return self


class QKVProjRope(FixedDtypes):
    """RMSNorm, the low-rank Q and the KV projection, per-head norm and RoPE of one attention layer.

    Holds the weights as buffers, named and shaped as the kernel takes them: they are saved and loaded with
    `state_dict`, and there are no gradients. They are packed on the first call, and again on the call after
    they were changed in place or loaded (Torch does not see a change through `.data`: call `repack`).
    Packed weights take as much memory again. `half`, `bfloat16` and `float` leave the buffers as they are.

    weights: the buffers' first values by name; uninitialised memory for those not given.
    rope:    "plain" for layers without compressed keys, "yarn" for the others.
    Raises ArgumentError for a weight of another shape or dtype, and for names that are no weights;
    ArgumentValueError for another rope.
    """

    attn_norm: Tensor  # [1, D] FP32
    wq_a: Tensor  # [D, Q_LORA] BF16
    q_norm: Tensor  # [1, Q_LORA] FP32
    wq_b: Tensor  # [Q_LORA, H * HEAD_DIM] INT8
    wq_b_scale: Tensor  # [H * HEAD_DIM / 128, 128] FP32
    wkv: Tensor  # [D, HEAD_DIM] BF16
    kv_norm: Tensor  # [1, HEAD_DIM] FP32

    def __init__(
        self, cfg: Config, weights: Mapping[str, Tensor] | None = None, rope: Rope = "plain"
    ) -> None:
        super().__init__()
        self.cfg, self.rope = cfg, rope
        self.frequencies = rope_frequencies(cfg, rope)
        hold(self, buffers(cfg), weights)

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, layer: int, rope: Rope | None = None
    ) -> QKVProjRope:
        """One layer of a checkpoint; rope: None for what the checkpoint says.

        Raises CheckpointError with everything that is wrong with the layer, ArgumentError where nothing says
        which RoPE it has.
        """
        weights = checkpoint.layer(layer).arguments("int8")
        return cls(checkpoint.cfg, weights, checkpoint.chosen_rope(layer, rope))

    def forward(
        self,
        x: Tensor,
        start_pos: int = 0,
        position_ids: Tensor | None = None,
        cache: Tensor | None = None,
        slots: Tensor | None = None,
    ) -> Projected:
        """x [T, D] or [B, S, D] BF16: tokens of one prompt, of B prompts, or of anything.

        Token s of every row stands at start_pos + s, or where position_ids (integers) says: one for each token
        ([T], [B, S]) or the same for every row ([S]). Rows with position -1 are padding: nothing is computed for
        them and their outputs are 0.

        cache [BLOCKS, BLOCK, HEAD_DIM] BF16: the kv row of each token is also written to its slot, one for
        each token in `slots`, INT32 or INT64; slot s is row s % BLOCK of block s // BLOCK, and -1 is none.
        `paged_slots` and `window_slots` make them. Nothing else in the cache is touched.
        Raises ArgumentError, ArgumentValueError for shapes, positions and slots that cannot be.
        """
        tokens, positions, lead = located(self.cfg, x, start_pos, position_ids)
        if (cache is None) != (slots is None):
            given, missing = ("slots", "cache") if cache is None else ("cache", "slots")
            raise ArgumentError(f"{given} is given without {missing}", help="give both, or neither")
        for name, tensor in (("cache", cache), ("slots", slots)):
            if tensor is not None and tensor.device != x.device:
                raise ArgumentError(f"{name} is on {tensor.device}, x on {x.device}")
        if slots is not None and slots.shape != lead:
            raise ArgumentError(
                f"slots is {list(slots.shape)}, wanted {list(lead)}: one for each token",
                help="-1 is the slot of a token whose kv row is not kept",
            )
        arguments = (
            tokens,
            positions,
            self.attn_norm,
            self.wq_a,
            self.q_norm,
            self.wq_b,
            self.wq_b_scale,
            self.wkv,
            self.kv_norm,
            self.frequencies,
            self.cfg.rms_norm_eps,
            self.cfg.max_positions,
        )
        if cache is None or slots is None:
            made = qkv_proj_rope(*arguments)
        else:
            made = qkv_proj_rope_cached(*arguments, slots.reshape(-1), cache)
        return Projected(*(t.reshape(*lead, *t.shape[1:]) for t in made))

    def repack(self) -> None:
        """Pack the weights anew on the next call: needed after changes through `.data` or in inference mode."""
        qkv_packs.forget(self.wq_a, self.wq_b, self.wkv)

    def extra_repr(self) -> str:
        return f"{self.cfg.name}, rope={self.rope}"


def buffers(cfg: Config) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every weight, in the kernel's order."""
    D, Q_LORA, HEAD_DIM, Q = cfg.hidden_size, cfg.q_lora_rank, cfg.head_dim, cfg.q_width
    bf16, f32 = torch.bfloat16, torch.float32
    return {
        "attn_norm": ((1, D), f32),
        "wq_a": ((D, Q_LORA), bf16),
        "q_norm": ((1, Q_LORA), f32),
        "wq_b": ((Q_LORA, Q), torch.int8),
        "wq_b_scale": ((Q // SCALE_BLOCK, SCALE_BLOCK), f32),
        "wkv": ((D, HEAD_DIM), bf16),
        "kv_norm": ((1, HEAD_DIM), f32),
    }


def hold(
    module: nn.Module,
    wanted: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    weights: Mapping[str, Tensor] | None,
) -> None:
    """Register the buffers `wanted` by name, with these values; uninitialised memory for those not given.

    Raises ArgumentError for a weight of another shape or dtype, and for one that is not wanted.
    """
    given = dict(weights or {})
    for name, (shape, dtype) in wanted.items():
        value = given.pop(name, None)
        if value is None:
            value = torch.empty(shape, dtype=dtype)
        if tuple(value.shape) != shape or value.dtype != dtype:
            raise ArgumentError(
                f"the weight {name!r} is {list(value.shape)} {value.dtype},"
                f" wanted {list(shape)} {dtype}"
            )
        module.register_buffer(name, value)
    if given:
        raise ArgumentError(
            f"there is no weight {next(iter(given))!r}", help=f"there are {', '.join(wanted)}"
        )


def located(
    cfg: Config, x: Tensor, start_pos: int, position_ids: Tensor | None
) -> tuple[Tensor, Tensor, torch.Size]:
    """Tokens [T, D], their positions [T], and the leading axes of x that T stands for.

    Raises ArgumentError, ArgumentValueError for shapes and a start_pos that cannot be.
    """
    if x.dim() not in (2, 3) or x.shape[-1] != cfg.hidden_size:
        raise ArgumentError(
            f"x is {list(x.shape)}, wanted [T, {cfg.hidden_size}] or [B, S, {cfg.hidden_size}]"
        )
    if x.dtype != torch.bfloat16:
        raise ArgumentError(f"x is {x.dtype}, wanted torch.bfloat16", help="x.bfloat16()")
    lead = x.shape[:-1]
    if position_ids is None:
        if not _is_whole(start_pos):
            raise ArgumentError(f"start_pos is {start_pos}, wanted a whole number")
        last = cfg.max_positions - lead[-1]
        if start_pos < 0 or start_pos > last:
            raise ArgumentValueError(
                f"start_pos is {start_pos}, wanted 0 to {last} for {lead[-1]} tokens"
            )
        position_ids = torch.arange(lead[-1], device=x.device) + start_pos
    elif start_pos != 0:
        raise ArgumentError(
            f"start_pos is {start_pos} and position_ids is given too",
            help="position_ids alone says where tokens stand",
        )
    elif tuple(position_ids.shape) not in (tuple(lead), tuple(lead[-1:])):
        raise ArgumentError(
            f"position_ids is {list(position_ids.shape)}, wanted {list(lead)}: one for each token"
        )
    if position_ids.is_floating_point():
        raise ArgumentError(f"position_ids is {position_ids.dtype}, wanted integers")
    return x.reshape(-1, x.shape[-1]), position_ids.expand(lead).reshape(-1), lead


def _is_whole(start_pos: object) -> bool:
    """Whether it is no fraction, and one number."""
    if isinstance(start_pos, Tensor):
        return start_pos.dim() == 0 and not start_pos.is_floating_point()
    return not isinstance(start_pos, float)
