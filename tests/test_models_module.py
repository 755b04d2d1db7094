"""QKVProjRope: the kernel's bits for any number of tokens anywhere, and never an old weight."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from checkpoints import written
from ir_programs import same_bits
from qkv_layers import CFG, OUTPUTS, TOKENS, assert_same, by_kernel, module, values, x

from tilewright import bound as bound_module
from tilewright.errors import ArgumentError, ArgumentValueError, KernelError
from tilewright.models.deepseek_v4 import ops, q_proj_rope
from tilewright.models.deepseek_v4.accuracy import drawn_layer
from tilewright.models.deepseek_v4.config import DEMO, ROPES, Rope
from tilewright.models.deepseek_v4.module import QKVProjRope, buffers
from tilewright.models.deepseek_v4.reference import rope_at
from tilewright.models.deepseek_v4.weights import open_checkpoint

PARAMETERS = (
    "x", "attn_norm", "wq_a", "q_norm", "wq_b", "wq_b_scale", "rope_cos", "rope_sin", "q", "qr", "qr_scale",
)  # fmt: skip


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two whole chunks and a part of one, at a number of tokens that a test can afford."""
    monkeypatch.setattr(ops, "T_CHUNK", 64)


# Tokens


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("count", [1, 2, 9, 64, 65, TOKENS])
def test_any_number_of_tokens_gives_the_kernels_bits(count: int, rope: Rope):
    got = module(rope)(x(count), start_pos=7)
    assert [tuple(t.shape) for t in got] == [
        (count, 4, 128),
        (count, 128),
        (count, 128),
        (count, 1),
    ]
    assert all(t.is_contiguous() for t in got)
    assert_same(got, by_kernel(torch.arange(count) + 7, rope))


def test_call_sizes_waste_little_and_are_few():
    sizes = [ops.call_size(n) for n in range(1, 513)]
    assert all(n <= size <= n * 5 / 4 for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) == 32
    assert sizes[511] == 512


@pytest.mark.parametrize("start", [0, 65_535, (1 << 20) - 6])
def test_tokens_may_stand_anywhere_up_to_a_million(start: int):
    got = module("yarn")(x(6), start_pos=start)
    assert_same(got, by_kernel(torch.arange(6) + start, "yarn"))


def test_a_batch_has_the_bits_of_its_prompts():
    batch, layer = x(12).view(3, 4, -1), module()
    got = layer(batch, start_pos=5)
    assert got.q.shape == (3, 4, 4, 128)
    assert got.qr_scale.shape == (3, 4, 1)
    assert_same(got, by_kernel(torch.arange(4).repeat(3) + 5))
    one_row = layer(batch, position_ids=torch.tensor([9, 2, 2, 70]))
    assert_same(one_row, by_kernel(torch.tensor([9, 2, 2, 70]).repeat(3)))


def test_packed_requests_and_padding():
    """Rows that are no tokens are 0, wherever they stand, and move no bit of the others."""
    positions = torch.tensor([3, 4, 5, -1, 900_000, -1, -1, 0, 1, -1])
    got = module()(x(10), position_ids=positions)
    token = positions >= 0
    wanted = by_kernel(positions.clamp_min(0))
    for name, a, b in zip(OUTPUTS, got, wanted, strict=True):
        assert same_bits(a[token], b[token]), name
        assert not a[~token].any(), name
    nobody = module()(x(3), position_ids=torch.full((3,), -1))
    assert not any(t.any() for t in nobody)
    assert [t.shape for t in module()(x(0))] == [t[:0].shape for t in wanted]


def test_what_cannot_be_a_position_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch):
    layer = module()
    monkeypatch.setattr(ops, "in_chunks", None)
    for positions, wrong in (([0, 1 << 20], r"\[1\] is 1048576"), ([-2, 0], r"\[0\] is -2")):
        with pytest.raises(ArgumentValueError, match=wrong):
            layer(x(2), position_ids=torch.tensor(positions))
    for start in (-1, (1 << 20) - 1):
        with pytest.raises(ArgumentValueError, match=rf"start_pos is {start}, wanted 0 to 1048574"):
            layer(x(2), start_pos=start)
    with pytest.raises(ArgumentError, match=r"position_ids is \[3\], wanted \[2\]"):
        layer(x(2), position_ids=torch.arange(3))
    with pytest.raises(ArgumentError, match=r"x is \[2, 5\], wanted \[T, 256\]"):
        layer(torch.zeros(2, 5))


# Weights


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


def test_weights_are_packed_once_and_again_when_they_change(packed: list[tuple[int, ...]]):
    layer, at = module(), torch.arange(3)
    assert packed == []
    for count in (3, 1, 3):
        layer(x(count))
    assert len(packed) == 3
    layer.wkv.mul_(0.5)
    assert_same(layer(x(3)), by_kernel(at, wkv=values()["wkv"] * 0.5))
    layer.kv_norm.mul_(0.5)  # never packed
    layer(x(3))
    assert len(packed) == 6
    layer.load_state_dict({k: values()[k] for k in buffers(CFG)})
    assert_same(layer(x(3)), by_kernel(at))
    layer.wq_b.data.neg_()
    layer.repack()
    assert_same(layer(x(3)), by_kernel(at, wq_b=-values()["wq_b"]))
    layer.wq_a = values()["wq_a"].roll(1, 1).contiguous()
    layer.wq_b = values()["wq_b"]
    assert_same(layer(x(3)), by_kernel(at, wq_a=layer.wq_a))


def test_packed_weights_go_with_the_module():
    gc.collect()
    before = len(ops.qkv_packs)
    layer = module()
    layer(x(1))
    assert len(ops.qkv_packs) == before + 1
    del layer
    gc.collect()
    assert len(ops.qkv_packs) == before


def test_state_survives_saving_and_copies_are_apart(tmp_path: Any):
    layer = module("yarn")
    wanted = layer(x(4))
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    loaded = QKVProjRope(CFG, rope="yarn")
    loaded.load_state_dict(torch.load(tmp_path / "layer.pt"))
    assert_same(loaded(x(4)), wanted)
    other = copy.deepcopy(layer)
    other.wkv.zero_()
    assert not other(x(4)).kv.any()
    assert_same(layer(x(4)), wanted)
    assert list(layer.state_dict()) == list(buffers(CFG))


def test_a_wrong_weight_is_refused():
    with pytest.raises(
        ArgumentError, match=r"'wkv' is \[2, 2\] torch.float32, wanted \[256, 128\]"
    ):
        QKVProjRope(CFG, {"wkv": torch.zeros(2, 2)})
    with pytest.raises(ArgumentError, match="there is no weight 'wo'"):
        QKVProjRope(CFG, {"wo": torch.zeros(2, 2)})


# Without kv


def query_only(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of `q_proj_rope` for those of `qkv_proj_rope`."""
    return (*args[:7], args[7].shape[1], *args[9:])


@pytest.mark.parametrize("count", [1, 9, TOKENS])
def test_the_query_alone_has_the_bits_of_the_whole(count: int):
    layer = module()
    weights = [getattr(layer, name) for name in buffers(CFG)]
    positions = torch.arange(count) + 5
    positions[count // 2] = -1
    args = (x(count), positions, *weights, layer.frequencies, 1e-6, 1 << 20)
    q, _, qr, qr_scale = ops.qkv_proj_rope(*args)
    for got, wanted in zip(ops.q_proj_rope(*query_only(args)), (q, qr, qr_scale), strict=True):
        assert same_bits(got, wanted)


@pytest.mark.parametrize("count", [1, 7])
def test_the_kernel_of_the_query_means_what_it_computes(count: int):
    """On both back ends: exact codes, and q as far apart as their order of sums may bring it."""
    given = dict(values())
    given["x"] = given["x"][:count].contiguous()
    given["rope_cos"], given["rope_sin"] = rope_at(torch.arange(count), CFG, "plain")
    kernel = q_proj_rope.build(CFG)
    made = []
    for backend in ("native", "interpreter"):
        for name in ("q", "qr", "qr_scale"):
            given[name] = torch.full_like(values()[name][:count], 77)
        kernel.run(**{name: given[name] for name in PARAMETERS}, backend=backend)
        made.append([given[name] for name in ("q", "qr", "qr_scale")])
    (q, qr, scale), (q_wanted, qr_wanted, scale_wanted) = made
    assert int((qr.int() - qr_wanted.int()).abs().max()) <= 1
    assert float((qr != qr_wanted).float().mean()) < 0.01
    torch.testing.assert_close(scale, scale_wanted, rtol=2**-7, atol=0)
    torch.testing.assert_close(q.float(), q_wanted.float(), rtol=1 / 64, atol=2e-2)


# With the rest of PyTorch


def test_opcheck_finds_no_fault_with_the_operators():
    layer = module()
    weights = [getattr(layer, name) for name in buffers(CFG)]
    at = torch.tensor([4, -1, 7])
    args = (x(3).clone(), at, *weights, layer.frequencies, 1e-6, 1 << 20)
    torch.library.opcheck(ops.qkv_proj_rope, args)
    torch.library.opcheck(ops.q_proj_rope, query_only(args))
    half = CFG.rope_dim // 2
    linear = [torch.randn(n, CFG.hidden_size) for n in (CFG.q_lora_rank, CFG.head_dim)]
    q_b = torch.randn(CFG.q_width, CFG.q_lora_rank)
    gains = torch.ones(CFG.q_lora_rank), torch.ones(CFG.head_dim)
    turned = torch.ones(3, half), torch.zeros(3, half)
    args = (x(3).clone(), *turned, linear[0], gains[0], q_b, linear[1], gains[1], 1e-6)
    torch.library.opcheck(ops.attention_front_end, args)


def test_a_compiled_module_has_no_graph_break_and_the_same_bits():
    layer = module()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for count, start in ((9, 0), (5, 9), (1, 14), (1, 15)):
        assert_same(compiled(x(count), start), by_kernel(torch.arange(count) + start))
    positions = torch.tensor([7, -1, 3])
    assert_same(compiled(x(3), position_ids=positions), layer(x(3), position_ids=positions))
    layer.wkv.zero_()
    assert not compiled(x(9), 0).kv.any()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_every_gradient_mode_gives_the_same_bits(mode: Any):
    with mode():
        layer = module()
        for count in (4, 1, 4):
            assert_same(layer(x(count)), by_kernel(torch.arange(count)))


def test_a_gradient_is_refused_and_not_left_out():
    with pytest.raises(ArgumentValueError, match="gradient through QKVProjRope"):
        module()(x(2).clone().requires_grad_()).q.sum().backward()


def test_rows_of_a_wider_tensor_are_taken():
    wide = torch.cat((x(5), x(5)), 1)
    assert_same(module()(wide[:, : CFG.hidden_size]), by_kernel(torch.arange(5)))


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_several_python_threads_share_one_packing(
    packed: list[tuple[int, ...]], restored_threads: None
):
    layer, wanted = module(), by_kernel(torch.arange(70))
    wrong: list[str] = []

    def call() -> None:
        for _ in range(5):
            got = layer(x(70))
            wrong.extend(
                n for n, a, b in zip(OUTPUTS, got, wanted, strict=True) if not same_bits(a, b)
            )

    callers = [threading.Thread(target=call, daemon=True) for _ in range(4)]
    for caller in callers:
        caller.start()
    for count in (1, 3, 2):
        torch.set_num_threads(count)
        assert_same(layer(x(70)), wanted)
    for caller in callers:
        caller.join(timeout=120)
    assert not any(caller.is_alive() for caller in callers)
    assert wrong == []
    assert len(packed) == 3


def test_a_layer_of_a_checkpoint_in_one_call(tmp_path):
    folder = written(tmp_path / "c")
    checkpoint = open_checkpoint(folder)
    read = checkpoint.layer(1)
    tokens = torch.randn(5, DEMO.hidden_size).bfloat16()
    wanted = QKVProjRope(DEMO, read.arguments("int8"), "yarn")(tokens, start_pos=99)
    assert_same(QKVProjRope.from_checkpoint(checkpoint, 1)(tokens, start_pos=99), wanted)
    (folder / "config.json").unlink()
    checkpoint = open_checkpoint(folder, DEMO)
    with pytest.raises(ArgumentError, match="nothing says which RoPE layer 1"):
        QKVProjRope.from_checkpoint(checkpoint, 1)
    assert_same(QKVProjRope.from_checkpoint(checkpoint, 1, "yarn")(tokens, start_pos=99), wanted)


@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m.bfloat16(),
        lambda m: m.half(),
        lambda m: m.float(),
        lambda m: m.to("cpu", torch.float64),
    ],
)
def test_a_model_that_is_made_bf16_leaves_the_weights_as_the_kernel_takes_them(convert):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), module())
    before, wanted = dict(model[1].named_buffers()), model[1](x(3))
    convert(model)
    for name, buffer in model[1].named_buffers():
        assert buffer.data_ptr() == before[name].data_ptr(), name
    assert_same(model[1](x(3)), wanted)


def test_a_meta_device_takes_the_shapes_and_keeps_the_dtypes():
    layer = module().to("meta", torch.float16)
    for name, (shape, dtype) in buffers(CFG).items():
        buffer = getattr(layer, name)
        assert (tuple(buffer.shape), buffer.dtype, buffer.device.type) == (shape, dtype, "meta")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"x": torch.zeros(2, CFG.hidden_size)}, "x is torch.float32, wanted torch.bfloat16"),
        ({"start_pos": 5.5}, "start_pos is 5.5, wanted a whole number"),
        (
            {"position_ids": torch.tensor([1.0, 2.0])},
            "position_ids is torch.float32, wanted integers",
        ),
        (
            {"start_pos": 3, "position_ids": torch.tensor([1, 2])},
            "start_pos is 3 and position_ids is given too",
        ),
    ],
)
def test_what_would_be_misread_is_refused_in_the_words_of_the_call(change, complaint):
    given: dict[str, Any] = {"x": x(2), **change}
    with pytest.raises(ArgumentError, match=complaint) as raised:
        module()(**given)
    assert "cache" not in str(raised.value)


def test_a_rope_and_a_query_that_there_are_not_are_refused():
    with pytest.raises(ArgumentValueError, match="rope is 'yarnn', wanted 'plain' or 'yarn'"):
        QKVProjRope(CFG, rope="yarnn")
    with pytest.raises(ArgumentValueError, match="query is 'int4', wanted 'int8' or 'bf16'"):
        drawn_layer(DEMO, 0).arguments("int4")


# What would be memory that nobody has written, or a token somewhere else


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: module()(x(3).float()), "x is torch.float32, wanted torch.bfloat16"),
        (lambda: module()(x(3), 1.5), "start_pos is 1.5, wanted a whole number"),
        (lambda: module()(x(3), torch.arange(2)), "start_pos is tensor([0, 1]), wanted"),
        (
            lambda: module()(x(3), position_ids=torch.arange(3) + 0.5),
            "position_ids is torch.float32, wanted integers",
        ),
        (
            lambda: module()(x(3), position_ids=torch.arange(3) > 1),
            "position_ids is torch.bool, wanted integers",
        ),
        (
            lambda: module()(x(3), position_ids=torch.arange(3, device="meta")),
            "position_ids is on meta, x on cpu",
        ),
        (lambda: module().to("meta")(x(3)), "attn_norm is on meta, x on cpu"),
        (lambda: QKVProjRope(CFG, rope="yran"), "rope is 'yran', wanted 'plain' or 'yarn'"),  # type: ignore[arg-type]
    ],
)
def test_what_no_kernel_can_take_is_named(call: Any, message: str):
    with pytest.raises(KernelError) as caught:
        call()
    assert message in caught.value.message


def test_a_module_made_on_the_meta_device_is_whole_once_it_is_loaded():
    wanted = module()(x(3), start_pos=5)
    with torch.device("meta"):
        loaded = QKVProjRope(CFG)
    loaded.to_empty(device="cpu").load_state_dict(module().state_dict())
    with torch.device("meta"):  # which is no reason to look for tokens there
        assert_same(loaded(x(3), start_pos=5), wanted)
