"""Who is measured beside us: what Torch makes of the same operator with the same weights.

A peer gives all four outputs. What it does with the weights beforehand (laying them out, packing
them, compiling for them) is not timed, as ours is not.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from types import FunctionType, MethodType
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from tilewright.bench.problem import OUTPUTS, Outputs, Problem
from tilewright.models.deepseek_v4.config import Config
from tilewright.models.deepseek_v4.reference import (
    apply_rope,
    kv_from,
    quantize_rows,
    rms_norm,
)

Weights = Mapping[str, Tensor]
Run = Callable[[], Outputs]
Products = Callable[[int], object]
Way = TypeVar("Way")

TRIALS = 5  # timed calls that decide between two ways to write the same peer
REFERENCE = 20  # times the quickest product of a small matrix: code that is not meant to be quick
PATIENCE = 0.5  # seconds of trials for each of them; one trial in any case


class Unavailable(Exception):
    """This peer does not run here; the message says why."""


class Peer(ABC):
    """One other way to run the operator.

    calls: how often `build` runs it, at most, for each copy and once more for the first where calls
    are slow.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    calls: ClassVar[tuple[int, int]] = (0, 0)

    def products(self, problem: Problem, weights: Weights) -> Products | None:
        """Its products for the first so many tokens, uncompiled, from which a call's time is
        foretold; None for engines whose calls are short on every machine.
        """
        return None

    @abstractmethod
    def build(self, problem: Problem, copies: Sequence[Weights]) -> list[Run]:
        """A call for each copy of the weights; raises Unavailable.

        Torch's number of threads is the one to use.
        """


class TorchEager(Peer):
    """Operator by operator: BF16 matmul, `torch._int_mm`, the rest in FP32."""

    name = "torch_eager"
    summary = "BF16 matmul and torch._int_mm, everything else one operator at a time"

    def products(self, problem: Problem, weights: Weights) -> Products:
        return products_of(Plain(problem, weights))

    def build(self, problem: Problem, copies: Sequence[Weights]) -> list[Run]:
        return [torch_call(Plain(problem, weights), problem.values["x"]) for weights in copies]


class TorchCompile(Peer):
    """The same module under `torch.compile`."""

    name = "torch_compile"
    summary = "the same under torch.compile"
    calls = (1, 0)

    def products(self, problem: Problem, weights: Weights) -> Products:
        return products_of(Plain(problem, weights))

    def build(self, problem: Problem, copies: Sequence[Weights]) -> list[Run]:
        _need_cxx()
        return [compiled_call(Plain(problem, w), problem.values["x"]) for w in copies]


class TorchBest(Peer):
    """Frozen and compiled, all weights packed by oneDNN beforehand.

    Of the ways to write it, that one is measured which is fastest at this number of tokens.
    """

    name = "torch_best"
    summary = "torch.compile with frozen weights, oneDNN-prepacked qlinear for wq_b"
    calls = (1, 6)  # three ways are compiled and run; twice two of them are tried, once at least

    def products(self, problem: Problem, weights: Weights) -> Products:
        _need_qlinear()
        return products_of(Packed(problem, weights, _quick_products()[0], joined=False))

    def build(self, problem: Problem, copies: Sequence[Weights]) -> list[Run]:
        _need_cxx()
        _need_qlinear()
        split = {p: _frozen(problem, copies[0], p, False) for p in _quick_products()}
        product = _fastest(split)
        joined = _frozen(problem, copies[0], product, True)
        first = {False: split[product], True: joined}
        join = _fastest(first)
        return [first[join], *(_frozen(problem, w, product, join) for w in copies[1:])]


# -- the operator as Torch modules -----------------------------------------------------------------


class Plain(nn.Module):
    """The operator as one would write it for Torch: x [T, D] BF16 -> q, kv, qr, qr_scale."""

    def __init__(self, problem: Problem, weights: Weights) -> None:
        super().__init__()
        values = problem.values
        self.cfg: Config = problem.cfg
        self.cos, self.sin = problem.angles
        self.attn_norm, self.q_norm, self.kv_norm = (
            values[name] for name in ("attn_norm", "q_norm", "kv_norm")
        )
        self.column_scale: Tensor = values["wq_b_scale"].reshape(1, -1)
        self.take(weights)

    def take(self, weights: Weights) -> None:
        """Lay out the weights."""
        self.wq_a, self.wq_b, self.wkv = (weights[name] for name in ("wq_a", "wq_b", "wkv"))

    def down(self, x_norm: Tensor) -> tuple[Tensor, Tensor]:
        """[T, D] BF16 -> the query's latent [T, Q_LORA] and kv [T, HEAD_DIM], BF16."""
        return x_norm @ self.wq_a, x_norm @ self.wkv

    def up(self, codes: Tensor) -> Tensor:
        """[T, Q_LORA] INT8 -> [T, H * HEAD_DIM] FP32, column scales applied."""
        acc: Tensor = torch._int_mm(codes, self.wq_b)
        return acc.float() * self.column_scale

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        cfg = self.cfg
        x_norm = rms_norm(x.float(), self.attn_norm, cfg.rms_norm_eps).to(torch.bfloat16)
        q_low, kv_low = self.down(x_norm)
        latent = rms_norm(q_low.float(), self.q_norm, cfg.rms_norm_eps).to(torch.bfloat16)
        qr, qr_scale = quantize_rows(latent)
        q = (self.up(qr) * qr_scale).reshape(-1, cfg.num_attention_heads, cfg.head_dim)
        q = rms_norm(q, None, cfg.rms_norm_eps)
        tail = apply_rope(q[..., cfg.nope_dim :], self.cos[:, None], self.sin[:, None])
        q = torch.cat((q[..., : cfg.nope_dim], tail), dim=-1).to(torch.bfloat16)
        gamma = {"kv_norm": self.kv_norm}
        kv = kv_from(kv_low.float(), self.cos, self.sin, gamma, cfg).to(torch.bfloat16)
        return q, kv, qr, qr_scale


class Packed(Plain):
    """The operator for Inductor's freezing.

    wq_a and wkv are parameters, which freezing packs for oneDNN; joined, they are one product.
    wq_b is packed here. `torch._int_mm` with a frozen weight would become oneDNN's reference loop,
    and so does `qlinear` with signed codes: they are moved up by 128, with 128 as the zero point,
    which oneDNN takes out again exactly. Scales of rows are applied to the result, as `qlinear` has
    but one for all of them.

    product: dtype in which the large product comes back; BF16 is half the traffic, and rounds.
    """

    def __init__(
        self, problem: Problem, weights: Weights, product: torch.dtype, joined: bool
    ) -> None:
        self.product, self.joined = product, joined
        super().__init__(problem, weights)
        self.zero_points = torch.zeros(problem.cfg.q_width, dtype=torch.int64)

    def take(self, weights: Weights) -> None:
        across = [weights["wq_a"].t().contiguous(), weights["wkv"].t().contiguous()]
        self.low = nn.ParameterList(
            nn.Parameter(w, requires_grad=False)
            for w in ([torch.cat(across)] if self.joined else across)
        )
        self.panel = torch.ops.onednn.qlinear_prepack(weights["wq_b"].t().contiguous(), None)

    def down(self, x_norm: Tensor) -> tuple[Tensor, Tensor]:
        if self.joined:
            q_low, kv_low = nn.functional.linear(x_norm, self.low[0]).split(
                [self.cfg.q_lora_rank, self.cfg.head_dim], dim=-1
            )
            return q_low, kv_low
        return nn.functional.linear(x_norm, self.low[0]), nn.functional.linear(x_norm, self.low[1])

    def up(self, codes: Tensor) -> Tensor:
        moved = (codes.to(torch.int16) + 128).to(torch.uint8)
        product: Tensor = torch.ops.tilewright_bench.qlinear(
            moved, self.panel, self.column_scale.reshape(-1), self.zero_points, self.product
        )
        return product.float()


def products_of(module: Plain) -> Products:
    """The three products of a module, for the first so many tokens."""
    hidden, latent = module.cfg.hidden_size, module.cfg.q_lora_rank

    def run(rows: int) -> object:
        with torch.no_grad():
            low = module.down(torch.ones(rows, hidden, dtype=torch.bfloat16))
            return low, module.up(torch.ones(rows, latent, dtype=torch.int8))

    return run


def _need_qlinear() -> None:
    """Raises Unavailable where Torch has no oneDNN product with packed INT8 weights."""
    if not (hasattr(torch.ops.onednn, "qlinear_prepack") and torch.backends.mkldnn.is_available()):
        raise Unavailable("this Torch has no oneDNN, or one without qlinear")
    _define_qlinear()


@cache
def _define_qlinear() -> torch.library.Library:
    """oneDNN's product as an operator of our own, `tilewright_bench::qlinear`: Inductor has a rewrite
    of oneDNN's, and stumbles over it. Defined by hand, it costs less on a call than `custom_op`.
    The operator is there for as long as what this returns.
    """

    def qlinear(
        codes: Tensor, panel: Tensor, scales: Tensor, zero_points: Tensor, dtype: torch.dtype
    ) -> Tensor:
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, 128, panel, scales, zero_points, None, 1.0, 0, dtype, "none", [], ""
        )  # fmt: skip
        return product

    def shape(
        codes: Tensor, panel: Tensor, scales: Tensor, zero_points: Tensor, dtype: torch.dtype
    ) -> Tensor:
        return codes.new_empty((codes.shape[0], scales.shape[0]), dtype=dtype)

    library = torch.library.Library("tilewright_bench", "DEF")
    library.define(
        "qlinear(Tensor codes, Tensor panel, Tensor scales, Tensor zero_points, ScalarType dtype)"
        " -> Tensor"
    )
    # oneDNN's panel is a tensor of a backend of its own, so not "CPU".
    library.impl("qlinear", qlinear, "CompositeExplicitAutograd")
    torch.library.register_fake("tilewright_bench::qlinear", shape, lib=library)
    return library


@cache
def _quick_products() -> tuple[torch.dtype, ...]:
    """In which types oneDNN's product comes back in good time, the quickest first: where it has no
    code for one it runs reference code, a hundred times as long.
    """
    rows, k, n = 1, 1024, 1024
    codes = torch.ones(rows, k, dtype=torch.uint8)
    panel = torch.ops.onednn.qlinear_prepack(torch.ones(n, k, dtype=torch.int8), None)
    scales, zeros = torch.ones(n), torch.zeros(n, dtype=torch.int64)
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(TRIALS):
        for dtype in best:
            start = time.perf_counter()
            torch.ops.tilewright_bench.qlinear(codes, panel, scales, zeros, dtype)
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    limit = REFERENCE * min(best.values())
    return tuple(sorted((d for d in best if best[d] < limit), key=lambda d: best[d]))


def _frozen(problem: Problem, weights: Weights, product: torch.dtype, joined: bool) -> Run:
    """`Packed`, compiled with its weights as constants."""
    import torch._inductor.config as inductor

    with inductor.patch(freezing=True):
        return compiled_call(Packed(problem, weights, product, joined), problem.values["x"])


def compiled_call(module: nn.Module, x: Tensor, **options: Any) -> Run:
    """The module on x under `torch.compile`, which happens here; options are those of
    `torch.compile`.

    Dynamo keeps what it compiled with the code object, and runs what fits. With one code object for
    all, modules that differ in their weights only would run the first one's constants, and the
    ninth would not be compiled at all; so each gets its own.
    """
    forward = cast(FunctionType, type(module).forward)
    own = FunctionType(forward.__code__.replace(), forward.__globals__, forward.__name__)
    run = torch_call(torch.compile(MethodType(own, module), dynamic=False, **options), x)
    run()
    return run


def torch_call(module: Callable[[Tensor], Any], x: Tensor) -> Run:
    """The module on x, without gradients; outputs by name."""

    def run() -> Outputs:
        with torch.no_grad():
            return dict(zip(OUTPUTS, module(x), strict=True))

    return run


def _need_cxx() -> None:
    """Raises Unavailable where Inductor finds no C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError) as error:
        raise Unavailable("torch.compile needs a C++ compiler, and none is installed") from error


def _fastest(runs: Mapping[Way, Run]) -> Way:
    """The way with the shortest of TRIALS calls, taken in turns; of fewer where calls are slow."""
    best = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run()
    until = time.perf_counter() + PATIENCE * len(runs)
    for trial in range(TRIALS):
        if trial and time.perf_counter() > until:
            break
        for way, run in runs.items():
            start = time.perf_counter()
            run()
            best[way] = min(best[way], time.perf_counter() - start)
    return min(best, key=lambda way: best[way])


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch on `count` threads, and back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
