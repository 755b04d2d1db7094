"""kv rows in a cache: in their slots, the bits that are returned, and not a bit anywhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from both_ways import guarded, share_even_small
from ir_programs import same_bits
from qkv_layers import CFG, TOKENS, assert_same, module, values, x

import tilewright
from tilewright.errors import ArgumentError, ArgumentValueError, KernelError
from tilewright.models.deepseek_v4 import ops, qkv_proj_rope_cached
from tilewright.models.deepseek_v4.config import DEMO
from tilewright.models.deepseek_v4.module import buffers
from tilewright.models.deepseek_v4.slots import paged_slots, window_slots
from tilewright.models.deepseek_v4.specs import cached_specs

BLOCKS, BLOCK = 12, 16
SLOTS = BLOCKS * BLOCK


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two whole chunks and a part of one, at a number of tokens that a test can afford."""
    monkeypatch.setattr(ops, "T_CHUNK", 64)
    monkeypatch.setattr(qkv_proj_rope_cached, "T_CHUNK", 64)


def poisoned(*shape: int, seed: int = 0) -> torch.Tensor:
    """BF16 of any bits, NaN and infinities among them."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(1 << 15), 1 << 15, shape, generator=generator, dtype=torch.int16)
    return bits.view(torch.bfloat16)


def some_slots(count: int, seed: int = 0) -> torch.Tensor:
    """Different slots, none of them 0, every fifth token without one."""
    slots = 1 + torch.randperm(SLOTS - 1, generator=torch.Generator().manual_seed(seed))[:count]
    slots[4::5] = -1
    return slots


def replaced(cache: torch.Tensor, slots: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
    """The cache with kv's rows in their slots, one after the other."""
    made = cache.clone()
    for slot, row in zip(slots.flatten().tolist(), kv.reshape(-1, CFG.head_dim), strict=True):
        if slot >= 0:
            made[slot // BLOCK, slot % BLOCK] = row
    return made


# Rows in their slots


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("count", [1, 9, 64, 65, TOKENS])
def test_rows_are_in_their_slots_and_nothing_else_has_changed(count: int, dtype: torch.dtype):
    """Slot 0 is nobody's: what a call computes past its last token must not go there."""
    layer, slots = module("yarn"), some_slots(count)
    around = poisoned(BLOCKS + 2, BLOCK, CFG.head_dim)
    before, cache = around.clone(), around[1:-1]
    got = layer(x(count), start_pos=900_000, cache=cache, slots=slots.to(dtype))
    assert_same(got, layer(x(count), start_pos=900_000))
    assert same_bits(cache, replaced(before[1:-1], slots, got.kv))
    assert same_bits(around[0], before[0])
    assert same_bits(around[-1], before[-1])


def test_padding_leaves_the_cache_alone_whatever_its_slot():
    """A server's padding may all name slot 0; a row with a position but no slot is computed and not kept."""
    positions = torch.tensor([3, 4, -1, 900_000, -1, 0, -1])
    slots = torch.tensor([0, 17, 0, -1, 0, SLOTS - 1, 10**12])
    layer, cache = module(), poisoned(BLOCKS, BLOCK, CFG.head_dim)
    wanted = layer(x(7), position_ids=positions)
    assert wanted.kv[3].any()
    expected = replaced(cache, torch.where(positions >= 0, slots, -1), wanted.kv)
    assert_same(layer(x(7), position_ids=positions, cache=cache, slots=slots), wanted)
    assert same_bits(cache, expected)
    layer(x(7), position_ids=torch.full((7,), -1), cache=cache, slots=slots)
    assert same_bits(cache, expected)


@pytest.mark.parametrize("cuts", [(1,), (63, 64, 65), (7, 90, 149)])
def test_any_split_of_the_tokens_fills_the_cache_with_the_same_bits(cuts: tuple[int, ...]):
    layer, slots = module(), some_slots(TOKENS)
    whole = poisoned(BLOCKS, BLOCK, CFG.head_dim)
    parts = whole.clone()
    layer(x(), 5, cache=whole, slots=slots)
    for first, last in zip((0, *cuts), (*cuts, TOKENS), strict=True):
        layer(x()[first:last], 5 + first, cache=parts, slots=slots[first:last])
    assert same_bits(parts, whole)


def test_a_batch_has_a_slot_for_each_of_its_tokens():
    layer, slots = module(), some_slots(12).view(3, 4)
    cache = poisoned(BLOCKS, BLOCK, CFG.head_dim)
    batch = x(12).view(3, 4, -1)
    expected = replaced(cache, slots, layer(batch, 7).kv)
    layer(batch, 7, cache=cache, slots=slots)
    assert same_bits(cache, expected)


def test_slots_far_into_a_large_cache_are_found(tmp_path: Path):
    """Past 2**32 bytes; the file is a hole but for the rows that are written."""
    blocks = (1 << 32) // (BLOCK * CFG.head_dim * 2) + 2
    rows = blocks * BLOCK
    kept = torch.from_file(
        str(tmp_path / "cache"), shared=True, size=rows * CFG.head_dim, dtype=torch.bfloat16
    ).view(blocks, BLOCK, CFG.head_dim)
    slots = torch.tensor([rows - 1, 0, 1 << 23])
    got = module()(x(3), cache=kept, slots=slots)
    assert same_bits(kept.view(rows, -1)[slots], got.kv)


# The kernel itself


def arguments(slots: torch.Tensor, count: int) -> list[torch.Tensor]:
    specs = cached_specs(DEMO, count, seed=6)
    given = {s.name: s.create_tensor() for s in specs}  # type: ignore[union-attr]
    given |= {"slots": slots, "cache": poisoned(BLOCKS, BLOCK, DEMO.head_dim)}
    return list(given.values())


def run(threads: int, backend: str = "native", count: int = TOKENS) -> list[torch.Tensor]:
    """kv and cache."""
    kernel = qkv_proj_rope_cached.build(DEMO)
    args = guarded(arguments(some_slots(count), count))
    if backend == "native":
        share_even_small(kernel.specialize(*args.args, backend=backend).executable)
    kernel.run(*args.args, backend=backend, threads=threads)
    assert args.complaints() == []
    return [args.args[-4], args.args[-1]]


@pytest.mark.parametrize("backend", ["native", "interpreter"])
def test_the_cache_has_the_bits_of_kv_on_both_back_ends(backend: str):
    kv, cache = run(2, backend, count=70)
    before = poisoned(BLOCKS, BLOCK, DEMO.head_dim)
    assert same_bits(cache, replaced(before, some_slots(70), kv))


def test_the_number_of_threads_changes_no_bit_of_the_cache():
    wanted = run(1)
    for threads in (2, 3, 5):
        assert all(same_bits(a, b) for a, b in zip(run(threads), wanted, strict=True))


@pytest.mark.parametrize("backend", ["native", "interpreter"])
def test_a_slot_outside_the_cache_stops_the_kernel_at_its_line(backend: str):
    args = arguments(torch.tensor([2, SLOTS]), 2)
    with pytest.raises(KernelError, match=r"rows") as caught:
        qkv_proj_rope_cached.build(DEMO).run(*args, backend=backend)
    assert "qkv_proj_rope_cached.py" in str(caught.value)
    assert "rows[slot : slot + 1" in str(caught.value)


def test_a_checking_run_finds_two_tokens_with_one_slot():
    kernel = qkv_proj_rope_cached.build(DEMO)
    assert tilewright.check(kernel, *arguments(torch.tensor([3, -1, 4, -1]), 4)) == ()
    found = tilewright.check(kernel, *arguments(torch.tensor([3, 4, 3, -1]), 4))
    assert {type(r) for r in found} == {tilewright.RaceError}


def test_a_cache_that_overlaps_an_output_is_refused_by_the_kernel():
    args = arguments(torch.tensor([0, 1]), 2)
    memory = poisoned(3, BLOCK, DEMO.head_dim)
    args[-1], args[-4] = memory, memory[0, :2]
    with pytest.raises(ArgumentError, match=r"'(kv|cache)' is written .* shares memory with"):
        qkv_proj_rope_cached.build(DEMO)(*args)


# What a call refuses, before anything runs


def overlapping() -> dict[str, Any]:
    memory = poisoned(8, BLOCK, CFG.head_dim)
    return {"x": memory.view(-1, CFG.hidden_size)[:4], "cache": memory}


REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "a slot past the cache": (
        lambda: {"slots": torch.tensor([0, SLOTS, 1, 2])},
        rf"slots\[1\] is {SLOTS}; the cache has slots 0 to {SLOTS - 1}",
    ),
    "a slot below -1": (
        lambda: {"slots": torch.tensor([0, 1, 2, -2])},
        r"slots\[3\] is -2; the cache has slots 0",
    ),
    "one slot for two tokens": (
        lambda: {"slots": torch.tensor([7, -1, 5, 7])},
        r"slots\[0\] and slots\[3\] are both 7",
    ),
    "slots of another shape": (
        lambda: {"slots": torch.arange(3)},
        r"slots is \[3\], wanted \[4\]: one for each token",
    ),
    "slots that are no integers": (
        lambda: {"slots": torch.zeros(4)},
        "slots is torch.float32, wanted torch.int32 or torch.int64",
    ),
    "slots without a cache": (lambda: {"cache": None}, "slots is given without cache"),
    "a cache without slots": (lambda: {"slots": None}, "cache is given without slots"),
    "a cache of another dtype": (
        lambda: {"cache": torch.zeros(2, 2, CFG.head_dim)},
        "cache is torch.float32, wanted torch.bfloat16",
    ),
    "a cache of rows": (
        lambda: {"cache": poisoned(SLOTS, CFG.head_dim)},
        r"cache is \[192, 128\], wanted \[BLOCKS, BLOCK, 128\]",
    ),
    "a cache of other heads": (
        lambda: {"cache": poisoned(2, BLOCK, 64)},
        r"cache is \[2, 16, 64\], wanted \[BLOCKS, BLOCK, 128\]",
    ),
    "a cache with gaps": (
        lambda: {"cache": poisoned(BLOCKS, 2 * BLOCK, CFG.head_dim)[:, :BLOCK]},
        r"cache has strides \[4096, 128, 1\], wanted \[2048, 128, 1\]",
    ),
    "a cache elsewhere": (
        lambda: {"cache": poisoned(BLOCKS, BLOCK, CFG.head_dim).to("meta")},
        "cache is on meta, x on cpu",
    ),
    "a cache that is the input": (overlapping, "cache shares memory with x"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_written_is_refused_and_the_cache_left_alone(
    what: str, monkeypatch: pytest.MonkeyPatch
):
    change, wanted = REFUSED[what]
    given: dict[str, Any] = {"x": x(4), "slots": torch.arange(4)}
    given["cache"] = poisoned(BLOCKS, BLOCK, CFG.head_dim)
    given |= change()
    layer, cache = module(), given["cache"]
    before = poisoned(1) if cache is None or cache.is_meta else cache.clone()
    monkeypatch.setattr(ops, "in_chunks", None)
    with pytest.raises((ArgumentError, ArgumentValueError), match=wanted):
        layer(given.pop("x"), **given)
    assert cache is None or cache.is_meta or same_bits(cache, before)


def test_a_cache_in_the_memory_of_a_weight_is_refused():
    layer = module()
    cache = layer.wkv.view(-1, BLOCK, CFG.head_dim)
    with pytest.raises(ArgumentError, match="cache shares memory with wkv"):
        layer(x(2), cache=cache, slots=torch.tensor([0, 1]))


# Slots of paged and of ring caches


def test_slots_of_a_paged_cache_are_those_of_the_blocks_that_a_sequence_owns():
    positions = torch.tensor([[6, 7, 8, 9], [0, 1, -1, -1]])
    blocks = torch.tensor([[5, 2, 0], [1, 0, 0]], dtype=torch.int32)
    slots = paged_slots(positions, blocks, block_size=4)
    assert slots.tolist() == [[2 * 4 + 2, 2 * 4 + 3, 0, 1], [4, 5, -1, -1]]
    assert paged_slots(positions[0], blocks[0], 4).tolist() == slots[0].tolist()
    with pytest.raises(ArgumentValueError, match="position 12 is past the 3 blocks of 4 rows"):
        paged_slots(torch.tensor([12]), blocks[0], 4)
    with pytest.raises(
        ArgumentValueError, match=r"position 4 is in block 1 .* blocks has -1 there"
    ):
        paged_slots(torch.tensor([3, 4, 5]), torch.tensor([0, -1]), 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paged_slots(torch.tensor([-2]), torch.tensor([3]), 4), "position_ids has -2;"),
        (lambda: window_slots(torch.tensor([-2]), 4), "position_ids has -2;"),
        (lambda: window_slots(torch.tensor([0.5]), 4), "position_ids is torch.float32, wanted"),
        (lambda: paged_slots(torch.tensor([1]), torch.tensor([3]), 0), "block_size is 0, wanted"),
        (
            lambda: paged_slots(torch.tensor([[1]]), torch.tensor([3]), 4),
            "blocks is [1], wanted [1, N]",
        ),
    ],
)
def test_what_has_no_slot_is_refused_and_not_given_another(call: Any, message: str):
    with pytest.raises(KernelError) as caught:
        call()
    assert message in caught.value.message


def test_a_ring_takes_only_the_newest_of_a_call():
    assert window_slots(torch.arange(4, 10), 4).tolist() == [-1, -1, 2, 3, 0, 1]
    batch = torch.tensor([[5, 6, 7], [0, 1, -1]])
    assert window_slots(batch, 2).tolist() == [[-1, 0, 1], [2, 3, -1]]
    packed, rings = torch.tensor([8, 3, 9, -1, 4]), torch.tensor([2, 0, 2, 0, 0])
    assert window_slots(packed, 4, rings).tolist() == [8, 3, 9, -1, 0]
    assert window_slots(torch.arange(0), 4).tolist() == []
    with pytest.raises(ArgumentError, match=r"rings is \[2\], wanted \[5\]"):
        window_slots(packed, 4, rings[:2])
    with pytest.raises(ArgumentValueError, match="window is 0"):
        window_slots(packed, 0)


@pytest.mark.parametrize("steps", [(TOKENS,), (100, 1, 1, 48), (3,) * 50])
def test_a_ring_holds_the_last_rows_of_a_prompt_however_it_was_cut(steps: tuple[int, ...]):
    window, layer = 16, module()
    ring, first = poisoned(1, window, CFG.head_dim), 0
    for count in steps:
        positions = torch.arange(first, first + count)
        layer(x()[first : first + count], first, cache=ring, slots=window_slots(positions, window))
        first += count
    kv = layer(x()).kv
    for position in range(TOKENS - window, TOKENS):
        assert same_bits(ring[0, position % window], kv[position])


# With the rest of PyTorch


def operands(cache: torch.Tensor) -> tuple[Any, ...]:
    layer, at = module(), torch.tensor([4, -1, 7])
    weights = [getattr(layer, name) for name in buffers(CFG)]
    slots = torch.tensor([3, 3, 1])
    return (x(3).clone(), at, *weights, layer.frequencies, 1e-6, 1 << 20, slots, cache)


def test_the_operator_says_that_it_writes_the_cache_and_opcheck_finds_no_fault():
    op = torch.ops.tilewright.qkv_proj_rope_cached.default
    assert "Tensor slots, Tensor(a13!) cache)" in str(op._schema)
    cache = torch.zeros(2, 2, CFG.head_dim, dtype=torch.bfloat16)
    torch.library.opcheck(ops.qkv_proj_rope_cached, operands(cache))
    version = cache._version
    ops.qkv_proj_rope_cached(*operands(cache))
    assert cache._version > version


def test_a_compiled_module_fills_the_cache_without_a_graph_break():
    layer = module()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    caches = [poisoned(BLOCKS, BLOCK, CFG.head_dim) for _ in range(2)]
    first = 0
    for count in (9, 5, 1, 1):
        slots = torch.arange(first, first + count)
        got, wanted = (
            call(x(count), first, cache=cache, slots=slots)
            for call, cache in zip((compiled, layer), caches, strict=True)
        )
        assert_same(got, wanted)
        assert same_bits(*caches)
        first += count


def test_a_gradient_is_refused_at_the_call():
    cache = torch.zeros(2, 2, CFG.head_dim, dtype=torch.bfloat16)
    wants = x(2).clone().requires_grad_()
    with pytest.raises(ArgumentValueError, match="gradient through QKVProjRope"):
        module()(wants, cache=cache, slots=torch.tensor([0, 1]))
    with torch.inference_mode():
        module()(wants, cache=cache, slots=torch.tensor([0, 1]))


def test_weights_are_packed_once_for_calls_with_and_without_a_cache():
    layer, before = module(), len(ops.qkv_packs)
    layer(x(2))
    layer(x(2), cache=poisoned(2, 2, CFG.head_dim), slots=torch.tensor([0, 1]))
    layer(x(2), cache=poisoned(3, 2, CFG.head_dim), slots=torch.tensor([0, 1]))
    assert len(ops.qkv_packs) == before + 1
    assert values()["wkv"].equal(layer.wkv)
