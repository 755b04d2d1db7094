"""The same program by the interpreter and by machine code, and what counts as the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ir_programs import dtype_of

from tilewright.dtypes import BOOL
from tilewright.interpreter import run
from tilewright.ir.build import Builder
from tilewright.ir.nodes import Block, Const, Function, Op, Operand, Param, Value, index
from tilewright.ir.parser import parse
from tilewright.ir.types import TileType, tensor_type
from tilewright.ir.verify import verify
from tilewright.language.kernel import Kernel
from tilewright.machine import host
from tilewright.native import NativeProgram
from tilewright.passes.pipeline import prepare

GROUP = 8  # checks that are fused with each other; passes take their time over a very long straight line
SENTINEL = 77  # what outputs hold before a run, so that an element that nobody writes shows


def difference(
    wanted: torch.Tensor,
    got: torch.Tensor,
    ulp: int = 0,
    bound: float | torch.Tensor = 0.0,
    signed_zeros: bool = True,
) -> str | None:
    """Where two results differ, in words; None when they are the same.

    Integers and, without `ulp` or `bound`, floats are compared bit for bit; every NaN is the same.
    ulp: how many neighbours away an FP32 may be. bound: how far away a float may be.
    """
    assert wanted.dtype == got.dtype
    assert wanted.shape == got.shape
    if not wanted.is_floating_point():
        same = wanted == got
    else:
        bits = {1: torch.int8, 2: torch.int16, 4: torch.int32}[wanted.element_size()]
        same = wanted.contiguous().view(bits) == got.contiguous().view(bits)
        same |= wanted.isnan() & got.isnan()
        if not signed_zeros:
            same |= (wanted == 0) & (got == 0)
        if ulp:
            steps = _ordered(wanted) - _ordered(got)
            same |= wanted.isfinite() & got.isfinite() & (steps.abs() <= ulp)
        error = (wanted.double() - got.double()).abs()
        same |= error <= torch.as_tensor(bound, dtype=torch.float64) * torch.ones_like(error)
    if bool(same.all()):
        return None
    where = (~same).nonzero()
    first = tuple(where[0].tolist())
    return (
        f"{len(where)} of {same.numel()} differ, first at {list(first)}:"
        f" interpreter {wanted[first].item()!r}, native {got[first].item()!r}"
    )


def _ordered(x: torch.Tensor) -> torch.Tensor:
    """FP32 as integers, neighbours one apart."""
    bits = x.contiguous().view(torch.int32).long()
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def compile_native(function: Function) -> NativeProgram:
    """Machine code whose launches use as many threads as they are told to, however small the work."""
    program = NativeProgram(prepare(function, host()), host())
    share_even_small(program)
    return program


def share_even_small(program: NativeProgram) -> None:
    """Let the launches of a program use as many threads as they are told to."""
    program.small = False


GUARD = 256  # bytes on either side of a tensor that nobody may write
GUARD_BYTE = 0x5A


@dataclass
class Guarded:
    """Arguments whose tensors lie between guard zones."""

    args: list[Any]
    buffers: list[tuple[int, torch.Tensor]]  # the argument's number, and its bytes with the zones

    def complaints(self) -> list[str]:
        """Which tensors something was written beside."""
        found = []
        for number, buffer in self.buffers:
            for side, zone in (("before", buffer[:GUARD]), ("behind", buffer[-GUARD:])):
                touched = (zone != GUARD_BYTE).nonzero().flatten().tolist()
                if touched:
                    found.append(
                        f"argument {number}: bytes {touched} {side} the tensor were written"
                    )
        return found

    def compare(self, wanted: Sequence[Any], when: str, **how: Any) -> None:
        """Fail where a tensor differs from the one wanted, or something was written beside one."""
        complaints = self.complaints()
        for number, (a, b) in enumerate(zip(wanted, self.args, strict=True)):
            found = difference(a, b, **how) if isinstance(a, torch.Tensor) else None
            if found:
                complaints.append(f"argument {number}: {found}")
        assert not complaints, f"{when}:\n" + "\n".join(complaints)


def guarded(args: Sequence[Any]) -> Guarded:
    """Copies of the arguments, every tensor between two guard zones."""
    made = Guarded([], [])
    for number, x in enumerate(args):
        if not isinstance(x, torch.Tensor):
            made.args.append(x)
            continue
        nbytes = x.numel() * x.element_size()
        buffer = torch.full((nbytes + 2 * GUARD,), GUARD_BYTE, dtype=torch.uint8)
        inner = buffer[GUARD : GUARD + nbytes].view(x.dtype).reshape(x.shape)
        inner.copy_(x)
        made.args.append(inner)
        made.buffers.append((number, buffer))
    return made


class Checks:
    """Many small checks in one program, so that there is one compilation to wait for.

    `take` gives an input as a tile, `op` applies an operator, `expect` stores a tile into an output of
    its own; `run` runs the whole both ways and compares output by output.
    """

    def __init__(self) -> None:
        self.builder = Builder()
        self.params: list[Param] = []
        self.arrays: list[torch.Tensor] = []
        self.outputs: list[tuple[str, int, dict[str, Any]]] = []
        self.inputs: dict[int, Value] = {}

    def tensor(self, array: torch.Tensor, hint: str = "x") -> Value:
        """A parameter."""
        if id(array) not in self.inputs:
            value = self.builder.fresh(tensor_type(tuple(array.shape), dtype_of(array)), hint)
            self.params.append(Param(value))
            self.arrays.append(array)
            self.inputs[id(array)] = value
        return self.inputs[id(array)]

    def take(self, array: torch.Tensor, valid: Sequence[Operand] | None = None) -> Value:
        """All of an array as a tile, or only its valid part."""
        source, shape = self.tensor(array), tuple(array.shape)
        zeros = [index(0)] * len(shape)
        counts = list(valid) if valid is not None else [index(n) for n in shape]
        return self.builder.value("load", [source, *zeros, *counts], "x", shape=shape)

    def scalar(self, array: torch.Tensor, *at: int) -> Value:
        """One element, which the compiler cannot know."""
        return self.builder.value("read", [self.tensor(array), *map(index, at)], "s")

    def op(self, name: str, *operands: Operand | int, **attrs: Any) -> Value:
        values = [index(x) if isinstance(x, int) else x for x in operands]
        return self.builder.value(name, values, "v", **attrs)

    def expect(
        self, tile: Value, label: str, valid: Sequence[Operand | int] | None = None, **how: Any
    ) -> None:
        """Store into a fresh output and compare it; `how` is handed to `difference`."""
        kind = tile.type
        assert isinstance(kind, TileType)
        out = torch.full(kind.shape, SENTINEL).to(getattr(torch, str(kind.dtype.torch)))
        target = self.tensor(out, "y")
        self.outputs.append((label, len(self.arrays) - 1, how))
        self.builder.op("store", [tile, target, *self._window(kind, valid)], shape=kind.shape)
        if len(self.outputs) % GROUP == 0:
            self._end_of_line()

    def _end_of_line(self) -> None:
        """A region that passes must keep: what stands on either side is looked at by itself."""
        with self.builder.block() as ops:
            self.builder.op("check_that", [Const(True, BOOL)], message="true is false")
            self.builder.op("yield", ())
        self.builder.structured("at", (), [Block((), tuple(ops))], (), name="line")

    @staticmethod
    def _window(kind: TileType, valid: Sequence[Operand | int] | None) -> list[Operand]:
        counts = [index(x) if isinstance(x, int) else x for x in valid or kind.shape]
        return [*[index(0)] * len(kind.shape), *counts]

    def function(self) -> Function:
        returns = Op("return", (), (), (), ())
        made = Function("checks", tuple(self.params), Block((), (*self.builder.ops, returns)))
        verify(made)
        return made

    def run(self, threads: int = 1) -> None:
        """Run both ways; fails with one line per output that differs."""
        function = self.function()
        wanted = [x.clone() for x in self.arrays]
        run(prepare(function, host()), wanted)
        got = guarded(self.arrays)
        compile_native(function).run(got.args, threads)
        complaints = got.complaints()
        for label, position, how in self.outputs:
            found = difference(wanted[position], got.args[position], **how)
            if found:
                complaints.append(f"{label}: {found}")
        assert not complaints, "\n" + "\n".join(complaints)


def agree(
    kernel: Kernel, *args: Any, threads: Sequence[int] = (1, 2), **how: Any
) -> list[torch.Tensor]:
    """Run a kernel by the interpreter and natively on copies of `args`; what the interpreter gave.

    Every tensor is compared, so a write to an input shows. `how` is handed to `difference`.
    """

    def copies() -> list[Any]:
        return [x.clone() if isinstance(x, torch.Tensor) else x for x in args]

    wanted = copies()
    kernel.run(*wanted, backend="interpreter")
    special = kernel.specialize(*args, backend="native")
    share_even_small(special.executable)
    for count in threads:
        got = guarded(args)
        kernel.run(*got.args, backend="native", threads=count)
        got.compare(wanted, f"on {count} threads", **how)
    return [x for x in wanted if isinstance(x, torch.Tensor)]


def agree_on_text(text: str, *args: Any, threads: Sequence[int] = (1, 2), **how: Any) -> None:
    """`agree` for a program in IR text."""
    function = parse(text)
    verify(function)

    def copies() -> list[Any]:
        return [x.clone() if isinstance(x, torch.Tensor) else x for x in args]

    wanted = copies()
    run(prepare(function, host()), wanted)
    native = compile_native(function)
    for count in threads:
        got = guarded(args)
        native.run(got.args, count)
        got.compare(wanted, f"on {count} threads", **how)


# Inputs that find mistakes

INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
SPECIAL = (
    *(0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 0.1, -0.3, 3.0, 7.0, -126.5, 127.5, 128.0),
    *(float("inf"), float("-inf"), float("nan"), 1e-40, -1e-40, 2.0**-126, 2.0**-149, 2.0**-24),
    *(65504.0, 65519.996, 65520.0, -65520.0, 3.3895314e38, 3.4028235e38, -3.4028235e38, 2.0**31),
    *(-(2.0**31), 2147483520.0, 2.0**63, -(2.0**63), 2.0**64, 255.5, 32767.5, -32768.5, 1e-6, 1e6),
)


def draw(
    shape: Sequence[int], dtype: torch.dtype, seed: int = 0, plain: bool = False
) -> torch.Tensor:
    """Numbers of every kind: special ones among random ones; only ordinary ones when `plain`."""
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.Size(shape).numel())
    if dtype == torch.bool:
        return torch.randint(0, 2, tuple(shape), generator=generator).bool()
    if dtype in INTEGERS:
        info = torch.iinfo(dtype)
        if plain:
            return torch.randint(0, 100, tuple(shape), generator=generator).to(dtype)
        x = torch.randint(info.min, info.max, (count,), generator=generator, dtype=torch.int64)
        edges = torch.tensor([info.min, info.min + 1, 0, 1, info.max, info.max - 1, 2, 3, 100, 7])
        some = torch.randint(0, 3, (count,), generator=generator) == 0
        x = torch.where(some, edges[torch.randint(0, len(edges), (count,), generator=generator)], x)
        return x.to(dtype).reshape(tuple(shape))
    x = torch.randn(count, generator=generator)
    if not plain:
        scale = torch.randint(-20, 20, (count,), generator=generator)
        x = torch.ldexp(x, scale)
        special = torch.tensor(SPECIAL)
        some = torch.randint(0, 3, (count,), generator=generator) == 0
        x = torch.where(
            some, special[torch.randint(0, len(special), (count,), generator=generator)], x
        )
    return x.to(dtype).reshape(tuple(shape))


def literal(value: float, like: torch.Tensor) -> Const:
    """A scalar operand for a block of the array's dtype."""
    kind = dtype_of(like)
    return Const(value if kind.is_float else int(value), kind)


def ramp(*shape: int) -> torch.Tensor:
    """1, 2, 3, … in FP32."""
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape) + 1


def counts(n: int = 4) -> torch.Tensor:
    """Room for integers that a kernel finds out."""
    return torch.zeros(n, dtype=torch.int64)
