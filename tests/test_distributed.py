"""Heads over several processes: the bits of one, and a rank that is lost is named by those that are left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from checkpoints import written

from tilewright.errors import ArgumentError, ArgumentValueError
from tilewright.models.deepseek_v4.config import DEMO, FLASH
from tilewright.models.deepseek_v4.distributed import ShardedQKVProjRope, heads_of
from tilewright.models.deepseek_v4.weights import open_checkpoint
from tilewright.torch_ext import ranks as ranks_module
from tilewright.torch_ext.ranks import Ranks, cores, dealt

HERE = Path(__file__).parent
ROOT = HERE.parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT)]),
    "OMP_NUM_THREADS": "1",  # as torchrun would say, at length
    "TILEWRIGHT_VERIFY": "0",  # other tests verify these programs
}

if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("this Torch has no gloo", allow_module_level=True)


def torchrun(ranks: int, *command: str) -> subprocess.CompletedProcess[str]:
    """A program on so many ranks; --standalone finds a free port."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *command],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_three_ranks_give_the_bits_of_one_process_and_survive_mistakes(tmp_path: Path):
    ended = torchrun(3, str(HERE / "ranks.py"), "bits", str(written(tmp_path / "c")))
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_the_example_checks_itself():
    ended = torchrun(
        2, str(ROOT / "examples" / "distributed_qkv.py"), "--tokens", "9", "--times", "1"
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert [line.split(": heads ")[0] for line in lines[:2]] == ["rank 0 of 2", "rank 1 of 2"]
    assert all(line.endswith("the bits of one process") for line in lines[:2])
    assert lines[2].startswith("one process: ")


@pytest.mark.slow
def test_under_torchrun_a_rank_that_dies_ends_the_program():
    ended = torchrun(2, str(HERE / "ranks.py"), "dies")
    assert ended.returncode != 0
    assert "exitcode  : 9" in ended.stderr


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What ranks 0 and 2 of four are told about the others, in order."""
    folder = tmp_path_factory.mktemp("losses")
    command = [sys.executable, str(HERE / "ranks.py"), "losses", str(folder)]
    processes = [
        subprocess.Popen(
            command, env={**ENVIRONMENT, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in range(4)
    ]
    try:
        told = {0: processes[0].communicate(timeout=200)[0]}
    finally:
        for process in processes:
            process.kill()
    told[2] = processes[2].communicate()[0]
    return {rank: [json.loads(line) for line in out.splitlines()] for rank, out in told.items()}


@pytest.mark.slow
def test_ranks_that_are_lost_are_named_and_nothing_is_returned(
    losses: dict[int, list[dict[str, Any]]],
):
    assert [line["what"] for line in losses[0]] == ["half-way", "dead", "still dead", "silent"]
    assert [line["what"] for line in losses[2]] == ["dead", "still dead"]
    assert not any(line["made"] for lines in losses.values() for line in lines)
    half_way, dead, still_dead, silent = (line["error"] for line in losses[0])
    assert half_way.startswith("error: rank 1 of 2 is gone while exchanging q and kv\n")
    assert "this is rank 0 of the group of processes 0, 3," in half_way
    for error in (dead, still_dead):
        assert error.startswith("error: rank 1 of 3 is gone while projecting q and kv\n")
        assert "this is rank 0 of the group of processes 0, 1, 2, with the group's timeout" in error
        assert "pair.cc" not in error
        assert "help: look at the output of rank 1 of 3; then end this process too" in error
    assert losses[2][0]["error"].startswith(
        "error: rank 1 of 3 is gone while projecting q and kv\n"
    )
    assert silent.startswith(
        "error: rank 1 of 2 did not answer in time while projecting q and kv\n"
    )
    assert "with a timeout of 0:00:03" in silent


@pytest.mark.slow
def test_a_dead_rank_is_noticed_at_once_and_a_silent_one_within_the_timeout(
    losses: dict[int, list[dict[str, Any]]],
):
    *dead, silent = losses[0]
    assert all(line["seconds"] < 60 for line in dead)  # the group's timeout is 120 s
    assert 3 <= silent["seconds"] < 60


# In this process


@pytest.fixture
def alone(tmp_path: Path):
    """A group of one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_without_a_group_there_are_no_ranks():
    with pytest.raises(ArgumentError, match="there is no process group in this process") as raised:
        ShardedQKVProjRope(DEMO)
    assert "torchrun" in str(raised.value)


@pytest.mark.usefixtures("alone")
def test_one_rank_is_one_process(tmp_path: Path):
    whole = torch.zeros(DEMO.q_lora_rank, DEMO.q_width, dtype=torch.int8)
    part = ShardedQKVProjRope(DEMO, {"wq_b": whole}, kv_from=0, gather=True)
    assert part.heads == range(4)
    assert not part.sends
    assert part.wq_b.data_ptr() == whole.data_ptr(), "a copy was made"
    assert str(part) == (
        "ShardedQKVProjRope(demo, rope=plain, rank 0 of 1, heads 0 to 3, kv_from=0, gather=True)"
    )
    folder = written(tmp_path / "c")
    (folder / "config.json").unlink()
    with pytest.raises(ArgumentError, match="nothing says which RoPE layer 1"):
        ShardedQKVProjRope.from_checkpoint(open_checkpoint(folder, DEMO), 1)
    part = ShardedQKVProjRope.from_checkpoint(open_checkpoint(folder, DEMO), 1, "yarn")
    assert part.rope == "yarn"


@pytest.mark.usefixtures("alone")
def test_a_group_that_does_not_send_cpu_tensors_by_gloo_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ranks_module.dist, "get_backend_config", lambda _: "cuda:nccl")
    with pytest.raises(ArgumentError, match="sends CPU tensors by 'cuda:nccl', wanted gloo"):
        Ranks()


@pytest.mark.parametrize(("heads", "ranks"), [(64, 1), (64, 3), (64, 64), (128, 7), (4, 3)])
def test_every_head_has_one_rank_and_none_has_two_more_than_another(heads: int, ranks: int):
    shares = [heads_of(rank, ranks, heads) for rank in range(ranks)]
    assert [head for share in shares for head in share] == list(range(heads))
    sizes = {len(share) for share in shares}
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


def test_more_ranks_than_heads_are_refused():
    with pytest.raises(
        ArgumentValueError, match="64 heads cannot be shared out over 65 ranks"
    ) as raised:
        heads_of(0, 65, FLASH.num_attention_heads)
    assert "start 64 ranks or fewer" in str(raised.value)


@pytest.mark.parametrize(
    ("users", "threads"),
    [
        ([range(8), range(8)], [4, 4]),
        ([range(7), range(7), range(7)], [3, 2, 2]),
        ([range(4), range(4, 8)], [4, 4]),  # pinned apart
        ([{0, 1}, {1}], [1, 1]),
        ([range(2), range(2), range(2)], [1, 1, 1]),  # more ranks than cores
        ([range(2), range(8)], [1, 7]),
    ],
)
def test_cores_are_dealt_out_so_that_none_has_two_users(users: list[Any], threads: list[int]):
    assert dealt([set(cores) for cores in users]) == threads


def test_cores_are_those_that_this_process_may_run_on():
    assert cores()
    assert len(cores()) <= (os.cpu_count() or 1)
