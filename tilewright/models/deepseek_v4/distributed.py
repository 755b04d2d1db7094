"""The Q/KV projection over several processes: each has some of the heads, and the bits are those of one process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo

from tilewright import knobs
from tilewright.blocking import product_order
from tilewright.dtypes import BF16
from tilewright.errors import ArgumentValueError
from tilewright.machine import host
from tilewright.models.deepseek_v4.config import SCALE_BLOCK, Config, Rope
from tilewright.models.deepseek_v4.module import (
    FixedDtypes,
    Projected,
    buffers,
    hold,
    located,
)
from tilewright.models.deepseek_v4.ops import q_packs, q_proj_rope, qkv_packs, qkv_proj_rope
from tilewright.models.deepseek_v4.reference import rope_frequencies
from tilewright.models.deepseek_v4.weights import Checkpoint
from tilewright.torch_ext.ranks import Ranks

OF_HEADS = ("wq_b", "wq_b_scale")  # the weights that are shared out
OF_KV = ("wkv", "kv_norm")  # the weights that only a rank that computes kv needs


class ShardedQKVProjRope(FixedDtypes):
    """`QKVProjRope` with its heads shared out over the ranks of a process group (gloo).

    Each rank has the columns of wq_b of its own heads, packs them, and computes their queries; the norms and
    the low-rank part are computed by every rank. All outputs have the bits of one process. All ranks make it
    and call it in the same order, with the same arguments.

    cfg:     of the whole model.
    weights: the buffers' first values by name; wq_b and wq_b_scale either whole, of which this rank's columns
             are copied, or these columns alone. The same holds for a state dict that is loaded.
    rope:    "plain" for layers without compressed keys, "yarn" for the others.
    group:   None for the default one.
    kv_from: None: every rank computes kv, and nothing is sent. A rank: it alone has wkv and computes kv, and
             sends it to the others.
    gather:  False: `q` has this rank's heads, `heads`. True: every rank gets those of all ranks.
    timeout: how long to wait for a rank that does not answer; None for the group's own.

    Raises ArgumentError, ArgumentValueError for arguments that cannot be, and RankError when another rank
    could not make its part, has other arguments or a CPU whose products have other bits, or is gone.
    """

    attn_norm: Tensor  # [1, D] FP32
    wq_a: Tensor  # [D, Q_LORA] BF16
    q_norm: Tensor  # [1, Q_LORA] FP32
    wq_b: Tensor  # [Q_LORA, len(heads) * HEAD_DIM] INT8
    wq_b_scale: Tensor  # [len(heads) * HEAD_DIM / 128, 128] FP32
    wkv: Tensor  # [D, HEAD_DIM] BF16, where kv is computed
    kv_norm: Tensor  # [1, HEAD_DIM] FP32, where kv is computed

    def __init__(
        self,
        cfg: Config,
        weights: Mapping[str, Tensor] | None = None,
        rope: Rope = "plain",
        *,
        group: dist.ProcessGroup | None = None,
        kv_from: int | None = None,
        gather: bool = False,
        timeout: timedelta | None = None,
    ) -> None:
        super().__init__()
        self.cfg, self.rope, self.kv_from, self.gather = cfg, rope, kv_from, gather
        self.ranks = Ranks(group, timeout)
        self._calls = 0
        with self.ranks.together("making a ShardedQKVProjRope") as facts:
            facts.update(asdict(cfg), rope=rope, kv_from=kv_from, gather=gather)
            # kv must have the same bits wherever it is computed.
            facts.update(backend=knobs.backend(), products=product_order(BF16, host()))
            self._make(weights)

    def _make(self, weights: Mapping[str, Tensor] | None) -> None:
        cfg, ranks = self.cfg, self.ranks
        if self.kv_from is not None and not 0 <= self.kv_from < ranks.size:
            raise ArgumentValueError(
                f"kv_from is {self.kv_from}, wanted a rank of the group: 0 to {ranks.size - 1}",
                help="None lets every rank compute kv",
            )
        self.heads = heads_of(ranks.rank, ranks.size, cfg.num_attention_heads)
        if any(edge * cfg.head_dim % SCALE_BLOCK for edge in (self.heads.start, self.heads.stop)):
            raise ArgumentValueError(
                f"heads {self.heads.start} to {self.heads.stop - 1} of {cfg.head_dim} channels begin or end"
                f" inside a row of wq_b_scale",
                help=f"share heads out in multiples of {SCALE_BLOCK} channels: with another number of ranks",
            )
        self.frequencies = rope_frequencies(cfg, self.rope)
        wanted = buffers(replace(cfg, num_attention_heads=len(self.heads)))
        given = {name: self._own(name, value) for name, value in (weights or {}).items()}
        if not self.has_kv:
            for name in OF_KV:
                given.pop(name, None)
                del wanted[name]
        hold(self, wanted, given)
        self.register_load_state_dict_pre_hook(_take_own)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        layer: int,
        rope: Rope | None = None,
        *,
        group: dist.ProcessGroup | None = None,
        **options: Any,
    ) -> ShardedQKVProjRope:
        """One layer of a checkpoint. Of wq_b this rank reads only the rows of its own heads.

        rope: None for what the checkpoint says. The other options are those of the class.
        Raises CheckpointError too; the other ranks then raise RankError.
        """
        ranks = Ranks(group, options.get("timeout"))
        with ranks.together(f"reading layer {layer} of a checkpoint") as facts:
            heads = heads_of(ranks.rank, ranks.size, checkpoint.cfg.num_attention_heads)
            part = checkpoint.layer(layer, heads=heads)
            rope = checkpoint.chosen_rope(layer, rope)
            weights = part.arguments("int8")
            facts.update(layer=layer, rope=rope)
        return cls(checkpoint.cfg, weights, rope, group=group, **options)

    @property
    def has_kv(self) -> bool:
        """Whether this rank computes kv."""
        return self.kv_from in (None, self.ranks.rank)

    @property
    def sends(self) -> bool:
        """Whether a call sends anything. If not, a call neither waits for other ranks nor notices their death."""
        return self.ranks.size > 1 and (self.gather or self.kv_from is not None)

    def forward(
        self, x: Tensor, start_pos: int = 0, position_ids: Tensor | None = None
    ) -> Projected:
        """As `QKVProjRope`, with the same arguments on every rank; q […, len(heads) or H, HEAD_DIM].

        Nothing is returned unless every rank has done its part. Raises, besides what `QKVProjRope` does,
        RankError: when a rank is gone, does not answer, failed in this call, or was called with other tokens.
        """
        if not self.sends:
            lead, made = self._projected(x, start_pos, position_ids)
        else:
            lead, made = self._together(x, start_pos, position_ids)
        return Projected(*(t.reshape(*lead, *t.shape[1:]) for t in made))

    def _projected(
        self, x: Tensor, start_pos: int, position_ids: Tensor | None
    ) -> tuple[torch.Size, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """What this rank computes, a row per token; a kv that it does not compute is not initialised."""
        tokens, positions, lead = located(self.cfg, x, start_pos, position_ids)
        query = (self.attn_norm, self.wq_a, self.q_norm, self.wq_b, self.wq_b_scale)
        figures = (self.frequencies, self.cfg.rms_norm_eps, self.cfg.max_positions)
        if self.has_kv:
            return lead, qkv_proj_rope(tokens, positions, *query, self.wkv, self.kv_norm, *figures)
        q, qr, qr_scale = q_proj_rope(tokens, positions, *query, self.cfg.head_dim, *figures)
        return lead, (q, tokens.new_empty(len(tokens), self.cfg.head_dim), qr, qr_scale)

    @_disable_dynamo  # a graph break; torch.compiler.disable would import the compiler with this file
    def _together(
        self, x: Tensor, start_pos: int, position_ids: Tensor | None
    ) -> tuple[torch.Size, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """What all ranks compute, after each has said that it has done its part of the same call."""
        self._calls += 1
        with self.ranks.together("projecting q and kv") as facts:
            lead, made = self._projected(x, start_pos, position_ids)
            where = torch.tensor(start_pos) if position_ids is None else position_ids
            checksum = crc32(where.to(torch.int64).contiguous().numpy().tobytes())
            facts.update(call=self._calls, x=list(x.shape), positions=checksum)
        return lead, self._exchanged(*made)

    def _exchanged(
        self, q: Tensor, kv: Tensor, qr: Tensor, qr_scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ranks, T = self.ranks, len(q)
        queries = {ranks.rank: q}
        sent: list[Tensor] = []
        received: dict[int, list[Tensor]] = {rank: [] for rank in ranks.others}
        if self.kv_from == ranks.rank:
            sent.append(kv)
        elif self.kv_from is not None:
            received[self.kv_from].append(kv)
        if self.gather:
            sent.append(q)
            for rank in ranks.others:
                heads = heads_of(rank, ranks.size, self.cfg.num_attention_heads)
                queries[rank] = q.new_empty(T, len(heads), self.cfg.head_dim)
                received[rank].append(queries[rank])
        ranks.exchange("exchanging q and kv", ranks.to_all(sent), received)
        if self.gather:
            q = torch.cat([queries[rank] for rank in range(ranks.size)], 1)
        return q, kv, qr, qr_scale

    def repack(self) -> None:
        """Pack the weights anew on the next call."""
        (qkv_packs if self.has_kv else q_packs).forget(self.wq_a, self.wq_b)

    def extra_repr(self) -> str:
        ranks = self.ranks
        return (
            f"{self.cfg.name}, rope={self.rope}, rank {ranks.rank} of {ranks.size},"
            f" heads {self.heads.start} to {self.heads.stop - 1}, kv_from={self.kv_from}, gather={self.gather}"
        )

    def _own(self, name: str, value: Tensor) -> Tensor:
        """This rank's part of a weight; the weight as it is when it is not a whole one of many heads."""
        whole = buffers(self.cfg).get(name, ((), None))[0]
        if name not in OF_HEADS or tuple(value.shape) != whole or self.ranks.size == 1:
            return value
        edges = (self.heads.start * self.cfg.head_dim, self.heads.stop * self.cfg.head_dim)
        if name == "wq_b":
            return value[:, slice(*edges)].clone(memory_format=torch.contiguous_format)
        return value[slice(*(edge // SCALE_BLOCK for edge in edges))].clone()


def _take_own(module: ShardedQKVProjRope, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Before a state dict is loaded: this rank's part of whole weights, and no kv where there is none."""
    for name in OF_HEADS:
        if prefix + name in state:
            state[prefix + name] = module._own(name, state[prefix + name])
    if not module.has_kv:
        for name in OF_KV:
            state.pop(prefix + name, None)


def heads_of(rank: int, ranks: int, heads: int) -> range:
    """The heads of a rank: neighbours, and never more than one head more than another rank has.

    Raises ArgumentValueError when there are more ranks than heads.
    """
    if ranks > heads:
        raise ArgumentValueError(
            f"{heads} heads cannot be shared out over {ranks} ranks",
            help=f"start {heads} ranks or fewer, or make a group of fewer: dist.new_group(range({heads}))",
        )
    each, more = divmod(heads, ranks)
    first = rank * each + min(rank, more)
    return range(first, first + each + (rank < more))
