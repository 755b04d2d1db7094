"""Peers that are packages of their own, measured where they are installed; and all peers by name.

None of them is a dependency. Each adapter is written the way its engine's own users would be told
to: weights as constants, so that the engine packs them, and its integer product for wq_b.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch

from tilewright.bench.peers import (
    Peer,
    Plain,
    Run,
    TorchBest,
    TorchCompile,
    TorchEager,
    Unavailable,
    Weights,
    compiled_call,
)
from tilewright.bench.problem import Outputs, Problem
from tilewright.models.deepseek_v4.config import INT8_AMAX_FLOOR, INT8_SCALE_MAX


def need(package: str) -> Any:
    """A package that is not ours to require; raises Unavailable with what importing it says."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name == package:
            raise Unavailable("not installed") from error
        raise Unavailable(f"does not import: {error}") from error
    except (ImportError, OSError) as error:  # installed for another Torch or another processor
        raise Unavailable(f"does not import: {error}") from error


class ZenTorch(Peer):
    """AMD's back end for torch.compile."""

    name = "zentorch"
    summary = "torch.compile(backend='zentorch')"

    def build(self, problem: Problem, copies: Sequence[Weights]) -> list[Run]:
        need("zentorch")
        x = problem.values["x"]
        return [compiled_call(Plain(problem, w), x, backend="zentorch") for w in copies]


class OnnxRuntime(Peer):
    """FP32 products (its CPU kernels have none in BF16), MatMulInteger for wq_b.

    The codes are moved up by 128: unsigned by signed is the product its kernels have VNNI for.
    """

    name = "onnxruntime"
    summary = "a graph with MatMulInteger for wq_b and FP32 for the rest"

    def build(self, problem: Problem, copies: Sequence[Weights]) -> list[Run]:
        runtime, onnx = need("onnxruntime"), need("onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Its threads would go on spinning after a call, on the cores of whoever is next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        runs = []
        for weights in copies:
            graph = _Graph(onnx).build(problem, weights)
            session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            runs.append(_onnx_call(session, onnx, problem))
        return runs


class OpenVino(Peer):
    """BF16 inference, INT8 weights with OpenVINO's own quantisation of the activation rows."""

    name = "openvino"
    summary = "BF16 inference, INT8 weights, its own dynamic quantisation of the rows"

    def build(self, problem: Problem, copies: Sequence[Weights]) -> list[Run]:
        openvino = need("openvino")
        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": problem.cfg.q_lora_rank,
        }
        runs = []
        for weights in copies:
            model = _openvino_model(openvino, problem, weights)
            runs.append(
                _openvino_call(core.compile_model(model, "CPU", settings), openvino, problem)
            )
        return runs


PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (TorchEager, TorchCompile, TorchBest, OpenVino, OnnxRuntime, ZenTorch)
}


# -- ONNX ------------------------------------------------------------------------------------------


class _Graph:
    """The operator as an ONNX model, one node at a time."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """One node; the name of its result."""
        out = out or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def constant(self, values: Any, dtype: torch.dtype = torch.float32) -> str:
        name = f"constant_{len(self.constants)}"
        array = torch.as_tensor(values).to(dtype).contiguous().numpy()
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def through_bf16(self, x: str) -> str:
        """FP32 rounded to BF16 and widened again."""
        kinds = self.onnx.TensorProto
        return self.op("Cast", self.op("Cast", x, to=kinds.BFLOAT16), to=kinds.FLOAT)

    def norm(self, x: str, eps: float, gamma: Any = None) -> str:
        mean = self.op("ReduceMean", self.op("Mul", x, x), self.constant([-1], torch.int64))
        root = self.op("Sqrt", self.op("Add", mean, self.constant(eps)))
        unit = self.op("Div", x, root)
        return unit if gamma is None else self.op("Mul", unit, self.constant(gamma))

    def rotated(self, x: str, nope: int, width: int, cos: Any, sin: Any) -> str:
        """Interleaved RoPE on the last `width - nope` channels; cos, sin broadcast to the pairs."""
        channels = torch.arange(nope, width)
        even = self.op("Gather", x, self.constant(channels[0::2], torch.int64), axis=-1)
        odd = self.op("Gather", x, self.constant(channels[1::2], torch.int64), axis=-1)
        c, s = self.constant(cos), self.constant(sin)
        first = self.op("Sub", self.op("Mul", even, c), self.op("Mul", odd, s))
        second = self.op("Add", self.op("Mul", even, s), self.op("Mul", odd, c))
        axis = self.constant([-1], torch.int64)
        pairs = self.op(
            "Concat",
            self.op("Unsqueeze", first, axis),
            self.op("Unsqueeze", second, axis),
            axis=-1,
        )
        shape = self.constant([0] * (cos.dim() - 1) + [width - nope], torch.int64)
        tail = self.op("Reshape", pairs, shape)
        ends = [self.constant([i], torch.int64) for i in (0, nope)]
        head = self.op("Slice", x, *ends, axis)
        return self.op("Concat", head, tail, axis=-1)

    def build(self, problem: Problem, weights: Weights) -> bytes:
        """The serialised model: x [T, D] FP32 -> q, kv BF16, qr INT8, qr_scale FP32."""
        cfg, values, eps = problem.cfg, problem.values, problem.cfg.rms_norm_eps
        kinds, helper = self.onnx.TensorProto, self.onnx.helper
        cos, sin = problem.angles
        x_norm = self.through_bf16(self.norm("x", eps, values["attn_norm"]))
        q_low = self.op("MatMul", x_norm, self.constant(weights["wq_a"]))
        kv_low = self.op("MatMul", x_norm, self.constant(weights["wkv"]))
        latent = self.through_bf16(self.norm(q_low, eps, values["q_norm"]))

        axis = self.constant([-1], torch.int64)
        amax = self.op("ReduceMax", self.op("Abs", latent), axis)
        amax = self.op("Max", amax, self.constant(INT8_AMAX_FLOOR))
        inv_scale = self.op("Div", self.constant(INT8_SCALE_MAX), amax)
        codes = self.op("Round", self.op("Mul", latent, inv_scale))
        self.op("Cast", codes, to=kinds.INT8, out="qr")
        scale = self.op("Div", self.constant(1.0), inv_scale, out="qr_scale")
        moved = self.op("Cast", self.op("Add", codes, self.constant(128.0)), to=kinds.UINT8)
        zero = self.constant(128, torch.uint8)
        acc = self.op("MatMulInteger", moved, self.constant(weights["wq_b"], torch.int8), zero)
        columns = self.constant(values["wq_b_scale"].reshape(1, -1))
        q = self.op("Mul", self.op("Mul", self.op("Cast", acc, to=kinds.FLOAT), scale), columns)
        shape = self.constant([-1, cfg.num_attention_heads, cfg.head_dim], torch.int64)
        q = self.norm(self.op("Reshape", q, shape), eps)
        q = self.rotated(q, cfg.nope_dim, cfg.head_dim, cos[:, None], sin[:, None])
        self.op("Cast", q, to=kinds.BFLOAT16, out="q")
        kv = self.norm(kv_low, eps, values["kv_norm"])
        kv = self.rotated(kv, cfg.nope_dim, cfg.head_dim, cos, sin)
        self.op("Cast", kv, to=kinds.BFLOAT16, out="kv")

        outs = {
            "q": (kinds.BFLOAT16, (problem.tokens, cfg.num_attention_heads, cfg.head_dim)),
            "kv": (kinds.BFLOAT16, (problem.tokens, cfg.head_dim)),
            "qr": (kinds.INT8, (problem.tokens, cfg.q_lora_rank)),
            "qr_scale": (kinds.FLOAT, (problem.tokens, 1)),
        }
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "qkv_proj_rope",
            [info("x", kinds.FLOAT, (problem.tokens, cfg.hidden_size))],
            [info(name, kind, shape) for name, (kind, shape) in outs.items()],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        model.ir_version = 9
        data: bytes = model.SerializeToString()
        return data


def _onnx_call(session: Any, onnx: Any, problem: Problem) -> Run:
    """The session, from x in BF16, into Torch tensors of our own."""
    outputs = empty_outputs(problem)
    kinds = {
        torch.bfloat16: onnx.TensorProto.BFLOAT16,
        torch.int8: onnx.TensorProto.INT8,
        torch.float32: onnx.TensorProto.FLOAT,
    }
    x = problem.values["x"]
    wide = torch.empty(x.shape)
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, kinds[wide.dtype], tuple(wide.shape), wide.data_ptr())
    for name, tensor in outputs.items():
        binding.bind_output(
            name, "cpu", 0, kinds[tensor.dtype], tuple(tensor.shape), tensor.data_ptr()
        )

    def run() -> Outputs:
        wide.copy_(x)
        session.run_with_iobinding(binding)
        return outputs

    return run


# -- OpenVINO --------------------------------------------------------------------------------------


def _openvino_model(openvino: Any, problem: Problem, weights: Weights) -> Any:
    """The operator as an OpenVINO model.

    The large product reads the latent as it is and INT8 weights with scales: the pattern that the
    plugin turns into an integer product, quantising rows by itself. qr and qr_scale are computed
    beside it.
    """
    op = openvino.opset13

    cfg, values, eps = problem.cfg, problem.values, problem.cfg.rms_norm_eps
    cos, sin = problem.angles
    import numpy as np

    def constant(value: Any) -> Any:
        return op.constant(np.ascontiguousarray(torch.as_tensor(value).float().numpy()))

    def norm(x: Any, gamma: Any = None) -> Any:
        mean = op.reduce_mean(op.power(x, constant(2.0)), op.constant([-1]), True)
        unit = op.divide(x, op.sqrt(op.add(mean, constant(eps))))
        return unit if gamma is None else op.multiply(unit, constant(gamma))

    def product(x: Any, weight: Any) -> Any:
        return op.matmul(x, constant(weight.t()), False, True)

    def rotated(x: Any, cos: Any, sin: Any) -> Any:
        channels = np.arange(cfg.nope_dim, cfg.head_dim)
        even, odd = (op.gather(x, op.constant(channels[i::2]), op.constant(-1)) for i in (0, 1))
        first = op.subtract(op.multiply(even, constant(cos)), op.multiply(odd, constant(sin)))
        second = op.add(op.multiply(even, constant(sin)), op.multiply(odd, constant(cos)))
        axis = op.constant([-1])
        pairs = op.concat([op.unsqueeze(first, axis), op.unsqueeze(second, axis)], -1)
        shape = (
            [*cos.shape[:-1], cfg.rope_dim]
            if cos.dim() == 2
            else [-1, cfg.num_attention_heads, cfg.rope_dim]
        )
        tail = op.reshape(pairs, op.constant(shape), False)
        head = op.gather(x, op.constant(np.arange(cfg.nope_dim)), op.constant(-1))
        return op.concat([head, tail], -1)

    x = op.parameter(list(values["x"].shape), np.float32, name="x")
    x_norm = norm(x, values["attn_norm"])
    latent = norm(product(x_norm, weights["wq_a"]), values["q_norm"])
    amax = op.reduce_max(op.abs(latent), op.constant([-1]), True)
    inv_scale = op.divide(constant(INT8_SCALE_MAX), op.maximum(amax, constant(INT8_AMAX_FLOOR)))
    codes = op.round(op.multiply(latent, inv_scale), "half_to_even")
    scale = op.divide(constant(1.0), inv_scale)
    packed = op.constant(np.ascontiguousarray(weights["wq_b"].t().numpy()))
    columns = values["wq_b_scale"].reshape(cfg.q_width, 1)
    wq_b = op.multiply(op.convert(packed, "f32"), constant(columns))
    q = op.matmul(op.multiply(codes, scale), wq_b, False, True)
    q = op.reshape(q, op.constant([-1, cfg.num_attention_heads, cfg.head_dim]), False)
    q = rotated(norm(q), cos[:, None], sin[:, None])
    kv = rotated(norm(product(x_norm, weights["wkv"]), values["kv_norm"]), cos, sin)
    return openvino.Model(
        [op.convert(q, "bf16"), op.convert(kv, "bf16"), op.convert(codes, "i8"), scale],
        [x],
        "qkv_proj_rope",
    )


def _openvino_call(compiled: Any, openvino: Any, problem: Problem) -> Run:
    """The compiled model, from x in BF16, into Torch tensors of our own."""
    outputs = empty_outputs(problem)
    x = problem.values["x"]
    wide = torch.empty(x.shape)
    request = compiled.create_infer_request()
    request.set_input_tensor(0, openvino.Tensor(wide.numpy(), shared_memory=True))
    for i, tensor in enumerate(outputs.values()):
        if tensor.dtype == torch.bfloat16:  # numpy has no BF16; these are its bits
            shared = openvino.Tensor(
                tensor.view(torch.int16).numpy(), tensor.shape, openvino.Type.bf16
            )
        else:
            shared = openvino.Tensor(tensor.numpy(), shared_memory=True)
        request.set_output_tensor(i, shared)

    def run() -> Outputs:
        wide.copy_(x)
        request.infer()
        return outputs

    return run


def empty_outputs(problem: Problem) -> dict[str, torch.Tensor]:
    """Tensors for q, kv, qr and qr_scale."""
    return {name: torch.empty_like(problem.values[name]) for name in ("q", "kv", "qr", "qr_scale")}
