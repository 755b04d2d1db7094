"""The Q/KV projection with its heads over several processes, against one process bit for bit.

    torchrun --nproc-per-node 2 examples/distributed_qkv.py --preset flash --tokens 128

Every rank computes its heads; then each also runs the whole layer alone and compares. Weights are random, or
those of a checkpoint (`--checkpoint DIR --layer 2`). docs/distributed.md has more machines.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from tilewright.models.deepseek_v4.config import PRESETS
from tilewright.models.deepseek_v4.distributed import ShardedQKVProjRope
from tilewright.models.deepseek_v4.module import Projected, QKVProjRope, buffers
from tilewright.models.deepseek_v4.specs import decode_specs
from tilewright.models.deepseek_v4.weights import open_checkpoint
from tilewright.torch_ext.ranks import share_threads


def layers(args: argparse.Namespace) -> tuple[ShardedQKVProjRope, QKVProjRope]:
    """This rank's part of the layer, and the whole layer."""
    options = {"kv_from": args.kv_from, "gather": args.gather}
    if args.checkpoint is None:
        cfg = PRESETS[args.preset]
        values = {spec.name: spec.create_tensor() for spec in decode_specs(cfg, 1, seed=1)}
        weights = {name: values[name] for name in buffers(cfg)}
        return ShardedQKVProjRope(cfg, weights, **options), QKVProjRope(cfg, weights)
    checkpoint = open_checkpoint(args.checkpoint)
    part = ShardedQKVProjRope.from_checkpoint(checkpoint, args.layer, args.rope, **options)
    weights = checkpoint.layer(args.layer).arguments("int8")
    return part, QKVProjRope(checkpoint.cfg, weights, part.rope)


def milliseconds(call: Callable[[], object], times: int, start: Callable[[], object]) -> float:
    """The median of so many calls, after two that are not counted; `start` runs before each."""
    taken = []
    for _ in range(times + 2):
        start()
        started = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - started))
    return statistics.median(taken[2:])


def differing(part: ShardedQKVProjRope, got: Projected, whole: Projected) -> list[str]:
    """The outputs that are not, bit for bit, this rank's part of the whole layer's."""
    if not part.gather:
        whole = whole._replace(q=whole.q[:, part.heads.start : part.heads.stop])
    return [
        name for name in got._fields if not torch.equal(getattr(got, name), getattr(whole, name))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="demo")
    parser.add_argument("--checkpoint", help="a folder of safetensors, instead of random weights")
    parser.add_argument("--layer", type=int, default=0, help="which layer of the checkpoint")
    parser.add_argument(
        "--rope", choices=("plain", "yarn"), help="where the checkpoint has no config.json"
    )
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument(
        "--kv-from", type=int, help="the rank that computes kv for all (default: each does)"
    )
    parser.add_argument(
        "--gather", action="store_true", help="every rank gets the queries of all heads"
    )
    parser.add_argument("--times", type=int, default=9, help="timed calls")
    parser.add_argument(
        "--timeout", type=float, default=300, help="seconds until a silent rank is given up"
    )
    args = parser.parse_args()

    dist.init_process_group("gloo", timeout=timedelta(seconds=args.timeout))
    rank, ranks = dist.get_rank(), dist.get_world_size()
    threads = share_threads()
    part, whole = layers(args)
    torch.manual_seed(0)  # the same tokens everywhere
    x = torch.randn(args.tokens, part.cfg.hidden_size).bfloat16()

    def shared() -> Projected:
        return part(x, start_pos=7)

    def alone() -> Projected:
        return whole(x, start_pos=7)

    took = milliseconds(shared, args.times, start=dist.barrier)
    wrong = differing(part, shared(), alone())
    verdict = f"differs in {', '.join(wrong)}" if wrong else "the bits of one process"
    heads = f"heads {part.heads.start} to {part.heads.stop - 1}"
    mine = (
        f"rank {rank} of {ranks}: {heads}, threads {threads}, {took:.2f} ms, {verdict}",
        threads,
    )
    everyone: list[tuple[str, int]] = [mine] * ranks
    dist.all_gather_object(everyone, mine)
    if rank == 0:  # the others wait, and one process gets the cores that all had
        torch.set_num_threads(sum(threads for _, threads in everyone))
        one = milliseconds(alone, args.times, start=lambda: None)
        print(*(line for line, _ in everyone), f"one process: {one:.2f} ms", sep="\n", flush=True)
    dist.barrier()
    dist.destroy_process_group()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
