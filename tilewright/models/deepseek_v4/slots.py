"""Which row of a KV cache each token goes to: paged caches, sliding windows, and what cannot be a slot."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tilewright.errors import ArgumentError, ArgumentValueError
from tilewright.models.deepseek_v4.config import NO_SLOT, PADDING


def paged_slots(position_ids: Tensor, blocks: Tensor, block_size: int) -> Tensor:
    """The slots of tokens whose sequences own blocks of a cache; INT64, shaped like position_ids.

    position_ids [S] or [B, S], -1 for rows that are no tokens: their slot is -1. blocks [N] or [B, N]: the block
    of the cache that holds a sequence's positions n * block_size and up.
    Raises ArgumentError, ArgumentValueError for blocks of other sequences, for a position that cannot be or is
    past the last block, and for one whose block is negative.
    """
    _check_positions(position_ids)
    if block_size < 1:
        raise ArgumentValueError(f"block_size is {block_size}, wanted at least 1")
    if blocks.shape[:-1] != position_ids.shape[:-1]:
        wanted = [*position_ids.shape[:-1], "N"]
        raise ArgumentError(
            f"blocks is {list(blocks.shape)}, wanted [{', '.join(map(str, wanted))}]: those of each sequence"
        )
    token = position_ids != PADDING
    last = int(position_ids.max()) if position_ids.numel() else PADDING
    if last >= blocks.shape[-1] * block_size:
        raise ArgumentValueError(
            f"position {last} is past the {blocks.shape[-1]} blocks of {block_size} rows of its sequence",
            help=f"give the sequence {last // block_size + 1} blocks",
        )
    position = position_ids.clamp_min(0).long()
    block = blocks.long().gather(-1, position // block_size)
    if bool((token & (block < 0)).any()):
        at = int(position[token & (block < 0)][0])
        raise ArgumentValueError(
            f"position {at} is in block {at // block_size} of its sequence, which is none:"
            f" blocks has {int(block[token & (block < 0)][0])} there"
        )
    return torch.where(token, block * block_size + position % block_size, NO_SLOT)


def window_slots(position_ids: Tensor, window: int, rings: Tensor | None = None) -> Tensor:
    """The slots of tokens in a cache [RINGS, window, HEAD_DIM]; INT64, shaped like position_ids.

    A ring keeps the last `window` positions of one sequence, position p in row p % window. rings: the ring
    of each token, shaped like position_ids; without it row b of position_ids [B, S] has ring b, and [S] ring 0.
    Tokens that a later one of the same call would overwrite have slot -1, as have rows with position -1.
    Raises ArgumentError, ArgumentValueError for rings of another shape, a window of no rows, and what is no position.
    """
    _check_positions(position_ids)
    if window < 1:
        raise ArgumentValueError(f"window is {window}, wanted at least 1")
    if rings is None:
        rings = torch.zeros_like(position_ids)
        if position_ids.dim() == 2:
            rings += torch.arange(len(position_ids))[:, None]
    elif rings.shape != position_ids.shape:
        raise ArgumentError(
            f"rings is {list(rings.shape)}, wanted {list(position_ids.shape)}: one for each token"
        )
    position, ring = position_ids.long(), rings.long().clamp_min(0)
    if not position.numel():
        return position
    token = position != PADDING
    newest = torch.full((int(ring.max()) + 1,), PADDING)
    newest.scatter_reduce_(0, ring.flatten(), position.flatten(), "amax")
    kept = token & (position > newest[ring] - window)
    return torch.where(kept, ring * window + position % window, NO_SLOT)


def _check_positions(position_ids: Tensor) -> None:
    if position_ids.is_floating_point() or position_ids.dtype == torch.bool:
        raise ArgumentError(f"position_ids is {position_ids.dtype}, wanted integers")
    low = int(position_ids.min()) if position_ids.numel() else PADDING
    if low < PADDING:
        raise ArgumentValueError(
            f"position_ids has {low}; positions are 0 and up",
            help=f"{PADDING} marks a row that is no token",
        )


# -- what a call refuses ---------------------------------------------------------------------------


def check_cache(cache: Tensor, head_dim: int, inputs: Mapping[str, Tensor]) -> None:
    """Raise ArgumentError unless `cache` is [BLOCKS, BLOCK, head_dim] BF16 in memory of its own."""
    if cache.dim() != 3 or cache.shape[2] != head_dim:
        raise ArgumentError(
            f"cache is {list(cache.shape)}, wanted [BLOCKS, BLOCK, {head_dim}]",
            help=f"cache.view(-1, BLOCK, {head_dim}) shares its memory",
        )
    if cache.dtype != torch.bfloat16:
        raise ArgumentError(f"cache is {cache.dtype}, wanted torch.bfloat16")
    if not cache.is_contiguous():
        raise ArgumentError(
            f"cache has strides {list(cache.stride())}, wanted {_dense(cache.shape)}",
            help="rows are written where they belong, so a copy would not do",
        )
    start, end = _reach(cache)
    for name, tensor in inputs.items():
        first, last = _reach(tensor)
        if first < end and start < last:
            raise ArgumentError(
                f"cache shares memory with {name}, which the same call reads",
                help="give the cache memory of its own",
            )


def check_slots(slots: Tensor, tokens: int, cache: Tensor, where: Tensor | None) -> None:
    """Raise unless `slots` names, for the rows `where` (None: all), different rows of the cache, or none (-1)."""
    if slots.dtype not in (torch.int32, torch.int64):
        raise ArgumentError(f"slots is {slots.dtype}, wanted torch.int32 or torch.int64")
    if slots.shape != (tokens,):
        raise ArgumentError(f"slots is {list(slots.shape)}, wanted [{tokens}]: one for each token")
    named = slots if where is None else slots[where]
    if not len(named):
        return
    ordered, order = named.sort(stable=True)
    low, high = int(ordered[0]), int(ordered[-1])
    count = cache.shape[0] * cache.shape[1]

    def token(place: int) -> int:
        row = order[place]
        return int(row if where is None else where[row])

    if low < NO_SLOT or high >= count:
        wrong, place = (low, 0) if low < NO_SLOT else (high, -1)
        raise ArgumentValueError(
            f"slots[{token(place)}] is {wrong}; the cache has slots 0 to {count - 1}",
            help=f"{NO_SLOT} is the slot of a token whose kv row is not kept",
        )
    twice = ((ordered[1:] == ordered[:-1]) & (ordered[1:] != NO_SLOT)).nonzero()
    if len(twice):
        place = int(twice[0])
        raise ArgumentValueError(
            f"slots[{token(place)}] and slots[{token(place + 1)}] are both {int(ordered[place])}:"
            " which row would stay is not defined",
            help=f"give {NO_SLOT} to all tokens but the one whose row is to stay",
        )


def _reach(x: Tensor) -> tuple[int, int]:
    """The first address of a tensor's elements and the one after the last."""
    if not x.numel():
        return 0, 0
    last = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


def _dense(shape: torch.Size) -> list[int]:
    return [shape[1] * shape[2], shape[2], 1]
