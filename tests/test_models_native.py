"""The Q/KV kernels at DEMO size in machine code: a token's bits do not depend on its company."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from both_ways import guarded, share_even_small

from tilewright.golden import ScalarSpec
from tilewright.models.deepseek_v4 import (
    normed_qkv_proj_rope,
    reference,
    steps,
)
from tilewright.models.deepseek_v4.config import DEMO, Query
from tilewright.models.deepseek_v4.registry import find
from tilewright.models.deepseek_v4.specs import prefill_specs

TOKENS, START, MAX_SEQ = 200, 9, 256
OUTPUTS: dict[Query, tuple[str, ...]] = {
    "int8": ("q", "kv", "qr", "qr_scale"),
    "bf16": ("q", "kv", "qr"),
}
both_queries = pytest.mark.parametrize("query", OUTPUTS)


@pytest.fixture(autouse=True)
def chunks_of_128(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two chunks, the second a shorter one, at a number of tokens that a test can afford."""
    monkeypatch.setattr(steps, "T_CHUNK", 128)


@cache
def inputs(query: Query) -> dict[str, torch.Tensor]:
    """The tensors of a call with all tokens."""
    specs = prefill_specs(DEMO, TOKENS, START, MAX_SEQ, seed=3, query=query)
    return {s.name: s.create_tensor() for s in specs if not isinstance(s, ScalarSpec)}


def arguments(
    first: int, count: int, decode: bool = False, query: Query = "int8"
) -> list[torch.Tensor | int]:
    """Arguments for `count` tokens from token `first` on, outputs poisoned."""
    values = dict(inputs(query))
    values["x"] = values["x"][first : first + count].contiguous()
    if decode:
        rows = slice(START + first, START + first + count)
        values["rope_cos"], values["rope_sin"] = (
            values[n][rows].contiguous() for n in ("rope_cos", "rope_sin")
        )
    for name in OUTPUTS[query]:
        like = values.pop(name)[:count]
        poison = 77 if like.dtype == torch.int8 else float("nan")
        values[name] = torch.full(like.shape, poison, dtype=like.dtype)
    args: list[torch.Tensor | int] = list(values.values())
    if not decode:
        args.insert(len(args) - len(OUTPUTS[query]), START + first)
    return args


def run(
    first: int,
    count: int,
    threads: int = 2,
    decode: bool = False,
    backend: str = "native",
    query: Query = "int8",
) -> list[torch.Tensor]:
    """The outputs for these tokens."""
    name = ("decode" if decode else "prefill") + ("_bf16" if query == "bf16" else "")
    kernel = find(name).build(DEMO)
    args = guarded(arguments(first, count, decode, query))
    if backend == "native":
        share_even_small(kernel.specialize(*args.args, backend=backend).executable)
    kernel.run(*args.args, backend=backend, threads=threads)
    assert args.complaints() == []
    return args.args[-len(OUTPUTS[query]) :]


@cache
def everything(query: Query) -> list[torch.Tensor]:
    """The outputs of one call with all tokens."""
    return run(0, TOKENS, query=query)


def same_bits(got: Sequence[torch.Tensor], first: int, count: int, query: Query = "int8") -> None:
    for name, a, b in zip(OUTPUTS[query], got, everything(query), strict=True):
        wanted = b[first : first + count]
        bits = (
            torch.int32
            if a.element_size() == 4
            else torch.int16
            if a.element_size() == 2
            else torch.int8
        )
        assert torch.equal(a.view(bits), wanted.view(bits)), (
            f"{name} of tokens {first} to {first + count}"
        )


@pytest.mark.parametrize(
    ("first", "count"),
    [
        (0, 1),
        (199, 1),
        (5, 2),
        (3, 5),
        (70, 6),
        (60, 7),
        (1, 13),
        (125, 16),
        (0, 128),
        (72, 128),
        (7, 129),
    ],
)
def test_a_token_gives_the_same_bits_in_every_chunk(first: int, count: int):
    same_bits(run(first, count), first, count)


@pytest.mark.parametrize(("first", "count"), [(199, 1), (3, 5), (125, 16), (7, 129)])
def test_a_token_gives_the_same_bits_in_every_chunk_of_bf16(first: int, count: int):
    same_bits(run(first, count, query="bf16"), first, count, "bf16")


@both_queries
@pytest.mark.parametrize("chunk", [48, 512])
def test_the_size_of_a_chunk_changes_no_bit(
    chunk: int, query: Query, monkeypatch: pytest.MonkeyPatch
):
    everything(query)  # in chunks of 128
    monkeypatch.setattr(steps, "T_CHUNK", chunk)
    same_bits(run(0, TOKENS, query=query), 0, TOKENS, query)


@both_queries
@pytest.mark.parametrize(("first", "count"), [(0, 2), (11, 17), (0, 200)])
def test_decode_gives_the_bits_of_prefill(first: int, count: int, query: Query):
    same_bits(run(first, count, decode=True, query=query), first, count, query)


@both_queries
@pytest.mark.parametrize("threads", [1, 3, 5])
def test_the_number_of_threads_changes_no_bit(threads: int, query: Query):
    for _ in range(3):
        same_bits(run(0, TOKENS, threads, query=query), 0, TOKENS, query)


def test_both_queries_share_everything_but_the_query():
    """kv is the same to the bit, and the codes are those of the BF16 latent."""
    codes, bf16 = everything("int8"), everything("bf16")
    assert torch.equal(codes[1], bf16[1])
    latent = bf16[2].float()
    amax = latent.abs().amax(1, keepdim=True)
    scaled = latent * (torch.full_like(amax, 127.0) / amax)
    assert torch.equal(scaled.round().to(torch.int8), codes[2])


def test_every_output_element_is_written():
    assert not any(x.isnan().any() for x in everything("bf16"))
    q, kv, qr, qr_scale = everything("int8")
    assert all(not x.isnan().any() for x in (q, kv, qr_scale))
    assert (qr == 77).float().mean() < 0.05  # a code that does occur


@pytest.mark.parametrize("count", [1, 7, 130])
def test_machine_code_and_interpreter_agree(count: int):
    """Codes within one step (a sum may fall on the other side of a rounding boundary), the rest close."""
    got, wanted = run(0, count), run(0, count, backend="interpreter")
    for a, b in ((got[0], wanted[0]), (got[1], wanted[1])):
        error = (a.double() - b.double()).abs()
        assert bool((error <= 2e-2 + b.double().abs() / 64).all()), error.max()
    codes = (got[2].int() - wanted[2].int()).abs()
    assert int(codes.max()) <= 1
    assert float((codes > 0).float().mean()) < 0.01
    assert torch.allclose(got[3], wanted[3], rtol=5e-3, atol=2.5e-5)


@pytest.mark.parametrize("count", [1, 7, 130])
def test_machine_code_and_interpreter_agree_in_bf16(count: int):
    got = run(0, count, query="bf16")
    wanted = run(0, count, backend="interpreter", query="bf16")
    for name, a, b in zip(OUTPUTS["bf16"], got, wanted, strict=True):
        error = (a.double() - b.double()).abs()
        assert bool((error <= 2e-2 + b.double().abs() / 64).all()), (name, error.max())
        assert float((a != b).float().mean()) < 0.05, name


@pytest.mark.parametrize("count", [1, 7, 130])
def test_tokens_that_are_normed_already_give_the_reference(count: int):
    """q from the codes of the latent that the kernel gave; kv and latent as from the same normed tokens."""
    values: dict[str, torch.Tensor] = {**inputs("int8"), "x": inputs("int8")["x"][:count]}
    for name in ("rope_cos", "rope_sin"):
        values[name] = values[name][:count].contiguous()
    values["x_norm"] = reference.x_norm_exact(values, DEMO).bfloat16()
    given = (
        "x_norm",
        "wq_a",
        "q_norm",
        "wq_b",
        "wq_b_scale",
        "wkv",
        "kv_norm",
        "rope_cos",
        "rope_sin",
    )
    outputs = [torch.full_like(values[name][:count], float("nan")) for name in ("q", "kv")]
    outputs.append(torch.full((count, DEMO.q_lora_rank), float("nan"), dtype=torch.bfloat16))
    args = guarded([*(values[name] for name in given), *outputs])
    normed_qkv_proj_rope.build(DEMO)(*args.args)
    assert args.complaints() == []
    q, kv, latent = args.args[-3:]
    cos, sin = (values[name][:, : DEMO.rope_dim // 2] for name in ("rope_cos", "rope_sin"))
    codes, scale = reference.quantize_rows(latent)
    kv_raw = values["x_norm"].double() @ values["wkv"].double()
    for got, wanted in (
        (q, reference.q_from(codes, scale, cos, sin, values, DEMO)),
        (kv, reference.kv_from(kv_raw, cos.double(), sin.double(), values, DEMO)),
        (latent, reference.qr_norm_exact(values["x_norm"], values, DEMO)),
    ):
        error = (got.double() - wanted.double()).abs()
        assert bool((error <= 1e-4 + wanted.double().abs() / 128).all()), error.max()
