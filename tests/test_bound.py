"""Kernels with weights fixed: the same bits, packed once, and never an old or a missing weight."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from both_ways import draw, guarded, share_even_small
from ir_programs import same_bits

import tilewright.language as pl
from tilewright import bound as bound_module
from tilewright.bound import BoundKernel
from tilewright.errors import ArgumentError, ArgumentValueError
from tilewright.golden import ScalarSpec
from tilewright.models.deepseek_v4 import prefill_qkv_proj_rope, qkv_proj_rope
from tilewright.models.deepseek_v4.config import DEMO
from tilewright.models.deepseek_v4.specs import decode_specs, prefill_specs

K, N = 96, 128
M = pl.dynamic("M")
CORE = pl.Level.CORE_GROUP


@pl.jit
def scaled_product(
    x: pl.Tensor[[M, K], pl.BF16],
    w: pl.Tensor[[K, N], pl.BF16],
    gain: pl.Tensor[[1, N], pl.FP32],
    times: pl.Scalar[pl.FP32],
    y: pl.Out[pl.Tensor[[M, N], pl.FP32]],
):
    with pl.at(level=CORE, name_hint="product"):
        sums = pl.matmul(x[:, :], w[:, :], out_dtype=pl.FP32)
        y[:, :] = pl.mul(pl.col_expand_mul(sums, gain[:, :]), times)


@pl.jit
def plain_product(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE, name_hint="product"):
        y[:, :] = pl.matmul(x[:, :], w[:, :], out_dtype=y.dtype)


@pl.jit
def product_and_first_row(x: pl.Tensor, w: pl.Tensor, y: pl.Out[pl.Tensor]):
    """A single row of `x` reads `w` in two ways, several rows in one."""
    with pl.at(level=CORE, name_hint="product"):
        sums = pl.matmul(x[:, :], w[:, :], out_dtype=pl.FP32)
        if x.shape[0] == 1:
            y[:, :] = pl.add(sums, pl.cast(w[0:1, :], target_type=pl.FP32))
        else:
            y[:, :] = sums


@pl.jit
def made_product(x: pl.Tensor[[8, K], pl.BF16], w: pl.Tensor[[K, N], pl.BF16]):
    y = pl.create_tensor([8, N], dtype=pl.FP32)
    with pl.at(level=CORE, name_hint="product"):
        y[:, :] = pl.matmul(x, w, out_dtype=pl.FP32)
    return y


def inputs(rows: int = 8, seed: int = 0) -> dict[str, Any]:
    """Arguments of `scaled_product`, the output poisoned."""
    return {
        "x": draw((rows, K), torch.bfloat16, seed, plain=True),
        "w": draw((K, N), torch.bfloat16, seed + 1, plain=True),
        "gain": draw((1, N), torch.float32, seed + 2, plain=True),
        "times": 0.75,
        "y": torch.full((rows, N), float("nan")),
    }


def wanted(given: dict[str, Any]) -> torch.Tensor:
    """What the kernel without bound arguments writes to `y`."""
    y = torch.zeros_like(given["y"])
    scaled_product(**{**given, "y": y})
    return y


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the matrices that were packed, in order."""
    shapes: list[tuple[int, ...]] = []
    prepack = bound_module.prepack

    def noted(matrix: Any, *args: Any) -> Any:
        shapes.append(tuple(matrix.shape))
        return prepack(matrix, *args)

    monkeypatch.setattr(bound_module, "prepack", noted)
    return shapes


# The model's kernels

WEIGHTS = ("wq_a", "wq_b", "wkv")
OUTPUTS = ("q", "kv", "qr", "qr_scale")
CASES = {
    "prefill": (prefill_qkv_proj_rope.build, lambda t: prefill_specs(DEMO, t, 5, 256, seed=t)),
    "decode": (qkv_proj_rope.build, lambda t: decode_specs(DEMO, t, seed=t)),
}


@pytest.mark.parametrize("case", CASES)
def test_one_bound_kernel_gives_the_bits_of_the_unbound_one_for_every_number_of_tokens(
    case: str, packed: list[tuple[int, ...]]
):
    build, specs_for = CASES[case]
    kernel = build(DEMO)

    def values(tokens: int) -> dict[str, Any]:
        specs = specs_for(tokens)
        found = {
            s.name: s.to_python() if isinstance(s, ScalarSpec) else s.create_tensor() for s in specs
        }
        for name in OUTPUTS:
            found[name].fill_(77)
        return found

    weights = {name: x for name, x in values(2).items() if name in WEIGHTS}
    bound = kernel.bind(**weights)
    assert bound.panel_bytes == 0
    sizes = set()
    for tokens in (6, 64, 130) if case == "prefill" else (2, 18):
        given = {**values(tokens), **weights}
        free = {name: x for name, x in given.items() if name not in WEIGHTS}
        got = guarded(list(free.values()))
        bound(**dict(zip(free, got.args, strict=True)))
        kernel(**given)
        got.compare(list(free.values()), f"bound, {tokens} tokens")
        sizes.add(bound.panel_bytes)
    (size,) = sizes
    assert size >= sum(x.numel() * x.element_size() for x in weights.values())
    assert sorted(packed) == sorted(tuple(x.shape) for x in weights.values())


# Whatever the matrix


EVERY_SHAPE = [(96, 128), (98, 100), (7, 65), (5, 1), (1, 64)]
MATRICES = [
    *((k, n, dtype) for k, n in EVERY_SHAPE for dtype in (torch.bfloat16, torch.int8)),
    *((7, 65, dtype) for dtype in (torch.float32, torch.float16)),
]


@pytest.mark.parametrize(("k", "n", "dtype"), MATRICES, ids=str)
def test_matrices_that_no_block_divides_are_packed_all_the_same(k: int, n: int, dtype: torch.dtype):
    x, w = draw((5, k), dtype, k, plain=True), draw((k, n), dtype, n, plain=True)
    y = torch.full((5, n), 77, dtype=torch.int32 if dtype == torch.int8 else torch.float32)
    plain = y.clone()
    plain_product(x, w, plain)
    bound = plain_product.bind(w=w)
    got = guarded([x, y])
    bound(*got.args)
    got.compare([x, plain], f"bound, {k} by {n}")
    assert bound.panel_bytes >= w.numel() * w.element_size()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit(threads: int):
    given = inputs(rows=40)
    right = wanted(given)
    bound = scaled_product.bind(w=given.pop("w"), gain=given.pop("gain"))
    share_even_small(bound.specialize(**given, threads=threads).executable)
    bound.run(**given, threads=threads)
    assert same_bits(given["y"], right)


def test_a_matrix_that_is_read_in_another_way_too_stays_as_it_is(packed: list[tuple[int, ...]]):
    given = inputs(rows=1)
    x, w, y = given["x"], given["w"], given["y"]
    plain = torch.zeros_like(y)
    product_and_first_row(x, w, plain)
    bound = product_and_first_row.bind(w=w, release=True)
    alive = weakref.ref(w)
    del w, given
    gc.collect()
    for _ in range(2):
        bound(x, y.fill_(0))
        assert same_bits(y, plain)
    assert (packed, bound.panel_bytes) == ([], 0)
    assert alive() is not None


def test_free_arguments_are_taken_in_the_kernels_order_or_by_name():
    given = inputs()
    right = wanted(given)
    x, w, gain, times, y = given.values()
    for call in (
        lambda: scaled_product.bind(w=w)(x, gain, times, y),
        lambda: scaled_product.bind(gain=gain)(x, w, times, y),
        lambda: scaled_product.bind(w=w, gain=gain)(x, y=y, times=times),
        lambda: scaled_product.bind(x=x, w=w, gain=gain, y=y)(times),
        lambda: scaled_product.bind()(x, w, gain, times, y),
    ):
        y.fill_(float("nan"))
        assert call() is None
        assert same_bits(y, right)


def test_a_tensor_that_the_kernel_creates_is_returned():
    given = inputs()
    x, w = given["x"], given["w"]
    bound = made_product.bind(w=w)
    first, second = bound(x), bound.run(x=x)
    assert same_bits(first, made_product(x, w))
    assert same_bits(second, first)
    assert second.data_ptr() != first.data_ptr()


def test_two_bound_kernels_keep_their_own_weights_and_the_kernel_itself_keeps_none():
    one, other = inputs(seed=1), inputs(seed=5)
    rights = [wanted(one), wanted({**one, "w": other["w"]})]
    free = {name: x for name, x in one.items() if name != "w"}
    kernels = [scaled_product.bind(w=given["w"]) for given in (one, other)]
    for _ in range(2):
        for bound, right in zip(kernels, rights, strict=True):
            bound(**free)
            assert same_bits(one["y"], right)
    scaled_product(**one)
    assert same_bits(one["y"], rights[0])


def test_the_interpreter_takes_all_arguments_as_before():
    given = inputs()
    scaled_product.run(**given, backend="interpreter")
    before = given["y"].clone()
    scaled_product.bind(w=given["w"], release=True)(**{n: v for n, v in given.items() if n != "w"})
    scaled_product.run(**given, backend="interpreter")
    assert same_bits(given["y"], before)


# Weights that change, and weights that go


def bound_to(
    given: dict[str, Any], *names: str, **options: bool
) -> tuple[BoundKernel, dict[str, Any]]:
    """The kernel with these arguments bound, and the others."""
    fixed = {name: given[name] for name in names}
    return scaled_product.bind(**fixed, **options), {
        n: v for n, v in given.items() if n not in names
    }


CHANGES = {
    "all of it": lambda x: x.mul_(2),
    "a row": lambda x: x[0].zero_(),
    "an element through a view": lambda x: x.view(-1)[7:8].fill_(1),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["w", "gain"])  # one is packed, the other is not
def test_a_bound_tensor_that_was_changed_in_place_is_refused(name: str, change: str):
    given = inputs()
    bound, free = bound_to(given, "w", "gain")
    bound(**free)
    CHANGES[change](given[name])
    given["y"].fill_(5)
    with pytest.raises(
        ArgumentValueError, match=rf"{name!r} was changed in place.*1 change"
    ) as refused:
        bound(**free)
    assert "call kernel.bind(…) again" in str(refused.value)
    assert bool((given["y"] == 5).all()), "nothing has run"
    again, free = bound_to(given, "w", "gain")
    again(**free)
    assert same_bits(given["y"], wanted(given))


def test_a_change_between_bind_and_the_first_call_is_refused_too():
    given = inputs()
    bound, free = bound_to(given, "w")
    given["w"][5, 5] = 3
    with pytest.raises(ArgumentValueError, match="'w' was changed in place"):
        bound(**free)


def test_inference_tensors_can_be_bound_and_nobody_counts_their_changes():
    with torch.inference_mode():
        given = inputs()
        right = wanted(given)
        bound, free = bound_to(given, "w", "gain")
        bound(**free)
        assert same_bits(given["y"], right)
    assert given["w"].is_inference()
    bound(**free)
    assert same_bits(given["y"], right)


def test_a_released_weight_is_free_and_its_panel_goes_on_working(packed: list[tuple[int, ...]]):
    given = inputs()
    right = wanted(given)
    bound, free = bound_to(given, "w", "gain", release=True)
    held = [weakref.ref(given.pop(name)) for name in ("w", "gain")]
    bound(**free)
    gc.collect()
    assert held[0]() is None
    assert held[1]() is not None, "the gain is read as it is"
    free["y"].fill_(0)
    bound(**free)
    assert same_bits(free["y"], right)
    rows = {**free, "x": free["x"][2:5].contiguous(), "y": torch.zeros(3, N)}
    bound(**rows)  # a program of its own, the same panel
    assert same_bits(rows["y"], right[2:5])
    assert packed == [(K, N)]


def test_a_weight_that_is_not_released_is_kept_alive():
    given = inputs()
    right = wanted(given)
    bound, free = bound_to(given, "w")
    held = weakref.ref(given.pop("w"))
    gc.collect()
    bound(**free)
    assert held() is not None
    assert same_bits(free["y"], right)


def test_a_released_weight_that_a_call_wants_to_read_is_missed_by_name():
    given = inputs()
    x, w, y = given["x"], given["w"], given["y"]
    bound = product_and_first_row.bind(w=w, release=True)
    bound(x, y)
    one = x[:1].contiguous(), torch.zeros(1, N)
    with pytest.raises(
        ArgumentValueError, match="'w' was released, and this call needs it"
    ) as missed:
        bound(*one)
    assert "release=False" in str(missed.value)
    bound(x, y)  # several rows are served as before


def test_a_weight_is_not_released_under_a_program_that_reads_it():
    given = inputs()
    x, w, y = given["x"], given["w"], given["y"]
    one, first = x[:1].contiguous(), torch.zeros(1, N)
    product_and_first_row(one, w, first)
    bound = product_and_first_row.bind(w=w, release=True)
    del w, given
    again = torch.zeros(1, N)
    bound(one, again)
    bound(x, y)  # packs
    assert bound.panel_bytes > 0
    gc.collect()
    bound(one, again.fill_(0))
    assert same_bits(again, first)


# Several threads at once


@pytest.mark.parametrize("release", [False, True])
def test_many_first_calls_at_once_pack_once_and_all_get_their_result(
    release: bool, packed: list[tuple[int, ...]]
):
    rows = [1, 3, 8, 3, 1, 8, 3, 1]
    given = [inputs(count) for count in rows]
    rights = [wanted(one) for one in given]
    bound, _ = bound_to(given[0], "w", "gain", release=release)
    start = threading.Barrier(len(rows))

    def call(one: dict[str, Any]) -> None:
        start.wait()
        for _ in range(5):
            bound(**{name: x for name, x in one.items() if name not in ("w", "gain")})

    with ThreadPoolExecutor(len(rows)) as pool:
        for done in [pool.submit(call, one) for one in given]:
            done.result()
    for one, right in zip(given, rights, strict=True):
        assert same_bits(one["y"], right)
    assert packed == [(K, N)]


# Mistakes: each names the argument, what was found and what to do

MISTAKES = {
    "unknown": (
        lambda g: scaled_product.bind(v=g["w"]),
        "no parameter 'v'",
        "x, w, gain, times, y",
    ),
    "scalar parameter": (
        lambda g: scaled_product.bind(times=2.0),
        "'times' cannot be bound.*got float",
        "pass it",
    ),
    "number for a tensor": (
        lambda g: scaled_product.bind(w=3),
        "'w' cannot be bound.*got int",
        "pass it",
    ),
    "list": (lambda g: scaled_product.bind(w=[1.0]), "'w' cannot be bound.*got list", "pass it"),
    "shape": (
        lambda g: call_with(g, w=g["w"][:8].contiguous()),
        r"'w' has shape \[8, 128\].*annotated \[96, 128\]: axis 0 is 8, wanted 96",
        "pl.dynamic",
    ),
    "rank": (lambda g: call_with(g, w=g["w"].view(-1)), "'w' has rank 1.*annotated", "reshape"),
    "dtype": (
        lambda g: call_with(g, w=g["w"].float()),
        "'w' has dtype FP32, the kernel is annotated BF16",
        r"w.to(torch.bfloat16)",
    ),
    "layout": (
        lambda g: call_with(g, w=draw((N, K), torch.bfloat16).t()),
        "'w' is not contiguous",
        "w.contiguous()",
    ),
    "device": (lambda g: call_with(g, w=g["w"].to("meta")), "'w' is on device meta", "w.cpu()"),
    "bound and given": (
        lambda g: call_with(g, w=g["w"], again={"w": g["w"]}),
        "'w' is bound already",
        "pass x, gain",
    ),
    "given twice": (
        lambda g: scaled_product.bind(w=g["w"])(g["x"], g["gain"], x=g["x"]),
        "'x' is given twice",
        "pass x, gain, times, y",
    ),
    "too many": (
        lambda g: scaled_product.bind(w=g["w"])(*g.values()),
        "takes 4 more arguments, got 5",
        "bound already: w; pass x, gain, times, y",
    ),
    "missing": (
        lambda g: scaled_product.bind(w=g["w"])(g["x"], g["gain"], y=g["y"]),
        "missing a required argument: 'times'",
        "x, w, gain, times, y",
    ),
    "unknown in a call": (
        lambda g: call_with(g, w=g["w"], again={"z": 1}),
        "unexpected keyword argument 'z'",
        "x, w",
    ),
    "output over a bound tensor": (
        lambda g: call_with({**g, "y": g["y"][:, :]}, gain=g["y"][2:3]),
        "'y' is written by 'scaled_product' and shares memory with argument 'gain'",
        "torch.empty_like(y)",
    ),
}


def call_with(given: dict[str, Any], again: dict[str, Any] | None = None, **fixed: Any) -> None:
    """Bind some arguments, pass the others and `again`."""
    free = {name: x for name, x in given.items() if name not in fixed}
    scaled_product.bind(**fixed)(**free, **(again or {}))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_before_anything_runs(mistake: str):
    call, found, advice = MISTAKES[mistake]
    given = inputs()
    with pytest.raises(ArgumentError, match=found) as refused:
        call(given)
    assert advice in str(refused.value)
    assert bool(given["y"].isnan().all())


@pytest.mark.parametrize("threads", [0, -1, True, 1.5])
def test_a_number_of_threads_that_is_none_is_refused(threads: Any):
    given = inputs()
    bound, free = bound_to(given, "w")
    with pytest.raises(ArgumentValueError, match="threads must be a positive number"):
        bound.run(**free, threads=threads)
