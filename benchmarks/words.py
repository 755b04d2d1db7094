"""Every word of the language alone: nanoseconds an element, by machine code on one thread.

    python benchmarks/words.py [WORD …] [--rounds N] [--json FILE] [--against FILE]

Its operands and its result are tensors in the cache, so that reading and writing them is in the time, which is
processor time and the least of several rounds. `--against` puts the numbers of an earlier run beside.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

os.environ.setdefault("TILEWRIGHT_CACHE", "0")

from tilewright.dtypes import BY_NAME, FP32, INT32, DType
from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Param, Value, index
from tilewright.ir.types import TileType, tensor_type
from tilewright.machine import Machine, host
from tilewright.native import NativeProgram
from tilewright.passes.pipeline import prepare

TURNS = 64  # of a loop around the word, so that a launch counts for nothing
ROUNDS = 9


class Subject:
    """A program that does one word TURNS times: `takes` its inputs, `op` adds the word."""

    def __init__(self) -> None:
        self.builder, self.params = Builder(), list[Param]()
        self.arrays: list[torch.Tensor] = []

    def tensor(self, array: torch.Tensor) -> Value:
        kind = tensor_type(tuple(array.shape), _dtype(array))
        self.params.append(Param(self.builder.fresh(kind, "x")))
        self.arrays.append(array)
        return self.params[-1].value

    def load(self, tensor: Value, shape: Sequence[int]) -> Value:
        zeros, counts = [index(0)] * len(shape), [index(n) for n in shape]
        return self.builder.value("load", [tensor, *zeros, *counts], "x", shape=tuple(shape))

    def op(self, name: str, *operands: Operand, **attrs: Any) -> Value:
        return self.builder.value(name, operands, "v", **attrs)


Word = Callable[[Subject, list[Value]], Value]


def program(inputs: Sequence[torch.Tensor], word: Word, machine: Machine) -> Callable[[], float]:
    """Compiled; every call is one launch and gives its processor seconds."""
    subject = Subject()
    tensors = [subject.tensor(x) for x in inputs]
    builder = subject.builder
    with builder.block() as ops:
        tiles = [subject.load(t, x.shape) for t, x in zip(tensors, inputs, strict=True)]
        found = word(subject, tiles)
        kind = found.type
        assert isinstance(kind, TileType)
        out = torch.zeros(kind.shape, dtype=getattr(torch, str(kind.dtype.torch)))
        target = subject.tensor(out)
        window = [*[index(0)] * len(kind.shape), *map(index, kind.shape)]
        builder.op("store", [found, target, *window], shape=kind.shape)
        builder.op("yield", ())
    i = builder.fresh(index(0).type, "i")
    bounds = (index(0), index(TURNS), index(1))
    builder.structured("for", bounds, [Block((i,), tuple(ops))], (), kind="range")
    body = Block((), (*builder.ops, Op("return", (), (), (), ())))
    function = prepare(Function("word", tuple(subject.params), body), machine)
    native, args = NativeProgram(function, machine), subject.arrays

    def launch() -> float:
        started = time.process_time_ns()
        native.run(args, 1)
        return (time.process_time_ns() - started) / 1e9

    launch()
    return launch


def _dtype(array: torch.Tensor) -> DType:
    return next(d for d in BY_NAME.values() if f"torch.{d.torch}" == str(array.dtype))


def _unary(name: str) -> Word:
    return lambda s, tiles: s.op(name, tiles[0])


def _cast(to: str, mode: str) -> Word:
    return lambda s, tiles: s.op("cast", tiles[0], to=BY_NAME[to], mode=mode)


def _reduced(name: str) -> Word:
    def word(s: Subject, tiles: list[Value]) -> Value:
        return s.op(name, tiles[0], *map(index, tiles[0].type.shape))

    return word


def _sorted(columns: int) -> Word:
    """The idiom: runs of 32, then merges of four until one run is left."""

    def word(s: Subject, tiles: list[Value]) -> Value:
        pairs, run = s.op("sort32", *tiles), 64
        while run * 4 <= 2 * columns:
            pairs, run = s.op("mrgsort", pairs, block_len=run), run * 4
        if run < 2 * columns:
            lists = [
                s.op("extract", pairs, index(0), index(at), shape=(1, run))
                for at in range(0, 2 * columns, run)
            ]
            pairs = s.op("mrgsort", *lists)
        return pairs

    return word


def words() -> dict[str, tuple[list[torch.Tensor], Word]]:
    """By name: inputs, and what is done to them."""
    torch.manual_seed(0)
    x = torch.randn(64, 1024)
    big = x * 1e5
    found: dict[str, tuple[list[torch.Tensor], Word]] = {}
    for name in ("abs", "exp", "log", "sqrt", "rsqrt", "recip", "sin", "cos"):
        found[name] = ([x.abs() if name in ("log", "sqrt", "rsqrt") else x], _unary(name))
    found["sin of large"] = ([big], _unary("sin"))
    for name in ("add", "div", "rem", "maximum"):
        found[name] = ([x, x.flip(0).contiguous()], lambda s, t, name=name: s.op(name, *t))
    whole = (x * 1000).int()
    found["rem INT32"] = ([whole, whole.flip(0).contiguous()], lambda s, t: s.op("rem", *t))
    for to, mode in (
        ("BF16", "rint"), ("BF16", "round"), ("FP16", "rint"), ("FP16", "round"), ("INT8", "rint"),
        ("INT8", "round"), ("INT32", "rint"), ("FP8E4M3FN", "rint"), ("FP8E5M2", "rint"),
    ):  # fmt: skip
        found[f"cast to {to} {mode}"] = ([x * 50], _cast(to, mode))
    found["cast FP8 to FP32"] = ([x.to(torch.float8_e4m3fn)], _cast("FP32", "rint"))
    found["cast INT8 to FP32"] = ([whole.to(torch.int8)], _cast("FP32", "rint"))
    for kind, name in ((torch.float32, "FP32"), (torch.bfloat16, "BF16"), (torch.int8, "INT8")):
        for shape in ((64, 64), (256, 256)):
            found[f"transpose {name} {shape[0]}"] = (
                [torch.randn(shape).mul(9).to(kind)],
                lambda s, t: s.op("transpose", t[0], axis1=0, axis2=1),
            )
    for name in ("row_sum", "row_max"):
        found[name] = ([x], _reduced(name))
    for name in ("col_sum", "col_max"):
        found[name] = ([x], _reduced(name))
    found["col_sum BF16"] = ([x.bfloat16()], _reduced("col_sum"))
    found["col_sum 64 columns"] = ([torch.randn(1024, 64)], _reduced("col_sum"))
    at = torch.randint(0, 1024, (64, 1024)).int()
    found["gather columns"] = ([x, at], lambda s, t: s.op("gather", *t, dim=1))
    found["gather rows"] = ([x, at % 64], lambda s, t: s.op("gather", *t, dim=0))
    found["gather BF16"] = ([x.bfloat16(), at], lambda s, t: s.op("gather", *t, dim=1))
    found["scatter columns"] = (
        [x, at, x.flip(0).contiguous()],
        lambda s, t: s.op("scatter", *t, dim=1),
    )
    found["gather_mask"] = ([x], lambda s, t: s.op("gather_mask", t[0], pattern="P1010"))
    found["reshape"] = ([x], lambda s, t: s.op("reshape", t[0], shape=(1024, 64)))
    found["concat"] = ([x, x.flip(0).contiguous()], lambda s, t: s.op("concat", *t))
    found["cmp and sel"] = (
        [x, x.flip(0).contiguous()],
        lambda s, t: s.op("sel", s.op("cmp", *t, kind="lt"), *t),
    )
    found["arange mask"] = ([x], _masked)
    for columns in (2048, 8192):
        keys = torch.randn(1, columns)
        numbers = torch.arange(columns, dtype=torch.int32).view(1, -1).view(torch.uint32)
        found[f"sort32 {columns}"] = ([keys, numbers], lambda s, t: s.op("sort32", *t))
        found[f"top-k {columns}"] = ([keys, numbers], _sorted(columns))
    return found


def _masked(s: Subject, tiles: list[Value]) -> Value:
    """Columns up to a number are kept, the causal idiom."""
    rows, columns = tiles[0].type.shape
    count = s.op("arange", Const(0, INT32), shape=(1, columns), dtype=INT32, descending=False)
    kept = s.op("cmp", s.op("cast", count, to=FP32, mode="rint"), Const(500.0, FP32), kind="lt")
    wide = s.op("broadcast", kept, shape=(rows, columns))
    return s.op("mul", tiles[0], wide)


def least(launch: Callable[[], float], rounds: int) -> float:
    return min(launch() for _ in range(rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "words", nargs="*", help="those whose name begins so; all when none is given"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--against", type=Path)
    asked = parser.parse_args()
    before = json.loads(asked.against.read_text()) if asked.against else {}
    found = {}
    print(
        f"| word | ns an element |{' before |' if before else ''}\n|---|---|{'---|' if before else ''}"
    )
    for name, (inputs, word) in words().items():
        if asked.words and not name.startswith(tuple(asked.words)):
            continue
        seconds = least(program(inputs, word, host()), asked.rounds)
        found[name] = 1e9 * seconds / TURNS / inputs[0].numel()
        print(
            f"| {name} | {found[name]:.3f} |" + (f" {before.get(name, 0):.3f} |" if before else ""),
            flush=True,
        )
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
