"""The Q/KV projection as PyTorch operators: any number of tokens, weights packed once, padding left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tilewright.bound import BoundKernel
from tilewright.errors import ArgumentError, ArgumentValueError
from tilewright.models.deepseek_v4 import normed_qkv_proj_rope as normed
from tilewright.models.deepseek_v4 import q_proj_rope as query
from tilewright.models.deepseek_v4 import qkv_proj_rope_cached as cached
from tilewright.models.deepseek_v4.config import NO_SLOT, PADDING, SCALE_BLOCK, T_CHUNK, Config
from tilewright.models.deepseek_v4.reference import quantize_rows, rope_turned
from tilewright.models.deepseek_v4.slots import check_cache, check_slots
from tilewright.torch_ext import Packs, on_one_device, refuse_gradient

# Sizes of calls per doubling. A kernel is compiled for its number of tokens: with four sizes a doubling,
# 30 programs do for every number up to T_CHUNK, and at most a quarter of a call's rows are for nothing.
SIZES_PER_DOUBLING = 4

QKV = tuple[Tensor, Tensor, Tensor, Tensor]
Q = tuple[Tensor, Tensor, Tensor]
FrontEnd = tuple[Tensor, Tensor, Tensor]


# -- the operators of `QKVProjRope` -----------------------------------------------------------------


@torch.library.custom_op("tilewright::qkv_proj_rope", mutates_args=())
def qkv_proj_rope(
    x: Tensor,
    position_ids: Tensor,
    attn_norm: Tensor,
    wq_a: Tensor,
    q_norm: Tensor,
    wq_b: Tensor,
    wq_b_scale: Tensor,
    wkv: Tensor,
    kv_norm: Tensor,
    frequencies: Tensor,
    eps: float,
    max_positions: int,
) -> QKV:
    """q [T, H, HEAD_DIM], kv [T, HEAD_DIM], qr [T, Q_LORA], qr_scale [T, 1] of tokens anywhere.

    x [T, D] BF16; position_ids [T], -1 for rows that are no tokens: nothing is computed for them, their
    outputs are 0. frequencies [ROPE / 2] FP64: the angle per position of each pair; the rows of cos and sin
    are made for the positions of a chunk, so that there is no table. The weights are as in the kernel.
    Raises ArgumentValueError for a position outside -1 … max_positions - 1 before anything runs.
    """
    rows = tokens_at(position_ids, max_positions)
    slots = torch.full((len(x),), NO_SLOT, device=x.device)
    nowhere = slots, x.new_empty(1, 1, wkv.shape[1])
    return _project(
        x, position_ids, attn_norm, wq_a, q_norm, wq_b, wq_b_scale, wkv, kv_norm, frequencies, eps, rows,
        *nowhere,
    )  # fmt: skip


@torch.library.custom_op("tilewright::qkv_proj_rope_cached", mutates_args=("cache",))
def qkv_proj_rope_cached(
    x: Tensor,
    position_ids: Tensor,
    attn_norm: Tensor,
    wq_a: Tensor,
    q_norm: Tensor,
    wq_b: Tensor,
    wq_b_scale: Tensor,
    wkv: Tensor,
    kv_norm: Tensor,
    frequencies: Tensor,
    eps: float,
    max_positions: int,
    slots: Tensor,
    cache: Tensor,
) -> QKV:
    """`qkv_proj_rope` that also makes kv[t] row slots[t] of the cache, in the launches that compute it.

    slots [T] INT32 or INT64; cache [BLOCKS, BLOCK, HEAD_DIM] BF16, whose row s is row s % BLOCK of block
    s // BLOCK. Tokens with slot -1, and rows that are no tokens whatever their slot, leave no row behind.
    Raises ArgumentError, ArgumentValueError for a cache that cannot be written so, for a slot outside it and
    for two tokens with one slot, before anything runs.
    """
    rows = tokens_at(position_ids, max_positions)
    inputs = {
        "x": x, "position_ids": position_ids, "attn_norm": attn_norm, "wq_a": wq_a, "q_norm": q_norm,
        "wq_b": wq_b, "wq_b_scale": wq_b_scale, "wkv": wkv, "kv_norm": kv_norm, "frequencies": frequencies,
        "slots": slots,
    }  # fmt: skip
    check_cache(cache, wkv.shape[1], inputs)
    check_slots(slots, len(x), cache, rows)
    return _project(
        x, position_ids, attn_norm, wq_a, q_norm, wq_b, wq_b_scale, wkv, kv_norm, frequencies, eps, rows,
        slots.to(torch.int64), cache,
    )  # fmt: skip


def _project(
    x: Tensor, position_ids: Tensor, attn_norm: Tensor, wq_a: Tensor, q_norm: Tensor, wq_b: Tensor,
    wq_b_scale: Tensor, wkv: Tensor, kv_norm: Tensor, frequencies: Tensor, eps: float, rows: Tensor | None,
    slots: Tensor, cache: Tensor,
) -> QKV:  # fmt: skip
    cfg = _config(x.shape[1], wq_a.shape[1], wkv.shape[1], wq_b.shape[1], frequencies, eps)
    bound = qkv_packs.of(cfg, wq_a, wq_b, wkv)

    def call(x: Tensor, positions: Tensor, slots: Tensor, *made: Tensor) -> None:
        cos, sin = rope_turned(positions, frequencies)
        bound(x, attn_norm, q_norm, wq_b_scale, kv_norm, cos, sin, slots, *made, cache)

    outputs = [*_outputs(cfg), *_codes(cfg)]
    q, kv, qr, qr_scale = in_chunks(call, (x, position_ids, slots), outputs, rows)
    return q, kv, qr, qr_scale


@on_one_device
def _projected_like(
    x: Tensor, position_ids: Tensor, attn_norm: Tensor, wq_a: Tensor, q_norm: Tensor, wq_b: Tensor,
    wq_b_scale: Tensor, wkv: Tensor, kv_norm: Tensor, frequencies: Tensor, eps: float, max_positions: int,
    slots: Tensor | None = None, cache: Tensor | None = None,
) -> QKV:  # fmt: skip
    """The results of both operators without values."""
    T, HEAD_DIM = x.shape[0], wkv.shape[1]
    return (
        x.new_empty(T, wq_b.shape[1] // HEAD_DIM, HEAD_DIM),
        x.new_empty(T, HEAD_DIM),
        x.new_empty(T, wq_a.shape[1], dtype=torch.int8),
        x.new_empty(T, 1, dtype=torch.float32),
    )


for _operator in (qkv_proj_rope, qkv_proj_rope_cached):
    _operator.register_fake(_projected_like)
    refuse_gradient(_operator, "QKVProjRope")


def _bind_qkv(cfg: Config, wq_a: Tensor, wq_b: Tensor, wkv: Tensor) -> BoundKernel:
    # One kernel for both operators, so that weights are packed once: without a slot it writes no cache.
    kernel = cached.build(cfg)
    bound: BoundKernel = kernel.bind(wq_a=wq_a, wq_b=wq_b, wkv=wkv, release=True)
    return bound


qkv_packs = Packs(_bind_qkv)


# -- the query alone, for a process that is sent kv --------------------------------------------------


@torch.library.custom_op("tilewright::q_proj_rope", mutates_args=())
def q_proj_rope(
    x: Tensor,
    position_ids: Tensor,
    attn_norm: Tensor,
    wq_a: Tensor,
    q_norm: Tensor,
    wq_b: Tensor,
    wq_b_scale: Tensor,
    head_dim: int,
    frequencies: Tensor,
    eps: float,
    max_positions: int,
) -> Q:
    """q, qr and qr_scale as `qkv_proj_rope` gives them, without the weights and the work of kv."""
    cfg = _config(x.shape[1], wq_a.shape[1], head_dim, wq_b.shape[1], frequencies, eps)
    rows = tokens_at(position_ids, max_positions)
    bound = q_packs.of(cfg, wq_a, wq_b)

    def call(x: Tensor, positions: Tensor, *made: Tensor) -> None:
        bound(x, attn_norm, q_norm, wq_b_scale, *rope_turned(positions, frequencies), *made)

    outputs = [_outputs(cfg)[0], *_codes(cfg)]
    q, qr, qr_scale = in_chunks(call, (x, position_ids), outputs, rows)
    return q, qr, qr_scale


@q_proj_rope.register_fake
@on_one_device
def _(
    x: Tensor, position_ids: Tensor, attn_norm: Tensor, wq_a: Tensor, q_norm: Tensor, wq_b: Tensor,
    wq_b_scale: Tensor, head_dim: int, frequencies: Tensor, eps: float, max_positions: int,
) -> Q:  # fmt: skip
    T = x.shape[0]
    return (
        x.new_empty(T, wq_b.shape[1] // head_dim, head_dim),
        x.new_empty(T, wq_a.shape[1], dtype=torch.int8),
        x.new_empty(T, 1, dtype=torch.float32),
    )


refuse_gradient(q_proj_rope, "ShardedQKVProjRope")


def _bind_q(cfg: Config, wq_a: Tensor, wq_b: Tensor) -> BoundKernel:
    bound: BoundKernel = query.build(cfg).bind(wq_a=wq_a, wq_b=wq_b, release=True)
    return bound


q_packs = Packs(_bind_q)


# -- the operator for attention that is given normed tokens and its own angles -----------------------


@torch.library.custom_op("tilewright::attention_front_end", mutates_args=())
def attention_front_end(
    x_norm: Tensor,
    cos: Tensor,
    sin: Tensor,
    q_a: Tensor,
    q_norm: Tensor,
    q_b: Tensor,
    kv: Tensor,
    kv_norm: Tensor,
    eps: float,
) -> FrontEnd:
    """q [T, H, HEAD_DIM], kv [T, HEAD_DIM] and the normed query latent [T, Q_LORA], in BF16.

    x_norm [T, D] BF16; cos, sin [T, ROPE / 2] FP32, one angle for each pair. The weights are those of linear
    layers, [out, in], in any float dtype: q_a and kv are taken as BF16, q_b as INT8 with a scale a row.
    """
    rope = torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
    cfg = _config(x_norm.shape[1], q_a.shape[0], kv.shape[0], q_b.shape[0], cos[0], eps)
    bound = front_end_packs.of(cfg, q_a, q_b, kv)

    def call(
        x: Tensor, cos: Tensor, sin: Tensor, q: Tensor, kv_row: Tensor, latent: Tensor
    ) -> None:
        bound(x, _row(q_norm), _row(kv_norm), cos, sin, q, kv_row, latent)

    outputs = [*_outputs(cfg), ((cfg.q_lora_rank,), torch.bfloat16)]
    q, kv_row, latent = in_chunks(call, (x_norm, *rope), outputs)
    return q, kv_row, latent


@attention_front_end.register_fake
@on_one_device
def _(
    x_norm: Tensor, cos: Tensor, sin: Tensor, q_a: Tensor, q_norm: Tensor, q_b: Tensor, kv: Tensor,
    kv_norm: Tensor, eps: float,
) -> FrontEnd:  # fmt: skip
    T, HEAD_DIM = x_norm.shape[0], kv.shape[0]
    return (
        x_norm.new_empty(T, q_b.shape[0] // HEAD_DIM, HEAD_DIM),
        x_norm.new_empty(T, HEAD_DIM),
        x_norm.new_empty(T, q_a.shape[0]),
    )


refuse_gradient(attention_front_end, "the attention front end")


def _bind_front_end(cfg: Config, q_a: Tensor, q_b: Tensor, kv: Tensor) -> BoundKernel:
    codes, scale = quantize_rows(q_b.detach().float())
    bound: BoundKernel = normed.build(cfg).bind(
        wq_a=_columns(q_a),
        wq_b=codes.t().contiguous(),
        wq_b_scale=scale.reshape(-1, SCALE_BLOCK),
        wkv=_columns(kv),
        release=True,
    )
    return bound


front_end_packs = Packs(_bind_front_end)


def _columns(weight: Tensor) -> Tensor:
    """A linear layer's [out, in] as the kernels' [in, out] BF16, a copy."""
    return weight.detach().t().to(torch.bfloat16, memory_format=torch.contiguous_format, copy=True)


def _row(gain: Tensor) -> Tensor:
    return gain.detach().float().reshape(1, -1)


# -- any number of tokens, some of them padding ------------------------------------------------------


def tokens_at(position_ids: Tensor, max_positions: int) -> Tensor | None:
    """The rows [N] that are tokens, None for all.

    Raises ArgumentError for positions that are no integers, ArgumentValueError for one out of range.
    """
    if position_ids.is_floating_point() or position_ids.dtype == torch.bool:
        raise ArgumentError(
            f"position_ids is {position_ids.dtype}, wanted integers",
            help="position_ids.to(torch.int64)",
        )
    if not position_ids.numel():
        return None
    low, high = (int(x) for x in position_ids.aminmax())
    if low < PADDING or high >= max_positions:
        wrong = low if low < PADDING else high
        at = int((position_ids == wrong).nonzero()[0])
        raise ArgumentValueError(
            f"position_ids[{at}] is {wrong}; positions are 0 to {max_positions - 1}",
            help=f"{PADDING} marks a row that is no token",
        )
    return (position_ids != PADDING).nonzero().flatten() if low == PADDING else None


def call_size(tokens: int) -> int:
    """The number of rows that a call for so many tokens (T_CHUNK at most) is made with."""
    step = max(1, (1 << (tokens - 1).bit_length()) // (2 * SIZES_PER_DOUBLING))
    return -(-tokens // step) * step


def in_chunks(
    call: Callable[..., None],
    inputs: Sequence[Tensor],
    outputs: Sequence[tuple[tuple[int, ...], torch.dtype]],
    where: Tensor | None = None,
) -> list[Tensor]:
    """`call(*inputs, *outputs)` for all tokens, T_CHUNK at a time; gives the outputs [T, …].

    inputs: a row per token; outputs: the shape and dtype of a token's row. where: the rows [N] that are
    tokens, None for all; `call` never sees the others, and their outputs are 0.

    The last call may have more rows than there are tokens left. Floats of its inputs are filled up with 0 and
    integers with -1, which is no position and no slot; what it gives for them is not in the outputs.
    Memory beside the outputs is that of one call, however many tokens there are.
    """
    rows, device = len(inputs[0]), inputs[0].device  # whatever the default device is
    tokens = rows if where is None else len(where)
    whole = tokens - tokens % T_CHUNK
    last = call_size(tokens - whole) if tokens > whole else 0
    if where is None:  # the rows of the last call lie behind the end of the outputs
        made = [
            torch.empty(whole + last, *shape, dtype=dtype, device=device)
            for shape, dtype in outputs
        ]
        part = made
    else:
        made = [torch.zeros(rows, *shape, dtype=dtype, device=device) for shape, dtype in outputs]
        size = min(whole + last, T_CHUNK)
        part = [torch.empty(size, *shape, dtype=dtype, device=device) for shape, dtype in outputs]
    for first in range(0, whole + last, T_CHUNK):
        size = min(T_CHUNK, whole + last - first)
        if where is None:
            given = [_filled(x[first : first + size], size) for x in inputs]
            call(*given, *(y[first : first + size] for y in part))
        else:
            at = where[first : first + size]
            call(*(_filled(x[at], size) for x in inputs), *(y[:size] for y in part))
            for y, rows_of_y in zip(made, part, strict=True):
                y.index_copy_(0, at, rows_of_y[: len(at)])
    return [y[:rows] for y in made]


def _filled(x: Tensor, size: int) -> Tensor:
    """x with `size` rows, contiguous."""
    if len(x) == size:
        return x.contiguous()
    fill = 0 if x.is_floating_point() else -1
    return torch.cat((x, x.new_full((size - len(x), *x.shape[1:]), fill)))


def _config(
    hidden: int, q_lora: int, head_dim: int, q_width: int, pairs: Tensor, eps: float
) -> Config:
    return Config(
        "operator",
        hidden_size=hidden,
        num_attention_heads=q_width // head_dim,
        q_lora_rank=q_lora,
        head_dim=head_dim,
        rope_dim=2 * len(pairs),
        rms_norm_eps=eps,
    )


def _outputs(cfg: Config) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """q and kv."""
    heads = (cfg.num_attention_heads, cfg.head_dim)
    return [(heads, torch.bfloat16), ((cfg.head_dim,), torch.bfloat16)]


def _codes(cfg: Config) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """qr and qr_scale."""
    return [((cfg.q_lora_rank,), torch.int8), ((1,), torch.float32)]
