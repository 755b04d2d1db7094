"""The short way of a call: taken by what is like an earlier call, and never another answer than the long way's."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from both_ways import draw
from ir_programs import same_bits

import tilewright.language as pl
from tilewright import dispatch
from tilewright.errors import KernelError
from tilewright.native import NativeProgram

K, N = 32, 64
CORE = pl.Level.CORE_GROUP
SHIFT = 1.0
SHIFTS = [1.0]


@pl.jit
def product(x: pl.Tensor, w: pl.Tensor, by: pl.Scalar[pl.FP32], y: pl.Out[pl.Tensor]):
    with pl.at(level=CORE, name_hint="product"):
        sums = pl.matmul(x[:, :], w[:, :], out_dtype=pl.FP32)
        y[:, :] = pl.add(pl.mul(sums, by), SHIFT + SHIFTS[0])


@pl.jit
def made(x: pl.Tensor, w: pl.Tensor, z: pl.Out[pl.Tensor]):
    y = pl.create_tensor([x.shape[0], w.shape[1]], dtype=pl.FP32)
    with pl.at(level=CORE, name_hint="made"):
        y[:, :] = pl.matmul(x, w, out_dtype=pl.FP32)
        z[:, :] = pl.add(y[:, :], 1.0)
    return y, z


def inputs(rows: int = 4, seed: int = 0) -> dict[str, Any]:
    """Arguments of `product`, the output poisoned."""
    return {
        "x": draw((rows, K), torch.bfloat16, seed, plain=True),
        "w": draw((K, N), torch.bfloat16, seed + 1, plain=True),
        "by": 0.5,
        "y": torch.full((rows, N), float("nan")),
    }


def plain(given: dict[str, Any]) -> torch.Tensor:
    """What `product` computes."""
    return given["x"].float() @ given["w"].float() * given["by"] + 2.0


class Calls:
    """`product` with some arguments bound, and how many of its calls went the long way."""

    def __init__(self, given: dict[str, Any], bound: tuple[str, ...]) -> None:
        product.specializations.clear()
        self.bound = bound
        self.kernel = product.bind(**{n: given[n] for n in bound}) if bound else product
        self.run = self.kernel.run

    def __call__(self, given: dict[str, Any], **how: Any) -> Any:
        return self.run(**self.free(given), **how)

    def free(self, given: dict[str, Any]) -> dict[str, Any]:
        return {n: x for n, x in given.items() if n not in self.bound}

    def program(self, given: dict[str, Any]) -> NativeProgram:
        return self.kernel.specialize(**self.free(given)).executable


def outcome(call: Callable[[], Any], y: torch.Tensor) -> str:
    """What a call did, in words: the message it raised, or what it wrote."""
    y.fill_(-1)
    try:
        call()
    except (KernelError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return str(y.tolist())


BINDINGS = pytest.mark.parametrize("bound", [(), ("w",)], ids=["unbound", "bound"])


@BINDINGS
def test_a_call_like_an_earlier_one_goes_the_short_way(bound: tuple[str, ...], long: list[str]):
    few, many = inputs(1), inputs(9)
    many["w"] = few["w"]
    call = Calls(few, bound)
    call(few)
    call(many)
    right = few["y"].clone(), many["y"].clone()
    del long[:]
    for _ in range(3):
        for given, wanted in zip((few, many), right, strict=True):
            fresh = {n: x.clone() if n in ("x", "y") else x for n, x in given.items()}
            fresh["y"].fill_(float("nan"))
            call(fresh)
            assert same_bits(fresh["y"], wanted)
    assert not long, "shapes alternate, and tensors are others at every call"


@BINDINGS
def test_arguments_by_position_and_by_name_share_the_short_way(bound, long):
    given = inputs()
    call = Calls(given, bound)
    call(given)
    right = given["y"].clone()
    del long[:]
    free = [x for n, x in given.items() if n not in bound]
    names = [n for n in given if n not in bound]
    for count in range(len(free) + 1):
        given["y"].fill_(float("nan"))
        call.run(*free[:count], **dict(zip(names[count:], free[count:], strict=True)))
        assert same_bits(given["y"], right)
    assert not long


def other(**changed: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda given: {**given, **{n: make(given[n]) for n, make in changed.items()}}


def in_place(name: str, change: Callable[[torch.Tensor], Any]) -> Callable[..., dict[str, Any]]:
    def changed(given: dict[str, Any]) -> dict[str, Any]:
        change(given[name])
        return given

    return changed


def set_data(make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], None]:
    def change(x: torch.Tensor) -> None:
        x.data = make(x)

    return change


class Odd(torch.Tensor):
    """A tensor with a mind of its own."""


# What is different at the second call. Whatever the answer, it is the one of a kernel that knows no short way.
DIFFERENT: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "nothing": lambda given: given,
    "another dtype": other(x=lambda x: x.float()),
    "a dtype that no kernel takes": other(x=lambda x: x.to(torch.complex64)),
    "fewer rows": other(x=lambda x: x[:2].clone()),
    "other rows at the same place": other(x=lambda x: x[:2]),
    "the meta device": other(x=lambda x: x.to("meta")),
    "an output on the meta device": other(y=lambda y: y.to("meta")),
    "a transposed tensor": other(x=lambda x: x.t().contiguous().t()),
    "a sparse tensor": other(x=lambda x: x.to_sparse()),
    "a sparse tensor by rows": other(x=lambda x: x.to_sparse_csr()),
    "an opaque tensor": other(x=lambda x: x.float().to_mkldnn()),
    "a nested tensor": other(x=lambda x: torch.nested.nested_tensor([x.float()])),
    "a subclass": other(x=lambda x: x.as_subclass(Odd)),
    "a parameter": other(x=lambda x: torch.nn.Parameter(x.float().bfloat16(), requires_grad=False)),
    "an array": other(x=lambda x: np.zeros((4, K), np.float32)),
    "nothing at all": other(x=lambda x: None),
    "a list": other(x=lambda x: x.tolist()),
    "a rank of 0": other(x=lambda x: x[0, 0]),
    "an integer for a float": other(by=lambda by: 2),
    "another number": other(by=lambda by: -3.25),
    "an infinity": other(by=lambda by: float("inf")),
    "a float too large": other(by=lambda by: 1e300),
    "an integer too large": other(by=lambda by: 10**400),
    "a bool for a number": other(by=lambda by: True),
    "a tensor for a number": other(by=lambda by: torch.tensor(0.5)),
    "a NumPy number": other(by=lambda by: np.float32(0.25)),
    "x after resize_": in_place("x", lambda x: x.resize_(2, K)),
    "x after t_": in_place("x", lambda x: x.t_()),
    "x after unsqueeze_": in_place("x", lambda x: x.unsqueeze_(0)),
    "x after set_": in_place("x", lambda x: x.set_(x.new_ones(4 * K).untyped_storage(), 0, (4, K), (K, 1))),
    "x with other data": in_place("x", set_data(lambda x: torch.ones_like(x))),
    "x with data of another dtype": in_place("x", set_data(lambda x: x.float())),
    "x with data of another shape": in_place("x", set_data(lambda x: x[:2].clone())),
    "x with strided data": in_place("x", set_data(lambda x: x.t().contiguous().t())),
    "x in a new place": in_place("x", lambda x: x.untyped_storage().resize_(1 << 16)),
}  # fmt: skip


@BINDINGS
@pytest.mark.parametrize("different", DIFFERENT)
def test_a_different_call_does_what_it_does_the_long_way(different: str, bound: tuple[str, ...]):
    given = inputs()
    call = Calls(given, bound)
    call(given)
    call(given)
    changed = DIFFERENT[different](given)
    y = changed["y"] if changed["y"].is_cpu else given["y"]
    twice = [outcome(lambda: call(changed), y), outcome(lambda: call(changed), y)]
    fresh = Calls(given, bound)
    assert twice == [outcome(lambda: fresh(changed), y)] * 2


@BINDINGS
def test_an_overlap_is_found_wherever_it_appears(bound: tuple[str, ...]):
    given = inputs()
    call = Calls(given, bound)
    call(given)
    memory = torch.zeros(4 * K + 8 * N, dtype=torch.float32)
    for start in (4 * K * 2, 100, 0):
        apart = start >= 4 * K * 2
        x = memory.view(torch.bfloat16)[: 4 * K].view(4, K)
        y = memory.view(torch.bfloat16)[start : start + 8 * N].view(torch.float32).view(4, N)
        if apart:
            call({**given, "x": x, "y": y})
            continue
        for _ in range(2):
            with pytest.raises(
                KernelError, match=r"'y' is written.*shares memory with argument 'x'"
            ):
                call({**given, "x": x, "y": y})


def test_an_output_over_a_bound_weight_is_found():
    given = inputs(K)
    given["w"] = torch.zeros(K, 2 * N, dtype=torch.bfloat16)
    given["y"] = torch.zeros(K, 2 * N)
    call = Calls(given, ("w",))
    call(given)
    over = torch.zeros(2 * K, 2 * N)
    given["w"].data = over.view(torch.bfloat16)[:K].view(-1)[: K * 2 * N].view(K, 2 * N)
    for _ in range(2):
        with pytest.raises(KernelError, match=r"'y' is written.*shares memory with argument 'w'"):
            call({**given, "y": over[:K]})


def test_inputs_may_share_memory_on_the_short_way_too(long: list[str]):
    x = draw((K, K), torch.bfloat16, 0, plain=True)
    given = {"x": x, "w": x, "by": 1.0, "y": torch.zeros(K, K)}
    call = Calls(given, ())
    for _ in range(3):
        call(given)
    assert len(long) == 1
    assert torch.allclose(given["y"], plain(given), rtol=1e-3, atol=1e-3)


@BINDINGS
def test_a_changed_constant_is_seen(bound: tuple[str, ...], monkeypatch):
    given = inputs()
    call = Calls(given, bound)
    call(given)
    base = given["y"].clone()
    for shift in (4.0, 1, True, 1.0):
        monkeypatch.setattr(f"{__name__}.SHIFT", shift)
        call(given)
        assert torch.allclose(given["y"], base + (shift - 1.0)), "a global"
    SHIFTS[0] = 7.0
    call(given)
    SHIFTS[0] = 1.0
    assert torch.allclose(given["y"], base + 6.0), "an item of a list"
    call(given)
    assert same_bits(given["y"], base)
    monkeypatch.delattr(f"{__name__}.SHIFT")
    for _ in range(2):
        with pytest.raises(KernelError, match="SHIFT"):
            call(given)


def test_a_changed_variable_of_an_enclosing_function_is_seen():
    factor = 2.0

    @pl.jit
    def scaled(x: pl.Tensor, y: pl.Out[pl.Tensor]):
        with pl.at(level=CORE, name_hint="scaled"):
            y[:, :] = pl.mul(x[:, :], factor)  # noqa: F821 (deleted below)

    x, y = torch.ones(2, 16), torch.zeros(2, 16)
    for factor in (2.0, 3.0, 3.0, 2.0):
        scaled(x, y)
        assert bool((y == factor).all())
    del factor
    with pytest.raises(KernelError, match="'factor' has no value"):
        scaled(x, y)


@BINDINGS
def test_settings_hold_from_the_call_after_they_changed(bound, monkeypatch):
    given = inputs()
    call = Calls(given, bound)
    call(given)
    for name, value in {
        "TILEWRIGHT_BACKEND": "quick",
        "TILEWRIGHT_THREADS": "-1",
        "TILEWRIGHT_CHECK": "perhaps",
        "TILEWRIGHT_BOUNDS": "sometimes",
    }.items():
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            for _ in range(2):
                with pytest.raises(KernelError, match=f"{name} is {value!r}"):
                    call(given)
        call(given)
    launched: list[int] = []
    launch = NativeProgram.launch
    monkeypatch.setattr(
        NativeProgram, "launch", lambda *args: (launched.append(1), launch(*args))[1]
    )
    call(given)
    assert launched, "the native back end"
    for name, value in {"TILEWRIGHT_BACKEND": "interpreter", "TILEWRIGHT_CHECK": "1"}.items():
        del launched[:]
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            for _ in range(2):
                call(given)
        assert not launched
    call(given, backend="interpreter")
    assert not launched
    call(given)
    assert launched


@BINDINGS
def test_the_number_of_threads_is_the_one_that_holds_now(bound, monkeypatch):
    given = inputs()
    call = Calls(given, bound)
    sizes: list[int] = []
    call.program(given).small = False
    idle = NativeProgram.idle_memory

    def noted(program: NativeProgram, threads: int) -> Any:
        sizes.append(threads)
        return idle(program, threads)

    monkeypatch.setattr(NativeProgram, "idle_memory", noted)
    before = torch.get_num_threads()
    try:
        for torch_says in (1, 2, 1):
            torch.set_num_threads(torch_says)
            for asked, knob in ((None, None), (2, None), (None, "2"), (None, "1"), (1, "2")):
                if knob is None:
                    monkeypatch.delenv("TILEWRIGHT_THREADS", raising=False)
                else:
                    monkeypatch.setenv("TILEWRIGHT_THREADS", knob)
                for _ in range(2):
                    call(given, threads=asked)
                    assert sizes[-1] == (asked or int(knob or 0) or torch_says)
    finally:
        torch.set_num_threads(before)
    for odd in (True, 1.0, 0, -1, "2"):
        call(given, threads=1)
        with pytest.raises(KernelError, match="threads must be a positive number"):
            call(given, threads=odd)


@pytest.mark.parametrize("change", ["fill_", "t_"])
def test_a_bound_weight_that_changed_is_refused_on_the_short_way(change: str, long: list[str]):
    given = inputs()
    call = Calls(given, ("w",))
    call(given)
    call(given)
    given["w"].fill_(3) if change == "fill_" else given["w"].t_()
    for _ in range(2):
        with pytest.raises(KernelError, match="'w' was changed in place"):
            call(given)


def test_a_released_weight_that_changed_is_refused_and_a_freed_one_is_not(long: list[str]):
    given = inputs()
    bound = product.bind(w=given["w"], release=True)
    free = {n: given[n] for n in ("x", "by", "y")}
    bound(**free)
    right = given["y"].clone()
    del long[:]
    bound(**free)
    assert not long
    kept = given.pop("w")
    kept.zero_()
    with pytest.raises(KernelError, match="'w' was changed in place"):
        bound(**free)
    del kept
    gc.collect()
    bound(**free)
    assert same_bits(given["y"], right)


def test_bound_inference_tensors_take_the_short_way(long: list[str]):
    with torch.inference_mode():
        given = inputs()
    call = Calls(given, ("w",))
    for _ in range(3):
        call(given)
    assert len(long) == 1


@BINDINGS
def test_the_short_way_keeps_no_argument_alive(bound: tuple[str, ...], long: list[str]):
    given = inputs()
    call = Calls(given, bound)
    for _ in range(3):
        call(given)
    watched = {n: weakref.ref(given[n]) for n in ("x", "y", "w")}
    del given
    assert {n for n, alive in watched.items() if alive() is not None} == set(bound)


@BINDINGS
def test_created_tensors_are_new_at_every_call(bound: tuple[str, ...], long: list[str]):
    given = inputs()
    made.specializations.clear()
    run = made.bind(w=given["w"]).run if bound else made.run
    free = {n: given[n] for n in ("x", "w") if n not in bound}
    seen = []
    for count in range(4):
        z = torch.zeros(4, N)
        x = given["x"] * count
        y, also = run(**{**free, "x": x, "z": z})
        assert also is z
        assert torch.allclose(y, x.float() @ given["w"].float(), rtol=1e-3, atol=1e-3)
        assert same_bits(z, y + 1)
        seen.append(y)
    assert len({y.data_ptr() for y in seen}) == 4
    assert len(long) == 1


def test_only_so_many_shortcuts_are_kept():
    call = Calls(inputs(), ())
    for rows in range(1, dispatch.KEPT + 5):
        for _ in range(2):
            given = inputs(rows)
            call(given)
    state = product.specializations["state"]
    assert len(state.repeats._known) == dispatch.KEPT
    for rows in range(1, dispatch.KEPT + 5):
        given = inputs(rows)
        call(given)
        assert torch.allclose(given["y"], plain(given), rtol=1e-3, atol=1e-3)


@BINDINGS
def test_several_threads_get_their_own_results(bound: tuple[str, ...]):
    given = [inputs(rows, seed=rows) for rows in (1, 4, 4, 7)]
    for one in given:
        one["w"] = given[0]["w"]
    call = Calls(given[0], bound)
    rights = []
    for one in given:
        call(one)
        rights.append(one["y"].clone())
    start = threading.Barrier(len(given))

    def work(one: dict[str, Any], right: torch.Tensor) -> None:
        start.wait()
        for _ in range(200):
            one["y"].fill_(float("nan"))
            call(one, threads=1)
            assert same_bits(one["y"], right)

    with ThreadPoolExecutor(len(given)) as pool:
        for done in [pool.submit(work, *pair) for pair in zip(given, rights, strict=True)]:
            done.result()
