"""What the processes of tests/test_distributed.py do: `python ranks.py SCENARIO [FOLDER]`, a process for each rank."""

from __future__ import annotations

import copy
import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from tilewright.errors import ArgumentError, ArgumentValueError, RankError
from tilewright.machine import avx512, generic_x86_64
from tilewright.models.deepseek_v4 import distributed, ops
from tilewright.models.deepseek_v4.config import DEMO
from tilewright.models.deepseek_v4.distributed import ShardedQKVProjRope, heads_of
from tilewright.models.deepseek_v4.module import Projected, QKVProjRope, buffers
from tilewright.models.deepseek_v4.specs import decode_specs
from tilewright.models.deepseek_v4.weights import open_checkpoint
from tilewright.torch_ext.ranks import Ranks, share_threads

CHUNK, TOKENS = 16, 40  # two whole chunks and a part of one
LONG = timedelta(seconds=120)  # for ranks that are alive, on a machine that may be busy
SHORT = timedelta(seconds=3)  # for one that is known not to answer

VALUES = {spec.name: spec.create_tensor() for spec in decode_specs(DEMO, TOKENS, seed=4)}
WEIGHTS = {name: VALUES[name] for name in buffers(DEMO)}
X = VALUES["x"]


def assert_part_of(part: ShardedQKVProjRope, got: Projected, whole: Projected) -> None:
    """The outputs are, bit for bit, those of one process."""
    if not part.gather:
        whole = whole._replace(q=whole.q[..., part.heads.start : part.heads.stop, :])
    for name, a, b in zip(got._fields, got, whole, strict=True):
        assert a.shape == b.shape, name
        assert torch.equal(a, b), (
            name
        )  # no NaN here, and -0 would come of another order of sums only


@contextmanager
def raises(kind: type[Exception], words: str):
    """As pytest's, in a process that has no pytest."""
    said = None
    try:
        yield
    except kind as error:
        said = str(error)
    assert said is not None, f"no {kind.__name__} with {words!r}"
    assert re.search(words, said), f"{words!r} is not in:\n{said}"


# -- started by torchrun, three ranks: 4 heads are 2, 1 and 1 -----------------------------------------


def bits(folder: Path) -> None:
    """Everything that three living ranks do; an assertion ends all of them."""
    dist.init_process_group("gloo", timeout=LONG)
    ops.T_CHUNK = CHUNK
    for step in (
        every_way_of_sending, some_ranks_alone, weights_may_change, from_a_checkpoint,
        mistakes_leave_the_group_usable, long_notes, a_share_of_the_cores,
    ):  # fmt: skip
        step(folder)
        dist.barrier()


def every_way_of_sending(_: Path) -> None:
    one = QKVProjRope(DEMO, WEIGHTS, "yarn")
    prompt, batch = one(X, start_pos=7), one(X[:8].view(2, 4, -1), start_pos=5)
    positions = torch.tensor([3, 4, -1, 900, -1, 0, 7, 2, 8, 5])  # eight tokens
    padded, nobody = one(X[:10], position_ids=positions), one(X[:0])
    for kv_from in (None, 0, 2):
        for gather in (False, True):
            part = ShardedQKVProjRope(DEMO, WEIGHTS, "yarn", kv_from=kv_from, gather=gather)
            assert hasattr(part, "wkv") == part.has_kv == (kv_from in (None, dist.get_rank()))
            assert_part_of(part, part(X, start_pos=7), prompt)
            assert_part_of(part, part(X[:8].view(2, 4, -1), start_pos=5), batch)
            assert_part_of(part, part(X[:10], position_ids=positions), padded)
            assert_part_of(part, part(X[:0]), nobody)


def some_ranks_alone(_: Path) -> None:
    """In a group, ranks are numbered anew."""
    group = dist.new_group([0, 2], timeout=LONG)
    if dist.get_rank() == 1:
        with raises(ArgumentError, "rank 1 of all, is not in the group"):
            ShardedQKVProjRope(DEMO, WEIGHTS, group=group)
        return
    part = ShardedQKVProjRope(DEMO, WEIGHTS, group=group, kv_from=1, gather=True)
    assert part.has_kv == (dist.get_rank() == 2)
    assert_part_of(part, part(X), QKVProjRope(DEMO, WEIGHTS)(X))


def weights_may_change(_: Path) -> None:
    other = {
        n: s.create_tensor() for s in decode_specs(DEMO, 1, seed=9) if (n := s.name) in WEIGHTS
    }
    part = ShardedQKVProjRope(DEMO, kv_from=0)
    part.load_state_dict(WEIGHTS)  # as one process saves them
    assert_part_of(part, part(X), QKVProjRope(DEMO, WEIGHTS)(X))
    twin = copy.deepcopy(part)
    twin.load_state_dict(other)
    assert_part_of(twin, twin(X), QKVProjRope(DEMO, other)(X))
    assert_part_of(part, part(X), QKVProjRope(DEMO, WEIGHTS)(X))
    twin.load_state_dict(part.state_dict())  # as this rank saves them
    assert_part_of(twin, twin(X), QKVProjRope(DEMO, WEIGHTS)(X))
    twin.wq_b.data.neg_()
    twin.repack()
    twin.wq_b_scale.neg_()
    assert_part_of(twin, twin(X), QKVProjRope(DEMO, WEIGHTS)(X))


def from_a_checkpoint(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    whole = checkpoint.layer(1)
    one = QKVProjRope(checkpoint.cfg, whole.arguments("int8"), whole.rope)
    part = ShardedQKVProjRope.from_checkpoint(checkpoint, 1, kv_from=1)
    assert part.rope == whole.rope
    assert part.wq_b.shape == (128, len(part.heads) * 128)
    assert_part_of(part, part(X), one(X))
    # A rank that cannot read its part does not leave the others waiting.
    mine = dist.get_rank() == 1
    number = 7 if mine else 1
    with raises(Exception, "layer 7" if mine else "rank 1 of 3 failed while reading layer 1"):
        ShardedQKVProjRope.from_checkpoint(checkpoint, number)


def mistakes_leave_the_group_usable(_: Path) -> None:
    wrong = dist.get_rank() == 1
    part = ShardedQKVProjRope(DEMO, WEIGHTS, gather=True)
    whole = QKVProjRope(DEMO, WEIGHTS)(X)
    failed = "rank 1 of 3 failed while projecting q and kv; nothing was exchanged"
    with raises(*((ArgumentValueError, "start_pos is -3") if wrong else (RankError, failed))):
        part(X, start_pos=-3 if wrong else 0)
    assert_part_of(part, part(X), whole)
    same = "do not do the same while projecting q and kv"
    with raises(RankError, rf"(?s){same}.*rank 1: x = \[7, 256\]\n"):
        part(X[: 8 - wrong])
    with raises(RankError, rf"(?s){same}.*rank 1: positions = \d+\n"):
        part(X, start_pos=int(wrong))
    assert_part_of(part, part(X), whole)
    same = "do not do the same while making a ShardedQKVProjRope"
    with raises(RankError, rf"(?s){same}.*rank 1: gather = True\n"):
        ShardedQKVProjRope(DEMO, WEIGHTS, gather=wrong)
    host = distributed.host
    distributed.host = generic_x86_64 if wrong else lambda: avx512("avx512bf16")
    with raises(RankError, rf"(?s){same}.*rank 1: products = 'bf16_wide False'"):
        ShardedQKVProjRope(DEMO, WEIGHTS)
    distributed.host = host
    failed = "rank 1 of 3 failed while making a ShardedQKVProjRope"
    with raises(*((ArgumentError, "weight 'wq_a' is") if wrong else (RankError, failed))):
        ShardedQKVProjRope(DEMO, {**WEIGHTS, **({"wq_a": X} if wrong else {})})
    two = replace(DEMO, num_attention_heads=2)
    with raises(ArgumentValueError, "2 heads cannot be shared out over 3 ranks"):
        ShardedQKVProjRope(two)
    narrow = replace(DEMO, head_dim=96, num_attention_heads=4)
    with raises(ArgumentValueError, "inside a row of wq_b_scale"):
        ShardedQKVProjRope(narrow)
    with raises(ArgumentValueError, "kv_from is 3, wanted a rank of the group: 0 to 2"):
        ShardedQKVProjRope(DEMO, kv_from=3)
    assert_part_of(part, part(X), whole)


def long_notes(_: Path) -> None:
    """Of every length around that of one message."""
    ranks = Ranks()
    for length in (0, 1015, 1016, 1017, 5000):
        texts = [str(rank) * (length + rank) for rank in range(3)]
        assert ranks.tell("trying", texts[ranks.rank]) == texts


def a_share_of_the_cores(_: Path) -> None:
    torch.set_num_threads(1)
    mine = share_threads()
    assert torch.get_num_threads() == mine
    shares = [int(text) for text in Ranks().tell("adding up", str(mine))]
    assert sum(shares) == max(3, len(os.sched_getaffinity(0)))
    assert max(shares) - min(shares) <= 1


def dies(_: Path) -> None:
    """Under torchrun: the agent ends the others, and says so."""
    dist.init_process_group("gloo", timeout=LONG)
    part = ShardedQKVProjRope(DEMO, WEIGHTS, gather=True)
    if dist.get_rank() == 1:
        os._exit(9)
    part(X)


# -- started one by one, four ranks ------------------------------------------------------------------


def losses(folder: Path) -> None:
    """Ranks 1, 2 and 3 are lost in three ways; what the others are told goes to stdout, a JSON line each."""
    rank = int(os.environ["RANK"])
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=4, timeout=LONG
    )
    groups = {ways: dist.new_group(ways, timeout=LONG) for ways in ((0, 3), (0, 1, 2), (0, 2))}
    for ways, step in (((0, 3), sends_nothing), ((0, 1, 2), leaves), ((0, 2), falls_silent)):
        if rank in ways:
            step(rank, groups[ways])
    os._exit(0)  # a group with lost ranks cannot be left in good order


def sends_nothing(rank: int, group: dist.ProcessGroup) -> None:
    """Rank 3 does its part, says so, and dies before it sends its result."""
    part = ShardedQKVProjRope(DEMO, WEIGHTS, group=group, gather=True, kv_from=1)
    part(X)
    if rank == 3:
        part._exchanged = lambda *_: os._exit(9)
    report("half-way", lambda: part(X))


def leaves(rank: int, group: dist.ProcessGroup) -> None:
    part = ShardedQKVProjRope(DEMO, WEIGHTS, group=group, kv_from=1)
    part(X)
    if rank == 1:
        os._exit(9)
    report("dead", lambda: part(X))
    report("still dead", lambda: part(X))


def falls_silent(rank: int, group: dist.ProcessGroup) -> None:
    part = ShardedQKVProjRope(DEMO, WEIGHTS, group=group, gather=True, timeout=SHORT)
    if rank == 2:
        time.sleep(600)  # until it is killed
    report("silent", lambda: part(X))


def report(what: str, call: Callable[[], object]) -> None:
    started, error, made = time.monotonic(), "", None
    try:
        made = call()
    except RankError as reason:
        error = str(reason)
    seconds = time.monotonic() - started
    line = {"what": what, "error": error, "made": made is not None, "seconds": seconds}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    assert heads_of(0, 1, 4) == range(4)
    globals()[sys.argv[1]](Path(sys.argv[2] if len(sys.argv) > 2 else "."))
